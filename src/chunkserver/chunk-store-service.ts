/** The unary methods of ChunkStore: what the master asks of a chunk server. */
import { PosixError } from '../domain/errors.ts'
import type { UnaryHandler } from '../platform/transport.ts'
import { ChunkStoreDefinition, type CopyRequest } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { methodPath, unaryHandler } from '../protocol/rpc.ts'
import { copyChunk, type CopyOptions } from './copy.ts'

/** Copies at a time; the master is to spread its wishes over time and servers. */
export const copiesMax = 16

const path = (method: { name: string }): string => methodPath(ChunkStoreDefinition, method)

export const chunkStoreService = (options: CopyOptions): Map<string, UnaryHandler> => {
  const { store, faults } = options
  const { methods } = ChunkStoreDefinition
  const copies = new Map<string, Promise<void>>()

  /** The same wish said again while it is being fulfilled waits for the first one. */
  const copy = (request: CopyRequest, signal: AbortSignal): Promise<void> => {
    const key = `${request.chunkId} ${request.length}`
    const running = copies.get(key)
    if (running) return running
    if (copies.size >= copiesMax) return Promise.reject(new PosixError('EAGAIN', `${copiesMax} copies run already`))
    const started = copyChunk(options, request, signal).finally(() => copies.delete(key))
    copies.set(key, started)
    return started
  }

  return new Map<string, UnaryHandler>([
    [
      path(methods.copy),
      unaryHandler(methods.copy, async (request, signal) => {
        await copy(request, signal)
        await faults?.point('chunk.copy.ack')
        return {}
      }),
    ],
    [
      path(methods.seal),
      unaryHandler(methods.seal, async ({ chunkId, length }) => {
        await store.seal(chunkId, length)
        return {}
      }),
    ],
    [
      path(methods.punch),
      unaryHandler(methods.punch, async ({ chunkId, ranges }) => {
        await store.punch(chunkId, ranges)
        return {}
      }),
    ],
    [
      path(methods.delete),
      unaryHandler(methods.delete, async ({ chunkIds }) => {
        for (const chunkId of chunkIds) await store.delete(chunkId)
        await faults?.point('chunk.delete.ack')
        return {}
      }),
    ],
    [path(methods.verify), unaryHandler(methods.verify, ({ chunkId }) => store.check(chunkId))],
  ])
}
