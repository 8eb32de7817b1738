/**
 * Which inodes the master is changing for this client right now. What such a change will have made of an inode is known when its outcome is,
 * so until then nothing is computed ahead from what is known of that inode.
 */
import type { Ino } from '../domain/ids.ts'

export class ChangesInFlight {
  readonly #counts = new Map<Ino, number>()
  #unknown = 0

  has(ino: Ino): boolean {
    return this.#unknown > 0 || this.#counts.has(ino)
  }

  /** Before the request is sent. Undefined stands for an inode that is not known: any. The function it gives ends it. */
  begin(inos: readonly (Ino | undefined)[]): () => void {
    for (const ino of inos) {
      if (ino === undefined) this.#unknown++
      else this.#counts.set(ino, (this.#counts.get(ino) ?? 0) + 1)
    }
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      for (const ino of inos) {
        if (ino === undefined) {
          this.#unknown--
          continue
        }
        const count = this.#counts.get(ino)! - 1
        if (count === 0) this.#counts.delete(ino)
        else this.#counts.set(ino, count)
      }
    }
  }
}
