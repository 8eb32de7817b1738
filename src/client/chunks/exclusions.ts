/** Servers that have just failed an append: new chunks are placed elsewhere for a while. */
import type { ServerId } from '../../domain/ids.ts'
import type { Clock } from '../../platform/clock.ts'

const failedMs = 5000
/** A full disk is seldom cleared within moments. */
const fullMs = 15_000

export class Exclusions {
  readonly #clock: Clock
  readonly #excluded = new Map<ServerId, { untilMs: number; full: boolean }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(server: ServerId, options: { full: boolean }): void {
    this.#excluded.set(server, {
      untilMs: this.#clock.nowMs() + (options.full ? fullMs : failedMs),
      full: options.full,
    })
  }

  /** Those excluded for any reason. */
  all(): ServerId[] {
    this.#expire()
    return [...this.#excluded.keys()]
  }

  /** Those excluded because their disk is full. */
  full(): ServerId[] {
    this.#expire()
    return [...this.#excluded].filter(([, { full }]) => full).map(([server]) => server)
  }

  #expire(): void {
    const now = this.#clock.nowMs()
    for (const [server, { untilMs }] of this.#excluded) {
      if (untilMs <= now) this.#excluded.delete(server)
    }
  }
}
