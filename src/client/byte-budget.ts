/**
 * How many bytes may be buffered. Who wants more than is left waits, in the order of arrival; one request larger than the whole is let in
 * when nothing else is taken.
 */
import { interrupted, throwIfAborted } from './waiting.ts'

interface Waiter {
  bytes: number
  start: () => void
}

export class ByteBudget {
  readonly #bytesMax: number
  #taken = 0
  #queue: Waiter[] = []

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  get taken(): number {
    return this.#taken
  }

  /** Somebody waits, or more than three quarters are taken: what is buffered should leave. */
  get short(): boolean {
    return this.#queue.length > 0 || this.#taken > this.#bytesMax * 0.75
  }

  /** Takes the bytes when they are there. */
  tryTake(bytes: number): boolean {
    if (this.#queue.length > 0 || !this.#fits(bytes)) return false
    this.#taken += bytes
    return true
  }

  take(bytes: number, signal?: AbortSignal): Promise<void> {
    if (this.tryTake(bytes)) return Promise.resolve()
    throwIfAborted(signal)
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#queue = this.#queue.filter((other) => other !== waiter)
        this.#next()
        reject(interrupted())
      }
      const waiter: Waiter = {
        bytes,
        start: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      this.#queue.push(waiter)
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }

  /** Takes the bytes even when they are not there; for a little more of what was let in already. */
  force(bytes: number): void {
    this.#taken += bytes
  }

  give(bytes: number): void {
    this.#taken -= bytes
    this.#next()
  }

  #fits(bytes: number): boolean {
    return this.#taken === 0 || this.#taken + bytes <= this.#bytesMax
  }

  #next(): void {
    for (let first = this.#queue[0]; first !== undefined && this.#fits(first.bytes); first = this.#queue[0]) {
      this.#queue.shift()
      this.#taken += first.bytes
      first.start()
    }
  }
}
