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
import type { Cached } from './cached.ts'

/** In place of an inode: there is no such name. */
export const noSuchName = asIno(0n)

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
    if (known !== undefined || !cached.namesComplete) return known
    return isDots(name) || name.length > nameBytesMax ? undefined : noSuchName
  }

  /** What a reply said. The caller has seen that it is right under the present lease. */
  set(directory: Ino, cached: Cached, name: Buffer, ino: Ino): void {
    cached.names ??= new Map()
    const before = cached.names.size
    cached.names.set(keyOf(name), ino)
    this.#count += cached.names.size - before
    this.#known.delete(directory)
    this.#known.set(directory, cached)
    this.#trim()
  }

  /** It is not known any more what the name leads to. */
  remove(cached: Cached | undefined, name: Buffer): void {
    if (cached === undefined) return
    if (cached.names?.delete(keyOf(name)) === true) this.#count--
    cached.namesComplete = false
  }

  /** There is no such name any more. The caller has seen that this is right under the present lease. */
  vanished(directory: Ino, cached: Cached, name: Buffer): void {
    if (!cached.namesComplete) this.set(directory, cached, name, noSuchName)
    else if (cached.names?.delete(keyOf(name)) === true) this.#count--
  }

  /** After a change whose outcome is known: what was complete before it, is. */
  completeAgain(cached: Cached | undefined, before: ReadonlySet<Cached['names']>): void {
    if (cached?.names !== undefined && before.has(cached.names)) cached.namesComplete = true
  }

  /** The lease on the directory is gone. */
  gone(directory: Ino, cached: Cached): void {
    this.#count -= cached.names?.size ?? 0
    cached.names = undefined
    cached.namesComplete = false
    if (this.#known.get(directory) === cached) this.#known.delete(directory)
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
