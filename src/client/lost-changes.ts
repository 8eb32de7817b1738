/**
 * Changes that had been answered and were refused by the master later, or lost with the session: told once to each caller that made one of
 * them, when it syncs the directory, and to somebody else who does that while nobody was told; and once to whoever syncs everything.
 * Directories are not opened here, so it is the caller that stands for who has the directory open: programs sync a directory in the thread in
 * which they have renamed something in it. write-errors.ts is the same for files.
 *
 * Of directories in which something was lost the last `directoriesMax` are known: more than one lost session can concern.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { JournalEntry } from './journal.ts'
import { WriteErrors } from './write-errors.ts'

const directoriesMax = 16_384

interface Loss {
  /** Threads or processes whose changes were among them, and that were not told. */
  readonly makers: Set<number>
  isTold: boolean
}

export class LostChanges {
  /** In all directories and files. */
  readonly anywhere = new WriteErrors()
  /** Lost longest ago first. */
  readonly #losses = new Map<Ino, Loss>()

  record({ directories, maker }: JournalEntry): void {
    this.anywhere.record('EIO')
    for (const ino of directories) {
      const makers = this.#losses.get(ino)?.makers ?? new Set()
      if (maker !== undefined) makers.add(maker)
      this.#losses.delete(ino)
      this.#losses.set(ino, { makers, isTold: false })
    }
    for (const oldest of this.#losses.keys()) {
      if (this.#losses.size <= directoriesMax) break
      this.#losses.delete(oldest)
    }
  }

  /** EIO when something was lost in it and this caller is to be told. */
  check(directory: Ino, pid: number): void {
    const loss = this.#losses.get(directory)
    if (loss === undefined) return
    const isMaker = loss.makers.delete(pid)
    const wasTold = loss.isTold
    loss.isTold = true
    if (loss.makers.size === 0) this.#losses.delete(directory)
    if (wasTold && !isMaker) return
    throw new PosixError('EIO', 'a change that was made in the directory earlier is lost')
  }
}
