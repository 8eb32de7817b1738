/**
 * A FileSystem in memory, for tests of the mount and as the empty server of its benchmark: whatever is slow or wrong on it is the
 * mount's own doing.
 *
 * It has: all inode types, hard links, unlinked-open files, both rename flags, xattrs, sparse data, fallocate (allocate, punch,
 * zero, keep-size), SEEK_HOLE/DATA, copy_file_range, POSIX and flock locks with blocking waits and deadlock detection, reference
 * counts of the kernel. Limits: holes are whole pieces of 64 KiB; nothing is durable; no ACLs; no permission checks; setgid
 * directories are honoured, quotas are not.
 */
import type {
  Attributes,
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
} from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import { asIno, rootIno } from '../../src/domain/ids.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { fileBytesMax, linksMax, nameBytesMax } from '../../src/domain/limits.ts'
import {
  fileType,
  isDirectory,
  isRegular,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  S_IXGRP,
} from '../../src/domain/mode.ts'
import type { Timespec } from '../../src/domain/time.ts'
import { realClock } from '../../src/platform/clock.ts'

const pieceBytes = 64 * 1024
const bytesTotal = 1n << 40n
const inodesMax = 1n << 32n
const copyBytesMax = 1n << 26n
const allocateBytesMax = 1n << 28n
const openFlag = { EXCL: 0o200, TRUNC: 0o1000, APPEND: 0o2000 } as const
const falloc = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const

interface Child {
  ino: Ino
  name: Buffer
  cookie: bigint
}

interface Inode {
  attributes: Attributes
  /** References of the kernel. */
  lookups: bigint
  opens: number
  xattrs: Map<string, { name: Buffer; value: Buffer }>
  pieces: Map<number, Buffer>
  target: Buffer
  /** By name as latin1; in the order of the cookies. */
  children: Map<string, Child>
  cookieNext: bigint
  parent: Ino
  locks: { owner: bigint; kind: 'posix' | 'flock'; lock: FileLock }[]
  waiters: Set<() => void>
}

interface Open {
  inode: Inode
  flags: number
}

const nameKey = (name: Buffer): string => name.toString('latin1')
const overlaps = (a: FileLock, b: FileLock): boolean => a.start <= b.end && b.start <= a.end

const now = (): Timespec => realClock.wallTime()
const checkName = (name: Buffer): void => {
  if (name.length > nameBytesMax) throw new PosixError('ENAMETOOLONG')
}

export interface MemoryFileSystem extends FileSystem {
  /** What tests want to see: nothing is left over when all is closed and forgotten. */
  counts(): { inodes: number; opens: number; references: bigint }
  readonly invalidations: Invalidations | undefined
  /** The next call of an operation with this name throws this. */
  failNext(operation: string, error: unknown): void
}

export const memoryFileSystem = ({
  /** How long the kernel may believe what it is told; for ever is only right for who sends invalidations. */
  validityMs = 0,
}: { validityMs?: number } = {}): MemoryFileSystem => {
  const inodes = new Map<Ino, Inode>()
  const opens = new Map<Handle, Open>()
  const failures = new Map<string, unknown>()
  const waitsFor = new Map<bigint, Set<bigint>>()
  let inoNext = 2n
  let handleNext = 1n
  let invalidations: Invalidations | undefined
  let changeNext = 1n

  const makeInode = (
    context: Pick<Context, 'uid' | 'gid'>,
    mode: number,
    parent: Inode | undefined,
    rdev = 0,
  ): Inode => {
    const time = now()
    const setgid = parent !== undefined && (parent.attributes.mode & S_ISGID) !== 0
    const inode: Inode = {
      attributes: {
        ino: parent === undefined ? rootIno : asIno(inoNext++),
        mode: setgid && isDirectory(mode) ? mode | S_ISGID : mode,
        nlink: isDirectory(mode) ? 2 : 1,
        uid: context.uid,
        gid: setgid ? parent.attributes.gid : context.gid,
        rdev,
        size: 0n,
        allocated: 0n,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        flags: 0,
        copies: 1,
        change: changeNext++,
      },
      lookups: 0n,
      opens: 0,
      xattrs: new Map(),
      pieces: new Map(),
      target: Buffer.alloc(0),
      children: new Map(),
      cookieNext: 3n,
      parent: parent?.attributes.ino ?? rootIno,
      locks: [],
      waiters: new Set(),
    }
    inodes.set(inode.attributes.ino, inode)
    return inode
  }

  const root = makeInode({ uid: 0, gid: 0 }, S_IFDIR | 0o755, undefined)

  const inodeOf = (ino: Ino): Inode => {
    const inode = inodes.get(ino)
    if (inode === undefined) throw new PosixError('ESTALE')
    return inode
  }
  const openOf = (handle: Handle): Open => {
    const open = opens.get(handle)
    if (open === undefined) throw new PosixError('EBADF')
    return open
  }
  const directoryOf = (ino: Ino): Inode => {
    const inode = inodeOf(ino)
    if (!isDirectory(inode.attributes.mode)) throw new PosixError('ENOTDIR')
    return inode
  }

  const dropIfUnused = (inode: Inode): void => {
    const { nlink, ino } = inode.attributes
    if (nlink === 0 && inode.lookups === 0n && inode.opens === 0 && inode !== root) inodes.delete(ino)
  }

  const entryOf = (inode: Inode): Entry => ({
    attributes: { ...inode.attributes, allocated: BigInt(inode.pieces.size) * BigInt(pieceBytes) },
    validity: { entryMs: validityMs, attributesMs: validityMs },
  })
  const counted = (inode: Inode): Entry => {
    inode.lookups++
    return entryOf(inode)
  }
  const touch = (inode: Inode, data: boolean): void => {
    const time = now()
    if (data) inode.attributes.mtime = time
    inode.attributes.ctime = time
    inode.attributes.change = changeNext++
  }
  const openInode = (inode: Inode, flags: number): Opened => {
    inode.opens++
    const handle = handleNext++
    opens.set(handle, { inode, flags })
    return { handle, keepCache: false }
  }

  const childOf = (parent: Inode, name: Buffer): Child | undefined => parent.children.get(nameKey(name))
  const addChild = (parent: Inode, name: Buffer, inode: Inode): void => {
    parent.children.set(nameKey(name), { ino: inode.attributes.ino, name, cookie: parent.cookieNext++ })
    if (isDirectory(inode.attributes.mode)) {
      parent.attributes.nlink++
      inode.parent = parent.attributes.ino
    }
    touch(parent, true)
  }
  const removeChild = (parent: Inode, name: Buffer, inode: Inode): void => {
    parent.children.delete(nameKey(name))
    if (isDirectory(inode.attributes.mode)) parent.attributes.nlink--
    touch(parent, true)
  }
  const addNew = (context: Context, parentIno: Ino, name: Buffer, mode: number, rdev = 0): Inode => {
    const parent = directoryOf(parentIno)
    checkName(name)
    if (childOf(parent, name)) throw new PosixError('EEXIST')
    if (parent.attributes.nlink === 0) throw new PosixError('ENOENT')
    const umask = fileType(mode) === S_IFLNK ? 0 : context.umask
    const inode = makeInode(context, mode & ~umask, parent, rdev)
    addChild(parent, name, inode)
    return inode
  }

  const zero = (inode: Inode, start: number, end: number): void => {
    for (const [index, piece] of inode.pieces) {
      const from = Math.max(start - index * pieceBytes, 0)
      const to = Math.min(end - index * pieceBytes, pieceBytes)
      if (from === 0 && to === pieceBytes) inode.pieces.delete(index)
      else if (from < to) piece.fill(0, from, to)
    }
  }
  const setSize = (inode: Inode, size: bigint): void => {
    if (size > fileBytesMax) throw new PosixError('EFBIG')
    const old = Number(inode.attributes.size)
    const end = Number(size)
    if (end < old) {
      zero(inode, end, (Math.ceil(old / pieceBytes) + 1) * pieceBytes)
    }
    inode.attributes.size = size
  }
  const readBytes = (inode: Inode, offset: bigint, length: number): Buffer => {
    const left = inode.attributes.size - offset
    if (left <= 0n) return Buffer.alloc(0)
    const count = left < BigInt(length) ? Number(left) : length
    const data = Buffer.allocUnsafe(count)
    const start = Number(offset)
    for (let done = 0; done < count;) {
      const index = Math.floor((start + done) / pieceBytes)
      const within = (start + done) % pieceBytes
      const part = Math.min(pieceBytes - within, count - done)
      const piece = inode.pieces.get(index)
      if (piece) piece.copy(data, done, within, within + part)
      else data.fill(0, done, done + part)
      done += part
    }
    return data
  }
  const writeBytes = (inode: Inode, offset: bigint, data: Buffer): void => {
    const start = Number(offset)
    for (let done = 0; done < data.length;) {
      const index = Math.floor((start + done) / pieceBytes)
      const within = (start + done) % pieceBytes
      const part = Math.min(pieceBytes - within, data.length - done)
      let piece = inode.pieces.get(index)
      if (piece === undefined) {
        piece = part === pieceBytes ? Buffer.allocUnsafeSlow(pieceBytes) : Buffer.alloc(pieceBytes)
        inode.pieces.set(index, piece)
      }
      data.copy(piece, within, done, done + part)
      done += part
    }
    const end = offset + BigInt(data.length)
    if (end > inode.attributes.size) inode.attributes.size = end
  }
  const killPrivileges = (inode: Inode): void => {
    inode.attributes.mode &= ~S_ISUID
    if (inode.attributes.mode & S_IXGRP) inode.attributes.mode &= ~S_ISGID
  }

  const conflicting = (inode: Inode, { owner, kind, lock }: LockRequest): Inode['locks'][number] | undefined =>
    inode.locks.find(
      (held) =>
        held.kind === kind &&
        held.owner !== owner &&
        overlaps(held.lock, lock) &&
        (held.lock.type === 'write' || lock.type === 'write'),
    )
  /** Cuts the range out of what the owner holds, and then adds the lock unless it is an unlock. */
  const applyLock = (inode: Inode, { owner, kind, lock }: LockRequest): void => {
    const kept: Inode['locks'] = []
    for (const held of inode.locks) {
      if (held.owner !== owner || held.kind !== kind || !overlaps(held.lock, lock)) {
        kept.push(held)
        continue
      }
      if (held.lock.start < lock.start) kept.push({ ...held, lock: { ...held.lock, end: lock.start - 1n } })
      if (held.lock.end > lock.end) kept.push({ ...held, lock: { ...held.lock, start: lock.end + 1n } })
    }
    if (lock.type !== 'unlock') kept.push({ owner, kind, lock })
    inode.locks = kept
    const waiters = [...inode.waiters]
    inode.waiters.clear()
    for (const wake of waiters) wake()
  }
  const dropLocks = (inode: Inode, owner: bigint, kind: 'posix' | 'flock'): void => {
    if (inode.locks.length === 0) return
    applyLock(inode, { owner, kind, lock: { type: 'unlock', start: 0n, end: fileBytesMax, pid: 0 } })
  }
  const waitsInCircle = (from: bigint, to: bigint, seen = new Set<bigint>()): boolean => {
    if (from === to) return true
    if (seen.has(from)) return false
    seen.add(from)
    return [...(waitsFor.get(from) ?? [])].some((next) => waitsInCircle(next, to, seen))
  }
  const woken = (inode: Inode, signal: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      if (signal.aborted) return reject(new PosixError('EINTR'))
      const wake = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      const onAbort = (): void => {
        inode.waiters.delete(wake)
        reject(new PosixError('EINTR'))
      }
      inode.waiters.add(wake)
      signal.addEventListener('abort', onAbort, { once: true })
    })

  const isWithin = (inode: Inode, ancestor: Inode): boolean => {
    for (let at = inode; ; at = inodeOf(at.parent)) {
      if (at === ancestor) return true
      if (at === root) return false
    }
  }

  const checkFailure = (operation: string): void => {
    if (failures.size === 0 || !failures.has(operation)) return
    const failure = failures.get(operation)
    failures.delete(operation)
    throw failure as Error
  }

  const fs: MemoryFileSystem = {
    root: rootIno,

    lookup: async (_context, parent, name) => {
      checkFailure('lookup')
      checkName(name)
      const child = childOf(directoryOf(parent), name)
      if (child === undefined) throw new PosixError('ENOENT')
      return counted(inodeOf(child.ino))
    },
    forget: (ino, count) => {
      const inode = inodes.get(ino)
      if (inode === undefined || inode === root) return
      inode.lookups -= count
      if (inode.lookups < 0n) throw new Error(`inode ${ino} was forgotten more often than it was looked up`)
      dropIfUnused(inode)
    },
    getattr: async (_context, ino) => {
      checkFailure('getattr')
      return entryOf(inodeOf(ino))
    },
    setattr: async (_context, ino, changes: SetattrChanges) => {
      const inode = inodeOf(ino)
      const { attributes } = inode
      if (changes.killPrivileges) killPrivileges(inode)
      if (changes.mode !== undefined) attributes.mode = fileType(attributes.mode) | (changes.mode & 0o7777)
      if (changes.uid !== undefined) attributes.uid = changes.uid
      if (changes.gid !== undefined) attributes.gid = changes.gid
      if (changes.size !== undefined) {
        setSize(inode, changes.size)
        touch(inode, true)
      }
      if (changes.atime !== undefined) attributes.atime = changes.atime === 'now' ? now() : changes.atime
      if (changes.mtime !== undefined) attributes.mtime = changes.mtime === 'now' ? now() : changes.mtime
      touch(inode, false)
      return entryOf(inode)
    },
    readlink: async (_context, ino) => inodeOf(ino).target,
    mknod: async (context, parent, name, mode, rdev) => counted(addNew(context, parent, name, mode, rdev)),
    mkdir: async (context, parent, name, mode) => counted(addNew(context, parent, name, S_IFDIR | (mode & 0o7777))),
    symlink: async (context, parent, name, target) => {
      const inode = addNew(context, parent, name, S_IFLNK | 0o777)
      inode.target = target
      inode.attributes.size = BigInt(target.length)
      return counted(inode)
    },
    link: async (_context, ino, parentIno, name) => {
      const inode = inodeOf(ino)
      const parent = directoryOf(parentIno)
      checkName(name)
      if (isDirectory(inode.attributes.mode)) throw new PosixError('EPERM')
      if (childOf(parent, name)) throw new PosixError('EEXIST')
      if (inode.attributes.nlink >= linksMax) throw new PosixError('EMLINK')
      addChild(parent, name, inode)
      inode.attributes.nlink++
      touch(inode, false)
      return counted(inode)
    },
    unlink: async (_context, parentIno, name) => {
      checkFailure('unlink')
      const parent = directoryOf(parentIno)
      const child = childOf(parent, name)
      if (child === undefined) throw new PosixError('ENOENT')
      const inode = inodeOf(child.ino)
      if (isDirectory(inode.attributes.mode)) throw new PosixError('EISDIR')
      removeChild(parent, name, inode)
      inode.attributes.nlink--
      touch(inode, false)
      dropIfUnused(inode)
    },
    rmdir: async (_context, parentIno, name) => {
      const parent = directoryOf(parentIno)
      const child = childOf(parent, name)
      if (child === undefined) throw new PosixError('ENOENT')
      const inode = directoryOf(child.ino)
      if (inode.children.size > 0) throw new PosixError('ENOTEMPTY')
      removeChild(parent, name, inode)
      inode.attributes.nlink = 0
      dropIfUnused(inode)
    },
    rename: async (_context, source, target, flags) => {
      const from = directoryOf(source.parent)
      const to = directoryOf(target.parent)
      checkName(target.name)
      const moved = childOf(from, source.name)
      if (moved === undefined) throw new PosixError('ENOENT')
      const inode = inodeOf(moved.ino)
      const replaced = childOf(to, target.name)
      const old = replaced && inodeOf(replaced.ino)
      if (old !== undefined && (flags & 1) !== 0) throw new PosixError('EEXIST')
      if (isDirectory(inode.attributes.mode) && isWithin(to, inode)) throw new PosixError('EINVAL')
      if ((flags & 2) !== 0) {
        if (old === undefined) throw new PosixError('ENOENT')
        if (isDirectory(old.attributes.mode) && isWithin(from, old)) throw new PosixError('EINVAL')
        removeChild(from, source.name, inode)
        removeChild(to, target.name, old)
        addChild(from, source.name, old)
        addChild(to, target.name, inode)
      } else {
        if (old === inode) return
        if (old !== undefined) {
          const oldIsDirectory = isDirectory(old.attributes.mode)
          if (oldIsDirectory && !isDirectory(inode.attributes.mode)) throw new PosixError('EISDIR')
          if (!oldIsDirectory && isDirectory(inode.attributes.mode)) throw new PosixError('ENOTDIR')
          if (old.children.size > 0) throw new PosixError('ENOTEMPTY')
          removeChild(to, target.name, old)
          old.attributes.nlink = oldIsDirectory ? 0 : old.attributes.nlink - 1
          touch(old, false)
          dropIfUnused(old)
        }
        removeChild(from, source.name, inode)
        addChild(to, target.name, inode)
      }
      touch(inode, false)
    },

    open: async (_context, ino, flags) => {
      const inode = inodeOf(ino)
      if (flags & openFlag.TRUNC && isRegular(inode.attributes.mode)) {
        setSize(inode, 0n)
        touch(inode, true)
      }
      return openInode(inode, flags)
    },
    create: async (context, parentIno, name, mode, flags) => {
      const parent = directoryOf(parentIno)
      checkName(name)
      const child = childOf(parent, name)
      if (child !== undefined) {
        if (flags & openFlag.EXCL) throw new PosixError('EEXIST')
        const inode = inodeOf(child.ino)
        if (flags & openFlag.TRUNC) setSize(inode, 0n)
        return { entry: counted(inode), opened: openInode(inode, flags) }
      }
      const inode = addNew(context, parentIno, name, S_IFREG | (mode & 0o7777))
      return { entry: counted(inode), opened: openInode(inode, flags) }
    },
    tmpfile: async (context, parentIno, mode, flags) => {
      const inode = makeInode(context, S_IFREG | (mode & 0o7777 & ~context.umask), directoryOf(parentIno), 0)
      inode.attributes.nlink = 0
      return { entry: counted(inode), opened: openInode(inode, flags) }
    },
    read: async (_context, handle, offset, length) => {
      checkFailure('read')
      const { inode } = openOf(handle)
      return readBytes(inode, offset, length)
    },
    write: async (_context, handle, offset, data, options) => {
      checkFailure('write')
      const { inode } = openOf(handle)
      const at = options.append === true ? inode.attributes.size : offset
      if (at + BigInt(data.length) > fileBytesMax) throw new PosixError('EFBIG')
      if (options.killPrivileges) killPrivileges(inode)
      writeBytes(inode, at, data)
      touch(inode, true)
    },
    flush: async (_context, handle, lockOwner) => {
      dropLocks(openOf(handle).inode, lockOwner, 'posix')
    },
    release: async (handle, flockOwner) => {
      const { inode } = openOf(handle)
      opens.delete(handle)
      if (flockOwner !== undefined) dropLocks(inode, flockOwner, 'flock')
      inode.opens--
      dropIfUnused(inode)
    },
    fsync: async () => {
      checkFailure('fsync')
    },

    readdir: async (_context, directory, cookie, options, accept) => {
      checkFailure('readdir')
      const inode = directoryOf(directory)
      const give = (name: Buffer, ino: Ino, type: number, at: bigint): boolean =>
        accept({ name, ino, type, cookie: at })
      if (cookie < 1n && !give(Buffer.from('.'), inode.attributes.ino, S_IFDIR, 1n)) return false
      if (cookie < 2n && !give(Buffer.from('..'), inode.parent, S_IFDIR, 2n)) return false
      for (const child of inode.children.values()) {
        if (child.cookie <= cookie) continue
        const found = inodeOf(child.ino)
        const entry: DirectoryEntry = {
          name: child.name,
          ino: child.ino,
          type: fileType(found.attributes.mode),
          cookie: child.cookie,
        }
        if (options.plus) entry.entry = entryOf(found)
        if (!accept(entry)) return false
        if (options.plus) found.lookups++
      }
      return false
    },
    fsyncdir: async () => undefined,
    syncfs: async () => undefined,
    statfs: async (): Promise<FileSystemStatistics> => {
      let pieces = 0
      for (const inode of inodes.values()) pieces += inode.pieces.size
      const used = BigInt(inodes.size)
      return {
        bytesTotal,
        bytesFree: bytesTotal - BigInt(pieces) * BigInt(pieceBytes),
        inodesUsed: used,
        inodesFree: inodesMax - used,
        nameBytesMax,
        blockBytes: 4096,
      }
    },

    getxattr: async (_context, ino, name) => {
      const found = inodeOf(ino).xattrs.get(nameKey(name))
      if (found === undefined) throw new PosixError('ENODATA')
      return found.value
    },
    setxattr: async (_context, ino, name, value, options) => {
      const inode = inodeOf(ino)
      const exists = inode.xattrs.has(nameKey(name))
      if (options.flags === 1 && exists) throw new PosixError('EEXIST')
      if (options.flags === 2 && !exists) throw new PosixError('ENODATA')
      inode.xattrs.set(nameKey(name), { name, value })
      touch(inode, false)
    },
    listxattr: async (_context, ino) => [...inodeOf(ino).xattrs.values()].map(({ name }) => name),
    removexattr: async (_context, ino, name) => {
      const inode = inodeOf(ino)
      if (!inode.xattrs.delete(nameKey(name))) throw new PosixError('ENODATA')
      touch(inode, false)
    },

    fallocate: async (_context, handle, mode, offset, length) => {
      const { inode } = openOf(handle)
      if ((mode & ~(falloc.KEEP_SIZE | falloc.PUNCH_HOLE | falloc.ZERO_RANGE)) !== 0) throw new PosixError('EOPNOTSUPP')
      const end = offset + length
      if (end > fileBytesMax) throw new PosixError('EFBIG')
      if ((mode & falloc.PUNCH_HOLE) === 0 && length > allocateBytesMax) throw new PosixError('ENOSPC')
      if (mode & (falloc.PUNCH_HOLE | falloc.ZERO_RANGE)) {
        const bound = end < inode.attributes.size ? end : inode.attributes.size
        zero(inode, Number(offset), Number(bound))
      }
      if ((mode & falloc.PUNCH_HOLE) === 0) {
        for (let index = Math.floor(Number(offset) / pieceBytes); index * pieceBytes < Number(end); index++) {
          if (!inode.pieces.has(index)) inode.pieces.set(index, Buffer.alloc(pieceBytes))
        }
      }
      if ((mode & falloc.KEEP_SIZE) === 0 && end > inode.attributes.size) inode.attributes.size = end
      touch(inode, true)
    },
    lseek: async (_context, handle, offset, whence) => {
      const { inode } = openOf(handle)
      const { size } = inode.attributes
      if (offset >= size || (whence !== 3 && whence !== 4))
        throw new PosixError(whence === 3 || whence === 4 ? 'ENXIO' : 'EINVAL')
      const start = Number(offset)
      const first = Math.floor(start / pieceBytes)
      if (inode.pieces.has(first) === (whence === 3)) return offset
      if (whence === 4) {
        let index = first
        while (inode.pieces.has(index)) index++
        const hole = BigInt(index) * BigInt(pieceBytes)
        return hole < size ? hole : size
      }
      const next = Math.min(...[...inode.pieces.keys()].filter((index) => index > first))
      if (next * pieceBytes < Number(size)) return BigInt(next * pieceBytes)
      throw new PosixError('ENXIO')
    },
    copyFileRange: async (_context, source, target, length) => {
      const from = openOf(source.handle).inode
      const to = openOf(target.handle).inode
      const left = from.attributes.size - source.offset
      if (left <= 0n) return 0n
      const most = left < length ? left : length
      const count = most < copyBytesMax ? most : copyBytesMax
      const step = 1n << 20n
      for (let done = 0n; done < count; done += step) {
        const part = count - done < step ? count - done : step
        writeBytes(to, target.offset + done, readBytes(from, source.offset + done, Number(part)))
      }
      touch(to, true)
      return count
    },

    getlk: async (_context, ino, request) =>
      conflicting(inodeOf(ino), request)?.lock ?? { ...request.lock, type: 'unlock' },
    setlk: async (context, ino, request, { wait }) => {
      const inode = inodeOf(ino)
      for (;;) {
        const inTheWay = request.lock.type === 'unlock' ? undefined : conflicting(inode, request)
        if (inTheWay === undefined) return applyLock(inode, request)
        if (!wait) throw new PosixError('EAGAIN')
        if (request.kind === 'posix' && waitsInCircle(inTheWay.owner, request.owner)) throw new PosixError('EDEADLK')
        const waiting = waitsFor.get(request.owner) ?? new Set()
        waitsFor.set(request.owner, waiting.add(inTheWay.owner))
        try {
          await woken(inode, context.signal)
        } finally {
          waitsFor.delete(request.owner)
        }
      }
    },

    onInvalidate: (receiver) => {
      invalidations = receiver
    },
    close: async () => undefined,

    counts: () => {
      let references = 0n
      for (const inode of inodes.values()) references += inode.lookups
      return { inodes: inodes.size, opens: opens.size, references }
    },
    get invalidations() {
      return invalidations
    },
    failNext: (operation, error) => {
      failures.set(operation, error)
    },
  }
  return fs
}
