/**
 * Gives the space of what nothing refers to any more back to the chunk servers: freed ranges are punched in every replica, and a sealed
 * chunk in which nothing is live is deleted. What is to be done is in the store (pending frees, the chunk's live blocks), so a restart
 * forgets nothing; here is only which chunks to look at.
 *
 * Ranges of an open chunk are punched once it is sealed. One whose freed ranges grow beyond `openFreedBytesMax` is asked back from
 * its session.
 *
 * Invariant: a pending free is removed only after every replica on a server that is up was punched, and no copy of the chunk ran that may
 * have read the range before.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId, SessionId } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import { isFinished } from './chunk-map.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkServers } from './chunk-servers.ts'
import { chunks as chunkTable, pendingFreeBounds, pendingFrees, tableBounds } from './keys.ts'
import type { Chunk } from './keys.ts'
import type { Repair } from './repair.ts'
import type { ServerTable } from './servers.ts'
import type { Store } from './store.ts'

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
const retryMs = 5000
const chunksAtOnceMax = 4
const rangesPerRoundMax = 1000
const recordsPerPage = 4096
export const openFreedBytesMax = 1024 * 1024

interface Freed {
  record: Chunk | undefined
  ranges: { block: number; blocks: number }[]
}

export class Reclaim {
  readonly #options: ReclaimOptions
  readonly #due = new Map<ChunkId, number>()
  readonly #running = new Set<ChunkId>()
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
    this.#later(chunk, gatherMs)
  }

  /** The chunk was sealed: what had to wait for that can be done. */
  sealed(chunk: ChunkId): void {
    if (this.#due.has(chunk)) this.#later(chunk, 0)
  }

  /** Chunks that wait for something to be punched or deleted. */
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
    if (this.#due.size > 0 && !this.#timer) this.#schedule(0)
  }

  /** Does what can be done for a chunk. Returns when to look again, or undefined when nothing is left. */
  async #reclaim(chunk: ChunkId): Promise<number | undefined> {
    const { store, chunks, askToSeal } = this.#options
    const { record, ranges } = await store.execute((tx): Freed => {
      const freed = tx.range(pendingFrees, pendingFreeBounds(chunk), rangesPerRoundMax)
      return {
        record: tx.get(chunkTable, chunk),
        ranges: freed.map(([{ block }, blocks]) => ({ block, blocks })),
      }
    })
    if (record && !record.sealed) {
      const freedBytes = ranges.reduce((sum, { blocks }) => sum + blocks, 0) * blockBytes
      if (freedBytes >= openFreedBytesMax) askToSeal(record.owner, chunk)
      return ranges.length > 0 || record.liveBlocks === 0 ? retryMs : undefined
    }
    if (!record || record.liveBlocks === 0) return this.#remove(chunk)
    if (ranges.length === 0) return undefined
    if (!this.#canPunch(chunk)) return retryMs
    const entry = chunks.get(chunk)
    const holders = entry?.replicas.filter(({ server }) => this.#options.servers.isUp(server)) ?? []
    await Promise.all(holders.map(({ server }) => this.#punch(server, chunk, ranges)))
    if (!this.#canPunch(chunk)) return retryMs
    await store.execute(
      (tx) => {
        const keys = ranges.map(({ block }) => ({ chunk, block }))
        // It may have grown at its end meanwhile; the next round takes the whole again.
        for (const [index, blocks] of tx.getMany(pendingFrees, keys).entries()) {
          if (blocks === ranges[index]!.blocks) tx.delete(pendingFrees, keys[index]!)
        }
      },
      { mayUseReserve: true },
    )
    return ranges.length === rangesPerRoundMax ? 0 : this.#more(chunk)
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
      if (server?.state === 'up') return isFinished(entry, replica) || replica.corrupt
      return !server || clock.nowMs() - server.lastSeenMs >= repairDelayMs
    })
  }

  async #punch(server: ServerId, chunk: ChunkId, ranges: Freed['ranges']): Promise<void> {
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
