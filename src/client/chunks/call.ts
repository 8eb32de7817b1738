/** One call of the data path: how long it may last, and who may end it. */
import { UnavailableError } from '../../domain/errors.ts'
import type { Clock, Timer } from '../../platform/clock.ts'

export interface CallLimits {
  clock: Clock
  /** What is being done, for the message of the error. */
  what: string
  deadlineMs: number
  signal: AbortSignal | undefined
}

/** Nobody is told: whoever made the call has his outcome. One for all, since making an error takes longer than all the rest of a call. */
const ended = new UnavailableError('the call has ended', { maybeCommitted: false })

/**
 * Every wait of a call goes through `within`, so that none outlasts the deadline or the signal. Ended by whoever made it.
 */
export class Call {
  readonly startedMs: number
  readonly #limits: CallLimits
  readonly #timer: Timer
  readonly #over: Promise<never>
  #giveUp: (error: UnavailableError) => void = () => {}
  #gaveUp: UnavailableError | undefined

  constructor(limits: CallLimits) {
    this.#limits = limits
    this.startedMs = limits.clock.nowMs()
    this.#over = new Promise<never>((_, reject) => {
      this.#giveUp = (error) => {
        this.#gaveUp = error
        reject(error)
      }
    })
    // The call may end without ever having waited.
    this.#over.catch(() => {})
    this.#timer = limits.clock.after(limits.deadlineMs, this.#expire)
    if (limits.signal?.aborted === true) this.#abort()
    else limits.signal?.addEventListener('abort', this.#abort, { once: true })
  }

  get isOver(): boolean {
    return this.#gaveUp !== undefined
  }

  /** Throws the UnavailableError of a call that is over. */
  check(): void {
    if (this.#gaveUp !== undefined) throw this.#gaveUp
  }

  /** The promise's outcome, or UnavailableError when the call is over before. */
  within<T>(promise: Promise<T>): Promise<T> {
    return Promise.race([promise, this.#over])
  }

  /** Waits, with the timer gone as soon as the call is over. */
  async sleep(ms: number): Promise<void> {
    let timer: Timer | undefined
    const slept = new Promise<void>((resolve) => {
      timer = this.#limits.clock.after(ms, resolve)
    })
    try {
      await this.within(slept)
    } finally {
      timer?.cancel()
    }
  }

  /** What is still under way for it ends as well, at its next wait. */
  end(): void {
    this.#giveUp(ended)
    this.#timer.cancel()
    this.#limits.signal?.removeEventListener('abort', this.#abort)
  }

  readonly #expire = (): void => {
    const { what, deadlineMs } = this.#limits
    this.#giveUp(new UnavailableError(`${what}: no success within ${deadlineMs} ms`, { maybeCommitted: false }))
  }

  readonly #abort = (): void => {
    const { what, signal } = this.#limits
    this.#giveUp(new UnavailableError(`${what}: interrupted`, { maybeCommitted: false, cause: signal?.reason }))
  }
}
