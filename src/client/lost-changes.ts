/**
 * Changes that had been answered and were refused by the master later, or lost with the session: told once to each open directory in which
 * they were made, and once to whoever syncs everything. A directory that is opened later sees what nobody was told yet, since programs
 * open it after a rename(2) to sync it. write-errors.ts is the same for files.
 *
 * Of directories in which something was lost the last `directoriesMax` are known: more than one lost session can concern.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { JournalEntry } from './journal.ts'
import { WriteErrors } from './write-errors.ts'
import type { ErrorCursor } from './write-errors.ts'

const directoriesMax = 16_384

interface Loss {
  /** Of the newest one in this directory. */
  readonly sequence: number
  isTold: boolean
}

export class LostChanges {
  /** In all directories and files. */
  readonly anywhere = new WriteErrors()
  /** One for all directories, so that a cursor stays right when a directory has been forgotten. */
  #sequence = 0
  /** Lost longest ago first. */
  readonly #losses = new Map<Ino, Loss>()

  record({ directories }: JournalEntry): void {
    this.anywhere.record('EIO')
    for (const ino of directories) {
      this.#losses.delete(ino)
      this.#losses.set(ino, { sequence: ++this.#sequence, isTold: false })
    }
    for (const oldest of this.#losses.keys()) {
      if (this.#losses.size <= directoriesMax) break
      this.#losses.delete(oldest)
    }
  }

  /** For a directory that is being opened. */
  cursor(directory: Ino): ErrorCursor {
    const loss = this.#losses.get(directory)
    return { seen: loss === undefined || loss.isTold ? this.#sequence : loss.sequence - 1 }
  }

  /** EIO when something was lost in it that this handle was not told of. */
  check(directory: Ino, cursor: ErrorCursor): void {
    const loss = this.#losses.get(directory)
    if (loss === undefined || loss.sequence <= cursor.seen) return
    cursor.seen = loss.sequence
    loss.isTold = true
    throw new PosixError('EIO', 'a change that was made in the directory earlier is lost')
  }
}
