/** Waiting that a caller can give up: for an abort signal, and for a condition that others bring about. */
import { PosixError } from '../domain/errors.ts'

/** The answer for a caller that was interrupted. */
export const interrupted = (): PosixError => new PosixError('EINTR', 'interrupted')

export const throwIfAborted = (signal: AbortSignal | undefined): void => {
  if (signal?.aborted === true) throw interrupted()
}

/** The promise's outcome, or EINTR as soon as the signal is aborted. The work behind the promise goes on. */
export const orAborted = <T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> => {
  if (signal === undefined) return promise
  if (signal.aborted) {
    promise.catch(() => {})
    return Promise.reject(interrupted())
  }
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(interrupted())
    signal.addEventListener('abort', onAbort, { once: true })
    promise
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', onAbort))
      .catch(() => {})
  })
}

/** Resolves everybody who waits at the moment of `fire`; who comes later waits for the next one. */
export class Event {
  #waiters: (() => void)[] = []

  get waiting(): boolean {
    return this.#waiters.length > 0
  }

  wait(signal?: AbortSignal): Promise<void> {
    return orAborted(new Promise<void>((resolve) => this.#waiters.push(resolve)), signal)
  }

  fire(): void {
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
  }
}
