/**
 * How chunk servers have answered this client's reads lately: which to ask last, and after how long to ask another one as well.
 * Bounded: only the servers heard of most recently are remembered.
 */
import type { ServerId } from '../../domain/ids.ts'
import type { Clock } from '../../platform/clock.ts'

const latenciesKept = 64
const latenciesPerEstimate = 8
const hedgeMsMin = 20
const hedgeMsMax = 1000
/** Before anything is known of a server. */
const hedgeMsUnknown = 200
const hedgeP95Factor = 3
/** Hedges beyond a tenth of the reads would only add load to servers that are slow because they are busy. */
const hedgeTokensPerRead = 0.1
const hedgeTokensMax = 10
/** Without a token a read still asks another server after this long: it may be a dead server, not a busy one. */
const hedgeMsWithoutToken = 500
const suspectMsFirst = 1000
const suspectMsMax = 15_000
const serversMax = 1024

interface Health {
  /** The last ones, in a ring. */
  latenciesMs: number[]
  count: number
  hedgeMs: number
  failuresInRow: number
  suspectUntilMs: number
}

export class ReadHealth {
  readonly #clock: Clock
  readonly #servers = new Map<ServerId, Health>()
  #hedgeTokens = hedgeTokensMax

  constructor(clock: Clock) {
    this.#clock = clock
  }

  succeeded(server: ServerId, latencyMs: number): void {
    const health = this.#of(server)
    health.failuresInRow = 0
    health.suspectUntilMs = -Infinity
    health.latenciesMs[health.count % latenciesKept] = latencyMs
    health.count++
    if (health.count % latenciesPerEstimate !== 0) return
    const sorted = health.latenciesMs.toSorted((a, b) => a - b)
    const p95 = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.95))]!
    health.hedgeMs = Math.min(Math.max(p95 * hedgeP95Factor, hedgeMsMin), hedgeMsMax)
  }

  failed(server: ServerId): void {
    const health = this.#of(server)
    const suspectMs = Math.min(suspectMsFirst * 2 ** health.failuresInRow, suspectMsMax)
    health.failuresInRow++
    health.suspectUntilMs = this.#clock.nowMs() + suspectMs
  }

  /** It failed a short while ago. */
  isSuspect(server: ServerId): boolean {
    return (this.#servers.get(server)?.suspectUntilMs ?? -Infinity) > this.#clock.nowMs()
  }

  /** A read has begun: how long to wait for this server before another one is asked as well, and longest, without a token. */
  hedgeMs(server: ServerId): { withTokenMs: number; withoutTokenMs: number } {
    this.#hedgeTokens = Math.min(this.#hedgeTokens + hedgeTokensPerRead, hedgeTokensMax)
    const withTokenMs = this.#servers.get(server)?.hedgeMs ?? hedgeMsUnknown
    return { withTokenMs, withoutTokenMs: Math.max(withTokenMs, hedgeMsWithoutToken) }
  }

  takeHedgeToken(): boolean {
    if (this.#hedgeTokens < 1) return false
    this.#hedgeTokens--
    return true
  }

  #of(server: ServerId): Health {
    const known = this.#servers.get(server)
    if (known !== undefined) return known
    const health: Health = {
      latenciesMs: [],
      count: 0,
      hedgeMs: hedgeMsUnknown,
      failuresInRow: 0,
      suspectUntilMs: -Infinity,
    }
    if (this.#servers.size >= serversMax) {
      for (const oldest of this.#servers.keys()) {
        this.#servers.delete(oldest)
        break
      }
    }
    this.#servers.set(server, health)
    return health
  }
}
