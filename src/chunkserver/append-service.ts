/**
 * ChunkStore.Append: each message is one append; replies go out as each is done, in any order.
 *
 * Invariant: every request that was read gets exactly one reply while the stream lives; a stream that breaks leaves its appends
 * running, because what was received may as well be there when the client asks again.
 * A peer that does not read its replies loses its stream when more than the high-water mark of them waits.
 */
import type { Activity } from '../domain/activity.ts'
import { PosixError, errnoOf } from '../domain/errors.ts'
import { giveBackBuffer } from '../platform/buffer-pool.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { RequestIds, RequestLog } from '../platform/request-log.ts'
import type { StreamHandler } from '../platform/transport.ts'
import { appendHandler } from '../protocol/bulk.ts'
import type { AppendReply } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { Failure } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { ChunkStore } from './store.ts'

/** Requests in progress, and what was done so far, for the master to see. */
export interface Load {
  count: number
  readonly activity: Activity
  readonly clock: Clock
}

/** What both services of a chunk server's clients work with. */
export interface DataServiceOptions {
  store: ChunkStore
  load: Load
  log: Log
  requestLog: RequestLog
  faults?: Faults | undefined
}

/** What a caught value is to a client; a bug is told as EIO and logged. */
export const failureOf = (caught: unknown, log: Log, ids: RequestIds): Failure => {
  if (!(caught instanceof PosixError)) log.error('a request failed unexpectedly', { ...ids, cause: caught })
  return { code: errnoOf(caught), message: caught instanceof Error ? caught.message : String(caught) }
}

export const appendService = (options: DataServiceOptions): [string, StreamHandler] => {
  const { store, load, log, requestLog, faults } = options
  return appendHandler((stream, peer) => {
    const reply = (message: AppendReply): void => {
      if (!stream.send(message)) stream.abort('the replies are not read')
    }
    return {
      message: (request) => {
        const { requestId, chunkId } = request
        const startMs = load.clock.nowMs()
        const bytes = request.data.length
        const ids = (): RequestIds => ({ request: 'append', peer, chunk: chunkId, id: requestId })
        load.count++
        store
          .append(request)
          .then(
            async (length) => {
              await faults?.point('chunk.append.ack')
              requestLog.ended({ startMs }, ids)
              reply({ requestId, failure: undefined, length })
            },
            (caught: unknown) => {
              const failure = failureOf(caught, log, ids())
              requestLog.ended({ startMs, failure: failure.code }, ids)
              reply({ requestId, failure, length: store.state(chunkId)?.length ?? 0 })
            },
          )
          .finally(() => {
            load.count--
            load.activity.add('write', bytes, load.clock.nowMs() - startMs)
            giveBackBuffer(request.data)
          })
      },
      closed: () => undefined,
    }
  })
}
