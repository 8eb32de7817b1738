/**
 * What a process tells of requests that went badly. Whoever asks and whoever answers write a line at the same level with the same ids, so
 * that what a program in a mount has met can be followed to the master (`session` and `id`) or to a chunk server (`chunk` and `id`).
 *
 * Invariant: at most `linesMax` lines in `periodMs`; the next line after them says how many were left out.
 */
import type { Clock } from './clock.ts'
import type { Log, LogFields } from './log.ts'

/** Longer than what a working cluster needs, restarts of a server included; shorter than what people put up with. */
export const slowMsMin = 3000
const periodMs = 60_000
const linesMax = 20

/** Answers that tell of trouble in the cluster; every other one is for the program that asked. */
const troubles: ReadonlySet<string> = new Set(['EIO', 'EBADMSG'])

export interface RequestIds extends LogFields {
  /** The operation's name in the protocol. */
  request: string
  /** The request's id, within its session or its stream. */
  id: bigint | number
}

/** How a request ended: an errno name, the reason why there was no answer, or undefined when it was carried out. */
export interface RequestEnd {
  startMs: number
  failure?: string | undefined
  noAnswer?: string | undefined
}

export class RequestLog {
  readonly #log: Log
  readonly #clock: Clock
  #periodStartMs = -Infinity
  #lines = 0
  #leftOut = 0

  constructor(log: Log, clock: Clock) {
    this.#log = log
    this.#clock = clock
  }

  /** A request has ended. `ids` is called only when there is something to tell, for this is called with every request. */
  ended({ startMs, failure, noAnswer }: RequestEnd, ids: () => RequestIds): void {
    const now = this.#clock.nowMs()
    const ms = now - startMs
    const failed = noAnswer !== undefined || (failure !== undefined && troubles.has(failure))
    if (!failed && ms < slowMsMin) return
    if (now - this.#periodStartMs >= periodMs) {
      this.#periodStartMs = now
      this.#lines = 0
    }
    if (this.#lines >= linesMax) {
      this.#leftOut += 1
      return
    }
    this.#lines += 1
    const fields: LogFields = { ...ids(), ms: Math.round(ms) }
    if (failure !== undefined) fields['code'] = failure
    if (noAnswer !== undefined) fields['why'] = noAnswer
    if (this.#leftOut > 0) fields['leftOut'] = this.#leftOut
    this.#leftOut = 0
    this.#log.warn(failed ? 'a request failed' : 'a request was slow', fields)
  }
}
