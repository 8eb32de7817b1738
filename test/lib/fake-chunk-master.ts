/**
 * A master that only knows where chunks are, for tests of the client's data path. It places chunks on the servers with the lowest ids that are
 * not excluded, and refuses with ENOSPC when there are fewer than copiesMin.
 */
import type { ChunkMaster, ReplicaProblem } from '../../src/client/chunks/ports.ts'
import { PosixError } from '../../src/domain/errors.ts'
import { asChunkId } from '../../src/domain/ids.ts'
import type { ChunkId, ServerId } from '../../src/domain/ids.ts'
import type { FakeChunkServer } from './fake-chunk-server.ts'

export interface FakeChunkMaster extends ChunkMaster {
  readonly allocations: { chunkId: ChunkId; excluded: readonly ServerId[]; servers: ServerId[] }[]
  /** In the order of the calls. */
  readonly seals: { chunkId: ChunkId; failed: readonly ServerId[] }[]
  readonly reports: { chunkId: ChunkId; serverId: ServerId; problem: ReplicaProblem }[]
  locates: number
  /** Overrides where chunks are. */
  readonly located: Map<ChunkId, FakeChunkServer[]>
  /** Thrown by the calls as long as it is set. */
  failure: Error | undefined
}

export const fakeChunkMaster = (servers: readonly FakeChunkServer[], copiesMin = 2): FakeChunkMaster => {
  const places = new Map<ChunkId, readonly FakeChunkServer[]>()
  const check = (): void => {
    if (master.failure !== undefined) throw master.failure
  }
  const master: FakeChunkMaster = {
    allocations: [],
    seals: [],
    reports: [],
    locates: 0,
    located: new Map(),
    failure: undefined,
    allocateChunk: async (copies, excluded) => {
      check()
      const chosen = servers.filter(({ id }) => !excluded.includes(id)).slice(0, copies)
      if (chosen.length < Math.min(copiesMin, copies)) throw new PosixError('ENOSPC', 'no room')
      const chunkId = asChunkId(BigInt(master.allocations.length + 1))
      master.allocations.push({ chunkId, excluded, servers: chosen.map(({ id }) => id) })
      places.set(chunkId, chosen)
      return { chunkId, servers: chosen.map(({ address }) => address) }
    },
    sealChunk: async (chunkId, failed) => {
      check()
      master.seals.push({ chunkId, failed })
    },
    locate: async (chunkIds) => {
      check()
      master.locates++
      const found = chunkIds.flatMap((chunkId) => {
        const at = master.located.get(chunkId) ?? places.get(chunkId)
        return at === undefined ? [] : [[chunkId, at.map(({ address }) => address)] as const]
      })
      return new Map(found)
    },
    reportReplica: (chunkId, serverId, problem) => {
      master.reports.push({ chunkId, serverId, problem })
    },
  }
  return master
}
