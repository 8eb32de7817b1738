/**
 * Listing directories, and making durable what was done in them. The front end may keep a listing that it reads under a lease, and finds it
 * again at the next opendir.
 *
 * Invariant: all open directories of one inode that may add to what the front end keeps were opened under one lease. So an answer that was
 * given under an earlier one cannot get in among what is read under a later one.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { ReaddirRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Cached } from './cached.ts'
import type { ClientCore } from './client-core.ts'
import { DirectoryListing } from './directory-listing.ts'
import type { Fetched, Listed, ListingSource } from './directory-listing.ts'
import type { Context, DirectoryEntry, Handle, Opened } from './file-system.ts'
import type { Handles } from './handles.ts'
import type { LostChanges } from './lost-changes.ts'
import { orAborted } from './waiting.ts'

/** Entries of a directory. Takes note of what came with leases; gives the newest attributes of the entries. */
export const fetchEntries = async (
  core: ClientCore,
  request: ReaddirRequest & { ino: Ino },
  signal?: AbortSignal,
): Promise<Fetched> => {
  const { names, leases } = core
  const watch = names.watch(request.ino)
  try {
    const reply = await core.call({ $case: 'readdir', value: request }, 'readdir', signal)
    const attributes = reply.entries.map((entry) =>
      entry.attributes === undefined ? undefined : core.learn(entry.attributes, entry.lease),
    )
    if (!watch.spoiled && leases.current(request.ino, reply.lease)) {
      const cached = leases.cached(request.ino)!
      names.listed(request.ino, cached, request, reply)
    }
    return { reply, attributes }
  } finally {
    names.unwatch(watch)
  }
}

export class Directories {
  readonly #core: ClientCore
  readonly #handles: Handles
  readonly #lost: LostChanges
  /** Open directories whose listing the front end may keep: how many, and the lease that they were opened under. */
  readonly #kept = new Map<Ino, { under: Cached; count: number }>()

  constructor(core: ClientCore, handles: Handles, lost: LostChanges) {
    this.#core = core
    this.#handles = handles
    this.#lost = lost
  }

  opendir(ino: Ino): Opened {
    const listing = new DirectoryListing(ino, this.#core.root, this.#source)
    const errors = this.#lost.cursor(ino)
    const under = this.#core.leases.usableCached(ino)
    const kept = this.#kept.get(ino)
    // Told before a name is: what is believed of the directory is taken back when the lease is.
    const isTold = under !== undefined && this.#core.frontEnd.namesMs(ino) > 0
    if (!isTold || (kept !== undefined && kept.under !== under)) {
      return {
        handle: this.#handles.addDirectory(listing, { errors, isKept: false }),
        keepCache: false,
        cacheDirectory: false,
      }
    }
    this.#kept.set(ino, { under, count: (kept?.count ?? 0) + 1 })
    const keepCache = under.hasListing
    under.hasListing = true
    this.#core.leases.touch(ino)
    // What is read of a kept listing is never asked for here, so opening counts as reading.
    if (keepCache) this.#core.wasRead(ino)
    return { handle: this.#handles.addDirectory(listing, { errors, isKept: true }), keepCache, cacheDirectory: true }
  }

  readdir(
    context: Context,
    handle: Handle,
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<void> {
    return this.#core.run(context, async (signal) => {
      const { listing } = this.#handles.directory(handle)
      let isOver = false
      const take = (entry: Listed): boolean => !isOver && accept(this.#entry(listing.ino, entry))
      try {
        await orAborted(listing.list(cookie, options, take), signal)
        this.#core.wasRead(listing.ino)
      } catch (caught) {
        // A directory that was removed while it is open is empty.
        if (caught instanceof PosixError && caught.code === 'ESTALE') return
        throw caught
      } finally {
        isOver = true
      }
    })
  }

  /** What was done in it is durable, or EIO, once. */
  fsyncdir(context: Context, handle: Handle): Promise<void> {
    return this.#core.run(context, async (signal) => {
      const { listing, errors } = this.#handles.directory(handle)
      const { journal } = this.#core
      await orAborted(journal.settled(journal.last), signal)
      this.#lost.check(listing.ino, errors)
    })
  }

  releasedir(handle: Handle): void {
    const directory = this.#handles.removeDirectory(handle)
    if (directory?.isKept !== true) return
    const { ino } = directory.listing
    const kept = this.#kept.get(ino)!
    if (kept.count > 1) kept.count--
    else this.#kept.delete(ino)
  }

  readonly #source: ListingSource = {
    names: (directory) => this.#core.leases.usableCached(directory)?.names,
    known: (ino) => this.#core.known(ino),
    fetch: (request) => fetchEntries(this.#core, request),
  }

  /** The listing may be older than what is known of its names by now: only what is the same may be believed. */
  #entry(directory: Ino, { name, ino, type, cookie, attributes }: Listed): DirectoryEntry {
    if (attributes === undefined) return { name, ino, type, cookie }
    const { leases, names, frontEnd } = this.#core
    const cached = leases.usableCached(directory)
    const isCurrent = cached !== undefined && names.get(cached, name) === ino
    return { name, ino, type, cookie, entry: this.#core.entry(attributes, isCurrent ? frontEnd.namesMs(directory) : 0) }
  }
}
