/**
 * The names that this client knows, directory by directory, each under the directory's lease: where a name leads, or that there is none.
 *
 * A reply tells names as they were when the master answered. What this client changes itself does not recall its own leases, so a reply
 * may be older than a change whose answer came first. Hence:
 * - A `Watch` is taken before names are asked for; a change of the directory by this client that begins or ends before the answer is used
 *   spoils it, and then nothing of the answer is kept.
 * - A change takes the names that it concerns out when it begins, and puts in what has become of them when its answer arrives, unless
 *   another change of the same directory overlapped it.
 *
 * Invariant: names are in the record of the lease (`Cached`) and nowhere else; all directories together have at most `namesMax`, and the
 * directory used least recently goes first. Losing them costs a question to the master, nothing else.
 */
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { nameBytesMax } from '../domain/limits.ts'
import type { ReaddirReply, ReaddirRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Cached } from './cached.ts'
import { DirectoryNames, noSuchName } from './directory-names.ts'

export interface Place {
  parent: Ino
  name: Buffer
}

export class Watch {
  readonly directory: Ino
  spoiled = false

  constructor(directory: Ino) {
    this.directory = directory
  }
}

/** A change of some directories by this client, from before it is sent until its outcome is known. */
export interface Change {
  /** Ends it. True for the directories that no other change touched meanwhile: what the answer says of their names holds. */
  end(): (directory: Ino) => boolean
}

interface Activity {
  watches: Set<Watch>
  /** Changes in progress. */
  changes: number
  /** Grows with each change that begins. */
  begun: number
}

export const isDots = (name: Buffer): boolean =>
  name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))

const keyOf = (name: Buffer): string => name.toString('latin1')

export class Names {
  readonly #namesMax: number
  /** Directories with names, least recently used first. */
  readonly #known = new Map<Ino, Cached>()
  /** The last of `#known`. */
  #newest: Cached | undefined
  #count = 0
  /** Directories that somebody asks for or changes at the moment. */
  readonly #activities = new Map<Ino, Activity>()

  constructor(options: { namesMax: number }) {
    this.#namesMax = options.namesMax
  }

  get count(): number {
    return this.#count
  }

  /**
   * The inode, `noSuchName`, or undefined when it is not known. `cached` belongs to a usable lease on the directory. What cannot be a name
   * is the master's to refuse.
   */
  get(cached: Cached, name: Buffer): Ino | undefined {
    const known = cached.names?.get(keyOf(name))
    return known === noSuchName && (isDots(name) || name.length > nameBytesMax) ? undefined : known
  }

  /** A directory that nobody has put anything into yet. */
  beginEmpty(cached: Cached, parent: Ino): void {
    cached.names = DirectoryNames.ofEmpty(parent)
  }

  /** What a reply said. The caller has seen that it is right under the present lease. */
  set(directory: Ino, cached: Cached, name: Buffer, ino: Ino): void {
    this.#change(directory, cached, (names) => names.learn(keyOf(name), ino))
  }

  /** This client has made the name, or put something else in its place, in a directory that it alone may change. */
  put(directory: Ino, cached: Cached, name: Buffer, target: { ino: Ino; type: number }): void {
    this.#change(directory, cached, (names) => names.put(keyOf(name), target.ino, target.type))
  }

  /** A page of a listing. The caller has seen that it is right under the present lease. */
  listed(directory: Ino, cached: Cached, request: ReaddirRequest, reply: ReaddirReply): void {
    const page = {
      after: request.removeFrom === undefined ? request.cookie : undefined,
      entries: reply.entries.map(({ name, ino, type, cookie }) => ({
        key: keyOf(name),
        ino: asIno(ino),
        type,
        cookie,
      })),
      end: reply.end,
      parent: asIno(reply.parent),
      nextCookie: reply.nextCookie,
    }
    this.#change(directory, cached, (names) => names.listed(page))
  }

  /** It is not known any more what the name leads to. */
  remove(cached: Cached | undefined, name: Buffer): void {
    const names = cached?.names
    if (names === undefined) return
    const before = names.size
    names.unknown(keyOf(name))
    this.#count += names.size - before
  }

  /** There is no such name any more. The caller has seen that this is right under the present lease. */
  vanished(directory: Ino, cached: Cached, name: Buffer): void {
    this.#change(directory, cached, (names) => names.vanished(keyOf(name)))
  }

  /** After a change whose outcome is known: what was complete before it, is. */
  completeAgain(cached: Cached | undefined, before: ReadonlySet<Cached['names']>): void {
    if (cached?.names !== undefined && before.has(cached.names)) cached.names.completeAgain()
  }

  /** The lease on the directory is gone. */
  gone(directory: Ino, cached: Cached): void {
    this.#count -= cached.names?.size ?? 0
    cached.names = undefined
    if (this.#known.get(directory) === cached) this.#known.delete(directory)
    if (this.#newest === cached) this.#newest = undefined
  }

  /** Before names of a directory are asked for. */
  watch(directory: Ino): Watch {
    const watch = new Watch(directory)
    this.#activity(directory).watches.add(watch)
    return watch
  }

  unwatch(watch: Watch): void {
    const activity = this.#activities.get(watch.directory)
    activity?.watches.delete(watch)
    this.#tidy(watch.directory)
  }

  /** Before a change of names in these directories is sent. */
  begin(directories: readonly Ino[]): Change {
    const all = [...new Set(directories)]
    const begun = new Map<Ino, number>()
    for (const directory of all) {
      const activity = this.#activity(directory)
      activity.changes++
      activity.begun++
      // Only a change that begins alone can end alone.
      if (activity.changes === 1) begun.set(directory, activity.begun)
      spoil(activity)
    }
    return {
      end: () => {
        const alone = new Set<Ino>()
        for (const directory of all) {
          const activity = this.#activity(directory)
          if (begun.get(directory) === activity.begun) alone.add(directory)
          activity.changes--
          spoil(activity)
          this.#tidy(directory)
        }
        return (directory) => alone.has(directory)
      },
    }
  }

  #activity(directory: Ino): Activity {
    let activity = this.#activities.get(directory)
    if (activity === undefined) {
      activity = { watches: new Set(), changes: 0, begun: 0 }
      this.#activities.set(directory, activity)
    }
    return activity
  }

  #tidy(directory: Ino): void {
    const activity = this.#activities.get(directory)
    if (activity?.changes === 0 && activity.watches.size === 0) this.#activities.delete(directory)
  }

  #change(directory: Ino, cached: Cached, change: (names: DirectoryNames) => void): void {
    cached.names ??= new DirectoryNames()
    const before = cached.names.size
    change(cached.names)
    this.#count += cached.names.size - before
    if (this.#newest !== cached) {
      this.#newest = cached
      this.#known.delete(directory)
      this.#known.set(directory, cached)
    }
    this.#trim()
  }

  #trim(): void {
    for (const [directory, cached] of this.#known) {
      if (this.#count <= this.#namesMax) return
      this.gone(directory, cached)
    }
  }
}

const spoil = ({ watches }: Activity): void => {
  for (const watch of watches) watch.spoiled = true
}
