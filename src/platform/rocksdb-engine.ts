/**
 * The KvEngine on RocksDB, through level-rocksdb.
 *
 * Writes that wait while another one is on its way to the disk leave together, as one batch and one sync.
 *
 * Invariant: batches apply in the order of the calls. The binding runs them on a thread pool in any order, so only one is given to
 * it at a time.
 * Invariant: after a write that failed nothing is written until the directory is opened again. The binding opens RocksDB without
 * paranoid_checks, and then RocksDB would go on writing behind a torn log record, where recovery finds nothing. Whether the write that
 * failed took effect is unknown until then.
 * So that a full disk does not come to that, writes are refused (ENOSPC, without effect) while less than a reserve is free.
 *
 * Memory is bounded: a block cache of 16 MiB, two write buffers of 8 MiB, 256 open tables.
 */
import { statfsSync, type StatsFs } from 'node:fs'
import { mkdir, readdir, stat } from 'node:fs/promises'
import level, { type Level, type LevelIterator } from 'level-rocksdb'
import { PosixError, UsageError } from '../domain/errors.ts'
import { findDamagedLog } from './rocksdb-log-check.ts'
import type { KvChange, KvEngine, KvEntry, KvRange, KvSnapshot } from './kv-engine.ts'

const blockCacheBytes = 16 * 1024 * 1024
const writeBufferBytes = 8 * 1024 * 1024
const openFilesMax = 256
const readAheadBytes = 128 * 1024
/** What flushing and compacting need to come to an end on a disk that is filling up; smaller on a small disk. */
const reserveBytesMax = 256 * 1024 * 1024
const reserveShare = 0.1
/** More changes than this do not travel in one batch, unless one caller gave that many. */
const batchChangesMax = 10_000

/** Never put: deleting it changes nothing. */
const syncKey = Buffer.from('\0sync')

interface Waiting {
  changes: readonly KvChange[]
  sync: boolean
  resolve(): void
  reject(error: Error): void
}

/** What is in a directory cannot be read as a database, or not wholly. */
export class DamagedDatabaseError extends UsageError {}

const messageOf = (caught: unknown): string => (caught instanceof Error ? caught.message : String(caught))

const asPosixError = (caught: unknown): PosixError =>
  caught instanceof PosixError ? caught : new PosixError('EIO', `RocksDB: ${messageOf(caught)}`)

/** What RocksDB may have left before a database was complete, and what the root of a file system has. */
const rocksDbNames = /^(IDENTITY|LOCK|LOG(\.old\.\d+)?|(MANIFEST|OPTIONS)-\d+|\d+\.(log|sst|dbtmp)|lost\+found)$/

/** RocksDB's failures arrive as text alone. It is read for the sake of the sentence; whatever it is, the directory is not opened. */
const openFailure = (path: string, caught: unknown): UsageError => {
  const message = messageOf(caught)
  if (message.includes('lock file') || message.includes('lock hold by current process')) {
    return new UsageError(`${path} is in use by another Shoal master`)
  }
  if (message.includes('No space left on device')) {
    return new UsageError(`${path} cannot be opened: its disk is full; free some space and start again`)
  }
  if (message.includes('Permission denied') || message.includes('Read-only file system')) {
    return new UsageError(`${path} cannot be opened: this user may not read and write it`)
  }
  return new DamagedDatabaseError(
    `${path} cannot be opened as the data of a Shoal master, it may be damaged: ${message}`,
  )
}

const directoryFailure = (path: string, caught: unknown): UsageError => {
  const code = caught instanceof Error && 'code' in caught ? String(caught.code) : messageOf(caught)
  const reasons: Record<string, string> = {
    EEXIST: 'it is not a directory',
    ENOTDIR: 'a part of the path is not a directory',
    EACCES: 'this user may not create it',
    EPERM: 'this user may not create it',
    EROFS: 'its file system is read-only',
    ENOSPC: 'its disk is full',
  }
  return new UsageError(`${path} cannot be used as a data directory: ${reasons[code] ?? code}`)
}

const bytesOf = (changes: readonly KvChange[]): number => {
  let bytes = 0
  for (const change of changes) bytes += change.key.length + (change.type === 'put' ? change.value.length : 0)
  return bytes
}

const endOf = (iterator: LevelIterator): Promise<void> => new Promise((resolve) => iterator.end(() => resolve()))

/** Up to so many entries from where the iterator is. */
const take = (iterator: LevelIterator, limit: number): Promise<KvEntry[]> => {
  const entries: KvEntry[] = []
  return new Promise((resolve, reject) => {
    const step = (): void => {
      if (entries.length >= limit) return resolve(entries)
      iterator.next((error, key, value) => {
        if (error) return reject(asPosixError(error))
        if (key === undefined) return resolve(entries)
        entries.push({ key, value: value! })
        return step()
      })
    }
    step()
  })
}

class RocksDbSnapshot implements KvSnapshot {
  private readonly iterator: LevelIterator
  private readonly closed: () => void
  private reading: Promise<KvEntry[]> = Promise.resolve([])
  private closing: Promise<void> | undefined

  constructor(iterator: LevelIterator, closed: () => void) {
    this.iterator = iterator
    this.closed = closed
  }

  async read(limit: number): Promise<KvEntry[]> {
    if (this.closing) throw new PosixError('EIO', 'the snapshot is closed')
    this.reading = take(this.iterator, limit)
    return this.reading
  }

  close(): Promise<void> {
    this.closing ??= this.end()
    return this.closing
  }

  private async end(): Promise<void> {
    await this.reading.catch(() => undefined)
    await endOf(this.iterator)
    this.closed()
  }
}

export interface RocksDb extends KvEngine {
  /** A figure of the database itself, by its name behind "rocksdb."; NaN where this RocksDB has none. */
  property(name: string): number
}

class RocksDbEngine implements RocksDb {
  private readonly path: string
  private readonly level: Level
  private waiting: Waiting[] = []
  private writing: Promise<void> | undefined
  private failure: PosixError | undefined
  private closing: Promise<void> | undefined
  private readonly ranges = new Set<Promise<KvEntry[]>>()
  private readonly snapshots = new Set<KvSnapshot>()

  constructor(path: string, opened: Level) {
    this.path = path
    this.level = opened
  }

  property(name: string): number {
    this.assertOpen()
    const text = this.level.db.db.getProperty(`rocksdb.${name}`)
    return text === '' ? Number.NaN : Number(text)
  }

  async get(key: Buffer): Promise<Buffer | undefined> {
    // Unlike the binding's get, this makes no error object of a key that is not there.
    const [value] = await this.getMany([key])
    return value
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    this.assertOpen()
    if (keys.length === 0) return []
    return new Promise((resolve, reject) => {
      this.level.getMany(keys, (error, values) => (error ? reject(asPosixError(error)) : resolve(values)))
    })
  }

  range(range: KvRange): Promise<KvEntry[]> {
    const read = this.read(range)
    this.ranges.add(read)
    const forget = (): void => {
      this.ranges.delete(read)
    }
    read.then(forget, forget)
    return read
  }

  openSnapshot(): KvSnapshot {
    this.assertOpen()
    const iterator = this.level.iterator({
      gte: Buffer.from([0]),
      lt: Buffer.from([0xff]),
      limit: -1,
      reverse: false,
      highWaterMark: readAheadBytes,
      // What is read once must not push out what the master works with.
      fillCache: false,
    })
    const snapshot: KvSnapshot = new RocksDbSnapshot(iterator, () => this.snapshots.delete(snapshot))
    this.snapshots.add(snapshot)
    return snapshot
  }

  async write(changes: readonly KvChange[], options: { sync: boolean }): Promise<void> {
    this.assertOpen()
    if (this.failure) throw this.failure
    if (changes.length === 0 && !options.sync) return
    return new Promise((resolve, reject) => {
      this.waiting.push({ changes, sync: options.sync, resolve, reject })
      this.writing ??= this.writeAll()
    })
  }

  close(): Promise<void> {
    this.closing ??= this.closeWhenIdle()
    return this.closing
  }

  private async closeWhenIdle(): Promise<void> {
    await this.writing
    await Promise.allSettled(this.ranges)
    await Promise.all([...this.snapshots].map((snapshot) => snapshot.close()))
    await new Promise<void>((resolve, reject) => {
      this.level.close((error) => (error ? reject(asPosixError(error)) : resolve()))
    })
  }

  private assertOpen(): void {
    if (this.closing) throw new PosixError('EIO', `the database ${this.path} is closed`)
  }

  private async read(range: KvRange): Promise<KvEntry[]> {
    this.assertOpen()
    if (range.limit <= 0 || range.gte.compare(range.lt) >= 0) return []
    // The iterator holds a snapshot from here on.
    const iterator = this.level.iterator({
      gte: range.gte,
      lt: range.lt,
      limit: range.limit,
      reverse: range.reverse ?? false,
      highWaterMark: readAheadBytes,
      fillCache: true,
    })
    try {
      return await take(iterator, range.limit)
    } finally {
      await endOf(iterator)
    }
  }

  /** Runs while something waits to be written. */
  private async writeAll(): Promise<void> {
    try {
      while (this.waiting.length > 0) {
        const group = this.takeGroup()
        try {
          await this.writeGroup(group)
          for (const waiting of group) waiting.resolve()
        } catch (caught) {
          for (const waiting of group) waiting.reject(asPosixError(caught))
        }
      }
    } finally {
      this.writing = undefined
    }
  }

  private takeGroup(): Waiting[] {
    let count = 0
    let changes = 0
    for (const { changes: more } of this.waiting) {
      changes += more.length
      if (count > 0 && changes > batchChangesMax) break
      count += 1
    }
    return this.waiting.splice(0, count)
  }

  private async writeGroup(group: readonly Waiting[]): Promise<void> {
    if (this.failure) throw this.failure
    let changes = group.length === 1 ? group[0]!.changes : group.flatMap((waiting) => waiting.changes)
    // The binding skips an empty batch, and its sync with it.
    if (changes.length === 0) changes = [{ type: 'del', key: syncKey }]
    const sync = group.some((waiting) => waiting.sync)
    this.checkSpace(bytesOf(changes))
    return new Promise((resolve, reject) => {
      this.level.batch(changes, { sync }, (error) => {
        if (!error) return resolve()
        this.failure = asPosixError(error)
        return reject(this.failure)
      })
    })
  }

  /**
   * ENOSPC when the disk is so full that a write could fail half-way. Looked at right before each batch, for others can fill a disk
   * faster than any interval; the call takes microseconds, the batch's sync milliseconds.
   */
  private checkSpace(bytes: number): void {
    const { bavail, blocks, bsize } = this.fileSystem()
    const reserveBytes = Math.min(reserveBytesMax, blocks * bsize * reserveShare)
    if (bavail * bsize < reserveBytes + bytes) throw new PosixError('ENOSPC', `the disk of ${this.path} is full`)
  }

  /** A directory that cannot even be asked for its space fails as a write does: for good. */
  private fileSystem(): StatsFs {
    try {
      return statfsSync(this.path)
    } catch (caught) {
      this.failure = asPosixError(caught)
      throw this.failure
    }
  }
}

/**
 * Opens the database in this directory and makes it if it is missing. UsageError, one sentence: the directory is in use, not a
 * directory, unreadable, or (DamagedDatabaseError) damaged.
 */
export const openRocksDb = async (path: string): Promise<RocksDb> => {
  let foreign: string | undefined
  try {
    await mkdir(path, { recursive: true })
    if (!(await stat(path)).isDirectory()) throw Object.assign(new Error(path), { code: 'EEXIST' })
    const names = await readdir(path)
    if (!names.includes('CURRENT')) foreign = names.find((name) => !rocksDbNames.test(name))
  } catch (caught) {
    throw directoryFailure(path, caught)
  }
  if (foreign !== undefined) {
    throw new UsageError(
      `${path} has something else in it (${foreign}): give a master an empty directory of its own, or one that a master has made`,
    )
  }
  // Also when another process has it open: its log may grow meanwhile, but never gets a whole batch behind a torn one.
  const damaged = await findDamagedLog(path)
  if (damaged) {
    throw new DamagedDatabaseError(
      `${path} is damaged: its log ${damaged.name} does not match its checksum at byte ${damaged.offset}; restore the directory from a backup`,
    )
  }
  return new Promise((resolve, reject) => {
    level(
      path,
      {
        keyEncoding: 'binary',
        valueEncoding: 'binary',
        createIfMissing: true,
        cacheSize: blockCacheBytes,
        writeBufferSize: writeBufferBytes,
        maxOpenFiles: openFilesMax,
      },
      (error, opened) => (error ? reject(openFailure(path, error)) : resolve(new RocksDbEngine(path, opened))),
    )
  })
}
