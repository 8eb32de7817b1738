/**
 * What statfs tells. The master is asked; its answer is told again while it is young and nothing has been changed here since it was asked for:
 * some programs ask before every name that they use. What others do may reach the master as late as that anyway (journal.ts), and what
 * the chunk servers use is older.
 */
import type { Clock } from '../platform/clock.ts'
import type { StatfsReply } from '../protocol/gen/shoal/v1/session.pb.ts'
import { LastSeen } from './last-seen.ts'

export const statisticsAgeMs = 100

export interface StatisticsOptions {
  clock: Clock
  ask(signal: AbortSignal): Promise<StatfsReply>
  isAway(): boolean
  /** Differs from what it was when this client has changed something, or may have. */
  changes(): number
}

export class Statistics {
  readonly #options: StatisticsOptions
  readonly #lastSeen: LastSeen<StatfsReply>
  #young: { reply: StatfsReply; changes: number; untilMs: number } | undefined

  constructor(options: StatisticsOptions) {
    this.#options = options
    this.#lastSeen = new LastSeen(options.clock, () => options.isAway())
  }

  /** While the master is away: as they were last seen. */
  async tell(signal: AbortSignal): Promise<StatfsReply> {
    const { clock, changes } = this.#options
    const young = this.#young
    if (young !== undefined && young.changes === changes() && clock.nowMs() < young.untilMs) return young.reply
    return this.#lastSeen.look(this.look(signal))
  }

  /** Asks the master. */
  async look(signal: AbortSignal): Promise<StatfsReply> {
    const { clock, ask } = this.#options
    const changes = this.#options.changes()
    const untilMs = clock.nowMs() + statisticsAgeMs
    const reply = await ask(signal)
    this.#young = { reply, changes, untilMs }
    return this.#lastSeen.see(reply)
  }
}
