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
  /**
   * An answer counts for the registration under which it was asked for: when the server has registered again meanwhile, what it did may have
   * been taken back by a loss of power, and its new report has said so before.
   */
  const ask = async <Q, R>(
    id: ServerId,
    method: Parameters<typeof callUnary<Q, R>>[3],
    request: Q,
    deadlineMs: number,
  ): Promise<R> => {
    const server = servers.get(id)
    const registration = server?.registration
    const unanswered = (why: string, maybeCommitted: boolean): UnavailableError =>
      new UnavailableError(`chunk server ${id} ${why}`, { maybeCommitted })
    if (!server?.address.address) throw unanswered('has no address', false)
    const answer = callUnary(rpc, server.address.address, ChunkStoreDefinition, method, request, { deadlineMs })
    await answer.catch(() => undefined)
    if (servers.get(id)?.registration !== registration) throw unanswered('has registered again meanwhile', true)
    return answer
  }
  const { methods } = ChunkStoreDefinition
  return {
    copy: async (target, request, deadlineMs) => void (await ask(target, methods.copy, request, deadlineMs)),
    seal: async (server, chunkId, length) => void (await ask(server, methods.seal, { chunkId, length }, shortCallMs)),
    punch: async (server, chunkId, ranges) => void (await ask(server, methods.punch, { chunkId, ranges }, shortCallMs)),
    delete: async (server, chunks) => void (await ask(server, methods.delete, { chunkIds: [...chunks] }, shortCallMs)),
    verify: (server, chunkId) => ask(server, methods.verify, { chunkId }, verifyMs),
  }
}
