/** Time, as all logic sees it: through a constructor, so that a simulation can bring its own. */
import type { Timespec } from '../domain/time.ts'

export interface Timer {
  /** Harmless after it has fired. */
  cancel(): void
}

export interface Clock {
  /** Milliseconds since an arbitrary start, with fractions; never goes back. */
  nowMs(): number
  /** The time of day. May step. */
  wallTime(): Timespec
  /** Calls once after at least this long. A pending timer does not keep a process alive. */
  after(ms: number, callback: () => void): Timer
  /** Resolves after at least this long; rejects with the signal's reason when it is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

const realTimer = (ms: number, callback: () => void): Timer => {
  const handle = setTimeout(callback, ms)
  handle.unref()
  return { cancel: () => clearTimeout(handle) }
}

/** The machine's own clock. */
export const realClock: Clock = {
  nowMs: () => performance.now(),
  wallTime: () => {
    const micros = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000))
    return { seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 }
  },
  after: realTimer,
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error)
      const onAbort = (): void => {
        clearTimeout(handle)
        reject(signal?.reason as Error)
      }
      // A sleeper is a promise that somebody awaits, so unlike a timer it keeps the process alive.
      const handle = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }, ms)
      signal?.addEventListener('abort', onAbort, { once: true })
    }),
}
