/**
 * Reads ranges of chunks, checked end to end. Asks the nearest replica; when it fails or is slower than usual, the next one as well, and
 * the first good answer counts. Replicas that are damaged or not there are reported to the master. When none answers well, the
 * master is asked where the chunk is now, until the deadline.
 *
 * Errors: ESTALE when the chunk does not exist any more (what led here is out of date); EIO when each replica that there is says
 * that it is damaged; UnavailableError when there was no good answer before the deadline or the signal.
 * Concurrency: calls may overlap at will. The buffer that comes back is the caller's, who may give it back to the buffer pool; it may be
 * a view of a larger one (by less than two blocks).
 */
import { roundUpToBlock } from '../../domain/checksum.ts'
import { firstCorruptBlock } from '../../platform/block-checksums.ts'
import { PosixError, UnavailableError, invariant } from '../../domain/errors.ts'
import { asServerId } from '../../domain/ids.ts'
import type { ChunkId } from '../../domain/ids.ts'
import { blockBytes, chunkBytes, transferBytesMax } from '../../domain/limits.ts'
import { giveBackBuffer, takeBuffer } from '../../platform/buffer-pool.ts'
import type { Clock, Timer } from '../../platform/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { ReadReply } from '../../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { Call } from './call.ts'
import type { ChunkConnections } from './connections.ts'
import { deferred } from './deferred.ts'
import type { ChunkMaster, ReplicaProblem, ServerAddress } from './ports.ts'
import { ReadHealth } from './read-health.ts'
import { orderReplicas } from './replica-order.ts'
import type { Place } from './replica-order.ts'

const callDeadlineMs = 60_000
/** Requests under way for one call. */
const requestsMax = 4
const retryMsFirst = 50
const retryMsMax = 1000
/** A server with reads outstanding that has said nothing for so long is asked last. */
const silentMsMax = 200
/** When every replica has said no this often, and for this long, waiting any longer has no point. */
const refusalsMax = 3
const refusalsMsMin = 2000
const locationsKept = 4096
const locationMsMax = 60_000
const reportsKept = 1024
const reportAgainMs = 10_000

export interface ChunkReaderOptions {
  connections: ChunkConnections
  master: ChunkMaster
  clock: Clock
  log: Log
  /** Where this client is. */
  place: Place
  /** How long a read tries; default 60 s. */
  deadlineMs?: number
}

export interface ChunkRead {
  chunkId: ChunkId
  /** Any byte offset. */
  chunkOffset: number
  /** Positive; the range ends within the chunk's committed length, rounded up to a block. */
  length: number
  /** Where the caller believes the replicas to be; empty: ask the master. */
  servers: readonly ServerAddress[]
  signal?: AbortSignal
}

type Refusal = ReplicaProblem | 'unreadable' | 'unavailable'
type Answer = { data: Buffer } | { refusals: Refusal[] }

export class ChunkReader {
  readonly #connections: ChunkConnections
  readonly #master: ChunkMaster
  readonly #clock: Clock
  readonly #log: Log
  readonly #place: Place
  readonly #deadlineMs: number
  readonly #health: ReadHealth
  /** What the master said after a caller's own list of replicas had failed, oldest first. */
  readonly #locations = new Map<ChunkId, { servers: readonly ServerAddress[]; untilMs: number }>()
  readonly #reported = new Map<string, number>()

  constructor(options: ChunkReaderOptions) {
    this.#connections = options.connections
    this.#master = options.master
    this.#clock = options.clock
    this.#log = options.log
    this.#place = options.place
    this.#deadlineMs = options.deadlineMs ?? callDeadlineMs
    this.#health = new ReadHealth(options.clock)
  }

  async read(read: ChunkRead): Promise<Buffer> {
    const { chunkId, chunkOffset, length } = read
    invariant(
      length > 0 && chunkOffset >= 0 && chunkOffset + length <= chunkBytes,
      `read of ${length} at ${chunkOffset}`,
    )
    const start = chunkOffset - (chunkOffset % blockBytes)
    const end = roundUpToBlock(chunkOffset + length)
    const call = new Call({
      clock: this.#clock,
      what: `read of chunk ${chunkId}`,
      deadlineMs: this.#deadlineMs,
      signal: read.signal,
    })
    try {
      if (end - start <= transferBytesMax) {
        const blocks = await this.#readBlocks(read, start, end - start, call)
        return blocks.subarray(chunkOffset - start, chunkOffset - start + length)
      }
      return await this.#readPieces(read, start, end, call)
    } finally {
      call.end()
    }
  }

  async #readPieces(read: ChunkRead, start: number, end: number, call: Call): Promise<Buffer> {
    const { chunkOffset, length } = read
    const whole = takeBuffer(length)
    let next = start
    const worker = async (): Promise<void> => {
      while (next < end) {
        const offset = next
        const size = Math.min(transferBytesMax, end - offset)
        next += size
        const blocks = await this.#readBlocks(read, offset, size, call)
        const skipped = Math.max(0, chunkOffset - offset)
        blocks.copy(whole, offset + skipped - chunkOffset, skipped, Math.min(size, chunkOffset + length - offset))
        giveBackBuffer(blocks)
      }
    }
    await Promise.all(Array.from({ length: requestsMax }, worker))
    return whole
  }

  async #readBlocks(read: ChunkRead, offset: number, length: number, call: Call): Promise<Buffer> {
    const { chunkId } = read
    let servers: readonly ServerAddress[] | undefined = this.#known(chunkId) ?? read.servers
    for (let round = 0, refused = 0; ; round++) {
      if (round > 1) await call.sleep(Math.min(retryMsFirst * 2 ** (round - 2), retryMsMax))
      let deleted = false
      let told = false
      if (round > 0 || servers.length === 0) {
        const located = await this.#locate(chunkId, call)
        if (located !== undefined) {
          deleted = located.deleted
          // A chunk that was just deleted, or whose servers are away, may still be where it was.
          told = located.servers.length > 0
          if (told) servers = located.servers
        }
      }
      if (servers.length === 0) {
        if (deleted) throw new PosixError('ESTALE', `chunk ${chunkId} does not exist any more`)
        continue
      }
      const answer = await this.#firstGood(
        { chunkId, offset, length, candidates: this.#ordered(chunkId, servers) },
        call,
      )
      if ('data' in answer) return answer.data
      const { refusals } = answer
      if (deleted && refusals.every((refusal) => refusal === 'missing')) {
        throw new PosixError('ESTALE', `chunk ${chunkId} does not exist any more`)
      }
      // A master that names none now, as after its start, may name others soon.
      refused = refusals.includes('unavailable') || !told ? 0 : refused + 1
      if (refused >= refusalsMax && this.#clock.nowMs() - call.startedMs >= refusalsMsMin) {
        throw new PosixError('EIO', `no replica of chunk ${chunkId} is good: ${refusals.join(', ')}`)
      }
    }
  }

  #known(chunkId: ChunkId): readonly ServerAddress[] | undefined {
    const known = this.#locations.get(chunkId)
    if (known === undefined) return undefined
    if (known.untilMs > this.#clock.nowMs()) return known.servers
    this.#locations.delete(chunkId)
    return undefined
  }

  /** Undefined: the master gave no answer. */
  async #locate(chunkId: ChunkId, call: Call): Promise<{ servers: ServerAddress[]; deleted: boolean } | undefined> {
    let located: ServerAddress[] | undefined
    try {
      located = (await call.within(this.#master.locate([chunkId]))).get(chunkId)
    } catch (error) {
      call.check()
      if (error instanceof UnavailableError || (error instanceof PosixError && error.code === 'EAGAIN'))
        return undefined
      throw error
    }
    this.#locations.delete(chunkId)
    if (located !== undefined && located.length > 0) {
      this.#locations.set(chunkId, { servers: located, untilMs: this.#clock.nowMs() + locationMsMax })
      if (this.#locations.size > locationsKept) forgetFirst(this.#locations)
    }
    return { servers: located ?? [], deleted: located === undefined }
  }

  #ordered(chunkId: ChunkId, servers: readonly ServerAddress[]): ServerAddress[] {
    return orderReplicas(servers, {
      chunkId,
      place: this.#place,
      situation: (server) => {
        const { outstanding, silentMs } = this.#connections.readLoad(server)
        return { suspect: silentMs > silentMsMax || this.#health.isSuspect(asServerId(server.serverId)), outstanding }
      },
    })
  }

  /** Asks one after another, the next as soon as one fails or takes too long; the first good answer counts. */
  async #firstGood(
    range: { chunkId: ChunkId; offset: number; length: number; candidates: readonly ServerAddress[] },
    call: Call,
  ): Promise<Answer> {
    const { chunkId, offset, length, candidates } = range
    const refusals: Refusal[] = []
    let asked = 0
    let over = false
    let timer: Timer | undefined
    const answered = deferred<Answer>()
    const finish = (answer: Answer): void => {
      over = true
      timer?.cancel()
      answered.resolve(answer)
    }
    const askNext = (): void => {
      const server = candidates[asked]
      if (server === undefined) return
      asked++
      timer?.cancel()
      const startedMs = this.#clock.nowMs()
      this.#connections.read(server, { chunkId, offset, length }, (outcome) => {
        // The answer of a server that lost the race still tells how fast it is, but is not worth a check.
        if (over) {
          this.#note(server, startedMs, outcome instanceof Error ? 'unavailable' : undefined)
          if (!(outcome instanceof Error)) giveBackBuffer(outcome.data)
          return
        }
        const refusal = refusalOf(outcome, length)
        this.#note(server, startedMs, refusal)
        if (refusal === undefined) {
          finish({ data: (outcome as ReadReply).data })
          return
        }
        this.#report(chunkId, server, refusal)
        refusals.push(refusal)
        if (refusals.length === candidates.length) finish({ refusals })
        else if (asked < candidates.length) askNext()
      })
      if (asked < candidates.length) hedgeAfter(server)
    }
    const hedgeAfter = (server: ServerAddress): void => {
      const { withTokenMs, withoutTokenMs } = this.#health.hedgeMs(asServerId(server.serverId))
      timer = this.#clock.after(withTokenMs, () => {
        if (this.#health.takeHedgeToken()) askNext()
        else timer = this.#clock.after(withoutTokenMs - withTokenMs, askNext)
      })
    }
    try {
      askNext()
      return await call.within(answered.promise)
    } finally {
      over = true
      timer?.cancel()
    }
  }

  #note(server: ServerAddress, startedMs: number, refusal: Refusal | undefined): void {
    const id = asServerId(server.serverId)
    if (refusal === undefined) this.#health.succeeded(id, this.#clock.nowMs() - startedMs)
    else if (refusal === 'unavailable') this.#health.failed(id)
  }

  #report(chunkId: ChunkId, server: ServerAddress, refusal: Refusal): void {
    if (refusal === 'unavailable' || refusal === 'unreadable') return
    const key = `${chunkId} ${server.serverId} ${refusal}`
    const now = this.#clock.nowMs()
    if ((this.#reported.get(key) ?? -Infinity) + reportAgainMs > now) return
    this.#reported.delete(key)
    this.#reported.set(key, now)
    if (this.#reported.size > reportsKept) forgetFirst(this.#reported)
    this.#log.warn('bad-replica', { chunk: chunkId, server: server.serverId, problem: refusal })
    this.#master.reportReplica(chunkId, asServerId(server.serverId), refusal)
  }
}

/** What is wrong with an answer; undefined: it is good. */
const refusalOf = (outcome: ReadReply | UnavailableError, length: number): Refusal | undefined => {
  if (outcome instanceof Error) return 'unavailable'
  switch (outcome.failure?.code) {
    case undefined:
      if (outcome.data.length !== length) return 'unreadable'
      return firstCorruptBlock(outcome.data, outcome.checksums) === -1 ? undefined : 'corrupt'
    case 'EBADMSG':
      return 'corrupt'
    case 'ENOENT':
    case 'ERANGE':
      return 'missing'
    case 'EIO':
    case 'EINVAL':
      return 'unreadable'
    default:
      return 'unavailable'
  }
}

const forgetFirst = (map: Map<unknown, unknown>): void => {
  for (const key of map.keys()) {
    map.delete(key)
    return
  }
}
