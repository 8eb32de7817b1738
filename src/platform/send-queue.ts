/** Counts the bytes that wait to be sent on one stream and wakes those who wait for there to be fewer. */
export class SendQueue {
  private readonly highWaterBytes: number
  private waitingBytes = 0
  private waiters: (() => void)[] = []
  private closed = false

  constructor(highWaterBytes: number) {
    this.highWaterBytes = highWaterBytes
  }

  /** False: more than the high-water mark waits now. */
  added(bytes: number): boolean {
    this.waitingBytes += bytes
    return this.waitingBytes <= this.highWaterBytes
  }

  sent(bytes: number): void {
    this.waitingBytes -= bytes
    if (this.waitingBytes <= this.highWaterBytes) this.wake()
  }

  /** Nobody waits on a closed stream. */
  close(): void {
    this.closed = true
    this.wake()
  }

  drained(): Promise<void> {
    if (this.closed || this.waitingBytes <= this.highWaterBytes) return Promise.resolve()
    return new Promise((resolve) => this.waiters.push(resolve))
  }

  private wake(): void {
    const waiters = this.waiters
    if (waiters.length === 0) return
    this.waiters = []
    for (const resolve of waiters) resolve()
  }
}
