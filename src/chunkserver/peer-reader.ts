/**
 * Reads blocks of a chunk from another chunk server over one stream, several requests at a time.
 *
 * Errors: PosixError is the peer's answer (EBADMSG also for an answer that does not match its checksums), UnavailableError no answer.
 */
import { firstCorruptBlock } from '../platform/block-checksums.ts'
import { PosixError, UnavailableError, isErrnoName } from '../domain/errors.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Transport } from '../platform/transport.ts'
import { openRead } from '../protocol/bulk.ts'
import type { ReadReply, ReadRequest } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { TypedStream } from '../protocol/rpc.ts'
import type { Piece } from './chunk-file.ts'

/** A peer that does not answer a read for this long is as good as away. */
const answerMs = 5000

interface Waiting {
  length: number
  timer: Timer
  resolve(piece: Piece): void
  reject(error: Error): void
}

export class PeerReader {
  readonly #clock: Clock
  readonly #name: string
  readonly #stream: TypedStream<ReadRequest>
  readonly #waiting = new Map<number, Waiting>()
  #requestId = 0
  #broken: Error | undefined

  constructor(options: { bulk: Transport; rpc: Transport; clock: Clock; source: ServerAddress }) {
    const { bulk, rpc, clock, source } = options
    const lane =
      source.bulkAddress === ''
        ? { transport: rpc, address: source.address }
        : { transport: bulk, address: source.bulkAddress }
    this.#clock = clock
    this.#name = lane.address
    this.#stream = openRead(lane.transport, lane.address, {
      message: (reply) => this.#answer(reply),
      closed: (error) => this.#break(error?.message ?? 'the stream ended'),
    })
  }

  /** Whole blocks, 1 MiB at most; checked. */
  read(range: { chunkId: bigint; offset: number; length: number }): Promise<Piece> {
    if (this.#broken) return Promise.reject(this.#broken)
    const requestId = ++this.#requestId
    return new Promise((resolve, reject) => {
      const timer = this.#clock.after(answerMs, () => {
        this.#break(`no answer for ${answerMs} ms`)
        this.#stream.abort('no answer')
      })
      this.#waiting.set(requestId, { length: range.length, timer, resolve, reject })
      this.#stream.send({ requestId, ...range })
    })
  }

  close(): void {
    this.#break('closed')
    this.#stream.end()
  }

  #answer({ requestId, failure, checksums, data }: ReadReply): void {
    const waiting = this.#waiting.get(requestId)
    if (!waiting) return
    this.#waiting.delete(requestId)
    waiting.timer.cancel()
    if (failure) {
      waiting.reject(
        new PosixError(isErrnoName(failure.code) ? failure.code : 'EIO', `${this.#name}: ${failure.message}`),
      )
    } else if (data.length !== waiting.length || firstCorruptBlock(data, checksums) !== -1) {
      waiting.reject(new PosixError('EBADMSG', `${this.#name}: the data does not match its checksums`))
    } else {
      waiting.resolve({ data, checksums })
    }
  }

  #break(why: string): void {
    this.#broken ??= new UnavailableError(`${this.#name}: ${why}`, { maybeCommitted: false })
    for (const waiting of this.#waiting.values()) {
      waiting.timer.cancel()
      waiting.reject(this.#broken)
    }
    this.#waiting.clear()
  }
}
