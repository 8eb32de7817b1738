/**
 * The FUSE wire protocol, version 7.31 to 7.45: opcodes, flags and the layout of the structs. No semantics.
 *
 * A request is a header of 40 bytes, the operation's struct, and then names (each ends with NUL) or data. A reply is a header of
 * 16 bytes and the operation's struct or data. Numbers are in the byte order of the machine; all that run Shoal are little-endian.
 * Decoders take the whole request and are called only when it has the bytes of its struct (see `structBytes`).
 * Source: include/uapi/linux/fuse.h and fs/fuse/ of Linux.
 */
import type {
  Attributes,
  Entry,
  FileLock,
  FileSystemStatistics,
  LockType,
  SetattrChanges,
} from '../src/client/file-system.ts'
import type { Ino } from '../src/domain/ids.ts'
import type { Timespec } from '../src/domain/time.ts'

export const majorVersion = 7
/** The newest minor version that this file knows. */
export const minorVersion = 45
/** INIT with 16-bit max_pages (7.28) and the flags that coherence needs (7.30, 7.31): Linux 5.4. */
export const minorVersionMin = 31

export const inHeaderBytes = 40
export const outHeaderBytes = 16
const writeStructBytes = 40
/** The most bytes of data in one WRITE or READ: 256 pages, the kernel's own limit. */
export const transferBytesMax = 1024 * 1024
export const pagesMax = 256
/** Where the data of a WRITE starts in its request. */
export const writeDataOffset = inHeaderBytes + writeStructBytes
/** A read of the device fails when the largest request would not fit. A WRITE is the largest. */
export const requestBytesMax = transferBytesMax + 4096
/** The node id of the root, whatever its inode number is. */
export const rootNodeId = 1n

/** Every operation of the protocol. The notes say which are not served and what the kernel does about it. */
export const opcode = {
  LOOKUP: 1,
  /** No reply. */
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  /** Not served: directories are read without being opened. */
  OPENDIR: 27,
  READDIR: 28,
  /** Never sent, since OPENDIR is not served. */
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  /** Not sent: with default_permissions the kernel checks by itself. ENOSYS. */
  ACCESS: 34,
  CREATE: 35,
  /** Answered only by ending the request that it names. */
  INTERRUPT: 36,
  /** For swap files and lilo, on block devices only. ENOSYS. */
  BMAP: 37,
  DESTROY: 38,
  /** Flags of inodes (see flags-ioctl.ts); everything else is ENOTTY. */
  IOCTL: 39,
  /** ENOSYS: the kernel then says that a file is always ready, as on any file system. */
  POLL: 40,
  /** The answer to a NOTIFY_RETRIEVE, which we never send. No reply. */
  NOTIFY_REPLY: 41,
  /** No reply. */
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  /** DAX, virtiofs only. ENOSYS. */
  SETUPMAPPING: 48,
  /** DAX, virtiofs only. ENOSYS. */
  REMOVEMAPPING: 49,
  /** Kernels up to now send it on virtiofs only. */
  SYNCFS: 50,
  /** Like CREATE; what stands in the place of the name means nothing. */
  TMPFILE: 51,
  /** statx(2) that asks for the birth time. */
  STATX: 52,
  COPY_FILE_RANGE_64: 53,
} as const

const names = new Map<number, string>(Object.entries(opcode).map(([name, code]) => [code, name]))
export const opcodeName = (code: number): string => names.get(code) ?? `opcode ${code}`

/** Flags of INIT. Those from 2^32 on travel in flags2. */
export const initFlag = {
  ASYNC_READ: 1n << 0n,
  POSIX_LOCKS: 1n << 1n,
  ATOMIC_O_TRUNC: 1n << 3n,
  EXPORT_SUPPORT: 1n << 4n,
  BIG_WRITES: 1n << 5n,
  DONT_MASK: 1n << 6n,
  FLOCK_LOCKS: 1n << 10n,
  AUTO_INVAL_DATA: 1n << 12n,
  DO_READDIRPLUS: 1n << 13n,
  READDIRPLUS_AUTO: 1n << 14n,
  ASYNC_DIO: 1n << 15n,
  WRITEBACK_CACHE: 1n << 16n,
  PARALLEL_DIROPS: 1n << 18n,
  POSIX_ACL: 1n << 20n,
  ABORT_ERROR: 1n << 21n,
  MAX_PAGES: 1n << 22n,
  CACHE_SYMLINKS: 1n << 23n,
  EXPLICIT_INVAL_DATA: 1n << 25n,
  HANDLE_KILLPRIV_V2: 1n << 28n,
  SETXATTR_EXT: 1n << 29n,
  INIT_EXT: 1n << 30n,
  DIRECT_IO_ALLOW_MMAP: 1n << 36n,
} as const

export const openReplyFlag = { DIRECT_IO: 1 << 0, KEEP_CACHE: 1 << 1 } as const
export const openRequestFlag = { KILL_SUIDGID: 1 } as const
/** CACHE: written back from the page cache, where a mapping has put it; not a write(2) of anybody. */
export const writeFlag = { CACHE: 1 << 0, KILL_SUIDGID: 1 << 2 } as const
export const setxattrFlag = { ACL_KILL_SGID: 1 } as const
export const releaseFlag = { FLOCK_UNLOCK: 1 << 1 } as const
export const getattrFlag = { FH: 1 } as const
export const fsyncFlag = { FDATASYNC: 1 } as const
const lockFlag = { FLOCK: 1 } as const
const setattrValid = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const
const notifyCode = { INVAL_INODE: 2, INVAL_ENTRY: 3, INC_EPOCH: 8 } as const

/** Bytes of the struct after the header, for the operations that have one. A shorter request is malformed. */
export const structBytes: ReadonlyMap<number, number> = new Map<number, number>([
  [opcode.FORGET, 8],
  [opcode.GETATTR, 16],
  [opcode.SETATTR, 88],
  [opcode.MKNOD, 16],
  [opcode.MKDIR, 8],
  [opcode.RENAME, 8],
  [opcode.LINK, 8],
  [opcode.OPEN, 8],
  [opcode.READ, 40],
  [opcode.WRITE, writeStructBytes],
  [opcode.RELEASE, 24],
  [opcode.FSYNC, 16],
  [opcode.SETXATTR, 16],
  [opcode.GETXATTR, 8],
  [opcode.LISTXATTR, 8],
  [opcode.FLUSH, 24],
  [opcode.INIT, 16],
  [opcode.READDIR, 40],
  [opcode.FSYNCDIR, 16],
  [opcode.GETLK, 48],
  [opcode.SETLK, 48],
  [opcode.SETLKW, 48],
  [opcode.CREATE, 16],
  [opcode.INTERRUPT, 8],
  [opcode.IOCTL, 32],
  [opcode.BATCH_FORGET, 8],
  [opcode.FALLOCATE, 32],
  [opcode.READDIRPLUS, 40],
  [opcode.RENAME2, 16],
  [opcode.LSEEK, 24],
  [opcode.COPY_FILE_RANGE, 56],
  [opcode.TMPFILE, 16],
  [opcode.STATX, 24],
  [opcode.COPY_FILE_RANGE_64, 56],
])

/** A request in the buffer that it was read into; `length` bytes of it are the request's. */
export interface Message {
  readonly bytes: Buffer
  /** Of the same memory: a DataView is several times faster than Buffer's own accessors. */
  readonly view: DataView
  length: number
}

export const messageOf = (bytes: Buffer, length = bytes.length): Message => ({
  bytes,
  view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
  length,
})

/** What the kernel sent is not what the protocol says. */
export class MalformedRequest extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'MalformedRequest'
  }
}

const little = true
const body = inHeaderBytes

/**
 * The id of a request. The kernel counts it up by two from 0 and uses the lowest bit for its own ends, so it stays below 2^53.
 */
const readUnique = (view: DataView, at: number): number =>
  view.getUint32(at, little) + view.getUint32(at + 4, little) * 0x1_0000_0000

export interface InHeader {
  length: number
  opcode: number
  unique: number
  nodeId: bigint
  uid: number
  gid: number
  pid: number
}

export const decodeInHeader = ({ view, length }: Message): InHeader => {
  if (length < inHeaderBytes) throw new MalformedRequest(`a request of ${length} bytes is shorter than its header`)
  return {
    length: view.getUint32(0, little),
    opcode: view.getUint32(4, little),
    unique: readUnique(view, 8),
    nodeId: view.getBigUint64(16, little),
    uid: view.getUint32(24, little),
    gid: view.getUint32(28, little),
    pid: view.getUint32(32, little),
  }
}

/** A copy of the bytes from an offset up to the next NUL, and where the next field starts. */
export const decodeName = ({ bytes, length }: Message, at: number): { name: Buffer; next: number } => {
  const end = bytes.indexOf(0, at)
  if (end === -1 || end >= length) throw new MalformedRequest('a name without an end')
  return { name: Buffer.from(bytes.subarray(at, end)), next: end + 1 }
}

export interface InitIn {
  major: number
  minor: number
  readAheadBytesMax: number
  flags: bigint
}

export const decodeInit = ({ view, length }: Message): InitIn => {
  const low = BigInt(view.getUint32(body + 12, little))
  const high = (low & initFlag.INIT_EXT) !== 0n && length >= body + 20 ? BigInt(view.getUint32(body + 16, little)) : 0n
  return {
    major: view.getUint32(body, little),
    minor: view.getUint32(body + 4, little),
    readAheadBytesMax: view.getUint32(body + 8, little),
    flags: low | (high << 32n),
  }
}

export const decodeForget = ({ view }: Message): bigint => view.getBigUint64(body, little)

export const decodeBatchForget = ({ view, length }: Message): { nodeId: bigint; count: bigint }[] => {
  const count = view.getUint32(body, little)
  if (length < body + 8 + count * 16) throw new MalformedRequest(`BATCH_FORGET of ${count} inodes in ${length} bytes`)
  const forgotten: { nodeId: bigint; count: bigint }[] = []
  for (let at = body + 8; forgotten.length < count; at += 16) {
    forgotten.push({ nodeId: view.getBigUint64(at, little), count: view.getBigUint64(at + 8, little) })
  }
  return forgotten
}

/** The open file that the caller used, if any. Also for STATX, which starts alike. */
export const decodeGetattr = ({ view }: Message): bigint | undefined =>
  (view.getUint32(body, little) & getattrFlag.FH) === 0 ? undefined : view.getBigUint64(body + 8, little)

const readTime = (view: DataView, secondsAt: number, nanosAt: number): Timespec => ({
  seconds: view.getBigInt64(secondsAt, little),
  nanos: view.getUint32(nanosAt, little),
})

export const decodeSetattr = ({ view }: Message): { changes: SetattrChanges; handle: bigint | undefined } => {
  const valid = view.getUint32(body, little)
  const changes: SetattrChanges = {}
  if (valid & setattrValid.SIZE) changes.size = view.getBigUint64(body + 16, little)
  if (valid & setattrValid.ATIME_NOW) changes.atime = 'now'
  else if (valid & setattrValid.ATIME) changes.atime = readTime(view, body + 32, body + 56)
  if (valid & setattrValid.MTIME_NOW) changes.mtime = 'now'
  else if (valid & setattrValid.MTIME) changes.mtime = readTime(view, body + 40, body + 60)
  if (valid & setattrValid.CTIME) changes.ctime = readTime(view, body + 48, body + 64)
  if (valid & setattrValid.MODE) changes.mode = view.getUint32(body + 68, little)
  if (valid & setattrValid.UID) changes.uid = view.getUint32(body + 76, little)
  if (valid & setattrValid.GID) changes.gid = view.getUint32(body + 80, little)
  if (valid & setattrValid.KILL_SUIDGID) changes.killPrivileges = true
  return { changes, handle: valid & setattrValid.FH ? view.getBigUint64(body + 8, little) : undefined }
}

export const decodeSymlink = (message: Message): { name: Buffer; target: Buffer } => {
  const { name, next } = decodeName(message, body)
  return { name, target: decodeName(message, next).name }
}

export const decodeMknod = (message: Message): { mode: number; rdev: number; umask: number; name: Buffer } => ({
  mode: message.view.getUint32(body, little),
  rdev: message.view.getUint32(body + 4, little),
  umask: message.view.getUint32(body + 8, little),
  name: decodeName(message, body + 16).name,
})

export const decodeMkdir = (message: Message): { mode: number; umask: number; name: Buffer } => ({
  mode: message.view.getUint32(body, little),
  umask: message.view.getUint32(body + 4, little),
  name: decodeName(message, body + 8).name,
})

const decodeTwoNames = (message: Message, at: number): { source: Buffer; target: Buffer } => {
  const { name, next } = decodeName(message, at)
  return { source: name, target: decodeName(message, next).name }
}

export interface RenameIn {
  targetNodeId: bigint
  flags: number
  source: Buffer
  target: Buffer
}

export const decodeRename = (message: Message): RenameIn => ({
  targetNodeId: message.view.getBigUint64(body, little),
  flags: 0,
  ...decodeTwoNames(message, body + 8),
})

export const decodeRename2 = (message: Message): RenameIn => ({
  targetNodeId: message.view.getBigUint64(body, little),
  flags: message.view.getUint32(body + 8, little),
  ...decodeTwoNames(message, body + 16),
})

export const decodeLink = (message: Message): { nodeId: bigint; name: Buffer } => ({
  nodeId: message.view.getBigUint64(body, little),
  name: decodeName(message, body + 8).name,
})

export const decodeOpen = ({ view }: Message): { flags: number; openFlags: number } => ({
  flags: view.getUint32(body, little),
  openFlags: view.getUint32(body + 4, little),
})

export const decodeCreate = (
  message: Message,
): { flags: number; mode: number; umask: number; openFlags: number; name: Buffer } => ({
  flags: message.view.getUint32(body, little),
  mode: message.view.getUint32(body + 4, little),
  umask: message.view.getUint32(body + 8, little),
  openFlags: message.view.getUint32(body + 12, little),
  name: decodeName(message, body + 16).name,
})

/** Also for READDIR and READDIRPLUS, where the offset is a cookie and the handle 0. */
export const decodeRead = ({ view }: Message): { handle: bigint; offset: bigint; size: number } => ({
  handle: view.getBigUint64(body, little),
  offset: view.getBigUint64(body + 8, little),
  size: view.getUint32(body + 16, little),
})

/** `openFlags` are those that the open file has now, and O_DSYNC or O_SYNC where pwritev2(2) asked for it. */
export const decodeWrite = ({
  view,
  length,
}: Message): { handle: bigint; offset: bigint; size: number; writeFlags: number; openFlags: number } => {
  const size = view.getUint32(body + 16, little)
  if (size !== length - writeDataOffset) throw new MalformedRequest(`WRITE of ${size} bytes in a request of ${length}`)
  return {
    handle: view.getBigUint64(body, little),
    offset: view.getBigUint64(body + 8, little),
    size,
    writeFlags: view.getUint32(body + 20, little),
    openFlags: view.getUint32(body + 32, little),
  }
}

export const decodeRelease = ({ view }: Message): { handle: bigint; releaseFlags: number; lockOwner: bigint } => ({
  handle: view.getBigUint64(body, little),
  releaseFlags: view.getUint32(body + 12, little),
  lockOwner: view.getBigUint64(body + 16, little),
})

export const decodeFsync = ({ view }: Message): { handle: bigint; dataOnly: boolean } => ({
  handle: view.getBigUint64(body, little),
  dataOnly: (view.getUint32(body + 8, little) & fsyncFlag.FDATASYNC) !== 0,
})

export const decodeFlush = ({ view }: Message): { handle: bigint; lockOwner: bigint } => ({
  handle: view.getBigUint64(body, little),
  lockOwner: view.getBigUint64(body + 16, little),
})

/** With SETXATTR_EXT negotiated. The value is a copy. */
export const decodeSetxattr = (
  message: Message,
  extended: boolean,
): { name: Buffer; value: Buffer; flags: number; killSgid: boolean } => {
  const { view, bytes, length } = message
  const size = view.getUint32(body, little)
  const { name, next } = decodeName(message, body + (extended ? 16 : 8))
  if (size !== length - next) throw new MalformedRequest(`SETXATTR of ${size} bytes where ${length - next} follow`)
  return {
    name,
    value: Buffer.from(bytes.subarray(next, next + size)),
    flags: view.getUint32(body + 4, little),
    killSgid: extended && (view.getUint32(body + 8, little) & setxattrFlag.ACL_KILL_SGID) !== 0,
  }
}

/** Size 0 asks how much there is. */
export const decodeGetxattr = (message: Message): { size: number; name: Buffer } => ({
  size: message.view.getUint32(body, little),
  name: decodeName(message, body + 8).name,
})

export const decodeListxattr = ({ view }: Message): number => view.getUint32(body, little)

const lockTypes: readonly LockType[] = ['read', 'write', 'unlock']

export const decodeLock = ({
  view,
}: Message): { handle: bigint; owner: bigint; lock: FileLock; kind: 'posix' | 'flock' } => {
  const type = lockTypes[view.getUint32(body + 32, little)]
  if (type === undefined) throw new MalformedRequest(`a lock of type ${view.getUint32(body + 32, little)}`)
  return {
    handle: view.getBigUint64(body, little),
    owner: view.getBigUint64(body + 8, little),
    lock: {
      start: view.getBigUint64(body + 16, little),
      end: view.getBigUint64(body + 24, little),
      type,
      pid: view.getUint32(body + 36, little),
    },
    kind: (view.getUint32(body + 40, little) & lockFlag.FLOCK) === 0 ? 'posix' : 'flock',
  }
}

/** The id of the request that is to be given up. */
export const decodeInterrupt = ({ view }: Message): number => readUnique(view, body)

/** With a copy of what the caller passed in. */
export const decodeIoctl = ({
  view,
  bytes,
  length,
}: Message): { command: number; data: Buffer; answerBytesMax: number } => {
  const size = view.getUint32(body + 24, little)
  const start = body + 32
  if (size > length - start) throw new MalformedRequest(`IOCTL with ${size} bytes where ${length - start} follow`)
  return {
    command: view.getUint32(body + 12, little),
    data: Buffer.from(bytes.subarray(start, start + size)),
    answerBytesMax: view.getUint32(body + 28, little),
  }
}

export const decodeFallocate = ({
  view,
}: Message): { handle: bigint; offset: bigint; length: bigint; mode: number } => ({
  handle: view.getBigUint64(body, little),
  offset: view.getBigUint64(body + 8, little),
  length: view.getBigUint64(body + 16, little),
  mode: view.getUint32(body + 24, little),
})

export const decodeLseek = ({ view }: Message): { handle: bigint; offset: bigint; whence: number } => ({
  handle: view.getBigUint64(body, little),
  offset: view.getBigUint64(body + 8, little),
  whence: view.getUint32(body + 16, little),
})

export interface CopyFileRangeIn {
  source: { handle: bigint; offset: bigint }
  target: { handle: bigint; offset: bigint }
  length: bigint
}

/** Also for COPY_FILE_RANGE_64. */
export const decodeCopyFileRange = ({ view }: Message): CopyFileRangeIn => ({
  source: { handle: view.getBigUint64(body, little), offset: view.getBigUint64(body + 8, little) },
  target: { handle: view.getBigUint64(body + 24, little), offset: view.getBigUint64(body + 32, little) },
  length: view.getBigUint64(body + 40, little),
})

/*
 * Encoders write into a view at an offset and return the offset behind what they wrote. Every byte is written, padding as zeros:
 * the views are used again and again.
 */

export const encodeOutHeader = (view: DataView, header: { length: number; errno: number; unique: number }): number => {
  view.setUint32(0, header.length, little)
  view.setInt32(4, -header.errno, little)
  view.setUint32(8, header.unique % 0x1_0000_0000, little)
  view.setUint32(12, Math.floor(header.unique / 0x1_0000_0000), little)
  return outHeaderBytes
}

export interface InitOut {
  minor: number
  readAheadBytesMax: number
  flags: bigint
  backgroundMax: number
  congestionThreshold: number
  writeBytesMax: number
  pagesMax: number
}

export const encodeInit = (view: DataView, at: number, init: InitOut): number => {
  view.setUint32(at, majorVersion, little)
  view.setUint32(at + 4, init.minor, little)
  view.setUint32(at + 8, init.readAheadBytesMax, little)
  view.setUint32(at + 12, Number(init.flags & 0xffff_ffffn), little)
  view.setUint16(at + 16, init.backgroundMax, little)
  view.setUint16(at + 18, init.congestionThreshold, little)
  view.setUint32(at + 20, init.writeBytesMax, little)
  // time_gran: times are kept to the nanosecond.
  view.setUint32(at + 24, 1, little)
  view.setUint16(at + 28, init.pagesMax, little)
  view.setUint16(at + 30, 0, little)
  view.setUint32(at + 32, Number(init.flags >> 32n), little)
  for (let zero = at + 36; zero < at + 64; zero += 4) view.setUint32(zero, 0, little)
  return at + 64
}

/** What the kernel takes for "for ever": it adds it to a counter of jiffies, so it must not be the largest number. */
const foreverSeconds = 0x7fff_ffff

const encodeValidity = (view: DataView, at: { seconds: number; nanos: number }, ms: number): void => {
  const forever = ms >= foreverSeconds * 1000
  const seconds = forever ? foreverSeconds : Math.floor(ms / 1000)
  view.setUint32(at.seconds, seconds, little)
  view.setUint32(at.seconds + 4, 0, little)
  view.setUint32(at.nanos, forever ? 0 : Math.floor((ms - seconds * 1000) * 1_000_000), little)
}

const blocksOf = (allocatedBytes: bigint): bigint => (allocatedBytes + 511n) / 512n
/** st_blksize: what ext4 says, too. */
const preferredBytes = 4096

export const encodeAttributes = (view: DataView, at: number, attributes: Attributes): number => {
  view.setBigUint64(at, attributes.ino, little)
  view.setBigUint64(at + 8, attributes.size, little)
  view.setBigUint64(at + 16, blocksOf(attributes.allocated), little)
  view.setBigInt64(at + 24, attributes.atime.seconds, little)
  view.setBigInt64(at + 32, attributes.mtime.seconds, little)
  view.setBigInt64(at + 40, attributes.ctime.seconds, little)
  view.setUint32(at + 48, attributes.atime.nanos, little)
  view.setUint32(at + 52, attributes.mtime.nanos, little)
  view.setUint32(at + 56, attributes.ctime.nanos, little)
  view.setUint32(at + 60, attributes.mode, little)
  view.setUint32(at + 64, attributes.nlink, little)
  view.setUint32(at + 68, attributes.uid, little)
  view.setUint32(at + 72, attributes.gid, little)
  view.setUint32(at + 76, attributes.rdev, little)
  view.setUint32(at + 80, preferredBytes, little)
  view.setUint32(at + 84, 0, little)
  return at + 88
}

export const entryBytes = 128

/** The generation is always 0: an inode number is never used for another inode. */
export const encodeEntry = (view: DataView, at: number, nodeId: bigint, entry: Entry): number => {
  view.setBigUint64(at, nodeId, little)
  view.setBigUint64(at + 8, 0n, little)
  encodeValidity(view, { seconds: at + 16, nanos: at + 32 }, entry.validity.entryMs)
  encodeValidity(view, { seconds: at + 24, nanos: at + 36 }, entry.validity.attributesMs)
  return encodeAttributes(view, at + 40, entry.attributes)
}

/** In the place of an entry: there is no such name, and the kernel may believe that for this long. */
export const encodeNoEntry = (view: DataView, at: number, entryMs: number): number => {
  for (let zero = at; zero < at + entryBytes; zero += 4) view.setUint32(zero, 0, little)
  encodeValidity(view, { seconds: at + 16, nanos: at + 32 }, entryMs)
  return at + entryBytes
}

export const encodeAttr = (view: DataView, at: number, entry: Entry): number => {
  encodeValidity(view, { seconds: at, nanos: at + 8 }, entry.validity.attributesMs)
  view.setUint32(at + 12, 0, little)
  return encodeAttributes(view, at + 16, entry.attributes)
}

/** STATX_BASIC_STATS and STATX_BTIME. */
const statxMask = 0xfff

const encodeStatxTime = (view: DataView, at: number, time: Timespec): void => {
  view.setBigInt64(at, time.seconds, little)
  view.setUint32(at + 8, time.nanos, little)
  view.setUint32(at + 12, 0, little)
}

export const encodeStatx = (view: DataView, at: number, entry: Entry): number => {
  const { attributes } = entry
  for (let zero = at; zero < at + 288; zero += 4) view.setUint32(zero, 0, little)
  encodeValidity(view, { seconds: at, nanos: at + 8 }, entry.validity.attributesMs)
  const stat = at + 32
  view.setUint32(stat, statxMask, little)
  view.setUint32(stat + 4, preferredBytes, little)
  view.setUint32(stat + 16, attributes.nlink, little)
  view.setUint32(stat + 20, attributes.uid, little)
  view.setUint32(stat + 24, attributes.gid, little)
  view.setUint16(stat + 28, attributes.mode, little)
  view.setBigUint64(stat + 32, attributes.ino, little)
  view.setBigUint64(stat + 40, attributes.size, little)
  view.setBigUint64(stat + 48, blocksOf(attributes.allocated), little)
  encodeStatxTime(view, stat + 64, attributes.atime)
  encodeStatxTime(view, stat + 80, attributes.btime)
  encodeStatxTime(view, stat + 96, attributes.ctime)
  encodeStatxTime(view, stat + 112, attributes.mtime)
  view.setUint32(stat + 128, (attributes.rdev >>> 8) & 0xfff, little)
  view.setUint32(stat + 132, (attributes.rdev & 0xff) | ((attributes.rdev >>> 12) & 0xfff00), little)
  return at + 288
}

export const encodeOpened = (view: DataView, at: number, opened: { handle: bigint; flags: number }): number => {
  view.setBigUint64(at, opened.handle, little)
  view.setUint32(at + 8, opened.flags, little)
  view.setUint32(at + 12, 0, little)
  return at + 16
}

/** The struct of one 32-bit number and padding: WRITE, COPY_FILE_RANGE, GETXATTR and LISTXATTR of size 0. */
export const encodeCount = (view: DataView, at: number, count: number): number => {
  view.setUint32(at, count, little)
  view.setUint32(at + 4, 0, little)
  return at + 8
}

/** In front of what an ioctl gives: its result 0, and nothing to be retried. */
export const encodeIoctl = (view: DataView, at: number): number => {
  for (let zero = at; zero < at + 16; zero += 4) view.setUint32(zero, 0, little)
  return at + 16
}

/** The struct of one 64-bit number: LSEEK, COPY_FILE_RANGE_64. */
export const encodeCount64 = (view: DataView, at: number, count: bigint): number => {
  view.setBigUint64(at, count, little)
  return at + 8
}

export const encodeStatfs = (view: DataView, at: number, statistics: FileSystemStatistics): number => {
  const block = BigInt(statistics.blockBytes)
  view.setBigUint64(at, statistics.bytesTotal / block, little)
  view.setBigUint64(at + 8, statistics.bytesFree / block, little)
  view.setBigUint64(at + 16, statistics.bytesFree / block, little)
  view.setBigUint64(at + 24, statistics.inodesUsed + statistics.inodesFree, little)
  view.setBigUint64(at + 32, statistics.inodesFree, little)
  view.setUint32(at + 40, statistics.blockBytes, little)
  view.setUint32(at + 44, statistics.nameBytesMax, little)
  view.setUint32(at + 48, statistics.blockBytes, little)
  for (let zero = at + 52; zero < at + 80; zero += 4) view.setUint32(zero, 0, little)
  return at + 80
}

export const encodeLock = (view: DataView, at: number, lock: FileLock): number => {
  view.setBigUint64(at, lock.start, little)
  view.setBigUint64(at + 8, lock.end, little)
  view.setUint32(at + 16, lockTypes.indexOf(lock.type), little)
  view.setUint32(at + 20, lock.pid, little)
  return at + 24
}

const direntBytes = 24
/** Records of a directory listing start at multiples of 8. */
const direntLength = (nameBytes: number, plus: boolean): number =>
  ((plus ? entryBytes : 0) + direntBytes + nameBytes + 7) & ~7

export interface DirentOut {
  name: Buffer
  ino: Ino
  /** S_IFMT bits. */
  type: number
  cookie: bigint
  /** What a lookup would give. Without it the kernel looks the name up when somebody asks. */
  entry: { nodeId: bigint; value: Entry } | undefined
}

/** The offset behind the record, or undefined when it does not fit, and then nothing was written. */
export const encodeDirent = (message: Message, at: number, dirent: DirentOut, plus: boolean): number | undefined => {
  const { view, bytes } = message
  const end = at + direntLength(dirent.name.length, plus)
  if (end > message.length) return undefined
  let start = at
  if (plus) {
    if (dirent.entry === undefined) bytes.fill(0, at, at + entryBytes)
    else encodeEntry(view, at, dirent.entry.nodeId, dirent.entry.value)
    start += entryBytes
  }
  view.setBigUint64(start, dirent.ino, little)
  view.setBigUint64(start + 8, dirent.cookie, little)
  view.setUint32(start + 16, dirent.name.length, little)
  view.setUint32(start + 20, (dirent.type & 0o170000) >>> 12, little)
  bytes.set(dirent.name, start + direntBytes)
  bytes.fill(0, start + direntBytes + dirent.name.length, end)
  return end
}

/*
 * Notifications: messages to the kernel that answer no request.
 */

const notification = (code: number, bodyBytes: number): Buffer => {
  const bytes = Buffer.alloc(outHeaderBytes + bodyBytes)
  bytes.writeUInt32LE(bytes.length, 0)
  bytes.writeInt32LE(code, 4)
  return bytes
}

/** Cached bytes of an inode; its attributes, too. Length -1: everything from the offset on. */
export const dataInvalidation = (nodeId: bigint, range: { offset: bigint; length: bigint }): Buffer => {
  const bytes = notification(notifyCode.INVAL_INODE, 24)
  bytes.writeBigUInt64LE(nodeId, 16)
  bytes.writeBigInt64LE(range.offset, 24)
  // To the kernel a length of 0 or less means everything behind the offset.
  bytes.writeBigInt64LE(range.length < 0n ? 0n : range.length, 32)
  return bytes
}

/** The attributes of an inode alone: to the kernel that is a negative offset. */
export const attributesInvalidation = (nodeId: bigint): Buffer => {
  const bytes = notification(notifyCode.INVAL_INODE, 24)
  bytes.writeBigUInt64LE(nodeId, 16)
  bytes.writeBigInt64LE(-1n, 24)
  return bytes
}

/** A name of a directory; the kernel takes the directory's lock for it. */
export const nameInvalidation = (directory: bigint, name: Buffer): Buffer => {
  const bytes = notification(notifyCode.INVAL_ENTRY, 16 + name.length + 1)
  bytes.writeBigUInt64LE(directory, 16)
  bytes.writeUInt32LE(name.length, 24)
  name.copy(bytes, 32)
  return bytes
}

/** From this minor version on the kernel knows NOTIFY_INC_EPOCH (Linux 6.16). */
export const epochMinor = 44

/** Every cached name of the whole mount is looked up again before its next use. */
export const epochIncrement = (): Buffer => notification(notifyCode.INC_EPOCH, 0)
