/** Listing directories, and making durable what was done in them. */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { ReaddirRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Cached } from './cached.ts'
import type { ClientCore } from './client-core.ts'
import { DirectoryListing } from './directory-listing.ts'
import type { Fetched, Listed, ListingSource } from './directory-listing.ts'
import type { Context, DirectoryEntry } from './file-system.ts'
import type { LostChanges } from './lost-changes.ts'
import { orAborted } from './waiting.ts'

/** Listings that are being read at a time, each perhaps with a page of entries. Those that were used longest ago begin anew where they are. */
const listingsMax = 64

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
    const isRight = !watch.spoiled && leases.current(request.ino, reply.lease)
    const under = isRight ? leases.cached(request.ino) : undefined
    if (under !== undefined) names.listed(request.ino, under, request, reply)
    return { reply, attributes, under }
  } finally {
    names.unwatch(watch)
  }
}

export class Directories {
  readonly #core: ClientCore
  readonly #lost: LostChanges
  /** By directory and caller, used longest ago first. */
  readonly #listings = new Map<string, DirectoryListing>()

  constructor(core: ClientCore, lost: LostChanges) {
    this.#core = core
    this.#lost = lost
  }

  readdir(
    context: Context,
    directory: Ino,
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<boolean> {
    return this.#core.run(context, async (signal) => {
      const key = `${directory} ${context.pid}`
      const listing = this.#listing(key, directory)
      let isOver = false
      let isAtEnd = true
      const take = (entry: Listed): boolean => {
        isAtEnd = false
        return !isOver && accept(this.#entry(directory, entry))
      }
      try {
        const under = await orAborted(listing.list(cookie, options, take), signal)
        this.#core.wasRead(directory)
        if (isAtEnd) this.#listings.delete(key)
        return this.#mayKeep(directory, under)
      } catch (caught) {
        // A directory that was removed while it is open is empty.
        if (caught instanceof PosixError && caught.code === 'ESTALE') return false
        throw caught
      } finally {
        isOver = true
      }
    })
  }

  /** What was done in it is durable, or EIO. */
  fsyncdir(context: Context, directory: Ino): Promise<void> {
    return this.#core.run(context, async (signal) => {
      const { journal } = this.#core
      await orAborted(journal.settled(journal.last), signal)
      this.#lost.check(directory, context.pid)
    })
  }

  readonly #source: ListingSource = {
    cached: (directory) => this.#core.leases.usableCached(directory),
    known: (ino) => this.#core.known(ino),
    fetch: (request) => fetchEntries(this.#core, request),
    nowMs: () => this.#core.clock.nowMs(),
  }

  #listing(key: string, directory: Ino): DirectoryListing {
    const listing = this.#listings.get(key) ?? new DirectoryListing(directory, this.#core.root, this.#source)
    this.#listings.delete(key)
    this.#listings.set(key, listing)
    for (const oldest of this.#listings.keys()) {
      if (this.#listings.size <= listingsMax) break
      this.#listings.delete(oldest)
    }
    return listing
  }

  /** What was told under this lease is right for as long as that lasts. */
  #mayKeep(directory: Ino, under: Cached | undefined): boolean {
    const { leases, frontEnd, accessTimes } = this.#core
    if (under === undefined || under !== leases.usableCached(directory)) return false
    leases.touch(directory)
    // Who keeps a listing does not say that it was read again.
    return !accessTimes.notesEachListing && frontEnd.keepsListing(under)
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
