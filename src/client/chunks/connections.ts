/**
 * The client's streams to chunk servers: one for appends and one for reads per server, opened on demand, shared by everything
 * that the client does with that server, closed when idle.
 *
 * Ownership: made once per client, used by its ChunkWriter and ChunkReader, closed by whoever made it.
 */
import { UnavailableError } from '../../domain/errors.ts'
import { asServerId } from '../../domain/ids.ts'
import type { ServerId } from '../../domain/ids.ts'
import type { Clock } from '../../platform/clock.ts'
import { RequestLog, type RequestIds } from '../../platform/request-log.ts'
import type { Log } from '../../platform/log.ts'
import type { Transport } from '../../platform/transport.ts'
import { decodeReadReply } from '../../protocol/bulk.ts'
import { AppendReply, ChunkStoreDefinition, ReadRequest } from '../../protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { ReadReply } from '../../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { methodPath } from '../../protocol/rpc.ts'
import { Exchange } from './exchange.ts'
import type { ExchangeOptions, Settle } from './exchange.ts'
import type { ServerAddress } from './ports.ts'

const appendPath = methodPath(ChunkStoreDefinition, ChunkStoreDefinition.methods.append)
const readPath = methodPath(ChunkStoreDefinition, ChunkStoreDefinition.methods.read)
const requestIdMax = 0xffff_ffff
const serversMax = 1024

export interface ChunkConnectionsOptions {
  /** gRPC. */
  rpc: Transport
  /** Framed TCP. */
  bulk: Transport
  clock: Clock
  log: Log
}

/** How busy a server is with this client's reads. */
export interface ReadLoad {
  outstanding: number
  /** For how long reads have waited without any answer from it. */
  silentMs: number
}

interface Connection {
  server: ServerAddress
  append: Exchange<AppendReply>
  read: Exchange<ReadReply>
  lastReadId: number
}

export class ChunkConnections {
  readonly #options: ChunkConnectionsOptions
  readonly #requestLog: RequestLog
  /** By id and addresses: a server that came back elsewhere is another connection. */
  readonly #connections = new Map<string, Connection>()
  #lastAppendId = 0
  #closed = false

  constructor(options: ChunkConnectionsOptions) {
    this.#options = options
    this.#requestLog = new RequestLog(options.log, options.clock)
  }

  /** An id for an append that goes to several servers under the same id. */
  nextAppendId(): number {
    this.#lastAppendId = this.#lastAppendId === requestIdMax ? 1 : this.#lastAppendId + 1
    return this.#lastAppendId
  }

  /** Sends an encoded AppendRequest with an id from nextAppendId, in the order of the calls. */
  append(
    server: ServerAddress,
    message: { chunkId: bigint; requestId: number; parts: readonly Uint8Array[] },
    settle: Settle<AppendReply>,
  ): void {
    if (this.#closed) {
      refuse(settle)
      return
    }
    const { chunkId, requestId, parts } = message
    const ids = { request: 'append', server: server.serverId, chunk: chunkId, id: requestId }
    this.#connection(server).append.request(requestId, parts, this.#told(ids, settle))
  }

  read(
    server: ServerAddress,
    request: { chunkId: bigint; offset: number; length: number },
    settle: Settle<ReadReply>,
  ): void {
    if (this.#closed) {
      refuse(settle)
      return
    }
    const connection = this.#connection(server)
    connection.lastReadId = connection.lastReadId === requestIdMax ? 1 : connection.lastReadId + 1
    const requestId = connection.lastReadId
    const ids = { request: 'read', server: server.serverId, chunk: request.chunkId, id: requestId }
    const parts = [ReadRequest.encode({ requestId, ...request }).finish()]
    connection.read.request(requestId, parts, this.#told(ids, settle))
  }

  #told<Reply extends AppendReply | ReadReply>(ids: RequestIds, settle: Settle<Reply>): Settle<Reply> {
    const startMs = this.#options.clock.nowMs()
    return (outcome) => {
      const end = outcome instanceof Error ? { noAnswer: outcome.message } : { failure: outcome.failure?.code }
      this.#requestLog.ended({ startMs, ...end }, () => ids)
      settle(outcome)
    }
  }

  readLoad(server: ServerAddress): ReadLoad {
    const connection = this.#connections.get(keyOf(server))
    if (connection === undefined) return { outstanding: 0, silentMs: 0 }
    return { outstanding: connection.read.outstanding, silentMs: connection.read.silentMs() }
  }

  /** Drops the append stream of a server that has stopped answering; what waits on it is settled as unavailable. */
  dropAppends(server: ServerAddress, reason: string): void {
    this.#connections.get(keyOf(server))?.append.drop(reason)
  }

  /** The servers that it has a connection to; for diagnosis. */
  servers(): ServerId[] {
    return [...this.#connections.values()].map(({ server }) => asServerId(server.serverId))
  }

  /** Drops every stream. Requests that wait are settled as unavailable; nothing can be sent any more. */
  close(): void {
    this.#closed = true
    for (const { append, read } of this.#connections.values()) {
      append.close()
      read.close()
    }
    this.#connections.clear()
  }

  #connection(server: ServerAddress): Connection {
    const key = keyOf(server)
    const known = this.#connections.get(key)
    if (known !== undefined) return known
    if (this.#connections.size >= serversMax) this.#forgetOldest()
    const common: Omit<ExchangeOptions<never>, 'path' | 'decode'> = { server, ...this.#options }
    const connection: Connection = {
      server,
      append: new Exchange({ ...common, path: appendPath, decode: (bytes) => AppendReply.decode(bytes) }),
      read: new Exchange({ ...common, path: readPath, decode: decodeReadReply }),
      lastReadId: 0,
    }
    this.#connections.set(key, connection)
    return connection
  }

  #forgetOldest(): void {
    let oldestKey: string | undefined
    let oldestMs = Infinity
    for (const [key, { append, read }] of this.#connections) {
      const usedMs = Math.max(append.lastUsedMs, read.lastUsedMs)
      if (append.outstanding > 0 || read.outstanding > 0 || usedMs >= oldestMs) continue
      oldestKey = key
      oldestMs = usedMs
    }
    if (oldestKey === undefined) return
    const oldest = this.#connections.get(oldestKey)
    this.#connections.delete(oldestKey)
    oldest?.append.close()
    oldest?.read.close()
  }
}

const refuse = (settle: (error: UnavailableError) => void): void => {
  queueMicrotask(() =>
    settle(new UnavailableError('the connections to chunk servers are closed', { maybeCommitted: false })),
  )
}

const keyOf = (server: ServerAddress): string => `${server.serverId} ${server.address} ${server.bulkAddress}`
