/**
 * Appends data to open chunks, on all replicas at once.
 *
 * What a caller does, in this order:
 *   1. `append(pieces)`: the bytes are on all replicas of a chunk, or after failures on at least copiesMin.
 *   2. commits `placed` and `results` to the master.
 *   3. `committed(appended)`, also when the commit failed for good and what was placed is given up.
 * A chunk that takes no more appends is sealed at the master only when each result that names it has gone through step 3, because
 * the master cuts it at its committed length. So a caller never has to think about seals, but it must never skip step 3.
 *
 * Failures of servers do not reach the caller: a replica that refuses, closes its stream or stalls is left out; the chunk
 * takes no more appends; bytes that fewer than copiesMin replicas hold are appended again, to a new chunk without the servers
 * that failed. Everything is bounded by the call's deadline and signal.
 *
 * Errors: ENOSPC when the master can place no more; another PosixError when the master refuses; UnavailableError when there was no
 * success before the deadline or the signal. Then nothing of the call is to be committed.
 * Concurrency: calls may overlap at will; the pieces of one call stay together. Buffers must not change any more once they were
 * passed in, even after a rejection: they may still be on their way.
 */
import { PosixError, UnavailableError, invariant } from '../../domain/errors.ts'
import { roundUpToBlock } from '../../domain/checksum.ts'
import { blockChecksums } from '../../platform/block-checksums.ts'
import type { ErrnoName } from '../../domain/errors.ts'
import { asChunkId, asServerId } from '../../domain/ids.ts'
import type { ChunkId, ServerId } from '../../domain/ids.ts'
import { blockBytes, chunkBytes } from '../../domain/limits.ts'
import type { Clock, Timer } from '../../platform/clock.ts'
import type { Log } from '../../platform/log.ts'
import { encodeAppend } from '../../protocol/bulk.ts'
import type { AppendReply } from '../../protocol/gen/shoal/v1/chunk_store.pb.ts'
import { Call } from './call.ts'
import type { ChunkConnections } from './connections.ts'
import { deferred } from './deferred.ts'
import { Exclusions } from './exclusions.ts'
import { joinPlaced, placedParts, takeLayout } from './layout.ts'
import type { Layout, Part } from './layout.ts'
import { OpenChunk } from './open-chunk.ts'
import type { Replica } from './open-chunk.ts'
import type { Appended, ChunkMaster, Placed, ServerAddress } from './ports.ts'

/** Per chunk: enough to keep every replica busy while acknowledgements travel. */
const inFlightBytesMax = 16 * 1024 * 1024
const callDeadlineMs = 60_000
/** A replica that is silent for so long while enough others went on is left out. */
const stallOthersDoneMs = 2000
/** The same where too few others went on, so that it may be the disk that all of them share. */
const stallAppendMs = 5000
const stallSyncMs = 10_000
const stallTickMs = 250
/** A tick that comes so much too late means that this process itself stood still: nobody else is to blame for the silence. */
const lateMsMin = 1000
/** An open chunk without appends is sealed after this long, so that it can be repaired and its free space reclaimed. */
const idleMsMax = 60_000
const retryMsFirst = 50
const retryMsMax = 1000
const sealTriesMax = 20
/**
 * The answer to a sync of more than a sealed replica has. The master seals at the committed length, on disk, so whatever is committed is on
 * disk there.
 */
const sealedShorter: ErrnoName = 'EROFS'
/** Sealed chunks that are remembered for a later sync. */
const rememberedChunksMax = 4096

export interface ChunkWriterOptions {
  connections: ChunkConnections
  master: ChunkMaster
  clock: Clock
  log: Log
  /** How many replicas must hold data before it counts (Welcome.copies_min). */
  copiesMin(): number
  /** When a chunk is full; default 64 MiB. */
  chunkBytesMax?: number
  /** How long a call tries; default 60 s. */
  deadlineMs?: number
}

export interface AppendOptions {
  /** Replicas per chunk; 0: as many as the master finds right. */
  copies: number
  /** The bytes are on disk on at least copiesMin replicas when it returns. */
  sync: boolean
  signal?: AbortSignal
}

/** One append message, with what came of it. */
interface Sent {
  layout: Layout
  chunk: OpenChunk
  offset: number
  end: number
  held: Promise<boolean>
}

export class ChunkWriter {
  readonly #connections: ChunkConnections
  readonly #master: ChunkMaster
  readonly #clock: Clock
  readonly #log: Log
  readonly #chunkBytesMax: number
  readonly #copiesMin: () => number
  readonly #deadlineMs: number
  readonly #exclusions: Exclusions
  /** By number of copies: the chunk that takes appends. */
  readonly #current = new Map<number, OpenChunk>()
  readonly #allocating = new Map<number, Promise<void>>()
  /** By number of copies: resolves when all calls that came before have sent what they have. */
  readonly #turns = new Map<number, Promise<void>>()
  /** Every chunk that is not sealed, and the sealed ones that may still be asked for a sync, oldest first. */
  readonly #chunks = new Map<ChunkId, OpenChunk>()
  readonly #sealing = new Set<Promise<void>>()
  #stallTimer: Timer | undefined
  #stallTickDueMs = 0
  #idleTimer: Timer | undefined
  #closed = false

  constructor(options: ChunkWriterOptions) {
    this.#connections = options.connections
    this.#master = options.master
    this.#clock = options.clock
    this.#log = options.log
    this.#copiesMin = () => options.copiesMin()
    this.#chunkBytesMax = options.chunkBytesMax ?? chunkBytes
    this.#deadlineMs = options.deadlineMs ?? callDeadlineMs
    this.#exclusions = new Exclusions(options.clock)
  }

  /** Places each piece (1 byte .. 64 MiB). No pieces: nothing placed. */
  async append(pieces: readonly Buffer[], options: AppendOptions): Promise<Appended> {
    const queue: Part[] = pieces.map((data, piece) => {
      invariant(data.length > 0 && data.length <= chunkBytes, `a piece of ${data.length} bytes`)
      return { piece, pieceOffset: 0, data }
    })
    if (this.#closed) throw new UnavailableError('the chunk writer is closed', { maybeCommitted: false })
    const call = this.#call('append to chunk servers', options.signal)
    const touched = new Set<OpenChunk>()
    const done: Sent[] = []
    try {
      for (let round = 0; ; round++) {
        if (round > 1) await call.sleep(Math.min(retryMsFirst * 2 ** (round - 2), retryMsMax))
        // What failed comes back in any order; in its own order it stays in one place.
        if (round > 0) queue.sort((a, b) => a.piece - b.piece || a.pieceOffset - b.pieceOffset)
        const sent = await this.#send(queue, options, call, touched)
        const held = await call.within(Promise.all(sent.map((message) => message.held)))
        sent.forEach((message, index) => {
          if (held[index] === true) done.push(message)
          else queue.push(...message.layout.parts.map(({ part }) => part))
        })
        if (options.sync) await this.#syncSent(done, queue, call)
        if (queue.length === 0) requeueLost(done, queue)
        if (queue.length > 0) continue
        return this.#appended(done)
      }
    } finally {
      call.end()
      for (const chunk of touched) this.#release(chunk, call)
    }
  }

  /**
   * Brings what was appended to these chunks so far, and committed by now or not, to disk on at least copiesMin replicas of each.
   * EIO when too few replicas are left that can vouch for it; UnavailableError when too few answered in time.
   */
  async sync(chunkIds: Iterable<ChunkId>, options: { signal?: AbortSignal } = {}): Promise<void> {
    const call = this.#call('sync of chunks', options.signal)
    try {
      await call.within(Promise.all([...new Set(chunkIds)].map((chunkId) => this.#syncChunk(chunkId, call))))
    } finally {
      call.end()
    }
  }

  /** The caller has committed this result, or will never commit it. Harmless when repeated. */
  committed(appended: Appended): void {
    for (const { chunkId } of appended.results) {
      const chunk = this.#chunks.get(asChunkId(chunkId))
      if (chunk !== undefined) this.#release(chunk, appended)
    }
  }

  /** The master wants this chunk to take no more appends. Does nothing for a chunk that is not open here. */
  sealRequested(chunkId: ChunkId): void {
    const chunk = this.#chunks.get(chunkId)
    if (chunk !== undefined) this.#retire(chunk, 'the master asked')
  }

  /**
   * The session is gone, and the master has sealed its chunks: nothing that was placed in them and not committed counts any more. Appends
   * that are under way go to chunks of the new session. What is committed can still be synced.
   */
  sessionEnded(): void {
    for (const chunk of this.#chunks.values()) {
      if (chunk.kind === 'sealed') continue
      chunk.kind = 'sealed'
      chunk.lost = true
      chunk.holders.clear()
      this.#dropCurrent(chunk)
      chunk.update()
      chunk.wake()
    }
  }

  /** Where a chunk that was appended to can be read; undefined when it is not known here any more. */
  locations(chunkId: ChunkId): readonly ServerAddress[] | undefined {
    const chunk = this.#chunks.get(chunkId)
    if (chunk === undefined) return undefined
    return chunk.holding(chunk.placedLength).map(({ server }) => server)
  }

  /** Ends all open chunks and waits until the master knows of those that are committed. New appends open new chunks. */
  async sealAll(): Promise<void> {
    for (const chunk of this.#chunks.values()) this.#retire(chunk, 'all are to be sealed')
    await Promise.all(this.#sealing)
  }

  /** Seals everything and takes no more appends. The connections stay open: they belong to somebody else. */
  async close(): Promise<void> {
    this.#closed = true
    await this.sealAll()
    this.#stallTimer?.cancel()
    this.#idleTimer?.cancel()
  }

  #call(what: string, signal: AbortSignal | undefined): Call {
    return new Call({ clock: this.#clock, what, deadlineMs: this.#deadlineMs, signal })
  }

  /** Sends all that is queued, waiting for room; one call at a time per number of copies, so that a file's bytes stay together. */
  async #send(queue: Part[], options: AppendOptions, call: Call, touched: Set<OpenChunk>): Promise<Sent[]> {
    const sent: Sent[] = []
    const endTurn = await this.#turn(options.copies, call)
    try {
      while (queue.length > 0) {
        const chunk = await this.#chunkWithRoom(options.copies, call)
        const layout = takeLayout(queue, chunk.roomBytes)
        touched.add(chunk)
        chunk.holders.add(call)
        // The last message of a call brings the ones before it in the same chunk to disk as well.
        sent.push(this.#sendAppend(chunk, layout, options.sync && queue.length === 0))
      }
    } finally {
      endTurn()
    }
    return sent
  }

  async #turn(copies: number, call: Call): Promise<() => void> {
    const before = this.#turns.get(copies)
    const mine = deferred<void>()
    const turn = before === undefined ? mine.promise : before.then(() => mine.promise)
    this.#turns.set(copies, turn)
    const endTurn = (): void => {
      mine.resolve()
      if (this.#turns.get(copies) === turn) this.#turns.delete(copies)
    }
    if (before === undefined) return endTurn
    try {
      await call.within(before)
    } catch (error) {
      mine.resolve()
      throw error
    }
    return endTurn
  }

  async #chunkWithRoom(copies: number, call: Call): Promise<OpenChunk> {
    for (let tries = 0; ;) {
      call.check()
      const chunk = this.#current.get(copies)
      if (chunk !== undefined) {
        if (chunk.inFlightBytes < inFlightBytesMax) return chunk
        await call.within(chunk.changed())
        continue
      }
      if (tries > 0) await call.sleep(Math.min(retryMsFirst * 2 ** (tries - 1), retryMsMax))
      tries++
      try {
        await call.within(this.#allocate(copies))
      } catch (error) {
        if (!isWorthRetrying(error)) throw error
        call.check()
      }
    }
  }

  /** Opens a chunk. Shared, and not bound to any call, so that a chunk is never allocated and then forgotten. */
  #allocate(copies: number): Promise<void> {
    const underWay = this.#allocating.get(copies)
    if (underWay !== undefined) return underWay
    const allocation = this.#openChunk(copies).finally(() => this.#allocating.delete(copies))
    this.#allocating.set(copies, allocation)
    return allocation
  }

  async #openChunk(copies: number): Promise<void> {
    const { chunkId, servers } = await this.#allocateSomewhere(copies)
    if (servers.length === 0) {
      throw new UnavailableError(`the master gave chunk ${chunkId} no servers`, { maybeCommitted: false })
    }
    const chunk = new OpenChunk({
      id: chunkId,
      copies,
      copiesMin: Math.max(1, copies === 0 ? this.#copiesMin() : Math.min(this.#copiesMin(), copies)),
      bytesMax: this.#chunkBytesMax,
      servers,
      nowMs: this.#clock.nowMs(),
    })
    this.#chunks.set(chunkId, chunk)
    this.#current.set(copies, chunk)
    this.#idleTimer ??= this.#clock.after(idleMsMax, this.#retireIdle)
  }

  /**
   * Asks without the servers that have failed lately; when the master cannot place the chunk without them, only those that are full
   * stay excluded, because a server that failed may be back.
   */
  async #allocateSomewhere(copies: number): Promise<{ chunkId: ChunkId; servers: ServerAddress[] }> {
    const excluded = this.#exclusions.all()
    const full = this.#exclusions.full()
    if (excluded.length > full.length) {
      try {
        return await this.#master.allocateChunk(copies, excluded)
      } catch (error) {
        if (!(error instanceof PosixError && error.code === 'ENOSPC')) throw error
      }
    }
    return this.#master.allocateChunk(copies, full)
  }

  #sendAppend(chunk: OpenChunk, layout: Layout, sync: boolean): Sent {
    const { data } = layout
    const { offset, end, held } = chunk.place(roundUpToBlock(data.length))
    const requestId = this.#connections.nextAppendId()
    const parts = encodeAppend({
      requestId,
      chunkId: chunk.id,
      offset,
      sync,
      create: offset === 0,
      checksums: blockChecksums(data),
      data,
    })
    for (const replica of chunk.replicas) this.#request(chunk, replica, { requestId, parts, end, sync, append: true })
    if (chunk.roomBytes < blockBytes) this.#retire(chunk, undefined)
    void held.then(() => this.#sealWhenFree(chunk))
    return { layout, chunk, offset, end, held }
  }

  #request(
    chunk: OpenChunk,
    replica: Replica,
    message: { requestId: number; parts: readonly Uint8Array[]; end: number; sync: boolean; append: boolean },
  ): void {
    const now = this.#clock.nowMs()
    chunk.lastUsedMs = now
    if (replica.outstanding === 0) replica.waitingSinceMs = now
    replica.outstanding++
    this.#startStallTimer()
    this.#connections.append(replica.server, { chunkId: chunk.id, ...message }, (outcome) => {
      replica.outstanding--
      replica.waitingSinceMs = this.#clock.nowMs()
      this.#answered(chunk, replica, message, outcome)
      chunk.update()
    })
  }

  #answered(
    chunk: OpenChunk,
    replica: Replica,
    message: { end: number; sync: boolean; append: boolean },
    outcome: AppendReply | UnavailableError,
  ): void {
    if (outcome instanceof Error) {
      this.#fail(chunk, replica, { reason: outcome.message, excluded: true })
      return
    }
    const { failure, length } = outcome
    if (failure !== undefined && (message.append || failure.code !== sealedShorter)) {
      const { code, message: text } = failure
      if (message.sync && code === 'EIO') replica.syncFailed = true
      this.#fail(chunk, replica, {
        reason: `${code}: ${text}`,
        full: code === 'ENOSPC',
        // These two say something about the chunk, not about the server.
        excluded: code !== 'EROFS' && code !== 'ESTALE',
      })
      return
    }
    if (failure === undefined && length < message.end) {
      this.#fail(chunk, replica, { reason: `it holds ${length} bytes of ${message.end}`, excluded: true })
      return
    }
    if (message.append) replica.acknowledged = Math.max(replica.acknowledged, message.end)
    if (message.sync) replica.synced = Math.max(replica.synced, Math.min(message.end, replica.acknowledged))
  }

  #fail(chunk: OpenChunk, replica: Replica, how: { reason: string; excluded: boolean; full?: boolean }): void {
    if (replica.failed !== undefined) return
    replica.failed = how.reason
    if (how.excluded) this.#exclusions.add(replica.id, { full: how.full ?? false })
    if (!this.#closed) {
      this.#log.warn('replica-left-out', { chunk: chunk.id, server: replica.id, reason: how.reason })
    }
    this.#retire(chunk, undefined)
  }

  #retire(chunk: OpenChunk, why: string | undefined): void {
    if (chunk.kind !== 'open') return
    chunk.kind = 'retired'
    if (why !== undefined) this.#log.debug('chunk-retired', { chunk: chunk.id, why })
    this.#dropCurrent(chunk)
    chunk.wake()
    this.#sealWhenFree(chunk)
  }

  #dropCurrent(chunk: OpenChunk): void {
    if (this.#current.get(chunk.copies) === chunk) this.#current.delete(chunk.copies)
  }

  #release(chunk: OpenChunk, holder: object): void {
    chunk.holders.delete(holder)
    this.#sealWhenFree(chunk)
  }

  #sealWhenFree(chunk: OpenChunk): void {
    if (chunk.kind !== 'retired' || !chunk.settled || chunk.holders.size > 0) return
    chunk.kind = 'sealing'
    const sealing = this.#seal(chunk)
      .catch((error: unknown) => {
        this.#log.error('seal-failed', { chunk: chunk.id, cause: error })
      })
      .finally(() => this.#sealing.delete(sealing))
    this.#sealing.add(sealing)
  }

  async #seal(chunk: OpenChunk): Promise<void> {
    for (let tries = 1; chunk.kind === 'sealing'; tries++) {
      try {
        await this.#master.sealChunk(chunk.id, chunk.failedServers)
        break
      } catch (error) {
        // An answer is final: the master knows the chunk's state better. Without an answer the master finds the chunk when the session ends.
        if (!(error instanceof UnavailableError) || tries === sealTriesMax || this.#closed) {
          this.#log.warn('seal-refused', { chunk: chunk.id, cause: error })
          break
        }
        await this.#clock.sleep(retryMsMax)
      }
    }
    chunk.kind = 'sealed'
    if (chunk.isSynced(chunk.placedLength)) this.#chunks.delete(chunk.id)
    else this.#forgetOldest()
  }

  #forgetOldest(): void {
    if (this.#chunks.size <= rememberedChunksMax) return
    for (const chunk of this.#chunks.values()) {
      if (chunk.kind !== 'sealed') continue
      this.#chunks.delete(chunk.id)
      if (this.#chunks.size <= rememberedChunksMax) return
    }
  }

  #startStallTimer(): void {
    if (this.#stallTimer !== undefined) return
    this.#stallTickDueMs = this.#clock.nowMs() + stallTickMs
    this.#stallTimer = this.#clock.after(stallTickMs, this.#findStalled)
  }

  readonly #findStalled = (): void => {
    this.#stallTimer = undefined
    const now = this.#clock.nowMs()
    const late = now - this.#stallTickDueMs >= lateMsMin
    const limits = { othersDoneMs: stallOthersDoneMs, appendMs: stallAppendMs, syncMs: stallSyncMs }
    let waiting = false
    for (const chunk of this.#chunks.values()) {
      if (late) chunk.waitAnew(now)
      for (const replica of chunk.stalled(now, limits)) {
        this.#fail(chunk, replica, { reason: 'no answer for too long', excluded: true })
        chunk.update()
        // Also frees the memory of what waits to be sent to it.
        this.#connections.dropAppends(replica.server, 'it stopped answering')
      }
      waiting ||= chunk.replicas.some(({ outstanding, failed }) => outstanding > 0 && failed === undefined)
    }
    if (waiting) this.#startStallTimer()
  }

  readonly #retireIdle = (): void => {
    this.#idleTimer = undefined
    const now = this.#clock.nowMs()
    for (const chunk of this.#current.values()) {
      if (chunk.holders.size === 0 && now - chunk.lastUsedMs >= idleMsMax) this.#retire(chunk, 'it is idle')
    }
    if (this.#current.size > 0) this.#idleTimer = this.#clock.after(idleMsMax, this.#retireIdle)
  }

  /** Brings messages to disk; those of a chunk where that fails are taken out of `done` and their parts queued again. */
  async #syncSent(done: Sent[], queue: Part[], call: Call): Promise<void> {
    const ends = new Map<OpenChunk, number>()
    for (const { chunk, end } of done) ends.set(chunk, Math.max(ends.get(chunk) ?? 0, end))
    const synced = new Map<OpenChunk, boolean>()
    const syncs = [...ends].map(async ([chunk, end]) => synced.set(chunk, await this.#syncOnce(chunk, end)))
    await call.within(Promise.all(syncs))
    for (let index = done.length - 1; index >= 0; index--) {
      const { chunk, layout } = done[index]!
      if (synced.get(chunk) === true) continue
      done.splice(index, 1)
      queue.push(...layout.parts.map(({ part }) => part))
    }
  }

  /** Whether enough of the replicas that take part have it on disk up to here; asks them unless that is under way already. */
  #syncOnce(chunk: OpenChunk, length: number): Promise<boolean> {
    if (chunk.isSynced(length)) return Promise.resolve(true)
    const underWay = chunk.syncUnderWay(length)
    if (underWay !== undefined) return underWay
    const end = Math.max(length, chunk.placedLength)
    const asked = chunk.replicas.filter((replica) => replica.failed === undefined && replica.acknowledged >= end)
    if (asked.length > 0) {
      const message = this.#syncMessage(chunk.id, end)
      for (const replica of asked) this.#request(chunk, replica, { ...message, end, sync: true, append: false })
    }
    return chunk.waitForSync(end)
  }

  /** Asks for everything up to this length to be on disk. */
  #syncMessage(chunkId: ChunkId, length: number): { requestId: number; parts: readonly Uint8Array[] } {
    const requestId = this.#connections.nextAppendId()
    const nothing = Buffer.alloc(0)
    const request = { requestId, chunkId, offset: length, sync: true, create: false, checksums: nothing, data: nothing }
    return { requestId, parts: [encodeAppend(request)[0]] }
  }

  async #syncChunk(chunkId: ChunkId, call: Call): Promise<void> {
    const chunk = this.#chunks.get(chunkId)
    // What is not known any more was sealed, and is on disk since then.
    if (chunk === undefined) return
    const length = chunk.placedLength
    if (length > 0 && !(await call.within(this.#syncOnce(chunk, length)))) await this.#syncLeftOut(chunk, length, call)
    if (chunk.kind === 'sealed') this.#chunks.delete(chunkId)
  }

  /**
   * Syncs where too few replicas take part any more: those that failed may be back with the data, and copies that the master had made
   * are on disk already.
   */
  async #syncLeftOut(chunk: OpenChunk, length: number, call: Call): Promise<void> {
    const synced = new Set<ServerId>(chunk.replicas.filter((replica) => replica.synced >= length).map(({ id }) => id))
    const unfit = new Set<ServerId>(chunk.replicas.filter((replica) => replica.syncFailed).map(({ id }) => id))
    for (let tries = 0; synced.size < chunk.copiesMin; tries++) {
      if (tries > 0) await call.sleep(Math.min(retryMsFirst * 2 ** tries, retryMsMax))
      const { servers, deleted } = await this.#holders(chunk, length, call)
      const asked = servers.filter(({ id }) => !synced.has(id) && !unfit.has(id))
      const answers = await call.within(
        Promise.all(
          asked.map(async ({ id, server }) => ({ id, answer: await this.#syncAt(server, chunk.id, length) })),
        ),
      )
      for (const { id, answer } of answers) {
        if (answer === 'synced') synced.add(id)
        if (answer === 'unfit') unfit.add(id)
      }
      // Nothing refers to it any more: what its servers say, and whether they are there, is of no importance.
      if (deleted) return
      if (servers.length > 0 && servers.every(({ id }) => unfit.has(id))) {
        throw new PosixError('EIO', `no server could bring chunk ${chunk.id} to disk`)
      }
    }
    for (const replica of chunk.replicas) {
      if (synced.has(replica.id)) replica.synced = Math.max(replica.synced, Math.min(length, replica.acknowledged))
    }
  }

  /** Servers that may have the chunk up to this length: those that acknowledged it and those that the master knows of. */
  async #holders(
    chunk: OpenChunk,
    length: number,
    call: Call,
  ): Promise<{ servers: { id: ServerId; server: ServerAddress }[]; deleted: boolean }> {
    const servers = new Map(chunk.holding(length).map(({ id, server }) => [id, server]))
    let deleted = false
    try {
      const located = await call.within(this.#master.locate([chunk.id]))
      deleted = !located.has(chunk.id)
      for (const server of located.get(chunk.id) ?? []) servers.set(asServerId(server.serverId), server)
    } catch (error) {
      if (!isWorthRetrying(error)) throw error
      call.check()
    }
    return { servers: [...servers].map(([id, server]) => ({ id, server })), deleted }
  }

  #syncAt(
    server: ServerAddress,
    chunkId: ChunkId,
    length: number,
  ): Promise<'synced' | 'unfit' | 'missing' | 'unavailable'> {
    return new Promise((resolve) => {
      const { requestId, parts } = this.#syncMessage(chunkId, length)
      this.#connections.append(server, { chunkId, requestId, parts }, (outcome) => {
        if (outcome instanceof Error) resolve('unavailable')
        else if (outcome.failure?.code === sealedShorter) resolve('synced')
        else if (outcome.failure === undefined) resolve(outcome.length >= length ? 'synced' : 'missing')
        else if (outcome.failure.code === 'EIO') resolve('unfit')
        else resolve(outcome.failure.code === 'EAGAIN' ? 'unavailable' : 'missing')
      })
    })
  }

  #appended(done: readonly Sent[]): Appended {
    const placed: Placed[] = []
    const lengths = new Map<OpenChunk, number>()
    for (const { layout, chunk, offset, end } of done) {
      placed.push(...placedParts(layout, chunk.id, offset))
      lengths.set(chunk, Math.max(lengths.get(chunk) ?? 0, end))
    }
    const chunks = [...lengths].map(([chunk, length]) => ({ chunk, length, holding: chunk.holding(length) }))
    const appended: Appended = {
      placed: joinPlaced(placed),
      results: chunks.map(({ chunk, length, holding }) => ({
        chunkId: chunk.id,
        length,
        serverIds: holding.map(({ id }) => id),
      })),
      locations: new Map(chunks.map(({ chunk, holding }) => [chunk.id, holding.map(({ server }) => server)])),
    }
    for (const { chunk } of chunks) chunk.holders.add(appended)
    return appended
  }
}

const requeueLost = (done: Sent[], queue: Part[]): void => {
  for (let index = done.length - 1; index >= 0; index--) {
    const { chunk, layout } = done[index]!
    if (!chunk.lost) continue
    done.splice(index, 1)
    queue.push(...layout.parts.map(({ part }) => part))
  }
}

/** No answer, or an answer that asks for patience. */
const isWorthRetrying = (error: unknown): boolean =>
  error instanceof UnavailableError || (error instanceof PosixError && error.code === 'EAGAIN')
