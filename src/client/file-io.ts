/** Reading, writing and making durable what one handle has open. */
import { PosixError } from '../domain/errors.ts'
import { checkMutable } from '../domain/inode-flags.ts'
import { fileBytesMax } from '../domain/limits.ts'
import { S_ISGID, S_ISUID } from '../domain/mode.ts'
import { compareTimespec } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import { LeaseMode } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ByteBudget } from './byte-budget.ts'
import type { ClientCore } from './client-core.ts'
import type { FileReader } from './file-reader.ts'
import type { Context, Handle, WriteOptions } from './file-system.ts'
import type { Flusher } from './flusher.ts'
import { checkLocks } from './handles.ts'
import type { FileHandle, Handles } from './handles.ts'
import type { Inode } from './inode.ts'
import { setattrRequest } from './inode-operations.ts'
import type { InodeOperations } from './inode-operations.ts'
import type { Pin } from './leases.ts'
import { openFlag } from './open-flags.ts'
import { orAborted } from './waiting.ts'

/** Clocks of two mounts that differ by less than this must not make mtime go back. */
const skewNanosMax = 1_000_000_000n

export interface FileIoOptions {
  core: ClientCore
  handles: Handles
  budget: ByteBudget
  flusher: Flusher
  fileReader: FileReader
  inodeOperations: InodeOperations
}

export class FileIo {
  readonly #core: ClientCore
  readonly #handles: Handles
  readonly #budget: ByteBudget
  readonly #flusher: Flusher
  readonly #fileReader: FileReader
  readonly #inodeOperations: InodeOperations

  constructor({ core, handles, budget, flusher, fileReader, inodeOperations }: FileIoOptions) {
    this.#core = core
    this.#handles = handles
    this.#budget = budget
    this.#flusher = flusher
    this.#fileReader = fileReader
    this.#inodeOperations = inodeOperations
  }

  read(context: Context, handle: Handle, offset: bigint, length: number): Promise<Buffer> {
    return this.#core.run(context, async (signal) => {
      const file = this.#handles.file(handle)
      const { inode, flags, readAhead } = file
      inode.users++
      try {
        if (!inode.lock.tryShared()) await inode.lock.shared(signal)
        try {
          const data = await this.#fileReader.read(inode, { offset, length }, readAhead, signal)
          checkLocks(file)
          return data
        } finally {
          inode.lock.releaseShared()
          if ((flags & openFlag.NOATIME) === 0) this.#core.wasRead(inode.ino)
        }
      } finally {
        this.#core.inodes.release(inode)
      }
    })
  }

  write(context: Context, handle: Handle, offset: bigint, data: Buffer, options: WriteOptions): Promise<void> {
    const found = this.#handles.find(handle)
    if (found !== undefined && this.#writeNow(found, offset, data, options)) return Promise.resolve()
    return this.#core.run(context, async (signal) => {
      const file = this.#handles.file(handle)
      const { inode, errors } = file
      inode.errors.check(errors)
      if (data.length === 0) return
      inode.users++
      try {
        await this.#write(file, offset, data, { context, signal, ...options })
        await this.#writeThrough(file, options, signal)
      } finally {
        this.#core.inodes.release(inode)
      }
    })
  }

  fsync(context: Context, handle: Handle): Promise<void> {
    return this.#core.run(context, (signal) => this.#fsync(this.#handles.file(handle), signal))
  }

  /** Everything that is buffered is on disk, or EIO. */
  async syncAll(): Promise<void> {
    const inodes = [...this.#core.inodes.all()].filter((inode) => inode.buffered || inode.unsynced.size > 0)
    for (const inode of inodes) inode.users++
    try {
      await Promise.all(inodes.map((inode) => this.#flusher.flush(inode, { sync: true })))
      await this.#core.journal.settled(this.#core.journal.last)
      if (inodes.some(({ errors }) => errors.untold)) throw new PosixError('EIO', 'some data could not be stored')
    } finally {
      for (const inode of inodes) this.#core.inodes.release(inode)
    }
  }

  /** A pin on the write lease, with known attributes. */
  async pinForWriting(inode: Inode, signal: AbortSignal): Promise<Pin> {
    const { leases, session } = this.#core
    for (;;) {
      const pin = await leases.acquire(inode.ino, 'write', () => this.#acquireWrite(inode, signal), signal)
      if (pin === undefined) continue
      try {
        if (inode.attributes === undefined) await this.#acquireWrite(inode, signal)
        if (inode.attributes !== undefined && !pin.lost && session.isConfirmed()) return pin
      } catch (caught) {
        pin.release()
        throw caught
      }
      pin.release()
    }
  }

  /** The same as `#write` where nothing has to be waited for and nothing is special. False: nothing was done. */
  #writeNow(
    { inode, flags, errors, locksLost }: FileHandle,
    offset: bigint,
    data: Buffer,
    { killPrivileges, append, sync }: WriteOptions,
  ): boolean {
    if ((flags & openFlag.ACCMODE) === openFlag.RDONLY || sync === true || !this.#core.caching.writeBehind) return false
    if (data.length === 0 || inode.stale || locksLost || inode.errors.isNews(errors)) return false
    if (!this.#core.leases.usable(inode.ino, 'write') || inode.attributes === undefined) return false
    if (inode.attributes.flags !== 0) return false
    if (killPrivileges && (inode.attributes.mode & (S_ISUID | S_ISGID)) !== 0) return false
    const at = append === true ? inode.size : offset
    if (at + BigInt(data.length) > fileBytesMax || !inode.lock.tryShared()) return false
    inode.lock.releaseShared()
    if (!this.#budget.tryTake(data.length)) return false
    const left = data.length - this.#put(inode, at, data)
    if (left > 0) this.#budget.give(left)
    this.#core.leases.touch(inode.ino)
    this.#flusher.written(inode)
    return true
  }

  async #write(
    file: FileHandle,
    offset: bigint,
    data: Buffer,
    { context, signal, killPrivileges, append }: WriteOptions & { context: Context; signal: AbortSignal },
  ): Promise<void> {
    const { inode, flags } = file
    if ((flags & openFlag.ACCMODE) === openFlag.RDONLY) throw new PosixError('EBADF')
    if (!this.#budget.tryTake(data.length)) {
      this.#flusher.relieve()
      await this.#budget.take(data.length, signal)
    }
    let taken = data.length
    try {
      if (!inode.lock.tryShared()) await inode.lock.shared(signal)
      try {
        const pin = await this.pinForWriting(inode, signal)
        try {
          checkMutable(inode.attributes!)
          const kill = killPrivileges && (inode.attributes!.mode & (S_ISUID | S_ISGID)) !== 0
          if (kill) {
            await this.#inodeOperations.change(setattrRequest(context, inode.ino, { killPrivileges: true }), signal)
          }
          if (!this.#core.session.isConfirmed() || pin.lost)
            throw new PosixError('EIO', 'the session was lost during a write')
          checkLocks(file)
          taken -= this.#put(inode, append === true ? inode.size : offset, data)
        } finally {
          pin.release()
        }
      } finally {
        inode.lock.releaseShared()
      }
    } finally {
      if (taken > 0) this.#budget.give(taken)
    }
    this.#flusher.written(inode)
  }

  /** Adds bytes to what is buffered; gives how many of those that were taken from the budget are used. */
  #put(inode: Inode, offset: bigint, data: Buffer): number {
    const end = offset + BigInt(data.length)
    if (end > fileBytesMax) throw new PosixError('EFBIG')
    const { size, tail } = inode
    if (tail !== undefined) {
      // The last block is written again as a whole, so that a file that grows by little has one extent per block.
      inode.tail = undefined
      if (offset === size && tail.offset + BigInt(tail.data.length) === size) {
        this.#budget.force(inode.dirty.write(tail.offset, tail.data))
        if (tail.synced) inode.replacesSynced = true
      }
    }
    const added = inode.dirty.write(offset, data)
    inode.localSize = end > size ? end : size
    const time = nextTime(this.#core.clock.wallTime(), inode.localTimes?.mtime ?? inode.attributes!.mtime)
    inode.localTimes = { mtime: time, ctime: time }
    return added
  }

  /** What may not stay here is brought to where it belongs, and whoever wrote it is told if that fails. */
  async #writeThrough(file: FileHandle, { sync }: WriteOptions, signal: AbortSignal): Promise<void> {
    const { leases, writeBehind } = this.#core.caching
    if (sync === true || !writeBehind) return this.#fsync(file, signal)
    if (leases) return
    const { inode, errors } = file
    await orAborted(this.#flusher.flush(inode, { sync: false }), signal)
    inode.errors.check(errors)
  }

  async #acquireWrite(inode: Inode, signal: AbortSignal): Promise<Lease | undefined> {
    const value = { ino: inode.ino, mode: LeaseMode.LEASE_MODE_WRITE }
    const { attributes, lease } = await this.#core.call({ $case: 'acquireLease', value }, 'attributesAndLease', signal)
    this.#core.learn(attributes, lease)
    return lease
  }

  async #fsync({ inode, errors }: FileHandle, signal: AbortSignal): Promise<void> {
    inode.users++
    try {
      await orAborted(this.#flusher.flush(inode, { sync: true }), signal)
      // With its name, and all that was done before.
      await orAborted(this.#core.settled(inode.ino), signal)
    } finally {
      this.#core.inodes.release(inode)
    }
    inode.errors.check(errors)
  }
}

/** The time of a write: now, but later than the write before it as long as that is not far in the future. */
const nextTime = (now: Timespec, before: Timespec): Timespec => {
  if (compareTimespec(now, before) > 0) return now
  const aheadNanos = (before.seconds - now.seconds) * 1_000_000_000n + BigInt(before.nanos - now.nanos)
  if (aheadNanos > skewNanosMax) return now
  const nanos = before.nanos + 1
  return nanos < 1_000_000_000 ? { seconds: before.seconds, nanos } : { seconds: before.seconds + 1n, nanos: 0 }
}
