/**
 * Keeps the servers evenly filled: moves sealed chunks from those that are fuller than the cluster as a whole to those that are
 * emptier, until none is further from it than the goal. A server's fill is its used bytes as a share of what it can hold.
 *
 * It begins by itself when some server is further away than `beginShare`, and on an administrator's word at any distance.
 *
 * Invariant: a move is a copy first; the replica on the fuller server goes when all copies are there (repair.ts). Nothing is moved while
 * copies are missing anywhere, and never so that a chunk is in fewer racks.
 */
import type { ChunkId, ServerId } from '../domain/ids.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { RebalanceStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ChunkEntry, ChunkMap } from './chunk-map.ts'
import type { Repair } from './repair.ts'
import type { Server, ServerTable } from './servers.ts'

const tickMs = 1000
/** How far from even a server may be before something is moved; then it goes on to half of that, so that it does not begin again soon. */
export const beginShare = 0.05
const goalShare = 0.025
/** When somebody asks for it. */
const askedShare = 0.01
const movesMax = 2
const bytesPerSecondMax = 64 * 1024 * 1024
const examinedPerTickMax = 20_000
/** Heartbeats tell of a finished move a little later. */
const settleMs = 2500
/** So long a round goes by its own counting; what is written meanwhile is seen in the next one. */
const roundMsMax = 30_000
const stuckMs = 60_000

export interface RebalanceOptions {
  clock: Clock
  log: Log
  chunks: ChunkMap
  servers: ServerTable
  repair: Repair
}

interface Move {
  source: ServerId
  target: ServerId
  bytes: number
}

/** Some moves that are planned on what heartbeats said before the first of them. */
interface Round {
  sinceMs: number
  fills: Fill[]
  moves: number
}

interface Fill {
  server: Server
  usedBytes: number
  canHoldBytes: number
}

const shareOf = ({ usedBytes, canHoldBytes }: Fill): number => (canHoldBytes === 0 ? 0 : usedBytes / canHoldBytes)

/** Used bytes of a server as a share of what it can hold, which is what it has and what its disk still takes. */
export const fillOf = ({ usedBytes, freeBytes }: Server): number =>
  usedBytes + freeBytes === 0 ? 0 : usedBytes / (usedBytes + freeBytes)

export class Rebalance {
  readonly #options: RebalanceOptions
  readonly #moves = new Map<ChunkId, Move>()
  #timer: Timer
  /** Set while it works: how near it has to come. */
  #goal: number | undefined
  #state: 'even' | 'moving' | 'waiting' | 'stuck' = 'even'
  #candidates: Iterator<ChunkEntry> | undefined
  #examinedSinceMove = 0
  #round: Round | undefined
  #lastMoveMs = -Infinity
  #stuckMs = -Infinity
  #done = 0
  #bytesMoved = 0
  #began: { atMs: number; bytesMoved: number } | undefined

  constructor(options: RebalanceOptions) {
    this.#options = options
    this.#timer = options.clock.after(tickMs, () => this.#tick())
  }

  /** An administrator wants it as even as it gets. */
  start(): void {
    this.#begin(askedShare)
    this.#work()
  }

  status(): RebalanceStatus {
    const fills = this.#fills()
    const mean = meanOf(fills)
    const bytesLeft = fills.reduce((sum, fill) => sum + Math.max(0, fill.usedBytes - mean * fill.canHoldBytes), 0)
    const elapsedMs = this.#began === undefined ? 0 : this.#options.clock.nowMs() - this.#began.atMs
    const bytesPerMs =
      this.#began === undefined || elapsedMs < tickMs ? 0 : (this.#bytesMoved - this.#began.bytesMoved) / elapsedMs
    return {
      state: this.#state,
      distancePermille: Math.round(distanceOf(fills, mean) * 1000),
      distancePermilleMax: Math.round((this.#goal ?? beginShare) * 1000),
      movesRunning: BigInt(this.#moves.size),
      movesDone: BigInt(this.#done),
      bytesMoved: BigInt(this.#bytesMoved),
      bytesLeft: BigInt(Math.round(bytesLeft)),
      etaMs: this.#goal !== undefined && bytesPerMs > 0 ? BigInt(Math.ceil(bytesLeft / bytesPerMs)) : undefined,
    }
  }

  close(): void {
    this.#timer.cancel()
  }

  #tick(): void {
    this.#timer = this.#options.clock.after(tickMs, () => this.#tick())
    this.#work()
  }

  #begin(goal: number): void {
    this.#goal = goal
    this.#examinedSinceMove = 0
    this.#began = { atMs: this.#options.clock.nowMs(), bytesMoved: this.#bytesMoved }
    this.#options.log.info('filling the servers evenly', { goal })
  }

  #end(state: 'even' | 'stuck'): void {
    if (this.#goal !== undefined) this.#options.log.info('rebalancing ended', { state, moves: this.#done })
    this.#goal = undefined
    this.#state = state
  }

  #work(): void {
    const { repair, chunks } = this.#options
    this.#settle()
    if (!repair.ready()) return
    const now = this.#options.clock.nowMs()
    if (this.#round && now - this.#round.sinceMs > roundMsMax) this.#round = undefined
    // What heartbeats say is right only when nothing is on its way: in between, a round goes by what it has moved itself.
    if (!this.#round && (this.#moves.size > 0 || now - this.#lastMoveMs < settleMs)) return
    const fills = this.#round?.fills ?? this.#fills()
    const distance = distanceOf(fills, meanOf(fills))
    if (this.#goal === undefined) {
      if (distance <= beginShare) {
        this.#state = 'even'
        return
      }
      // What could not be moved last time is looked at again when something may have changed.
      if (this.#state === 'stuck' && now - this.#stuckMs < stuckMs) return
      this.#begin(goalShare)
    }
    if (distance <= this.#goal!) {
      if (this.#round) this.#round = undefined
      else this.#end('even')
      return
    }
    if (chunks.counts().under > 0) {
      this.#state = 'waiting'
      return
    }
    this.#state = 'moving'
    this.#round ??= { sinceMs: now, fills, moves: 0 }
    this.#moveSome(this.#round)
  }

  #moveSome(round: Round): void {
    const { chunks, repair, log } = this.#options
    const byServer = new Map(round.fills.map((fill) => [fill.server.id, fill]))
    for (let examined = 0; examined < examinedPerTickMax; examined++) {
      if (this.#moves.size >= movesMax) return
      this.#candidates ??= chunks.entries()[Symbol.iterator]()
      const next = this.#candidates.next()
      if (next.done === true) {
        this.#candidates = undefined
        if (this.#examinedSinceMove > chunks.size && this.#moves.size === 0) {
          this.#round = undefined
          this.#examinedSinceMove = 0
          if (round.moves === 0) {
            this.#stuckMs = this.#options.clock.nowMs()
            this.#end('stuck')
          }
        }
        return
      }
      const entry = next.value
      this.#examinedSinceMove++
      const way = this.#wayFor(entry, byServer)
      if (!way) continue
      const { source, target } = way
      const started = repair.move(entry, { source, target, bytesPerSecondMax: bytesPerSecondMax / movesMax })
      if (!started) continue
      this.#examinedSinceMove = 0
      round.moves++
      log.debug('moving a replica', { chunk: entry.id, source, target })
      this.#moves.set(entry.id, { source, target, bytes: entry.length })
      byServer.get(source)!.usedBytes -= entry.length
      byServer.get(target)!.usedBytes += entry.length
    }
  }

  /** From the fullest server that has it to the emptiest that has not, if that brings the two nearer to each other. */
  #wayFor(entry: ChunkEntry, fills: ReadonlyMap<ServerId, Fill>): { source: ServerId; target: ServerId } | undefined {
    if (!entry.sealed || entry.length === 0 || this.#moves.has(entry.id)) return undefined
    if (entry.staying !== entry.copies || entry.replicas.length !== entry.copies) return undefined
    const holders = new Set(entry.replicas.map(({ server }) => server))
    const racksOf = (ids: Iterable<ServerId>): number =>
      new Set([...ids].map((id) => fills.get(id)?.server.address.rack ?? '')).size
    const sources = [...holders].flatMap((id) => fills.get(id) ?? []).toSorted((a, b) => shareOf(b) - shareOf(a))
    const targets = [...fills.values()]
      .filter(({ server }) => !holders.has(server.id) && server.freeBytes > entry.length)
      .toSorted((a, b) => shareOf(a) - shareOf(b))
    for (const target of targets) {
      for (const source of sources) {
        const before = shareOf(source) - shareOf(target)
        const after =
          shareOf({ ...source, usedBytes: source.usedBytes - entry.length }) -
          shareOf({ ...target, usedBytes: target.usedBytes + entry.length })
        if (before <= 0 || after < 0) continue
        const moved = new Set(holders)
        moved.delete(source.server.id)
        moved.add(target.server.id)
        if (racksOf(moved) >= racksOf(holders)) return { source: source.server.id, target: target.server.id }
      }
    }
    return undefined
  }

  #settle(): void {
    const { chunks, repair, clock } = this.#options
    const now = clock.nowMs()
    for (const [chunk, move] of this.#moves) {
      const entry = chunks.get(chunk)
      const replicas = entry?.replicas ?? []
      const isOn = (id: ServerId): boolean => replicas.some(({ server }) => server === id)
      if (isOn(move.target) && isOn(move.source) && entry!.valid > entry!.copies) continue
      if (!isOn(move.target) && repair.isCopying(chunk)) continue
      this.#moves.delete(chunk)
      this.#lastMoveMs = now
      if (!isOn(move.target)) continue
      this.#done++
      this.#bytesMoved += move.bytes
    }
  }

  /** As the heartbeats say. */
  #fills(): Fill[] {
    return this.#options.servers
      .staying()
      .map((server) => ({ server, usedBytes: server.usedBytes, canHoldBytes: server.usedBytes + server.freeBytes }))
  }
}

const meanOf = (fills: readonly Fill[]): number => {
  const canHold = fills.reduce((sum, fill) => sum + fill.canHoldBytes, 0)
  return canHold === 0 ? 0 : fills.reduce((sum, fill) => sum + fill.usedBytes, 0) / canHold
}

const distanceOf = (fills: readonly Fill[], mean: number): number =>
  fills.reduce((max, fill) => Math.max(max, Math.abs(shareOf(fill) - mean)), 0)
