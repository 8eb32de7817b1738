/**
 * New chunks: places the replicas and makes the record. While servers are missing that may come (the cluster has just started, or some
 * of it is away), a request waits for them instead of failing.
 */
import { PosixError } from '../domain/errors.ts'
import type { ServerId, SessionId } from '../domain/ids.ts'
import { asChunkId, asServerId } from '../domain/ids.ts'
import type { Clock } from '../platform/clock.ts'
import type { AllocateChunkRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ChunkMap } from './chunk-map.ts'
import { chunks as chunkTable, counters } from './keys.ts'
import { executeOnce } from './ops/index.ts'
import type { Result } from './ops/operation.ts'
import type { Placement, PlacementServer } from './placement/placement.ts'
import type { Server, ServerTable } from './servers.ts'
import type { Store, Tx } from './store.ts'
import { Blocked } from './store.ts'

export const copiesPerChunkMax = 16
/** A server with less gets no new chunk. */
export const placementFreeBytesMin = 1024 * 1024
/** So long after the master's start a new chunk waits for servers that have not come yet, to have all of its copies from the first. */
const startGraceMs = 10_000
/** So long it waits for the least number of copies. */
const waitMsMax = 30_000
const pollMs = 250

export interface ChunkAllocationOptions {
  store: Store
  clock: Clock
  chunks: ChunkMap
  servers: ServerTable
  placement: Placement
  copiesMin: number
  isAlive: (session: SessionId) => boolean
}

export class ChunkAllocation {
  readonly #options: ChunkAllocationOptions
  readonly #startMs: number

  constructor(options: ChunkAllocationOptions) {
    this.#options = options
    this.#startMs = options.clock.nowMs()
  }

  /**
   * Once for a request id. ENOSPC when fewer than copiesMin servers can take it; EINTR when the signal is aborted while it waits.
   */
  allocate(session: SessionId, id: bigint, request: AllocateChunkRequest, signal: AbortSignal): Promise<Result> {
    const { store, clock } = this.#options
    const untilMs = clock.nowMs() + waitMsMax
    return executeOnce(store, session, id, (tx) => this.#allocate(tx, session, request, untilMs), { signal })
  }

  #allocate(tx: Tx, session: SessionId, request: AllocateChunkRequest, untilMs: number): Result {
    const { chunks, servers, placement, isAlive } = this.#options
    if (!isAlive(session)) throw new PosixError('ESTALE', 'the session has ended')
    const copies = request.copies
    if (copies < 1 || copies > copiesPerChunkMax) {
      throw new PosixError('EINVAL', `a chunk has 1 to ${copiesPerChunkMax} copies`)
    }
    const excluded = new Set(request.serversExcluded.map(asServerId))
    this.#check(copies, excluded, untilMs)
    const id = asChunkId(tx.get(counters, 'nextChunk') ?? 1n)
    const chosen = placement.choose({ copies, servers: this.#candidates(), excluded, chunkId: id })
    const serverIds = chosen.map((server) => server.id)
    const record = {
      copies,
      committedBytes: 0,
      sealed: false,
      liveBlocks: 0,
      referenceIntervals: 0,
      owner: session,
      created: tx.now,
    }
    tx.put(counters, 'nextChunk', id + 1n)
    tx.put(chunkTable, id, record)
    tx.onApply(() => chunks.load(id, record, serverIds))
    const addresses = serverIds.map((server) => servers.get(server)!.address)
    return { $case: 'allocateChunk', value: { chunkId: id, servers: addresses } }
  }

  /** Waits or refuses unless enough servers can take a replica. */
  #check(copies: number, excluded: ReadonlySet<ServerId>, untilMs: number): void {
    const { servers, clock, copiesMin } = this.#options
    const enough = Math.min(copies, copiesMin)
    const usable = this.#candidates().filter((server) => !excluded.has(server.id)).length
    if (usable >= copies) return
    const now = clock.nowMs()
    const starting = now - this.#startMs < startGraceMs
    if (usable >= enough) {
      const missing = !servers.complete() || servers.staying().length < copies
      if (!starting || !missing) return
    } else {
      // A client that excludes servers of its own accord asks again with fewer exclusions: it waits for none of them here.
      const withoutExclusions = this.#candidates().length
      if (withoutExclusions >= enough) {
        throw new PosixError('ENOSPC', `fewer than ${enough} chunk servers are left of ${withoutExclusions}`)
      }
      // Full servers do not become empty by waiting.
      const all = [...servers.all()]
      const roomy = all.filter((server) => !server.draining && (server.state !== 'up' || hasRoom(server))).length
      if ((roomy < enough && !starting) || now >= untilMs) {
        throw new PosixError('ENOSPC', `fewer than ${enough} chunk servers can take a new chunk`)
      }
    }
    throw new Blocked(new Promise((resolve) => void clock.after(pollMs, resolve)))
  }

  #candidates(): PlacementServer[] {
    const { servers, chunks } = this.#options
    return servers
      .staying()
      .filter(hasRoom)
      .map((server) => ({
        id: server.id,
        rack: server.address.rack,
        freeBytes: server.freeBytes,
        load: server.load + chunks.serverCounts(server.id).placed,
      }))
  }
}

const hasRoom = (server: Server): boolean => server.freeBytes >= placementFreeBytesMin
