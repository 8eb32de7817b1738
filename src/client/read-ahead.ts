/**
 * Finds out from the reads of one handle whether it reads sequentially, and how far ahead to fetch. The kernel's own read-ahead
 * may deliver its reads slightly out of order, so a read that is near the expected place counts: near in the measure of its own length,
 * or small reads at random places would be taken for sequential ones.
 */

const windowBytesMin = 512 * 1024
const windowBytesMax = 8 * 1024 * 1024
const slackReads = 8
const slackBytesMax = 1024 * 1024

export class ReadAhead {
  #next = 0n
  #windowBytes = 0
  #fetchedTo = 0n
  #started = false

  /** Tells of a read; gives the range to fetch ahead, or undefined. `sequential` is true from the second read of a run on. */
  read(offset: bigint, length: number): { sequential: boolean; ahead: { from: bigint; to: bigint } | undefined } {
    const end = offset + BigInt(length)
    const slackBytes = BigInt(Math.min(slackBytesMax, slackReads * length))
    const follows = this.#started
      ? offset + slackBytes >= this.#next && offset <= this.#next + slackBytes
      : offset === 0n
    if (!follows) {
      this.#started = true
      this.#windowBytes = 0
      this.#next = end
      this.#fetchedTo = end
      return { sequential: false, ahead: undefined }
    }
    const first = !this.#started
    this.#started = true
    if (end > this.#next) this.#next = end
    if (first) {
      this.#fetchedTo = end
      return { sequential: false, ahead: undefined }
    }
    this.#windowBytes = Math.min(windowBytesMax, Math.max(windowBytesMin, this.#windowBytes * 2))
    const target = this.#next + BigInt(this.#windowBytes)
    const from = this.#fetchedTo > this.#next ? this.#fetchedTo : this.#next
    // In steps of a quarter of the window, so that what is fetched are large pieces.
    if (target - from < BigInt(this.#windowBytes / 4)) return { sequential: true, ahead: undefined }
    this.#fetchedTo = target
    return { sequential: true, ahead: { from, to: target } }
  }
}
