/**
 * A chunk server that keeps its chunks in memory and does what a test tells it, for tests of the client's data path.
 *
 * Fault model: `onAppend` and `onRead` decide per request: serve it, refuse it with a code, or never answer (the request is then not
 * carried out). stop() drops every connection and refuses new ones; start() listens at the same addresses again. corrupt() flips a
 * bit. forgetUnsynced() is a loss of power: what was not synced is gone. There are no disks, so sync costs nothing.
 */
import { roundUpToBlock } from '../../src/domain/checksum.ts'
import { firstCorruptBlock, blockChecksums } from '../../src/platform/block-checksums.ts'
import type { ErrnoName } from '../../src/domain/errors.ts'
import { asServerId } from '../../src/domain/ids.ts'
import type { ServerId } from '../../src/domain/ids.ts'
import type { Listener, Services } from '../../src/platform/transport.ts'
import { appendHandler, readHandler } from '../../src/protocol/bulk.ts'
import type { AppendRequest, ReadRequest } from '../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { ServerAddress } from '../../src/protocol/gen/shoal/v1/types.pb.ts'
import type { MemoryNetwork } from './memory-transport.ts'

export type Verdict = 'serve' | 'never' | ErrnoName

interface FakeChunk {
  data: Buffer
  length: number
  synced: number
  sealed: boolean
}

export interface FakeChunkServer {
  readonly id: ServerId
  readonly address: ServerAddress
  readonly chunks: Map<bigint, FakeChunk>
  appends: number
  reads: number
  /** Connections that each lane has taken. */
  readonly accepted: { rpc: number; bulk: number }
  onAppend: (request: AppendRequest) => Verdict | Promise<Verdict>
  onRead: (request: ReadRequest) => Verdict | Promise<Verdict>
  corrupt(chunkId: bigint, offset: number): void
  seal(chunkId: bigint, length: number): void
  forgetUnsynced(): void
  start(): Promise<void>
  stop(): Promise<void>
  stopBulk(): Promise<void>
}

export const fakeChunkServer = async (options: {
  network: MemoryNetwork
  id: number
  host?: string
  rack?: string
}): Promise<FakeChunkServer> => {
  const { network, id } = options
  const host = `10.0.0.${id}`
  const transport = network.transport(host)
  const accepted = { rpc: 0, bulk: 0 }
  const listeners: { rpc?: Listener | undefined; bulk?: Listener | undefined } = {}
  const chunks = new Map<bigint, FakeChunk>()

  const append = (request: AppendRequest): { length: number } | ErrnoName => {
    const { chunkId, offset, data } = request
    if (firstCorruptBlock(data, request.checksums) !== -1) return 'EBADMSG'
    let chunk = chunks.get(chunkId)
    if (chunk === undefined) {
      if (!request.create || offset !== 0) return 'ESTALE'
      chunk = { data: Buffer.alloc(64 * 1024 * 1024), length: 0, synced: 0, sealed: false }
      chunks.set(chunkId, chunk)
    }
    const end = offset + roundUpToBlock(data.length)
    const there = end <= chunk.length && chunk.data.subarray(offset, offset + data.length).equals(data)
    if (!there) {
      if (chunk.sealed) return 'EROFS'
      if (offset !== chunk.length) return 'ESTALE'
      data.copy(chunk.data, offset)
      chunk.length = end
    }
    if (request.sync) chunk.synced = chunk.length
    return { length: data.length === 0 ? chunk.length : end }
  }

  const read = ({ chunkId, offset, length }: ReadRequest): { data: Buffer; checksums: Buffer } | ErrnoName => {
    const chunk = chunks.get(chunkId)
    if (chunk === undefined) return 'ENOENT'
    if (offset + length > chunk.length) return 'ERANGE'
    const data = chunk.data.subarray(offset, offset + length)
    return { data, checksums: blockChecksums(data) }
  }

  const services = (lane: 'rpc' | 'bulk'): Services => ({
    unary: new Map(),
    stream: new Map([
      appendHandler((stream) => {
        accepted[lane]++
        let before: Promise<void> = Promise.resolve()
        return {
          message: (request) => {
            server.appends++
            const verdict = server.onAppend(request)
            before = before.then(async () => {
              const decided = await verdict
              if (decided === 'never') return
              const result = decided === 'serve' ? append(request) : decided
              const failure = typeof result === 'string' ? { code: result, message: 'as told' } : undefined
              const length = typeof result === 'string' ? 0 : result.length
              stream.send({ requestId: request.requestId, failure, length })
            })
          },
          closed: () => {},
        }
      }),
      readHandler((stream) => {
        accepted[lane]++
        return {
          message: (request) => {
            server.reads++
            const answer = async (): Promise<void> => {
              const decided = await server.onRead(request)
              if (decided === 'never') return
              const result = decided === 'serve' ? read(request) : decided
              const failure = typeof result === 'string' ? { code: result, message: 'as told' } : undefined
              const nothing = { data: Buffer.alloc(0), checksums: Buffer.alloc(0) }
              const content = typeof result === 'string' ? nothing : { ...result }
              if (damaged.has(request.chunkId) && typeof result !== 'string') {
                content.data = Buffer.from(content.data)
                const at = damaged.get(request.chunkId)! - request.offset
                if (at >= 0 && at < content.data.length) content.data[at]! ^= 1
              }
              stream.send({ requestId: request.requestId, failure, ...content })
            }
            void answer()
          },
          closed: () => {},
        }
      }),
    ]),
  })
  const damaged = new Map<bigint, number>()

  const server: FakeChunkServer = {
    id: asServerId(id),
    address: {
      serverId: id,
      address: `${host}:1`,
      bulkAddress: `${host}:2`,
      rack: options.rack ?? '',
      host: options.host ?? host,
    },
    chunks,
    appends: 0,
    reads: 0,
    accepted,
    onAppend: () => 'serve',
    onRead: () => 'serve',
    corrupt: (chunkId, offset) => {
      damaged.set(chunkId, offset)
    },
    seal: (chunkId, length) => {
      const chunk = chunks.get(chunkId)!
      chunk.sealed = true
      chunk.length = length
      chunk.synced = length
    },
    forgetUnsynced: () => {
      for (const [chunkId, chunk] of chunks) {
        if (chunk.synced === 0) chunks.delete(chunkId)
        else chunk.length = chunk.synced
      }
    },
    start: async () => {
      listeners.rpc = await transport.listen(`${host}:1`, services('rpc'))
      listeners.bulk = await transport.listen(`${host}:2`, services('bulk'))
    },
    stop: async () => {
      await listeners.rpc?.close()
      await listeners.bulk?.close()
    },
    stopBulk: async () => {
      await listeners.bulk?.close()
    },
  }
  await server.start()
  return server
}
