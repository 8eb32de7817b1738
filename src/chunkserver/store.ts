/**
 * The chunks of one data directory, and everything that is done to them.
 *
 * Invariants:
 * - A chunk's length covers only blocks whose data and checksums the disk took, in order. A write that fails leaves it as it was.
 * - What was acknowledged with sync survives any crash: data, checksums, header and name.
 * - What changes a chunk (appends, seal, punch, delete, a new copy) runs one after another per chunk, in the order of the calls;
 *   reads and checks run beside it.
 * - One store has a directory at a time.
 * Errors are PosixErrors with the codes that chunk_store.proto names, and EAGAIN when too much waits already.
 */
import { dirname, resolve } from 'node:path'
import { roundUpToBlock } from '../domain/checksum.ts'
import { firstCorruptBlock } from '../platform/block-checksums.ts'
import { PosixError, UsageError } from '../domain/errors.ts'
import { asChunkId, type ChunkId } from '../domain/ids.ts'
import { blockBytes, chunkBytes, transferBytesMax } from '../domain/limits.ts'
import { giveBackBuffer } from '../platform/buffer-pool.ts'
import type { Clock } from '../platform/clock.ts'
import type { Disk } from '../platform/disk.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import { ChunkFile, type ChunkFilePlace, type Piece } from './chunk-file.ts'
import type { ByteSpan } from './chunk-table.ts'
import type { Chunk } from './chunk.ts'
import { FileCache } from './file-cache.ts'
import { clusterIdBytesMax, copySuffix, damagedSuffix } from './format.ts'
import { readOrMakeIdentity, refuseForeignDirectory, writeIdentity, type StoreIdentity } from './identity.ts'
import { chunkDirectory, chunkPath, makeDirectory, prepareDirectories, scanChunks } from './scan.ts'
import { Space, type SpaceFigures } from './space.ts'

const openFilesMax = 256
/** One write call to the disk takes at most this much. */
const batchBytesMax = 4 * 1024 * 1024
const batchAppendsMax = 256
/** Data of appends that may wait in memory, of all clients together. */
export const pendingBytesMax = 96 * 1024 * 1024
/** What a new chunk takes beside its data. */
const overheadBytes = 2 * blockBytes

export interface ChunkStoreOptions {
  directory: string
  /** More than this is not kept; undefined: as much as the disk has. */
  capacityBytes?: number | undefined
  disk: Disk
  clock: Clock
  random: Random
  log: Log
}

export interface Append {
  chunkId: bigint
  /** The chunk's length before this append. Without data: a length that the chunk must have reached. */
  offset: number
  sync: boolean
  create: boolean
  checksums: Buffer
  data: Buffer
}

/** What the master is told of one chunk; the shape of shoal.v1.Replica. */
export interface ReplicaState {
  chunkId: bigint
  length: number
  sealed: boolean
  corrupt: boolean
  deleted: boolean
  /** Behind its end, where a block does not match, there are good ones. */
  more: boolean
}

export interface CheckResult {
  length: number
  sealed: boolean
  corrupt: ByteSpan[]
}

interface AppendTask {
  kind: 'append'
  request: Append
  resolve(length: number): void
  reject(error: unknown): void
}

interface ExclusiveTask {
  kind: 'exclusive'
  /** Never rejects. */
  run(): Promise<void>
}

type Task = AppendTask | ExclusiveTask

/** A failure of the disk as an answer; what is none (a bug) passes through. */
const refused = (code: 'EINVAL' | 'EFBIG' | 'EBADMSG' | 'EAGAIN', message: string): Promise<never> =>
  Promise.reject(new PosixError(code, message))

const diskFailure = (error: unknown, what: string): unknown => {
  if (!(error instanceof PosixError)) return error
  if (error.code === 'ENOSPC' || error.code === 'EDQUOT') return new PosixError('ENOSPC', `${what}: the disk is full`)
  return error
}

export class ChunkStore {
  readonly #options: ChunkStoreOptions
  readonly #chunkRoot: string
  readonly #chunks: Map<ChunkId, Chunk>
  readonly #files: FileCache
  readonly #space: Space
  readonly #lock: { release(): Promise<void> }
  readonly #queues = new Map<ChunkId, Task[]>()
  readonly #changed = new Set<ChunkId>()
  readonly #receiving = new Set<ChunkId>()
  #identity: StoreIdentity
  #chunkIdMax = 0n
  #pendingBytes = 0
  #closing: Promise<void> | undefined

  private constructor(
    options: ChunkStoreOptions,
    parts: {
      identity: StoreIdentity
      chunks: Map<ChunkId, Chunk>
      lock: { release(): Promise<void> }
      space: Space
      chunkRoot: string
    },
  ) {
    this.#options = options
    this.#identity = parts.identity
    this.#chunks = parts.chunks
    this.#lock = parts.lock
    this.#space = parts.space
    this.#chunkRoot = parts.chunkRoot
    this.#files = new FileCache({
      open: (chunkId) => this.#openFile(chunkId),
      syncFailed: (chunkId, cause) =>
        this.#markCorrupt(this.#chunks.get(chunkId), 'what was written cannot be brought to disk', cause),
      filesMax: openFilesMax,
    })
    for (const chunk of parts.chunks.values()) {
      this.#space.count(chunk.usedBytes)
      if (chunk.id > this.#chunkIdMax) this.#chunkIdMax = chunk.id
    }
  }

  /**
   * Takes a data directory, makes it where it is missing, and finds out what it holds.
   * UsageError: it is in use, of another kind, or of a newer format.
   */
  static async open(options: ChunkStoreOptions): Promise<ChunkStore> {
    const { directory, disk, random, log, clock, capacityBytes } = options
    try {
      await makeDirectory(disk, directory)
      await disk.syncDirectory(dirname(resolve(directory))).catch((error: unknown) => {
        // A parent that this user may not read was not changed by us either.
        if (!(error instanceof PosixError && error.code === 'EACCES')) throw error
      })
    } catch (error) {
      throw new UsageError(
        `cannot make the data directory ${directory}: ${error instanceof Error ? error.message : String(error)}`,
      )
    }
    // Before the lock, which leaves a file: a directory of somebody else stays as it is.
    await refuseForeignDirectory(disk, directory)
    const lock = await disk.lock(directory).catch((error: unknown) => {
      if (!(error instanceof PosixError)) throw error
      throw new UsageError(
        error.code === 'EBUSY'
          ? `${directory} is in use by another Shoal chunk server: stop that one, or give this one a directory of its own`
          : `cannot use the data directory ${directory}: ${error.message}`,
      )
    })
    try {
      const identity = await readOrMakeIdentity(disk, directory, random)
      const chunkRoot = `${directory}/chunks`
      await prepareDirectories(disk, chunkRoot)
      await disk.syncDirectory(directory)
      const startedMs = clock.nowMs()
      const chunks = await scanChunks({ disk, directory: chunkRoot, clusterId: identity.clusterId, log })
      log.info('data directory opened', {
        directory,
        chunks: chunks.size,
        scanMs: Math.round(clock.nowMs() - startedMs),
      })
      const space = new Space({ disk, directory, clock, capacityBytes })
      return new ChunkStore(options, { identity, chunks, lock, space, chunkRoot })
    } catch (error) {
      await lock.release()
      throw error
    }
  }

  get identity(): StoreIdentity {
    return this.#identity
  }

  /** The greatest chunk id that was ever seen here; 0 when there was none. */
  get chunkIdMax(): bigint {
    return this.#chunkIdMax
  }

  /** Remembers durably which cluster this store belongs to and under which number. */
  async adopt(member: { clusterId: string; serverId: number }): Promise<void> {
    const { clusterId, serverId } = this.#identity
    if (clusterId === member.clusterId && serverId === member.serverId) return
    if (clusterId !== '' && clusterId !== member.clusterId) {
      throw new UsageError(
        `${this.#options.directory} belongs to cluster ${clusterId}, but the master's is ${member.clusterId}: ` +
          'give the address of the right master, or an empty directory',
      )
    }
    if (Buffer.byteLength(member.clusterId) > clusterIdBytesMax || member.clusterId === '') {
      throw new UsageError(`the master has a cluster id that no chunk can carry: "${member.clusterId}"`)
    }
    const identity = { ...this.#identity, ...member }
    await writeIdentity(this.#options.disk, this.#options.directory, identity)
    this.#identity = identity
  }

  figures(): Promise<SpaceFigures> {
    return this.#space.figures()
  }

  get chunkCount(): number {
    return this.#chunks.size
  }

  /** Chunk ids of sealed chunks above this one, ascending. */
  sealedAfter(chunkId: bigint): ChunkId[] {
    const ids: ChunkId[] = []
    for (const chunk of this.#chunks.values()) if (chunk.state === 'sealed' && chunk.id > chunkId) ids.push(chunk.id)
    return ids.toSorted((a, b) => (a < b ? -1 : 1))
  }

  state(chunkId: bigint): ReplicaState | undefined {
    const chunk = this.#chunks.get(asChunkId(chunkId))
    return chunk && replicaState(chunk)
  }

  /** Every chunk, in pages. What changes meanwhile is in the page or among the changes. */
  *replicas(pageSize: number): Generator<ReplicaState[]> {
    let page: ReplicaState[] = []
    for (const chunk of this.#chunks.values()) {
      page.push(replicaState(chunk))
      if (page.length < pageSize) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }

  /** Takes away what changed since it was taken last, as it is now; give it back with `changedAgain` if nobody got it. */
  takeChanges(countMax: number): ReplicaState[] {
    const taken: ReplicaState[] = []
    for (const id of this.#changed) {
      if (taken.length === countMax) break
      this.#changed.delete(id)
      const chunk = this.#chunks.get(id)
      taken.push(chunk ? replicaState(chunk) : { ...noReplica, chunkId: id, deleted: true })
    }
    return taken
  }

  changedAgain(states: readonly { chunkId: bigint }[]): void {
    for (const { chunkId } of states) this.#changed.add(asChunkId(chunkId))
  }

  /**
   * Appends whole blocks (data that ends within a block is filled up with zeros); resolves with the chunk's length after it, when
   * the data is on disk if `sync`. Appends to one chunk are written in the order of the calls, several in one write where they wait.
   */
  append(request: Append): Promise<number> {
    const { chunkId, offset, data, checksums } = request
    if (chunkId === 0n || offset % blockBytes !== 0 || data.length > transferBytesMax) {
      return refused('EINVAL', 'an append starts at a block boundary and has at most 1 MiB')
    }
    if (offset + data.length > chunkBytes) return refused('EFBIG', 'a chunk holds at most 64 MiB')
    if (this.#pendingBytes + data.length > pendingBytesMax)
      return refused('EAGAIN', 'too many appends wait for the disk')
    if (firstCorruptBlock(data, checksums) !== -1) return refused('EBADMSG', 'a checksum does not match on arrival')
    this.#pendingBytes += data.length
    return new Promise<number>((resolve, reject) => {
      this.#enqueue(asChunkId(chunkId), { kind: 'append', request, resolve, reject })
    }).finally(() => {
      this.#pendingBytes -= data.length
    })
  }

  /** Whole blocks, checked, from the buffer pool. ENOENT, ERANGE beyond the length, EBADMSG when a block is not what was written, EIO. */
  async read(range: { chunkId: bigint; offset: number; length: number }): Promise<Piece> {
    const { offset, length } = range
    const id = asChunkId(range.chunkId)
    const chunk = this.#readable(id)
    if (offset % blockBytes !== 0 || length % blockBytes !== 0 || length === 0 || length > transferBytesMax) {
      throw new PosixError('EINVAL', 'a read is of whole blocks, 1 MiB at most')
    }
    if (offset + length > chunk.extentBytes) throw new PosixError('ERANGE', `chunk ${id} ends before that`)
    return this.#files.use(id, async (file) => {
      const { data, checksums, wrong } = await this.#readChecked(chunk, file, offset, length)
      if (wrong.length > 0) throw new PosixError('EBADMSG', `chunk ${id} has a damaged block at ${wrong[0]!.offset}`)
      return { data, checksums }
    })
  }

  /**
   * Reads a chunk wholly and says which ranges are damaged. `pace` is called before each piece of at most 1 MiB.
   * ENOENT also when it is deleted meanwhile.
   */
  async check(chunkId: bigint, pace?: (bytes: number) => Promise<void>): Promise<CheckResult> {
    const id = asChunkId(chunkId)
    const chunk = this.#readable(id)
    // What has its name now is what the next start finds; an open file may have been removed or replaced beneath.
    if (chunk.state === 'sealed') {
      await this.#exclusive(id, async () => {
        if (this.#chunks.get(id) !== chunk) throw new PosixError('ENOENT', `chunk ${id} was deleted`)
        await this.#files.forget(id)
        await this.#files.use(id, async () => undefined)
      })
    }
    const corrupt: ByteSpan[] = []
    for (let offset = 0; offset < chunk.lengthBytes; offset += transferBytesMax) {
      const length = Math.min(transferBytesMax, chunk.lengthBytes - offset)
      await pace?.(length)
      if (this.#chunks.get(id) !== chunk) throw new PosixError('ENOENT', `chunk ${id} was deleted`)
      if (offset + length > chunk.lengthBytes) break
      const { data, wrong } = await this.#files.use(id, (file) => this.#readChecked(chunk, file, offset, length))
      giveBackBuffer(data)
      corrupt.push(...wrong)
    }
    return { length: chunk.lengthBytes, sealed: chunk.state === 'sealed', corrupt }
  }

  /** Cuts the chunk to this length and takes no more appends; durable. ENOENT, ERANGE when it is shorter. */
  seal(chunkId: bigint, length: number): Promise<void> {
    const id = asChunkId(chunkId)
    return this.#exclusive(id, async () => {
      const chunk = this.#readable(id)
      if (length % blockBytes !== 0) throw new PosixError('EINVAL', 'a chunk is sealed at a block boundary')
      if (chunk.state === 'sealed') {
        if (chunk.lengthBytes === length) return
        throw new PosixError('EINVAL', `chunk ${id} is sealed at ${chunk.lengthBytes}`)
      }
      if (length > chunk.lengthBytes) throw new PosixError('ERANGE', `chunk ${id} has only ${chunk.lengthBytes} bytes`)
      await this.#files.use(id, async (file) => {
        await this.#synced(chunk, file, () => file.seal(length))
        chunk.state = 'sealed'
        chunk.lengthBytes = length
        chunk.extentBytes = length
        this.#changed.add(id)
        if (chunk.corrupt) await file.noteCorrupt()
        await file.trim()
        await this.#recount(chunk, file)
      })
    })
  }

  /** Frees ranges of whole blocks; what lies beyond the chunk's length is free already. ENOENT. */
  punch(chunkId: bigint, ranges: readonly ByteSpan[]): Promise<void> {
    const id = asChunkId(chunkId)
    return this.#exclusive(id, async () => {
      const chunk = this.#readable(id)
      const joined = joinedRanges(ranges, chunk.lengthBytes)
      if (joined.length === 0) return
      await this.#files.use(id, async (file) => {
        await this.#synced(chunk, file, () => file.punch(joined)).catch((error: unknown) => {
          // The ranges read as zeros all the same; such a file system just keeps their blocks.
          if (!(error instanceof PosixError && error.code === 'EOPNOTSUPP')) throw error
        })
        await this.#recount(chunk, file)
      })
    })
  }

  /** Removes a chunk. Missing is fine. */
  delete(chunkId: bigint): Promise<void> {
    const id = asChunkId(chunkId)
    return this.#exclusive(id, async () => {
      const chunk = this.#chunks.get(id)
      if (!chunk) return
      const { path } = this.#place(id)
      // First, so that nobody who finds no file takes the chunk for damaged.
      this.#chunks.delete(id)
      try {
        // The chunk's own file last: as long as it fails there is a whole chunk.
        await this.#options.disk.unlink(`${path}${damagedSuffix}`)
        await this.#options.disk.unlink(path)
      } catch (caught) {
        this.#chunks.set(id, chunk)
        throw caught
      }
      this.#space.count(-chunk.usedBytes)
      this.#changed.add(id)
      await this.#files.forget(id)
    })
  }

  /**
   * Makes room for a chunk that comes from elsewhere. `fill` gets a place to write the blocks to, in order; when it is done the
   * new copy is sealed and takes the place of whatever this store had. Until then nothing of it is seen, and a failure leaves no trace.
   */
  async receive(chunkId: bigint, length: number, fill: (incoming: Incoming) => Promise<void>): Promise<void> {
    const id = asChunkId(chunkId)
    const { disk } = this.#options
    const { clusterId } = this.#identity
    if (clusterId === '') throw new PosixError('EAGAIN', 'this chunk server belongs to no cluster yet')
    if (this.#receiving.has(id)) throw new PosixError('EBUSY', `chunk ${id} is being copied already`)
    this.#receiving.add(id)
    const final = this.#place(id)
    const path = `${final.path}${copySuffix}`
    const incoming = new Incoming(this.#space)
    try {
      await incoming.admit(overheadBytes)
      await disk.unlink(path)
      const file = await ChunkFile.create({ ...final, path }, { clusterId, chunkId: id })
      try {
        incoming.file = file
        await fill(incoming)
        if (incoming.bytes !== length) throw new PosixError('EIO', `the copy has ${incoming.bytes} of ${length} bytes`)
        await file.seal(length)
        const { allocatedBytes } = await file.stat()
        await this.#exclusive(id, () => this.#replace(final, { path, id, length, allocatedBytes }))
      } finally {
        await file.close()
      }
    } catch (error) {
      await disk.unlink(path).catch(() => undefined)
      throw diskFailure(error, `chunk ${id}`)
    } finally {
      this.#space.count(-incoming.admittedBytes)
      this.#receiving.delete(id)
    }
  }

  /** A sealed file takes the place of whatever this store has of the chunk. */
  async #replace(
    final: ChunkFilePlace,
    { path, id, length, allocatedBytes }: { path: string; id: ChunkId; length: number; allocatedBytes: number },
  ): Promise<void> {
    const { disk } = this.#options
    await disk.rename(path, final.path)
    const old = this.#chunks.get(id)
    this.#space.count(allocatedBytes - (old?.usedBytes ?? 0))
    this.#chunks.set(id, {
      id,
      lengthBytes: length,
      extentBytes: length,
      state: 'sealed',
      corrupt: false,
      usedBytes: allocatedBytes,
    })
    this.#sawId(id)
    this.#changed.add(id)
    await this.#files.forget(id)
    await disk.syncDirectory(final.directory)
    await disk.unlink(`${final.path}${damagedSuffix}`)
  }

  /** Finishes what was asked for, brings everything to disk and gives the directory back. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      while (this.#queues.size > 0)
        await Promise.all([...this.#queues.keys()].map((id) => this.#exclusive(id, async () => {}, true)))
      await this.#files.close()
      await this.#lock.release()
    })()
    return this.#closing
  }

  #place(id: ChunkId): ChunkFilePlace & { path: string } {
    return {
      disk: this.#options.disk,
      directory: chunkDirectory(this.#chunkRoot, id),
      path: chunkPath(this.#chunkRoot, id),
    }
  }

  #sawId(id: ChunkId): void {
    if (id > this.#chunkIdMax) this.#chunkIdMax = id
  }

  #readable(id: ChunkId): Chunk {
    const chunk = this.#chunks.get(id)
    if (!chunk) throw new PosixError('ENOENT', `there is no chunk ${id} here`)
    if (chunk.state === 'unreadable') throw new PosixError('EIO', `the file of chunk ${id} cannot be read`)
    return chunk
  }

  async #readChecked(
    chunk: Chunk,
    file: ChunkFile,
    offset: number,
    length: number,
  ): Promise<Piece & { wrong: ByteSpan[] }> {
    let result: Piece & { wrong: ByteSpan[] }
    try {
      result = await file.read(offset, length)
    } catch (cause) {
      // Beyond the length of an open chunk that was known since the start.
      if (cause instanceof PosixError && cause.code === 'EIO' && offset < chunk.lengthBytes) {
        this.#markCorrupt(chunk, 'the disk cannot read it', cause)
      }
      throw cause
    }
    if (result.wrong.length === 0) return result
    if (this.#chunks.get(chunk.id) !== chunk) throw new PosixError('ENOENT', `chunk ${chunk.id} was replaced`)
    if (offset + length > chunk.extentBytes) throw new PosixError('ERANGE', `chunk ${chunk.id} was cut before that`)
    // A block beyond the length of an open chunk is known to be doubtful and was promised to nobody.
    if (result.wrong.some((range) => range.offset < chunk.lengthBytes)) {
      this.#markCorrupt(chunk, `a block does not match its checksum at ${result.wrong[0]!.offset}`)
    }
    return result
  }

  async #openFile(id: ChunkId): Promise<ChunkFile> {
    const chunk = this.#chunks.get(id)
    try {
      return await ChunkFile.open(this.#place(id), id)
    } catch (cause) {
      if (!(cause instanceof PosixError && (cause.code === 'EIO' || cause.code === 'ENOENT'))) throw cause
      this.#markCorrupt(chunk, 'its file cannot be opened', cause)
      throw new PosixError('EIO', `the file of chunk ${id} cannot be opened`)
    }
  }

  /** Nothing where another copy has taken its place meanwhile. */
  #markCorrupt(chunk: Chunk | undefined, why: string, cause?: unknown): void {
    if (!chunk || chunk.corrupt || this.#chunks.get(chunk.id) !== chunk) return
    const { id } = chunk
    chunk.corrupt = true
    this.#changed.add(id)
    this.#options.log.error('a replica is corrupt', { chunk: id, why, cause })
    // An open chunk is read wholly at the next start, and of a sync that failed, which no read shows, its file tells.
    if (chunk.state !== 'sealed') return
    // So that it is known after a restart too. A disk that does not take it loses nothing: the next check finds it again.
    this.#exclusive(id, async () => {
      if (this.#chunks.get(id) === chunk) await this.#files.use(id, (file) => file.noteCorrupt())
    }).catch(() => undefined)
  }

  /** A failure to bring data to disk makes the replica worthless: nobody knows which part of it is there. */
  async #synced(chunk: Chunk, file: ChunkFile, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (cause) {
      if (!file.syncFailed) throw cause
      this.#markCorrupt(chunk, 'what was written cannot be brought to disk', cause)
      throw new PosixError('EIO', `chunk ${chunk.id} cannot be brought to disk`)
    }
  }

  async #recount(chunk: Chunk, file: ChunkFile): Promise<void> {
    const { allocatedBytes } = await file.stat()
    this.#space.count(allocatedBytes - chunk.usedBytes)
    chunk.usedBytes = allocatedBytes
  }

  #exclusive<T>(id: ChunkId, work: () => Promise<T>, whileClosing = false): Promise<T> {
    if (this.#closing && !whileClosing) return Promise.reject(new PosixError('EIO', 'this chunk server is stopping'))
    return new Promise<T>((resolve, reject) => {
      this.#enqueue(id, { kind: 'exclusive', run: () => work().then(resolve, reject) })
    })
  }

  #enqueue(id: ChunkId, task: Task): void {
    if (this.#closing && task.kind === 'append') {
      task.reject(new PosixError('EIO', 'this chunk server is stopping'))
      return
    }
    const queue = this.#queues.get(id)
    if (queue) {
      queue.push(task)
      return
    }
    const fresh = [task]
    this.#queues.set(id, fresh)
    void this.#drain(id, fresh)
  }

  async #drain(id: ChunkId, queue: Task[]): Promise<void> {
    for (let head = queue.shift(); head; head = queue.shift()) {
      if (head.kind === 'exclusive') await head.run()
      else await this.#appendBatch(id, this.#takeBatch(id, head, queue))
    }
    this.#queues.delete(id)
  }

  /** The append at the head of the queue and those that continue it. */
  #takeBatch(id: ChunkId, head: AppendTask, queue: Task[]): AppendTask[] {
    const batch = [head]
    const { offset, data } = head.request
    if (data.length === 0 || offset !== (this.#chunks.get(id)?.lengthBytes ?? 0)) return batch
    let end = offset + roundUpToBlock(data.length)
    while (batch.length < batchAppendsMax) {
      const next = queue[0]
      if (next?.kind !== 'append' || next.request.offset !== end || next.request.data.length === 0) break
      if (end + next.request.data.length - offset > batchBytesMax) break
      end += roundUpToBlock(next.request.data.length)
      queue.shift()
      batch.push(next)
    }
    return batch
  }

  async #appendBatch(id: ChunkId, batch: AppendTask[]): Promise<void> {
    try {
      const chunk = this.#chunks.get(id) ?? (await this.#create(id, batch[0]!.request))
      if (chunk.corrupt) throw new PosixError('EIO', `this replica of chunk ${id} is damaged`)
      await this.#files.use(id, async (file) => {
        const { offset, data } = batch[0]!.request
        if (data.length > 0 && chunk.state === 'open' && offset === chunk.lengthBytes) {
          await this.#writeBatch(chunk, file, batch)
        } else {
          this.#repeated(chunk, file, batch[0]!.request)
        }
        this.#acknowledge(chunk, file, batch)
      })
    } catch (error) {
      const failure = diskFailure(error, `chunk ${id}`)
      for (const task of batch) task.reject(failure)
    }
  }

  async #create(id: ChunkId, request: Append): Promise<Chunk> {
    if (!request.create || request.offset !== 0 || request.data.length === 0) {
      throw new PosixError('ESTALE', `there is no chunk ${id} here`)
    }
    const { clusterId } = this.#identity
    if (clusterId === '') throw new PosixError('EAGAIN', 'this chunk server belongs to no cluster yet')
    if (!(await this.#space.admit(overheadBytes))) throw new PosixError('ENOSPC', 'no room for a chunk')
    const file = await ChunkFile.create(this.#place(id), { clusterId, chunkId: id }).catch((error: unknown) => {
      this.#space.count(-overheadBytes)
      throw error
    })
    this.#files.adopt(id, file)
    const chunk: Chunk = {
      id,
      lengthBytes: 0,
      extentBytes: 0,
      state: 'open',
      corrupt: false,
      usedBytes: overheadBytes,
    }
    this.#chunks.set(id, chunk)
    this.#sawId(id)
    this.#changed.add(id)
    return chunk
  }

  async #writeBatch(chunk: Chunk, file: ChunkFile, batch: readonly AppendTask[]): Promise<void> {
    const bytes = batch.reduce((sum, { request }) => sum + roundUpToBlock(request.data.length), 0)
    if (!(await this.#space.admit(bytes))) throw new PosixError('ENOSPC', `no room for more of chunk ${chunk.id}`)
    try {
      if (chunk.extentBytes > chunk.lengthBytes) {
        // The writer knows where the chunk ends; what was found behind that after a crash is nobody's.
        await file.cut(chunk.lengthBytes)
        chunk.extentBytes = chunk.lengthBytes
      }
      await file.write(
        chunk.lengthBytes,
        batch.map(({ request }) => request),
        // What comes next must not wait for the disk.
        { sync: this.#queues.get(chunk.id)?.length === 0 && batch.every(({ request }) => request.sync) },
      )
    } catch (error) {
      this.#space.count(-bytes)
      throw error
    }
    chunk.lengthBytes += bytes
    chunk.extentBytes = chunk.lengthBytes
    chunk.usedBytes += bytes
    this.#changed.add(chunk.id)
  }

  /** An append that does not continue the chunk: fine when it asks for nothing new. */
  #repeated(chunk: Chunk, file: ChunkFile, { offset, data, checksums }: Append): void {
    const end = offset + roundUpToBlock(data.length)
    const there = end <= chunk.lengthBytes && (data.length === 0 || file.matches(offset, checksums))
    if (there) return
    if (chunk.state === 'sealed') throw new PosixError('EROFS', `chunk ${chunk.id} is sealed`)
    throw new PosixError('ESTALE', `chunk ${chunk.id} has ${chunk.lengthBytes} bytes`)
  }

  /** Answers appends whose data the disk took: at once, or after a sync that does not hold up the next append. */
  #acknowledge(chunk: Chunk, file: ChunkFile, batch: readonly AppendTask[]): void {
    const syncing: AppendTask[] = []
    for (const task of batch) {
      if (task.request.sync && file.dirty) syncing.push(task)
      else task.resolve(endOf(task.request, chunk))
    }
    if (syncing.length === 0) return
    this.#files
      .use(chunk.id, (file) => this.#synced(chunk, file, () => file.sync()))
      .then(
        () => {
          for (const task of syncing) task.resolve(endOf(task.request, chunk))
        },
        (error: unknown) => {
          for (const task of syncing) task.reject(error)
        },
      )
  }
}

/** Takes the blocks of a chunk that comes from elsewhere. */
export class Incoming {
  readonly #space: Space
  file: ChunkFile | undefined
  /** So far. */
  bytes = 0
  admittedBytes = 0

  constructor(space: Space) {
    this.#space = space
  }

  async admit(bytes: number): Promise<void> {
    if (!(await this.#space.admit(bytes))) throw new PosixError('ENOSPC', 'no room for a copy')
    this.admittedBytes += bytes
  }

  /** The next blocks, whole ones that were checked. */
  async write(piece: Piece): Promise<void> {
    await this.admit(piece.data.length)
    this.bytes += (await this.file?.write(this.bytes, [piece])) ?? 0
  }

  /** Blocks of zeros, which take no room. */
  async hole(length: number): Promise<void> {
    await this.file?.writeHole(this.bytes, length)
    this.bytes += length
  }
}

const endOf = ({ offset, data }: Append, chunk: Chunk): number =>
  data.length === 0 ? chunk.lengthBytes : offset + roundUpToBlock(data.length)

const replicaState = (chunk: Chunk): ReplicaState => ({
  chunkId: chunk.id,
  length: chunk.lengthBytes,
  sealed: chunk.state === 'sealed',
  corrupt: chunk.corrupt,
  deleted: false,
  more: chunk.lengthBytes < chunk.extentBytes,
})

const noReplica: Omit<ReplicaState, 'chunkId'> = {
  length: 0,
  sealed: false,
  corrupt: false,
  deleted: false,
  more: false,
}

/** Sorted, neighbours joined, cut at the end. EINVAL when one is not of whole blocks. */
const joinedRanges = (ranges: readonly ByteSpan[], end: number): ByteSpan[] => {
  const joined: ByteSpan[] = []
  for (const { offset, length } of ranges.toSorted((a, b) => a.offset - b.offset)) {
    if (offset % blockBytes !== 0 || length % blockBytes !== 0) {
      throw new PosixError('EINVAL', 'only whole blocks can be freed')
    }
    const until = Math.min(offset + length, end)
    const last = joined.at(-1)
    if (until <= offset) continue
    if (last && last.offset + last.length >= offset) last.length = Math.max(last.length, until - last.offset)
    else joined.push({ offset, length: until - offset })
  }
  return joined
}
