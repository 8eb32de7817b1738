/**
 * Finds out that small files are read one after the other, and which come next: files that were made one after the other have consecutive
 * inode numbers, and whoever reads a tree (grep -r, a compiler, cp -r) reads the files of a directory in the order in which they were
 * made. The same for files as read-ahead.ts is for the bytes of one.
 *
 * Several readers at once have a run each. What lies between two files of a run, directories and files that are not read, is passed over.
 */
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'

const runsMax = 8
/** How far apart two files of a run may be. */
const gapMax = 16n
const windowMin = 8n
const windowMax = 64n

interface Run {
  /** The file after the last one that was read. */
  next: bigint
  window: bigint
  /** Up to here, exclusive, files were told. */
  toldTo: bigint
}

export class FilesAhead {
  /** Used least recently first. */
  #runs: Run[] = []

  /** The beginning of a file is read. Gives the inodes that will probably be read soon and have not been told yet, often none. */
  read(ino: Ino): Ino[] {
    const at = this.#runs.findIndex(({ next }) => ino >= next - 1n && ino < next + gapMax)
    const run = at < 0 ? { next: ino + 1n, window: 0n, toldTo: 0n } : this.#runs.splice(at, 1)[0]!
    this.#runs.push(run)
    if (at < 0) {
      if (this.#runs.length > runsMax) this.#runs.shift()
      return []
    }
    // The last file once more.
    if (ino < run.next) return []
    run.next = ino + 1n
    const from = run.toldTo > run.next ? run.toldTo : run.next
    const window = run.window === 0n ? windowMin : run.window * 2n < windowMax ? run.window * 2n : windowMax
    // In steps of half a window, so that many are asked for at once and nobody waits for them.
    if (run.next + window - from < window / 2n) return []
    run.window = window
    run.toldTo = run.next + window
    const inos: Ino[] = []
    for (let number = from; number < run.toldTo; number++) inos.push(asIno(number))
    return inos
  }
}
