/**
 * Gives the space of what nothing refers to any more back to the chunk servers: freed ranges are punched in every replica, and a sealed
 * chunk in which nothing is live is deleted. What is to be done is in the store (pending frees, the chunk's live blocks), so a restart
 * forgets nothing; here is only which chunks to look at.
 *
 * Ranges of an open chunk are punched once it is sealed. One whose freed ranges grow beyond `openFreedBytesMax` is asked back from
 * its session.
 *
 * A server that is away for longer than the repair delay does not keep the space of the others: they are punched, and the pending frees are
 * kept until it is back and has punched them too, or is removed from the cluster. What is kept costs nothing while it waits. There are at
 * most as many frees as the chunk has blocks, neighbours become one, and the more there are, the longer new ones gather before all are
 * punched again.
 *
 * Invariant: a pending free is removed only after every replica on a server of the cluster was punched, but for corrupt ones, and no copy
 * of the chunk ran that may have read the range before.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId, SessionId } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkServers } from './chunk-servers.ts'
import { chunks as chunkTable, pendingFreeBounds, pendingFrees, tableBounds } from './keys.ts'
import type { Bounds } from './keys.ts'
import type { Repair } from './repair.ts'
import type { ServerTable } from './servers.ts'
import type { Store, Tx } from './store.ts'

export interface ReclaimOptions {
  store: Store
  clock: Clock
  log: Log
  chunks: ChunkMap
  servers: ServerTable
  chunkServers: ChunkServers
  repair: Repair
  /** The record is gone; these servers may hold a replica. */
  removed: (servers: readonly ServerId[], chunk: ChunkId) => void
  /** Asks a session to seal its chunk. */
  askToSeal: (session: SessionId, chunk: ChunkId) => void
  repairDelayMs: number
}

/** Frees that come one after another are punched together. */
const gatherMs = 1000
/** So much longer for each range that is punched again with them, up to a limit: a chunk may have died meanwhile. */
const gatherMsPerKept = 100
const gatherMsMax = 30_000
const retryMs = 5000
const chunksAtOnceMax = 4
const rangesPerRoundMax = 1000
const recordsPerPage = 4096
export const openFreedBytesMax = 1024 * 1024

interface Range {
  block: number
  blocks: number
}

/** Frees that were punched wherever it was possible. */
interface Kept {
  ranges: number
  /** Servers that are away and hold a replica, or may. */
  waitsFor: readonly ServerId[]
}

export class Reclaim {
  readonly #options: ReclaimOptions
  readonly #due = new Map<ChunkId, number>()
  readonly #running = new Set<ChunkId>()
  readonly #kept = new Map<ChunkId, Kept>()
  #timer: Timer | undefined
  #closed = false

  constructor(options: ReclaimOptions) {
    this.#options = options
  }

  /** Finds what a former run of the master left to do. */
  async start(deadChunks: Iterable<ChunkId>): Promise<void> {
    for (const chunk of deadChunks) this.freed(chunk)
    const all = tableBounds(pendingFrees)
    let { gte } = all
    for (;;) {
      const page = await this.#options.store.execute((tx) =>
        tx.range(pendingFrees, { gte, lt: all.lt }, recordsPerPage),
      )
      for (const [{ chunk }] of page) this.freed(chunk)
      const last = page.at(-1)
      if (!last || page.length < recordsPerPage) return
      gte = `${pendingFrees.encodeKey(last[0])}\0`
    }
  }

  /** Something of this chunk became free. */
  freed(chunk: ChunkId): void {
    if (this.#due.has(chunk)) return
    this.#later(chunk, Math.min(gatherMs + (this.#kept.get(chunk)?.ranges ?? 0) * gatherMsPerKept, gatherMsMax))
  }

  /** The chunk was sealed: what had to wait for that can be done. */
  sealed(chunk: ChunkId): void {
    if (this.#due.has(chunk)) this.#later(chunk, 0)
  }

  /** The server is up again, or belongs to the cluster no more: what waited for it need not wait. */
  serverReturned(server: ServerId): void {
    for (const [chunk, { waitsFor }] of this.#kept) if (waitsFor.includes(server)) this.#later(chunk, 0)
  }

  /** Chunks that wait for something to be punched or deleted; not those that wait for a server that is away. */
  get pending(): number {
    return this.#due.size + this.#running.size
  }

  close(): void {
    this.#closed = true
    this.#timer?.cancel()
  }

  #later(chunk: ChunkId, ms: number): void {
    this.#due.set(chunk, this.#options.clock.nowMs() + ms)
    this.#schedule(gatherMs / 4)
  }

  #schedule(ms: number): void {
    if (this.#closed || this.#timer) return
    this.#timer = this.#options.clock.after(ms, () => {
      this.#timer = undefined
      this.#runDue()
      if (this.#due.size > 0) this.#schedule(gatherMs / 2)
    })
  }

  #runDue(): void {
    const now = this.#options.clock.nowMs()
    for (const [chunk, dueMs] of this.#due) {
      if (this.#running.size >= chunksAtOnceMax) return
      if (dueMs > now || this.#running.has(chunk)) continue
      this.#due.delete(chunk)
      this.#running.add(chunk)
      void this.#run(chunk)
    }
  }

  async #run(chunk: ChunkId): Promise<void> {
    let again: number | undefined
    try {
      again = await this.#reclaim(chunk)
    } catch (cause) {
      this.#options.log.debug('space not given back yet', { chunk, cause })
      again = retryMs
    } finally {
      this.#running.delete(chunk)
    }
    if (this.#closed) return
    if (again !== undefined) this.#later(chunk, again)
    // A place is free for the next one.
    this.#runDue()
  }

  /** Does what can be done for a chunk. Returns when to look again, or undefined when nothing is left. */
  async #reclaim(chunk: ChunkId): Promise<number | undefined> {
    const { store, askToSeal } = this.#options
    const { gte, lt } = pendingFreeBounds(chunk)
    const { record, ranges } = await store.execute((tx) => ({
      record: tx.get(chunkTable, chunk),
      ranges: rangesFrom(tx, { gte, lt }),
    }))
    if (record && !record.sealed) {
      const freedBytes = ranges.reduce((sum, { blocks }) => sum + blocks, 0) * blockBytes
      if (freedBytes >= openFreedBytesMax) askToSeal(record.owner, chunk)
      return ranges.length > 0 || record.liveBlocks === 0 ? retryMs : undefined
    }
    if (!record || record.liveBlocks === 0) {
      this.#kept.delete(chunk)
      return this.#remove(chunk)
    }
    let kept = 0
    for (let page = ranges; page.length > 0;) {
      const away = await this.#punchAll(chunk, page)
      if (away === undefined) return retryMs
      if (away.length === 0) {
        this.#kept.delete(chunk)
        await this.#settle(chunk, page, false)
        return page.length === rangesPerRoundMax ? 0 : this.#more(chunk)
      }
      const joinedCount = joinedRanges(page).length
      kept += joinedCount
      // Before anything else happens: the server may come back at once.
      this.#kept.set(chunk, { ranges: kept, waitsFor: away })
      if (joinedCount < page.length) await this.#settle(chunk, page, true)
      if (page.length < rangesPerRoundMax) break
      const next = `${pendingFrees.encodeKey({ chunk, block: page.at(-1)!.block })}\0`
      page = await store.execute((tx) => rangesFrom(tx, { gte: next, lt }))
    }
    return undefined
  }

  /**
   * Punches the replicas on servers that are up. Returns the servers that are away and hold others, or may; undefined when it has to be
   * done again.
   */
  async #punchAll(chunk: ChunkId, ranges: readonly Range[]): Promise<ServerId[] | undefined> {
    const { chunks, servers, repair } = this.#options
    const before = chunks.get(chunk)
    if (!before || !this.#canPunch(chunk)) return undefined
    const copies = repair.copiesBegun(before)
    const holders = before.replicas.filter(({ server }) => servers.isUp(server))
    await Promise.all(holders.map(({ server }) => this.#punch(server, chunk, ranges)))
    const entry = chunks.get(chunk)
    if (!entry || !this.#canPunch(chunk)) return undefined
    // What was copied in place of a bad replica meanwhile may have the ranges.
    if (entry !== before || repair.copiesBegun(entry) !== copies) return undefined
    const punched = new Set(holders.map(({ server }) => server))
    const away = new Set<ServerId>()
    for (const { server, corrupt } of entry.replicas) {
      if (servers.isUp(server)) {
        // One that has come meanwhile.
        if (!punched.has(server)) return undefined
      } else if (!corrupt && servers.get(server)) away.add(server)
    }
    for (const { id, hasReported } of servers.all()) if (!hasReported) away.add(id)
    return [...away]
  }

  /** Removes pending frees, or keeps them with neighbours as one. */
  #settle(chunk: ChunkId, ranges: readonly Range[], keep: boolean): Promise<void> {
    return this.#options.store.execute(
      (tx) => {
        const keys = ranges.map(({ block }) => ({ chunk, block }))
        // The chunk may be gone meanwhile, and a range may have grown at its end; then the next round takes the whole again.
        const stored = tx.getMany(pendingFrees, keys)
        const same = ranges.filter(({ blocks }, index) => stored[index] === blocks)
        for (const { block } of same) tx.delete(pendingFrees, { chunk, block })
        if (keep) for (const { block, blocks } of joinedRanges(same)) tx.put(pendingFrees, { chunk, block }, blocks)
      },
      { mayUseReserve: true },
    )
  }

  /** What was freed while the punches ran is looked at again. */
  async #more(chunk: ChunkId): Promise<number | undefined> {
    const left = await this.#options.store.execute((tx) => tx.range(pendingFrees, pendingFreeBounds(chunk), 1))
    return left.length > 0 ? gatherMs : undefined
  }

  /** Every replica that should exist is there and sealed, or is given up; and none is being made. */
  #canPunch(chunk: ChunkId): boolean {
    const { chunks, servers, repair, clock, repairDelayMs } = this.#options
    const entry = chunks.get(chunk)
    if (!entry || !entry.sealed || !repair.ready() || repair.isCopying(chunk) || entry.valid === 0) return false
    return entry.replicas.every((replica) => {
      const server = servers.get(replica.server)
      if (server?.state === 'up') return replica.sealed || replica.corrupt
      return !server || clock.nowMs() - server.lastSeenMs >= repairDelayMs
    })
  }

  async #punch(server: ServerId, chunk: ChunkId, ranges: readonly Range[]): Promise<void> {
    try {
      await this.#options.chunkServers.punch(
        server,
        chunk,
        ranges.map(({ block, blocks }) => ({ offset: block * blockBytes, length: blocks * blockBytes })),
      )
    } catch (caught) {
      if (!(caught instanceof PosixError)) throw caught
      if (caught.code === 'ENOENT') return this.#options.chunks.lost(chunk, server)
      const replica = this.#options.chunks.get(chunk)?.replicas.find((other) => other.server === server)
      // A bad replica is replaced anyway; it must not keep the others' space.
      if (!replica || !replica.corrupt) throw caught
    }
  }

  /** Nothing in it is live: the record goes first, durably, then the replicas. */
  async #remove(chunk: ChunkId): Promise<number | undefined> {
    const { store, chunks, removed, log } = this.#options
    const state = await store.execute(
      (tx) => {
        const record = tx.get(chunkTable, chunk)
        if (record && (!record.sealed || record.liveBlocks > 0)) return 'alive'
        const freed = tx.range(pendingFrees, pendingFreeBounds(chunk), rangesPerRoundMax)
        for (const [key] of freed) tx.delete(pendingFrees, key)
        if (freed.length === rangesPerRoundMax) return 'more'
        if (!record) return 'gone'
        let holders: ServerId[] = []
        tx.delete(chunkTable, chunk)
        tx.onApply(() => {
          holders = chunks.removed(chunk)
        })
        tx.afterCommit(() => {
          log.debug('chunk deleted', { chunk })
          removed(holders, chunk)
        })
        return 'gone'
      },
      { mayUseReserve: true },
    )
    if (state === 'gone') return undefined
    return state === 'more' ? 0 : gatherMs
  }
}

const rangesFrom = (tx: Tx, bounds: Bounds): Range[] =>
  tx.range(pendingFrees, bounds, rangesPerRoundMax).map(([{ block }, blocks]) => ({ block, blocks }))

/** Neighbours as one. */
const joinedRanges = (ranges: readonly Range[]): Range[] => {
  const joined: Range[] = []
  for (const { block, blocks } of ranges) {
    const last = joined.at(-1)
    if (last && last.block + last.blocks === block) last.blocks += blocks
    else joined.push({ block, blocks })
  }
  return joined
}
