/**
 * One chunk file that is open: its header, its table in memory, and the reads and writes that keep the two and the data together.
 *
 * Invariant: the table in memory is what the next read is checked against. For blocks that readers may ask for it changes only
 * when they are punched, and before the disk lets go of them; appended blocks are for nobody to read until the write is done.
 * Once a sync failed, no later one can succeed: the kernel takes what it could not write for clean, keeps it to be read for a while, and
 * tells of the failure once. So the file of an open chunk says it itself, before anybody is told: whoever opens it next must know.
 * Concurrency: reads and syncs may run beside everything; write, seal, punch and note are called one at a time.
 */
import { PosixError } from '../domain/errors.ts'
import { roundUpToBlock } from '../domain/checksum.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes, blocksPerChunk } from '../domain/limits.ts'
import { takeBuffer } from '../platform/buffer-pool.ts'
import type { Disk, DiskFile, DiskWrite } from '../platform/disk.ts'
import { ChunkTable, type ByteSpan } from './chunk-table.ts'
import {
  dataStart,
  decodeHeader,
  encodeHeader,
  entryBytes,
  headerBytes,
  tableStart,
  type ChunkHeader,
  type HeaderProblem,
} from './format.ts'

const zeroBlock = Buffer.alloc(blockBytes)
/** So much is written faster than a thread wakes up. */
const littleBytesMax = 64 * 1024

/** Data that starts at a block boundary, with the checksum of each of its blocks. */
export interface Piece {
  data: Buffer
  checksums: Buffer
}

export interface ChunkFilePlace {
  disk: Disk
  /** The directory that has the file's name. */
  directory: string
  path: string
}

/** Reads the header of a chunk file and how big the file is. */
export const readHeader = async (
  file: DiskFile,
): Promise<{ header: ChunkHeader | HeaderProblem; size: number; allocatedBytes: number }> => {
  const block = Buffer.alloc(headerBytes)
  const got = await file.read(block, 0)
  return { header: decodeHeader(block.subarray(0, got)), ...(await file.stat()) }
}

export class ChunkFile {
  readonly #place: ChunkFilePlace
  readonly #file: DiskFile
  readonly #table: ChunkTable
  #header: ChunkHeader
  /** Counts writes; a sync covers all that were done when it started. An opened file may have older ones. */
  #writes = 1
  #synced = 0
  #nameDurable = false
  #syncing: Promise<void> | undefined
  #syncFailure: Error | undefined
  #closed = false

  private constructor(place: ChunkFilePlace, file: DiskFile, header: ChunkHeader, table: ChunkTable) {
    this.#place = place
    this.#file = file
    this.#header = header
    this.#table = table
    if (header.corrupt && !header.sealed)
      this.#syncFailure = new PosixError('EIO', `${place.path}: a sync failed before`)
  }

  /** A new, empty chunk. EEXIST when there is a file of that name. */
  static async create(place: ChunkFilePlace, id: { clusterId: string; chunkId: ChunkId }): Promise<ChunkFile> {
    const header: ChunkHeader = { ...id, sealed: false, length: 0, corrupt: false }
    const file = await place.disk.open(place.path, { create: true, exclusive: true })
    try {
      await file.write([encodeHeader(header)], 0)
    } catch (error) {
      await file.close().catch(() => undefined)
      await place.disk.unlink(place.path).catch(() => undefined)
      throw error
    }
    return new ChunkFile(place, file, header, new ChunkTable(id.chunkId, blocksPerChunk))
  }

  /** A chunk that is there. EIO when its header is not that of this chunk. */
  static async open(place: ChunkFilePlace, chunkId: ChunkId): Promise<ChunkFile> {
    const file = await place.disk.open(place.path)
    try {
      const { header } = await readHeader(file)
      if ('problem' in header) throw new PosixError('EIO', `${place.path}: the header is ${header.problem}`)
      if (header.chunkId !== chunkId) throw new PosixError('EIO', `${place.path}: it is chunk ${header.chunkId}`)
      const blocks = header.sealed ? header.length / blockBytes : blocksPerChunk
      const table = new ChunkTable(chunkId, blocks)
      const bytes = Buffer.alloc(blocks * entryBytes)
      const got = await file.read(bytes, tableStart)
      table.load(bytes.subarray(0, got))
      return new ChunkFile(place, file, header, table)
    } catch (error) {
      await file.close().catch(() => undefined)
      throw error
    }
  }

  get corrupt(): boolean {
    return this.#header.corrupt
  }

  /** Where the last written block ends, as the table says. */
  get tableEnd(): number {
    return this.#table.end() * blockBytes
  }

  /** How big the file of a sealed chunk must be: a copy is not written beyond its last block that is not punched. */
  get sizeMin(): number {
    const blocks = this.#table.dataEnd()
    return blocks === 0 ? 0 : dataStart + blocks * blockBytes
  }

  /** Something was written that may not be on disk. */
  get dirty(): boolean {
    return this.#synced < this.#writes
  }

  /** A sync failed: nobody knows which part of what was written is on disk. */
  get syncFailed(): boolean {
    return this.#syncFailure !== undefined
  }

  stat(): Promise<{ size: number; allocatedBytes: number }> {
    return this.#file.stat()
  }

  matches(offset: number, checksums: Buffer): boolean {
    return this.#table.matches(offset / blockBytes, checksums)
  }

  /** Whole blocks within the chunk, and which of them are not what was written. The data is from the buffer pool. */
  async read(offset: number, length: number): Promise<Piece & { wrong: ByteSpan[] }> {
    const data = takeBuffer(length)
    const got = await this.#file.read(data, dataStart + offset)
    if (got < length) data.fill(0, got)
    // After the read: a block that was punched meanwhile is known as punched by now.
    const wrong = this.#table.check(data, offset)
    return { data, checksums: this.#table.checksums(offset / blockBytes, (offset + length) / blockBytes), wrong }
  }

  /**
   * Writes pieces one after another from this offset, each filled up to whole blocks with zeros, then their table entries.
   * When it fails, the blocks are "never written" again as far as the disk obeys. Returns the bytes written.
   * `sync` says that a sync of them is next: what is little goes to disk with it in one call, and then that has nothing left to do.
   */
  async write(
    offset: number,
    pieces: readonly Piece[],
    { sync }: { sync: boolean } = { sync: false },
  ): Promise<number> {
    const buffers: Buffer[] = []
    const first = offset / blockBytes
    let end = first
    for (const { data, checksums } of pieces) {
      buffers.push(data)
      const padding = roundUpToBlock(data.length) - data.length
      if (padding > 0) buffers.push(zeroBlock.subarray(0, padding))
      this.#table.setWritten(end, checksums)
      end += checksums.length / 4
    }
    const bytes = (end - first) * blockBytes
    const writes: [DiskWrite, DiskWrite] = [
      { buffers, position: dataStart + offset },
      { buffers: [this.#table.encode(first, end)], position: tableStart + first * entryBytes },
    ]
    this.#writes++
    try {
      if (sync && bytes <= littleBytesMax && this.#canSyncAtOnce) await this.#writeAndSync(writes)
      else await this.#writeBoth(writes, bytes)
    } catch (error) {
      await this.cut(offset).catch(() => undefined)
      throw error
    }
    return bytes
  }

  async #writeBoth([data, entries]: readonly [DiskWrite, DiskWrite], bytes: number): Promise<void> {
    const written = this.#file.write(data.buffers, data.position)
    // Side by side it is sooner done; but a long write keeps the file's lock, and the other would burn a processor waiting for it.
    if (bytes > littleBytesMax) await written.catch(() => undefined)
    const outcomes = await Promise.allSettled([written, this.#file.write(entries.buffers, entries.position)])
    this.#writes++
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    if (failed) throw failed.reason
  }

  /** Of two syncs at the same time only one would learn of a failure; the first one has to see to the file's name. */
  get #canSyncAtOnce(): boolean {
    return this.#nameDurable && this.#syncing === undefined && this.#syncFailure === undefined
  }

  async #writeAndSync(writes: readonly DiskWrite[]): Promise<void> {
    const done = this.#writeAndSyncOnce(writes)
    // Whoever waits for a sync looks afterwards what it has covered.
    this.#syncing = done.catch(() => undefined)
    await done
  }

  async #writeAndSyncOnce(writes: readonly DiskWrite[]): Promise<void> {
    try {
      this.#syncFailure = await this.#file.writeAndSync(writes)
      this.#writes++
      // Nothing else was written meanwhile.
      if (this.#syncFailure === undefined) this.#synced = this.#writes
      else await this.#noteSyncFailure()
    } finally {
      this.#syncing = undefined
    }
  }

  /** Marks blocks as a hole without writing data; for copies of blocks of zeros. */
  async writeHole(offset: number, length: number): Promise<void> {
    const first = offset / blockBytes
    const end = first + length / blockBytes
    this.#table.setPunched(first, end)
    this.#writes++
    await this.#file.write([this.#table.encode(first, end)], tableStart + first * entryBytes)
    this.#writes++
  }

  /** Makes everything from this offset "never written". */
  async cut(offset: number): Promise<void> {
    const first = offset / blockBytes
    const end = Math.max(this.#table.end(), first)
    this.#table.clear(first, end)
    this.#writes++
    if (end > first) await this.#file.write([Buffer.alloc((end - first) * entryBytes)], tableStart + first * entryBytes)
    if ((await this.#file.stat()).size > dataStart + offset) await this.#file.truncate(dataStart + offset)
    this.#writes++
  }

  /** Resolves when all that was written before the call is on disk. Calls at the same time share one fdatasync. */
  async sync(): Promise<void> {
    const target = this.#writes
    while (this.#synced < target) {
      if (this.#syncFailure !== undefined) throw this.#syncFailure
      this.#syncing ??= this.#syncOnce()
      await this.#syncing
    }
  }

  async #syncOnce(): Promise<void> {
    const covers = this.#writes
    try {
      await this.#file.sync()
      if (!this.#nameDurable) await this.#place.disk.syncDirectory(this.#place.directory)
      this.#nameDurable = true
      this.#synced = covers
    } catch (error) {
      this.#syncFailure = error instanceof Error ? error : new Error(String(error))
      await this.#noteSyncFailure()
      throw error
    } finally {
      this.#syncing = undefined
    }
  }

  /** Seals the chunk at this length, durably. What is on disk is an open chunk or the sealed one, never between. */
  async seal(length: number): Promise<void> {
    // A loss of power may have left out what are zeros at the end of the last block.
    const sizeMin = Math.min(this.sizeMin, dataStart + length)
    if ((await this.#file.stat()).size < sizeMin) {
      this.#writes++
      await this.#file.truncate(sizeMin)
      this.#writes++
    }
    // The data first: a header that says "sealed" promises that it is there.
    await this.sync()
    const header: ChunkHeader = { ...this.#header, sealed: true, length }
    this.#writes++
    await this.#file.write([encodeHeader(header)], 0)
    this.#writes++
    await this.sync()
    this.#header = header
  }

  /** Lets go of what is behind the end of a sealed chunk; not before readers are refused what is there. */
  async trim(): Promise<void> {
    const { length } = this.#header
    this.#table.clear(length / blockBytes, this.#table.end())
    if ((await this.#file.stat()).size > dataStart + length) await this.#file.truncate(dataStart + length)
  }

  /** Not synced: a loss of power takes what is in memory alone too, and then a read shows what the disk has. */
  async #noteSyncFailure(): Promise<void> {
    // What this disk does not take either cannot be kept.
    await this.noteCorrupt().catch(() => undefined)
  }

  /** Writes down that this replica is corrupt. Not synced: where a block does not match, a read would find it again. */
  async noteCorrupt(): Promise<void> {
    const header: ChunkHeader = { ...this.#header, corrupt: true }
    this.#writes++
    await this.#file.write([encodeHeader(header)], 0)
    this.#writes++
    this.#header = header
  }

  /** Frees whole blocks, durably known as punched before the disk lets go of them. */
  async punch(ranges: readonly ByteSpan[]): Promise<void> {
    for (const { offset, length } of ranges) {
      const first = offset / blockBytes
      const end = first + length / blockBytes
      // Written even if they are punched already: after a write that failed they are so in memory alone.
      this.#table.setPunched(first, end)
      this.#writes++
      await this.#file.write([this.#table.encode(first, end)], tableStart + first * entryBytes)
      this.#writes++
    }
    await this.sync()
    for (const { offset, length } of ranges) await this.#file.punch({ offset: dataStart + offset, length })
  }

  /** Harmless when called again. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#file.close()
  }
}
