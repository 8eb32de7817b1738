/**
 * Bounds every operation of the port: one signal per operation that is aborted when its caller was interrupted or when its deadline
 * has passed, and one place where failures become what the port promises: PosixError, EINTR and EIO among them.
 */
import { PosixError, UnavailableError } from '../domain/errors.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import { Interrupt } from './interrupt.ts'

export const operationDeadlineMs = 60_000
const tickMs = 1_000

interface Running {
  interrupt: Interrupt
  startedMs: number
  late: boolean
}

export class OperationGuard {
  readonly #clock: Clock
  readonly #log: Log
  /** In the order of their starts. */
  readonly #running = new Set<Running>()
  #timer: Timer | undefined

  constructor(clock: Clock, log: Log) {
    this.#clock = clock
    this.#log = log
  }

  /** Runs an operation with a signal that covers its caller's interrupt and the deadline. */
  async run<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const running: Running = { interrupt: new Interrupt(), startedMs: this.#clock.nowMs(), late: false }
    const onAbort = (): void => running.interrupt.abort()
    if (signal?.aborted === true) onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#running.add(running)
    this.#timer ??= this.#clock.after(tickMs, () => this.#tick())
    try {
      return await work(running.interrupt.signal)
    } catch (caught) {
      throw this.#translate(caught, running)
    } finally {
      this.#running.delete(running)
      signal?.removeEventListener('abort', onAbort)
    }
  }

  stop(): void {
    this.#timer?.cancel()
  }

  #tick(): void {
    this.#timer = undefined
    const now = this.#clock.nowMs()
    for (const running of this.#running) {
      if (now - running.startedMs < operationDeadlineMs) break
      if (running.late) continue
      running.late = true
      running.interrupt.abort()
    }
    if (this.#running.size > 0) this.#timer = this.#clock.after(tickMs, () => this.#tick())
  }

  #translate(caught: unknown, { interrupt, late }: Running): PosixError {
    if (caught instanceof PosixError) {
      if (caught.code === 'EINTR' && late) return new PosixError('EIO', 'no answer in time')
      return caught
    }
    if (caught instanceof UnavailableError) {
      if (interrupt.aborted && !late) return new PosixError('EINTR', caught.message)
      this.#log.warn('an operation found no answer', { cause: caught })
      return new PosixError('EIO', caught.message)
    }
    this.#log.error('an operation failed in an unexpected way', { cause: caught })
    return new PosixError('EIO', 'unexpected failure')
  }
}
