/**
 * What the master asks of chunk servers, as typed calls. PosixError: the server answered no; UnavailableError: it did not answer.
 * All of these are idempotent, so whoever calls may simply call again.
 * The master's end does not wait for them: closing its transport does.
 */
import { UnavailableError } from '../domain/errors.ts'
import type { ChunkId, ServerId } from '../domain/ids.ts'
import type { Transport } from '../platform/transport.ts'
import type { ByteRange, CopyRequest, VerifyReply } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { ChunkStoreDefinition } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { callUnary } from '../protocol/rpc.ts'
import type { ServerTable } from './servers.ts'

const shortCallMs = 10_000
/** A whole chunk is read for it. */
const verifyMs = 120_000

export interface ChunkServers {
  copy(target: ServerId, request: CopyRequest, deadlineMs: number): Promise<void>
  seal(server: ServerId, chunk: ChunkId, length: number): Promise<void>
  punch(server: ServerId, chunk: ChunkId, ranges: ByteRange[]): Promise<void>
  delete(server: ServerId, chunks: readonly ChunkId[]): Promise<void>
  verify(server: ServerId, chunk: ChunkId): Promise<VerifyReply>
}

export const chunkServers = (options: { rpc: Transport; servers: ServerTable }): ChunkServers => {
  const { rpc, servers } = options
  const addressOf = (id: ServerId): string => {
    const address = servers.get(id)?.address.address
    if (!address) throw new UnavailableError(`chunk server ${id} has no address`, { maybeCommitted: false })
    return address
  }
  const { methods } = ChunkStoreDefinition
  return {
    copy: async (target, request, deadlineMs) => {
      await callUnary(rpc, addressOf(target), ChunkStoreDefinition, methods.copy, request, { deadlineMs })
    },
    seal: async (server, chunkId, length) => {
      const request = { chunkId, length }
      const callOptions = { deadlineMs: shortCallMs }
      await callUnary(rpc, addressOf(server), ChunkStoreDefinition, methods.seal, request, callOptions)
    },
    punch: async (server, chunkId, ranges) => {
      const request = { chunkId, ranges }
      const callOptions = { deadlineMs: shortCallMs }
      await callUnary(rpc, addressOf(server), ChunkStoreDefinition, methods.punch, request, callOptions)
    },
    delete: async (server, chunks) => {
      const request = { chunkIds: [...chunks] }
      const callOptions = { deadlineMs: shortCallMs }
      await callUnary(rpc, addressOf(server), ChunkStoreDefinition, methods.delete, request, callOptions)
    },
    verify: (server, chunkId) =>
      callUnary(rpc, addressOf(server), ChunkStoreDefinition, methods.verify, { chunkId }, { deadlineMs: verifyMs }),
  }
}
