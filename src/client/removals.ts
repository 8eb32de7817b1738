/**
 * Brings what a client needs to remove names on its own (write-behind.ts) before they are asked for: whoever has removed some names of
 * a directory one after the other will probably remove the next ones, in the order in which they were made.
 *
 * How many entries are brought at once depends on how many of the last ones were used: some times as many as names were removed since. So a
 * directory that is emptied costs one question for hundreds of names, and somebody who removes here and there is not brought much in vain.
 *
 * Invariant: nothing is brought for a directory whose write lease is not held: without it every removal is the master's.
 */
import type { Ino } from '../domain/ids.ts'
import type { ClientCore } from './client-core.ts'
import { fetchEntries } from './directories.ts'
import { isDots } from './names.ts'
import type { Place } from './names.ts'

const growth = 4
const entriesMax = 512
/** Directories that are remembered, those where something was removed last. */
const directoriesMax = 1024

export class Removals {
  readonly #core: ClientCore
  /** Names removed since entries were brought last. */
  readonly #removed = new Map<Ino, number>()

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** A name of this directory was removed. */
  removed(directory: Ino): void {
    const count = this.#removed.get(directory) ?? 0
    this.#removed.delete(directory)
    this.#removed.set(directory, count + 1)
    if (this.#removed.size <= directoriesMax) return
    for (const oldest of this.#removed.keys()) {
      this.#removed.delete(oldest)
      return
    }
  }

  /** This name is not known, or cannot be removed here. True: more is known now of what is likely to be removed next, and perhaps of it. */
  async bring({ parent, name }: Place, signal: AbortSignal): Promise<boolean> {
    const removed = this.#removed.get(parent)
    if (removed === undefined || name.length === 0 || isDots(name) || !this.#core.leases.usable(parent, 'write'))
      return false
    this.#removed.delete(parent)
    const count = Math.min(entriesMax, growth * removed)
    await fetchEntries(this.#core, { ino: parent, cookie: 0n, entriesMax: count, plus: true, removeFrom: name }, signal)
    return true
  }
}
