/** The Cluster service: registrations, heartbeats and reports of chunk servers. */
import { PosixError } from '../domain/errors.ts'
import type { ServerId } from '../domain/ids.ts'
import { asChunkId } from '../domain/ids.ts'
import type { Log } from '../platform/log.ts'
import type { UnaryHandler } from '../platform/transport.ts'
import type { Replica } from '../protocol/gen/shoal/v1/cluster.pb.ts'
import { ClusterDefinition } from '../protocol/gen/shoal/v1/cluster.pb.ts'
import { methodPath, unaryHandler } from '../protocol/rpc.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { Repair } from './repair.ts'
import type { Server, ServerTable } from './servers.ts'

export interface ClusterServiceOptions {
  servers: ServerTable
  chunks: ChunkMap
  repair: Repair
  log: Log
}

export const clusterHandlers = (options: ClusterServiceOptions): [string, UnaryHandler][] => {
  const { servers, chunks, log } = options
  const { register, heartbeat, reportChunks } = ClusterDefinition.methods
  return [
    [
      methodPath(ClusterDefinition, register),
      unaryHandler(register, async (request) => {
        try {
          const reply = await servers.register(request)
          chunks.reportBegins(servers.registered(reply.registration).id)
          return reply
        } catch (caught) {
          if (caught instanceof PosixError) {
            log.warn('chunk server refused', { address: request.address?.address, reason: caught.message })
          }
          throw caught
        }
      }),
    ],
    [
      methodPath(ClusterDefinition, heartbeat),
      unaryHandler(heartbeat, async (request) => {
        const server = servers.heartbeat(request)
        take(options, server.id, request.changed)
        return {}
      }),
    ],
    [
      methodPath(ClusterDefinition, reportChunks),
      unaryHandler(reportChunks, async (request) => {
        const server: Server = servers.registered(request.registration)
        take(options, server.id, request.replicas)
        if (request.last) {
          const missing = chunks.reportEnds(server.id)
          if (missing > 0) log.warn('replicas are gone', { server: server.id, replicas: missing })
        }
        servers.reported(server, request.last)
        return {}
      }),
    ],
  ]
}

const take = ({ chunks, repair, log }: ClusterServiceOptions, server: ServerId, replicas: readonly Replica[]): void => {
  for (const replica of replicas) {
    const id = asChunkId(replica.chunkId)
    const known = chunks.get(id)?.replicas.find((other) => other.server === server)
    if (replica.corrupt && !replica.deleted && known?.corrupt !== true && chunks.get(id)) {
      log.warn('replica corrupt', { chunk: id, server })
      repair.note('corrupt replica', id, server)
    }
    if (replica.deleted && known) {
      log.warn('replica lost', { chunk: id, server })
      repair.note('lost replica', id, server)
    }
    chunks.report(server, replica)
  }
}
