/**
 * Many shared holders or one exclusive holder, in the order of arrival, so that neither side starves.
 * The function that `shared` and `exclusive` give releases the lock; it may be called once.
 */
import { interrupted, throwIfAborted } from './waiting.ts'

interface Waiter {
  exclusive: boolean
  start: () => void
}

export class ReadWriteLock {
  #shared = 0
  #exclusive = false
  #queue: Waiter[] = []

  get free(): boolean {
    return this.#shared === 0 && !this.#exclusive && this.#queue.length === 0
  }

  /** Takes it shared when that needs no waiting; `releaseShared` gives it back. */
  tryShared(): boolean {
    if (this.#exclusive || this.#queue.length > 0) return false
    this.#shared++
    return true
  }

  releaseShared(): void {
    this.#shared--
    this.#next()
  }

  async shared(signal?: AbortSignal): Promise<() => void> {
    if (!this.tryShared()) await this.#wait(false, signal)
    return () => this.releaseShared()
  }

  async exclusive(signal?: AbortSignal): Promise<() => void> {
    if (this.free) this.#exclusive = true
    else await this.#wait(true, signal)
    return () => {
      this.#exclusive = false
      this.#next()
    }
  }

  #wait(exclusive: boolean, signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal)
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#queue = this.#queue.filter((other) => other !== waiter)
        this.#next()
        reject(interrupted())
      }
      const waiter: Waiter = {
        exclusive,
        start: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      this.#queue.push(waiter)
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }

  #next(): void {
    for (let first = this.#queue[0]; first !== undefined; first = this.#queue[0]) {
      if (this.#exclusive || (first.exclusive && this.#shared > 0)) return
      this.#queue.shift()
      if (first.exclusive) this.#exclusive = true
      else this.#shared++
      first.start()
    }
  }
}
