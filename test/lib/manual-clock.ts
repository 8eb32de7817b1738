/**
 * A clock whose time moves by `advance` alone. Timers fire in the order of their times, those of the same time in the order in which
 * they were made; between two of them all microtasks and a turn of the event loop run, so that promises settle as they would.
 */
import { setImmediate as turn } from 'node:timers/promises'
import type { Clock } from '../../src/platform/clock.ts'

export interface ManualClock extends Clock {
  /** Moves the time forward and fires what falls due on the way, also what was set on the way. */
  advance(ms: number): Promise<void>
  /** How many timers wait. */
  readonly pending: number
}

interface Pending {
  atMs: number
  sequence: number
  callback: () => void
}

export const manualClock = (options: { startMs?: number; wallSeconds?: bigint } = {}): ManualClock => {
  let now = options.startMs ?? 0
  const wallStart = options.wallSeconds ?? 1_700_000_000n
  let sequence = 0
  const timers = new Set<Pending>()

  const after = (ms: number, callback: () => void): { cancel(): void } => {
    const timer = { atMs: now + Math.max(0, ms), sequence: sequence++, callback }
    timers.add(timer)
    return { cancel: () => void timers.delete(timer) }
  }

  const earliest = (untilMs: number): Pending | undefined => {
    let found: Pending | undefined
    for (const timer of timers) {
      if (timer.atMs > untilMs) continue
      if (!found || timer.atMs < found.atMs || (timer.atMs === found.atMs && timer.sequence < found.sequence)) {
        found = timer
      }
    }
    return found
  }

  return {
    nowMs: () => now,
    wallTime: () => {
      const nanos = BigInt(Math.round(now * 1_000_000))
      return { seconds: wallStart + nanos / 1_000_000_000n, nanos: Number(nanos % 1_000_000_000n) }
    },
    after,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason as Error)
        const onAbort = (): void => {
          timer.cancel()
          reject(signal?.reason as Error)
        }
        const timer = after(ms, () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        })
        signal?.addEventListener('abort', onAbort, { once: true })
      }),
    advance: async (ms) => {
      const untilMs = now + ms
      await turn()
      for (let timer = earliest(untilMs); timer; timer = earliest(untilMs)) {
        timers.delete(timer)
        now = Math.max(now, timer.atMs)
        timer.callback()
        await turn()
      }
      now = untilMs
      await turn()
    },
    get pending() {
      return timers.size
    },
  }
}
