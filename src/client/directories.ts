/** Listing directories. */
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import type { ReaddirRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ClientCore } from './client-core.ts'
import { DirectoryListing } from './directory-listing.ts'
import type { Fetched, Listed, ListingSource } from './directory-listing.ts'
import type { Context, DirectoryEntry, Handle, Opened } from './file-system.ts'
import type { Handles } from './handles.ts'
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
      for (const entry of reply.entries) names.set(request.ino, cached, entry.name, asIno(entry.ino))
    }
    return { reply, attributes }
  } finally {
    names.unwatch(watch)
  }
}

export class Directories {
  readonly #core: ClientCore
  readonly #handles: Handles

  constructor(core: ClientCore, handles: Handles) {
    this.#core = core
    this.#handles = handles
  }

  opendir(ino: Ino): Opened {
    const handle = this.#handles.addDirectory(new DirectoryListing(ino, this.#core.root, this.#source))
    return { handle, keepCache: false, cacheDirectory: false }
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

  releasedir(handle: Handle): void {
    this.#handles.removeDirectory(handle)
  }

  readonly #source: ListingSource = {
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
