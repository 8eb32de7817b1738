/**
 * ChunkStore.Read: each message asks for one range; replies go out as each is read, in any order.
 *
 * Invariant: what waits in memory is bounded: a stream reads ahead of its receiver only up to the transport's high-water mark, and
 * all streams together hold at most `bytesInProgressMax` of data that is being read.
 */
import { giveBackWhenSent } from '../platform/buffer-pool.ts'
import type { RequestIds } from '../platform/request-log.ts'
import type { StreamHandler } from '../platform/transport.ts'
import { readHandler } from '../protocol/bulk.ts'
import type { ReadReply, ReadRequest } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { TypedStream } from '../protocol/rpc.ts'
import { failureOf, type DataServiceOptions } from './append-service.ts'

/** Reads of one stream at a time. */
const readsPerStream = 8
/** Requests of one stream that may wait; a peer that sends more than that breaks the contract. */
export const waitingReadsMax = 4096
const bytesInProgressMax = 64 * 1024 * 1024

/** A bounded amount of memory, given out in the order of the requests. */
class Budget {
  #freeBytes: number
  readonly #waiting: { bytes: number; resolve: () => void }[] = []

  constructor(bytes: number) {
    this.#freeBytes = bytes
  }

  async take(bytes: number): Promise<void> {
    if (this.#waiting.length === 0 && bytes <= this.#freeBytes) {
      this.#freeBytes -= bytes
      return
    }
    await new Promise<void>((resolve) => this.#waiting.push({ bytes, resolve }))
  }

  giveBack(bytes: number): void {
    this.#freeBytes += bytes
    for (let next = this.#waiting[0]; next && next.bytes <= this.#freeBytes; next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#freeBytes -= next.bytes
      next.resolve()
    }
  }
}

const nothing = Buffer.alloc(0)

export const readService = (options: DataServiceOptions): [string, StreamHandler] => {
  const budget = new Budget(bytesInProgressMax)
  return readHandler((stream, peer) => {
    const reader = new StreamReader(options, budget, stream, peer)
    return {
      message: (request) => reader.push(request),
      closed: () => reader.close(),
    }
  })
}

class StreamReader {
  readonly #options: DataServiceOptions
  readonly #budget: Budget
  readonly #stream: TypedStream<ReadReply>
  readonly #peer: string
  readonly #waiting: ReadRequest[] = []
  #running = 0
  #closed = false

  constructor(options: DataServiceOptions, budget: Budget, stream: TypedStream<ReadReply>, peer: string) {
    this.#options = options
    this.#budget = budget
    this.#stream = stream
    this.#peer = peer
  }

  push(request: ReadRequest): void {
    if (this.#closed) return
    if (this.#waiting.length >= waitingReadsMax) {
      this.close()
      this.#stream.abort(`more than ${waitingReadsMax} reads wait on one stream`)
      return
    }
    this.#options.load.count++
    this.#waiting.push(request)
    if (this.#running < readsPerStream) void this.#work()
  }

  close(): void {
    this.#closed = true
    this.#options.load.count -= this.#waiting.length
    this.#waiting.length = 0
  }

  async #work(): Promise<void> {
    this.#running++
    for (let request = this.#waiting.shift(); request; request = this.#waiting.shift()) {
      // A length that the store refuses must not be waited for.
      const bytes = Math.min(request.length, bytesInProgressMax)
      await this.#budget.take(bytes)
      const reply = this.#closed ? undefined : await this.#read(request)
      const room = reply === undefined || this.#stream.send(reply)
      this.#budget.giveBack(bytes)
      this.#options.load.count--
      if (!room) await this.#stream.drained()
    }
    this.#running--
  }

  async #read({ requestId, chunkId, offset, length }: ReadRequest): Promise<ReadReply> {
    const { load, log, requestLog } = this.#options
    const ids = (): RequestIds => ({ request: 'read', peer: this.#peer, chunk: chunkId, id: requestId })
    const startMs = load.clock.nowMs()
    try {
      const { data, checksums } = await this.#options.store.read({ chunkId, offset, length })
      load.activity.add('read', data.length, load.clock.nowMs() - startMs)
      requestLog.ended({ startMs }, ids)
      giveBackWhenSent(data)
      return { requestId, failure: undefined, checksums, data }
    } catch (caught) {
      const failure = failureOf(caught, log, ids())
      requestLog.ended({ startMs, failure: failure.code }, ids)
      return { requestId, failure, checksums: nothing, data: nothing }
    }
  }
}
