/** What the data path asks of the master, over the session. */
import { asChunkId } from '../domain/ids.ts'
import type { ChunkId } from '../domain/ids.ts'
import type { Log } from '../platform/log.ts'
import { ReportReplicaRequest_Problem } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { ChunkMaster } from './chunks/ports.ts'
import type { Locations } from './locations.ts'
import type { Session } from './session.ts'

const locateMax = 256

export const chunkMaster = (session: Session, locations: Locations, log: Log): ChunkMaster => ({
  allocateChunk: async (copies, excluded) => {
    const { chunkId, servers } = await session.call(
      { $case: 'allocateChunk', value: { copies, serversExcluded: [...excluded] } },
      'allocateChunk',
    )
    return { chunkId: asChunkId(chunkId), servers }
  },
  sealChunk: async (chunkId, failed) => {
    await session.call({ $case: 'sealChunk', value: { chunkId, serversFailed: [...failed] } }, 'empty')
  },
  locate: async (chunkIds, signal) => {
    const found = new Map<ChunkId, ServerAddress[]>()
    for (let at = 0; at < chunkIds.length; at += locateMax) {
      const some = chunkIds.slice(at, at + locateMax)
      const reply = await session.call({ $case: 'locate', value: { chunkIds: some } }, 'locate', { signal })
      for (const { chunkId, servers } of reply.locations) {
        found.set(asChunkId(chunkId), servers)
        locations.set(asChunkId(chunkId), servers)
      }
    }
    return found
  },
  reportReplica: (chunkId, serverId, problem) => {
    const wire =
      problem === 'corrupt'
        ? ReportReplicaRequest_Problem.PROBLEM_CORRUPT
        : ReportReplicaRequest_Problem.PROBLEM_MISSING
    session
      .call({ $case: 'reportReplica', value: { chunkId, serverId, problem: wire } }, 'empty')
      .catch((cause: unknown) => log.debug('a bad replica could not be reported', { chunk: chunkId, cause }))
  },
})
