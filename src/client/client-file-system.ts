/**
 * The FileSystem port over a session with the master and the data path to the chunk servers: puts the parts together, tells each what it is
 * responsible for, and takes care of what concerns all of them: recalls, a session that was lost, and the end.
 *
 * | part              | operations                                                   |
 * |-------------------|--------------------------------------------------------------|
 * | namespace         | lookup, and what makes, moves and removes names              |
 * | inode-operations  | attributes, link targets, extended attributes                |
 * | file-changes      | truncation, fallocate, copy_file_range, lseek                |
 * | open-files        | open, create, close                                          |
 * | file-io           | read, write, fsync of files                                  |
 * | directories       | listings, fsync of directories                               |
 * | file-locks        | fcntl(2) and flock(2) locks                                  |
 */
import type { AccessTimePolicy } from '../domain/access-time.ts'
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { blockBytes, chunkBytes, nameBytesMax } from '../domain/limits.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Push } from '../protocol/gen/shoal/v1/session.pb.ts'
import { AppendQueue } from './append-queue.ts'
import { ByteBudget } from './byte-budget.ts'
import type { Caching } from './caching.ts'
import { ChunkCache } from './chunk-cache.ts'
import type { ChunkWriter } from './chunks/writer.ts'
import { ClientCore } from './client-core.ts'
import type { DataPath } from './client-core.ts'
import { Directories } from './directories.ts'
import { FileChanges } from './file-changes.ts'
import { FileIo } from './file-io.ts'
import { FileLocks } from './file-locks.ts'
import { FileReader } from './file-reader.ts'
import type {
  Context,
  DirectoryEntry,
  Entry,
  FileLock,
  FileSystem,
  FileSystemStatistics,
  Handle,
  Invalidations,
  LockRequest,
  Opened,
  SetattrChanges,
  WriteOptions,
} from './file-system.ts'
import { Flusher } from './flusher.ts'
import { RoomWatch } from './room-watch.ts'
import { Handles } from './handles.ts'
import { InodeOperations } from './inode-operations.ts'
import { changesContent, describeEntry, isReliedOn } from './journal.ts'
import type { JournalFailure } from './journal.ts'
import type { Locations } from './locations.ts'
import { LostChanges } from './lost-changes.ts'
import { Namespace } from './namespace.ts'
import type { Place } from './names.ts'
import { OpenFiles } from './open-files.ts'
import type { SessionHooks } from './session.ts'
import { Statistics } from './statistics.ts'
import { UnsyncedChunks } from './unsynced-chunks.ts'
import { orAborted } from './waiting.ts'

const closeMsMax = 30_000
const failuresLoggedMax = 100
/** Room for as much as so many clients like this one may have buffered is enough. */
const clientsAtOnce = 8
/** No cluster has a limit; df shows something useful all the same. */
const inodesFreeShown = 1n << 40n

export interface FileSystemLimits {
  /** Bytes written and not committed yet, over all files. */
  dirtyBytesMax: number
  /** Bytes read ahead. */
  cacheBytesMax: number
  /** Leases held, each with the attributes of an inode. */
  leasesMax: number
  /** Names known, over all directories. */
  namesMax: number
  /** Bytes after which a chunk is full and the next one is begun; a multiple of 4096. */
  chunkBytesMax: number
}

export const defaultLimits: FileSystemLimits = {
  dirtyBytesMax: 64 * 1024 * 1024,
  cacheBytesMax: 32 * 1024 * 1024,
  leasesMax: 24_000,
  namesMax: 48_000,
  chunkBytesMax: chunkBytes,
}

/** For monitoring. */
export interface ClientFigures {
  /** Written and not committed yet. */
  dirtyBytes: number
  /** Read ahead. */
  cacheBytes: number
  leases: number
  masterAway: boolean
}

export interface ClientFileSystemOptions {
  clock: Clock
  log: Log
  limits: FileSystemLimits
  accessTimes: AccessTimePolicy
  caching: Caching
  locations: Locations
  faults?: Faults | undefined
}

export class ClientFileSystem implements FileSystem {
  readonly #core: ClientCore
  readonly #flusher: Flusher
  readonly #namespace: Namespace
  readonly #inodeOperations: InodeOperations
  readonly #fileIo: FileIo
  readonly #fileChanges: FileChanges
  readonly #fileLocks: FileLocks
  readonly #openFiles: OpenFiles
  readonly #handles: Handles
  readonly #directories: Directories
  readonly #statistics: Statistics
  readonly #room: RoomWatch
  readonly #lostChanges = new LostChanges()
  /** What is held at this moment. */
  readonly figures: () => ClientFigures
  #closing: Promise<void> | undefined

  constructor({ clock, log, limits, accessTimes, caching, locations, faults }: ClientFileSystemOptions) {
    const core = new ClientCore({
      clock,
      log,
      limits,
      accessTimes,
      caching,
      reduce: async (ino) => {
        await faults?.point('client.lease.reduce')
        await this.#reduce(ino)
      },
      flush: (inode) => this.#flusher.flush(inode, { sync: false }),
      abandon: (inode) => this.#flusher.abandon(inode),
      failed: (failures) => this.#journalFailed(failures),
    })
    const { leases, inodes } = core
    const budget = new ByteBudget(limits.dirtyBytesMax)
    const handles = new Handles()
    this.#handles = handles
    const cache = new ChunkCache(
      (chunkId, chunkOffset, length, signal) =>
        core.data.reader.read({
          chunkId,
          chunkOffset,
          length,
          servers: locations.get(chunkId) ?? [],
          ...(signal === undefined ? {} : { signal }),
        }),
      { bytesMax: limits.cacheBytesMax },
    )
    const fileReader = new FileReader({
      leases,
      cache,
      locations,
      inodes,
      getExtents: (value, signal) => core.call({ $case: 'getExtents', value }, 'extents', signal),
      learn: ({ attributes, lease }) => void core.learn(attributes, lease),
      isConfirmed: () => core.session.isConfirmed(),
    })
    this.#room = new RoomWatch(clock, clientsAtOnce * limits.dirtyBytesMax)
    const flusher = new Flusher({
      clock,
      log,
      faults,
      inodes,
      budget,
      appends: new AppendQueue({
        append: (pieces, options) => core.data.writer.append(pieces, options),
        committed: (appended) => core.data.writer.committed(appended),
      }),
      unsynced: new UnsyncedChunks(),
      locations,
      room: this.#room,
      inlineBytesMax: () => core.session.welcome.inlineBytesMax,
      copies: () => core.session.welcome.copies,
      commit: async (value) => {
        if (core.writeBehind.commit(value)) return
        const ino = asIno(value.ino)
        const under = core.leases.cached(ino)
        const end = core.changesInFlight.begin([ino])
        try {
          const { attributes, lease } = await core.persist({ $case: 'commit', value }, 'attributesAndLease')
          core.learn(attributes, lease, under)
        } finally {
          end()
        }
      },
      learnLayout: (inode) => fileReader.learn(inode, 0n),
      syncChunks: (chunkIds) => core.data.writer.sync(chunkIds),
      isOver: () => core.session.state === 'ended',
    })
    const inodeOperations = new InodeOperations(core)
    const namespace = new Namespace(core)
    const fileLocks = new FileLocks(core, { lostOf: (ino) => handles.loseLocks(new Set([ino])) })
    const fileIo = new FileIo({ core, handles, budget, flusher, fileReader, inodeOperations })
    const fileChanges = new FileChanges({ core, handles, budget, flusher, fileReader, fileIo, inodeOperations })
    this.#core = core
    this.figures = () => ({
      dirtyBytes: budget.taken,
      cacheBytes: cache.bytes,
      leases: leases.count,
      masterAway: core.isMasterAway(),
    })
    this.#flusher = flusher
    this.#inodeOperations = inodeOperations
    this.#namespace = namespace
    this.#fileLocks = fileLocks
    this.#fileIo = fileIo
    this.#fileChanges = fileChanges
    this.#openFiles = new OpenFiles({ core, handles, flusher, fileChanges, fileLocks, inodeOperations, namespace })
    this.#directories = new Directories(core, this.#lostChanges)
    this.#statistics = new Statistics({
      clock,
      ask: async (signal) => {
        const reply = await core.call({ $case: 'statfs', value: {} }, 'statfs', signal)
        this.#room.known(reply.bytesFree)
        return reply
      },
      isAway: () => core.isMasterAway(),
      changes: () => core.statisticsChanges,
    })
  }

  /** What the session asks of and tells to this file system. */
  readonly hooks: SessionHooks = {
    holdings: () => ({
      openFiles: this.#openFiles.holdings(),
      leases: this.#core.leases.holdings(),
      locks: this.#fileLocks.held.all(),
    }),
    granted: (lease) => this.#core.leases.granted(lease),
    echoed: (sentMs) => {
      this.#core.leases.echoed(sentMs)
      this.#core.inBackground(this.#core.run(undefined, async (signal) => void (await this.#statistics.look(signal))))
    },
    pushed: (push) => this.#pushed(push),
    resumed: () => this.#core.leases.resumed(),
    lost: () => this.#lost(),
    renewed: () => this.#openFiles.reopen(),
  }

  /** Before the first operation. */
  start(path: DataPath): void {
    this.#core.start(path)
    this.#core.inBackground(this.#core.run(undefined, (signal) => this.#lookAround(signal)))
  }

  /** So that there is something to tell if the master goes away before anybody asks. */
  async #lookAround(signal: AbortSignal): Promise<void> {
    await this.#statistics.look(signal)
    await this.#inodeOperations.lookAtRoot(signal)
  }

  get root(): Ino {
    return this.#core.root
  }

  lookup(context: Context, parent: Ino, name: Buffer): Promise<Entry> {
    return this.#namespace.lookup(context, parent, name)
  }

  forget(ino: Ino): void {
    this.#inodeOperations.forgotten(ino)
  }

  getattr(context: Context, ino: Ino): Promise<Entry> {
    return this.#inodeOperations.getattr(context, ino)
  }

  setattr(context: Context, ino: Ino, changes: SetattrChanges, handle?: Handle): Promise<Entry> {
    return this.#fileChanges.setattr(context, ino, changes, handle)
  }

  readlink(context: Context, ino: Ino): Promise<Buffer> {
    return this.#inodeOperations.readlink(context, ino)
  }

  mknod(context: Context, parent: Ino, name: Buffer, mode: number, rdev: number): Promise<Entry> {
    return this.#namespace.mknod(context, parent, name, mode, rdev)
  }

  mkdir(context: Context, parent: Ino, name: Buffer, mode: number): Promise<Entry> {
    return this.#namespace.mkdir(context, parent, name, mode)
  }

  symlink(context: Context, parent: Ino, name: Buffer, target: Buffer): Promise<Entry> {
    return this.#namespace.symlink(context, parent, name, target)
  }

  link(context: Context, ino: Ino, parent: Ino, name: Buffer): Promise<Entry> {
    return this.#namespace.link(context, ino, parent, name)
  }

  unlink(context: Context, parent: Ino, name: Buffer): Promise<void> {
    return this.#namespace.unlink(context, parent, name)
  }

  rmdir(context: Context, parent: Ino, name: Buffer): Promise<void> {
    return this.#namespace.rmdir(context, parent, name)
  }

  rename(context: Context, source: Place, target: Place, flags: number): Promise<void> {
    return this.#namespace.rename(context, source, target, flags)
  }

  open(context: Context, ino: Ino, flags: number): Promise<Opened> {
    return this.#openFiles.open(context, ino, flags)
  }

  create(
    context: Context,
    parent: Ino,
    name: Buffer,
    mode: number,
    flags: number,
  ): Promise<{ entry: Entry; opened: Opened }> {
    return this.#openFiles.create(context, { parent, name }, mode, flags)
  }

  read(context: Context, handle: Handle, offset: bigint, length: number): Promise<Buffer> {
    return this.#counted('read', length, this.#fileIo.read(context, handle, offset, length))
  }

  write(context: Context, handle: Handle, offset: bigint, data: Buffer, options: WriteOptions): Promise<void> {
    return this.#counted('write', data.length, this.#fileIo.write(context, handle, offset, data, options))
  }

  /** For whoever looks at the cluster: how much is read and written here, and how long it takes. */
  async #counted<T>(kind: 'read' | 'write', bytes: number, operation: Promise<T>): Promise<T> {
    const { clock, session } = this.#core
    const startMs = clock.nowMs()
    const result = await operation
    session.activity.add(kind, Buffer.isBuffer(result) ? result.length : bytes, clock.nowMs() - startMs)
    return result
  }

  tmpfile(context: Context, parent: Ino, mode: number, flags: number): Promise<{ entry: Entry; opened: Opened }> {
    return this.#openFiles.tmpfile(context, parent, mode, flags)
  }

  flush(_context: Context, handle: Handle, lockOwner: bigint): Promise<void> {
    return this.#openFiles.flush(handle, lockOwner)
  }

  release(handle: Handle, flockOwner?: bigint): Promise<void> {
    return this.#openFiles.release(handle, flockOwner)
  }

  fsync(context: Context, handle: Handle): Promise<void> {
    return this.#fileIo.fsync(context, handle)
  }

  readdir(
    context: Context,
    directory: Ino,
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<boolean> {
    return this.#directories.readdir(context, directory, cookie, options, accept)
  }

  fsyncdir(context: Context, directory: Ino): Promise<void> {
    return this.#directories.fsyncdir(context, directory)
  }

  syncfs(context: Context): Promise<void> {
    const all = (): Promise<unknown> => Promise.all([this.#fileIo.syncAll(), this.#core.accessTimes.flush()])
    const { anywhere } = this.#lostChanges
    const errors = anywhere.cursor()
    return this.#core.run(context, async (signal) => {
      await orAborted(all(), signal)
      anywhere.check(errors)
    })
  }

  statfs(context: Context): Promise<FileSystemStatistics> {
    return this.#core.run(context, async (signal) => {
      const { bytesTotal, bytesFree, inodesUsed } = await this.#statistics.tell(signal)
      return { bytesTotal, bytesFree, inodesUsed, inodesFree: inodesFreeShown, nameBytesMax, blockBytes }
    })
  }

  getxattr(context: Context, ino: Ino, name: Buffer): Promise<Buffer> {
    return this.#inodeOperations.getxattr(context, ino, name)
  }

  setxattr(
    context: Context,
    ino: Ino,
    name: Buffer,
    value: Buffer,
    options: { flags: number; killSgid: boolean },
  ): Promise<void> {
    return this.#inodeOperations.setxattr(context, ino, name, value, options)
  }

  listxattr(context: Context, ino: Ino): Promise<Buffer[]> {
    return this.#inodeOperations.listxattr(context, ino)
  }

  removexattr(context: Context, ino: Ino, name: Buffer): Promise<void> {
    return this.#inodeOperations.removexattr(context, ino, name)
  }

  fallocate(context: Context, handle: Handle, mode: number, offset: bigint, length: bigint): Promise<void> {
    return this.#fileChanges.fallocate(context, handle, mode, offset, length)
  }

  lseek(context: Context, handle: Handle, offset: bigint, whence: number): Promise<bigint> {
    return this.#fileChanges.lseek(context, handle, offset, whence)
  }

  copyFileRange(
    context: Context,
    source: { handle: Handle; offset: bigint },
    target: { handle: Handle; offset: bigint },
    length: bigint,
  ): Promise<bigint> {
    return this.#fileChanges.copyFileRange(context, source, target, length)
  }

  getlk(context: Context, ino: Ino, request: LockRequest): Promise<FileLock> {
    return this.#fileLocks.getlk(context, ino, request)
  }

  setlk(context: Context, ino: Ino, request: LockRequest, options: { wait: boolean }): Promise<void> {
    return this.#fileLocks.setlk(context, ino, request, options)
  }

  onInvalidate(receiver: Invalidations): void {
    this.#core.frontEnd.attach(receiver)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** A lease is being given back: everything that it covers is committed. What was cached goes with the lease. */
  async #reduce(ino: Ino): Promise<void> {
    const inode = this.#core.inodes.get(ino)
    if (inode === undefined) return
    await this.#flusher.flush(inode, { sync: false })
    inode.tail = undefined
  }

  /** Never silent: who has such a file open is told, or opens it next if it lost content; and everybody can read which files it was. */
  #journalFailed(all: readonly JournalFailure[]): void {
    const { inodes, log } = this.#core
    const failures = all.filter(({ entry }) => isReliedOn(entry))
    for (const { entry } of failures) {
      this.#lostChanges.record(entry)
      for (const ino of entry.inos) {
        const isContent = changesContent(entry)
        if (inodes.get(ino) === undefined && !isContent) continue
        const inode = inodes.use(ino)
        if (isContent || inode.handles > 0 || inode.opening > 0) inode.errors.record('EIO')
        inode.dropLayout()
        inodes.release(inode)
      }
    }
    for (const { entry, cause } of failures.slice(0, failuresLoggedMax)) {
      log.error('a change that was answered is lost', { change: describeEntry(entry), cause })
    }
    const more = failures.length - failuresLoggedMax
    if (more > 0) log.error('more changes that were answered are lost', { count: more })
  }

  #pushed(push: NonNullable<Push['push']>): void {
    switch (push.$case) {
      case 'recall':
        this.#core.leases.recalled(push.value)
        return
      case 'sealChunk':
        this.#core.data.writer.sealRequested(push.value as Parameters<ChunkWriter['sealRequested']>[0])
        return
      case 'servers':
        // Addresses are learned with the chunks that are there.
        return
    }
  }

  /**
   * The master has ended the session. What was buffered cannot be committed any more: others may have written since. True: something was
   * buffered or locked, or a change that is missed was in the journal.
   */
  #lost(): boolean {
    const { leases, inodes, frontEnd, journal, log } = this.#core
    const isJournaled = journal.isReliedOn
    for (const [ino, cached] of leases.cachedOfAll()) {
      frontEnd.withdrawLost(ino, cached, { data: (inodes.get(ino)?.handles ?? 0) > 0 })
    }
    journal.lost(new PosixError('ESTALE', 'the session has ended'))
    leases.lost()
    const lostInos: Ino[] = []
    for (const inode of inodes.all()) {
      if (inode.buffered) {
        lostInos.push(inode.ino)
        inode.errors.record('EIO')
        this.#flusher.discard(inode)
      }
      inode.dropCached()
      if (inode.opened === 'yes') inode.opened = 'no'
      inodes.forgetIdle(inode)
    }
    const lockedInos = this.#fileLocks.lost()
    this.#handles.loseLocks(new Set(lockedInos))
    if (lostInos.length > 0 || lockedInos.length > 0) {
      log.error('written data and locks were lost with the session', {
        lostInodes: lostInos.map(Number),
        lockedInodes: lockedInos.map(Number),
      })
    }
    // What is committed and not synced stays to be synced: the master seals what this session had open, but not before anybody may ask.
    this.#core.data.writer.sessionEnded()
    return isJournaled || lostInos.length > 0 || lockedInos.length > 0
  }

  async #close(): Promise<void> {
    const { clock, log, session, inodes, journal, guard, data } = this.#core
    let giveUp = (): void => {}
    const late = new Promise<never>((_resolve, reject) => {
      giveUp = () => reject(new Error('not everything could be stored in time'))
    })
    const timer = clock.after(closeMsMax, () => giveUp())
    const isAway = session.state !== 'open'
    const isBuffered = !journal.isEmpty || [...inodes.all()].some(({ buffered }) => buffered)
    try {
      if (isBuffered || !isAway) await Promise.race([this.#finish(), late])
    } catch (caught) {
      log.error('the file system was closed and some data is lost', { cause: caught })
    }
    timer.cancel()
    this.#flusher.stop()
    guard.stop()
    await session.close({ deadlineMs: 5_000 })
    data.connections.close()
  }

  async #finish(): Promise<void> {
    await this.#fileIo.syncAll()
    await this.#core.accessTimes.flush()
    await Promise.all(this.#core.background)
    await this.#core.journal.settled(this.#core.journal.last)
    await this.#core.data.writer.close()
  }
}
