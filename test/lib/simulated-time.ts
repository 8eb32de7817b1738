/**
 * Virtual time for a whole simulated cluster: a queue of events, each at a moment and of an owner. Time passes only from one event to
 * the next; between two events every promise settles as far as it can, so one order of events gives one outcome.
 *
 * Fault model
 * - A life is one run of one process. kill: nothing that it waits for ever happens again, so its objects are abandoned where they are.
 *   pause: what falls due for it happens at the end of the pause, in the order of its making, as after SIGCONT.
 * - The clock of each life starts anywhere and runs at a rate of its own, within rateSpread of true time; its time of day may step.
 * Invariant: events of the same moment happen in the order in which they were posted.
 */
import type { Clock, Timer } from '../../src/platform/clock.ts'

/** Two clocks differ by less than twice this, which is below the five percent that leases allow for. */
export const rateSpread = 0.02
const wallStartSeconds = 1_700_000_000

/** One run of one process. */
export class Life {
  readonly name: string
  alive = true
  pausedUntilMs = 0
  /** When the pause began that lasts until then. */
  pausedSinceMs = 0
  readonly #mourners = new Set<() => void>()

  constructor(name: string) {
    this.name = name
  }

  end(): void {
    this.alive = false
    for (const mourner of this.#mourners) mourner()
    this.#mourners.clear()
  }

  /** Calls once when it ends, unless it is taken back. */
  onEnd(mourner: () => void): () => void {
    if (!this.alive) mourner()
    else this.#mourners.add(mourner)
    return () => void this.#mourners.delete(mourner)
  }
}

interface Event {
  atMs: number
  sequence: number
  owner: Life | undefined
  run: (() => void) | undefined
}

/** A turn of the event loop asks the kernel for news, which takes longer than many an event; so many share one. */
const stepsPerTurn = 64

/** Until every promise has settled as far as it can. */
const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))

/**
 * Takes steps until one says that it was the last, at most stepsPerTurn. After each of them every promise settles as far as it can: Node lets
 * them between the callbacks of setImmediate that are due in one turn.
 */
const takeSteps = (step: () => boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    let goesOn = true
    const one = (): void => {
      if (!goesOn) return
      try {
        goesOn = step()
      } catch (cause) {
        goesOn = false
        reject(cause)
      }
    }
    for (let count = 0; count < stepsPerTurn; count++) setImmediate(one)
    setImmediate(resolve)
  })

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence)

export class SimulatedTime {
  nowMs = 0
  /** Events that have happened. */
  count = 0
  #sequence = 0
  #stopped = false
  readonly #heap: Event[] = []

  /** Happens after the delay unless it is cancelled or its owner's life has ended. */
  post(owner: Life | undefined, delayMs: number, run: () => void): Timer {
    const event: Event = { atMs: this.nowMs + Math.max(0, delayMs), sequence: this.#sequence++, owner, run }
    this.#push(event)
    return {
      cancel: () => {
        event.run = undefined
      },
    }
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.post(undefined, ms, resolve))
  }

  /** Time passes no further: whoever waits for something fails. */
  stop(): void {
    this.#stopped = true
  }

  /** Lets time pass until the promise settles; a failure when it has not by the limit. */
  async until<T>(promise: Promise<T>, limitMs: number): Promise<T> {
    let settled = false
    const settle = (): void => {
      settled = true
    }
    promise.then(settle, settle)
    const endMs = this.nowMs + limitMs
    await turn()
    let isOver = false
    const step = (): boolean => {
      if (settled || this.#stopped) return false
      isOver = !this.#step(endMs)
      return !isOver
    }
    while (!settled) {
      if (this.#stopped) throw new Error('time was stopped')
      if (isOver) throw new Error(`nothing came of it in ${limitMs} simulated ms`)
      await takeSteps(step)
    }
    return promise
  }

  /** False: nothing more happens by then. */
  #step(endMs: number): boolean {
    for (;;) {
      const event = this.#heap[0]
      if (event === undefined || event.atMs > endMs) return false
      this.#pop()
      const { owner, run } = event
      if (run === undefined || owner?.alive === false) continue
      if (owner !== undefined && owner.pausedUntilMs > event.atMs) {
        event.atMs = owner.pausedUntilMs
        this.#push(event)
        continue
      }
      this.nowMs = event.atMs
      this.count++
      event.run = undefined
      run()
      return true
    }
  }

  #push(event: Event): void {
    const heap = this.#heap
    let at = heap.push(event) - 1
    while (at > 0) {
      const above = (at - 1) >> 1
      if (!isBefore(event, heap[above]!)) break
      heap[at] = heap[above]!
      at = above
    }
    heap[at] = event
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      let below = at * 2 + 1
      if (below >= heap.length) break
      if (below + 1 < heap.length && isBefore(heap[below + 1]!, heap[below]!)) below++
      if (!isBefore(heap[below]!, last)) break
      heap[at] = heap[below]!
      at = below
    }
    heap[at] = last
  }
}

/** The clock of one life. */
export class SimulatedClock implements Clock {
  readonly #time: SimulatedTime
  readonly #life: Life
  readonly #bornMs: number
  readonly #startMs: number
  readonly #rate: number
  /** Added to the time of day. */
  wallStepMs = 0

  constructor(options: { time: SimulatedTime; life: Life; startMs: number; rate: number }) {
    this.#time = options.time
    this.#life = options.life
    this.#bornMs = options.time.nowMs
    this.#startMs = options.startMs
    this.#rate = options.rate
  }

  nowMs(): number {
    return this.#startMs + (this.#time.nowMs - this.#bornMs) * this.#rate
  }

  wallTime(): { seconds: bigint; nanos: number } {
    const micros = Math.round((this.#time.nowMs + this.wallStepMs) * 1000)
    const seconds = Math.floor(micros / 1_000_000)
    return { seconds: BigInt(wallStartSeconds + seconds), nanos: (micros - seconds * 1_000_000) * 1000 }
  }

  after(ms: number, callback: () => void): Timer {
    return this.#time.post(this.#life, ms / this.#rate, callback)
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error)
      const onAbort = (): void => {
        timer.cancel()
        reject(signal?.reason as Error)
      }
      const timer = this.after(ms, () => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      })
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }
}
