/**
 * ChunkStore.Append: each message is one append; replies go out as each is done, in any order.
 *
 * Invariant: every request that was read gets exactly one reply while the stream lives; a stream that breaks leaves its appends
 * running, because what was received may as well be there when the client asks again.
 */
import type { Activity } from '../domain/activity.ts'
import { PosixError, errnoOf } from '../domain/errors.ts'
import { giveBackBuffer } from '../platform/buffer-pool.ts'
import type { Clock } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { StreamHandler } from '../platform/transport.ts'
import { appendHandler } from '../protocol/bulk.ts'
import type { Failure } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { ChunkStore } from './store.ts'

/** Requests in progress, and what was done so far, for the master to see. */
export interface Load {
  count: number
  readonly activity: Activity
  readonly clock: Clock
}

/** Which request of a client failed; its own log names the chunk too. */
interface FailedRequest {
  request: 'Append' | 'Read'
  requestId: number
  chunk: bigint
}

/** What a caught value is to a client; a bug is told as EIO and logged. */
export const failureOf = (caught: unknown, log: Log, failed: FailedRequest): Failure => {
  if (!(caught instanceof PosixError)) log.error('a request failed unexpectedly', { ...failed, cause: caught })
  return { code: errnoOf(caught), message: caught instanceof Error ? caught.message : String(caught) }
}

export const appendService = (options: { store: ChunkStore; load: Load; log: Log }): [string, StreamHandler] => {
  const { store, load, log } = options
  return appendHandler((stream) => ({
    message: (request) => {
      const { requestId, chunkId } = request
      const startMs = load.clock.nowMs()
      const bytes = request.data.length
      load.count++
      store
        .append(request)
        .then(
          (length) => stream.send({ requestId, failure: undefined, length }),
          (caught: unknown) =>
            stream.send({
              requestId,
              failure: failureOf(caught, log, { request: 'Append', requestId, chunk: chunkId }),
              length: store.state(chunkId)?.length ?? 0,
            }),
        )
        .finally(() => {
          load.count--
          load.activity.add('write', bytes, load.clock.nowMs() - startMs)
          giveBackBuffer(request.data)
        })
    },
    closed: () => undefined,
  }))
}
