/**
 * FUSE requests to calls of the FileSystem port, and results to replies. No semantics of files here; what is here is what the
 * protocol leaves to its servers: counting, sizes of answers, interrupts, and which locks an open file description takes along.
 *
 * - Every request but the FORGETs and INTERRUPT gets exactly one reply. A handler that throws what is no PosixError answers EIO,
 *   and the cause is logged; the mount lives on.
 * - Handlers decode before they first wait, since the request's buffer is used again then; only a large WRITE keeps its buffer.
 * - The root has node id 1 whatever its inode number; every other node id is the inode number, generation 0.
 * - References: each reply with an entry is one reference, which the kernel gives back by FORGET. When such a reply cannot be
 *   delivered the reference is given back here. They are counted: an inode that has references and that the kernel does not know
 *   yet is in a reply that the kernel has not got to (see `isReferenced`).
 *
 * Source: fs/fuse/ of Linux.
 */
import { isErrnoName, PosixError } from '../src/domain/errors.ts'
import type { ErrnoName } from '../src/domain/errors.ts'
import { NoSuchName, nothingValid } from '../src/client/file-system.ts'
import type { Entry, FileSystem, Handle, Opened, WriteOptions } from '../src/client/file-system.ts'
import { isDots } from '../src/client/names.ts'
import { isDirectory } from '../src/domain/mode.ts'
import { fileBytesMax } from '../src/domain/limits.ts'
import { asIno } from '../src/domain/ids.ts'
import type { Ino } from '../src/domain/ids.ts'
import { giveBackBuffer } from '../src/platform/buffer-pool.ts'
import type { Log } from '../src/platform/log.ts'
import { callerOf } from './caller.ts'
import type { Caller } from './caller.ts'
import type { Sent } from './device.ts'
import type { Callers } from './mount-callers.ts'
import type { DirectoryPlaces } from './directory-places.ts'
import type { DoubtfulListings } from './doubtful-listings.ts'
import { errnoNumber } from './errno.ts'
import { decodeFlags, encodeFlags, flagsIoctl } from './flags-ioctl.ts'
import { LockOwners } from './lock-owners.ts'
import { negotiate } from './negotiate.ts'
import * as protocol from './protocol.ts'
import type { CopyFileRangeIn, DirentOut, Message, RenameIn } from './protocol.ts'
import type { UntakenAnswers } from './untaken-answers.ts'

/** What the dispatcher needs of a device. */
export interface ReplyChannel {
  send(head: Buffer, headBytes: number, data?: Buffer): Sent
  giveBack(message: Message): void
}

export interface Dispatcher {
  /** One request; true: the buffer is kept until it is given back. Never throws. */
  request(message: Message): boolean
  /** Resolves when the kernel and we have agreed on a protocol; rejects when that cannot be. */
  readonly initialized: Promise<void>
  /** Nothing can be answered any more: whoever waits is interrupted. */
  ended(): void
  readonly nodeIdOf: (ino: Ino) => bigint
  /** The kernel was told of this inode and has not forgotten it. */
  isReferenced(ino: Ino): boolean
  /** Something that may hold pages of this inode waits for its answer. */
  isDataBusy(ino: Ino): boolean
  /** The minor version that was agreed on; 0 before. */
  minor(): number
}

interface Request {
  unique: number
  opcode: number
  ino: Ino
  caller: Caller
  message: Message
}

type Handler = (request: Request) => Promise<void>

/** From this size on a WRITE keeps its request buffer instead of being copied. */
const keptWriteBytesMin = 64 * 1024
/** Requests of this many bytes of listing at most; the kernel asks for a page or so. */
const listingBytesMax = 1024 * 1024
/** Interrupts that came before their request; the device may reorder the two. */
const earlyInterruptsMax = 64
/** O_TRUNC of open(2), as FUSE sends it. */
const openTruncate = 0o1000
const openAppend = 0o2000
/** O_DSYNC, which O_SYNC includes. */
const openDsync = 0o10000
/** RENAME_EXCHANGE of renameat2(2). */
const renameExchange = 2
/** Access and default ACLs: to be refused as long as they would not be applied. */
const aclPrefix = Buffer.from('system.posix_acl_')
const replyHeadBytes = 512
/** The older COPY_FILE_RANGE has 32 bits for its answer; in whole pages. */
const copyBytesMax = 0xffff_f000n

/**
 * The kernel puts an append where it believes the end of the file to be, in its pages, and cuts it into two WRITEs at a page boundary
 * there; another mount's append could come between. Past its page cache each write(2) of up to max_write arrives as one request.
 * Not so where fcntl(2) sets O_APPEND on an open file: its appends find the end of the file, but one may arrive in two parts.
 */
const appendFlags = (flags: number): number => (has(flags, openAppend) ? protocol.openReplyFlag.DIRECT_IO : 0)

const keepFlags = (opened: Opened): number => (opened.keepCache ? protocol.openReplyFlag.KEEP_CACHE : 0)

/** The kernel holds the lock of the directory that they are about alone. */
const changesNames: ReadonlySet<number> = new Set([
  protocol.opcode.MKNOD,
  protocol.opcode.MKDIR,
  protocol.opcode.SYMLINK,
  protocol.opcode.LINK,
  protocol.opcode.UNLINK,
  protocol.opcode.RMDIR,
  protocol.opcode.RENAME,
  protocol.opcode.RENAME2,
  protocol.opcode.CREATE,
])

/** The kernel may hold pages of the inode that they are about, or keep others from touching them. */
const holdsPages: ReadonlySet<number> = new Set([
  protocol.opcode.READ,
  protocol.opcode.WRITE,
  protocol.opcode.SETATTR,
  protocol.opcode.FALLOCATE,
  protocol.opcode.COPY_FILE_RANGE,
  protocol.opcode.COPY_FILE_RANGE_64,
])

const has = (value: number, flag: number): boolean => (value & flag) !== 0

export const createDispatcher = (options: {
  fileSystem: FileSystem
  channel: ReplyChannel
  callers: Callers
  listings: UntakenAnswers
  made: UntakenAnswers
  doubtful: DoubtfulListings
  places: DirectoryPlaces
  log: Log
}): Dispatcher => {
  const { fileSystem: fs, channel, callers, listings, made, doubtful, places, log } = options
  /** Headers and small structs of replies are built here, one after the other: sending is synchronous. */
  const head = Buffer.alloc(replyHeadBytes)
  const out = new DataView(head.buffer, head.byteOffset, head.length)
  /** Requests that were not answered yet. */
  const pending = new Map<number, Request>()
  const earlyInterrupts = new Set<number>()
  const lockOwners = new LockOwners()
  /** References that the kernel has, by node id. */
  const references = new Map<number, number>()
  let flags = 0n
  let minor = 0
  let initializedNow: () => void
  let refused: (error: Error) => void
  const initialized = new Promise<void>((resolve, reject) => {
    initializedNow = resolve
    refused = reject
  })
  // Whoever is interested awaits it; an unmount before INIT is nobody's unhandled rejection.
  initialized.catch(() => undefined)

  const inoOf = (nodeId: bigint): Ino => (nodeId === protocol.rootNodeId ? fs.root : asIno(nodeId))
  const nodeIdOf = (ino: Ino): bigint => (ino === fs.root ? protocol.rootNodeId : ino)

  /** What is in `head` up to `end`, and then data. */
  const reply = (request: Request, end: number = protocol.outHeaderBytes, data?: Buffer): Sent => {
    pending.delete(request.unique)
    const { unique } = request
    protocol.encodeOutHeader(out, { length: end + (data?.length ?? 0), errno: 0, unique })
    const sent = channel.send(head, end, data)
    if (sent === 'refused') replyError(request, 'EIO')
    return sent
  }

  const replyError = (request: Request, code: ErrnoName): void => {
    pending.delete(request.unique)
    protocol.encodeOutHeader(out, {
      length: protocol.outHeaderBytes,
      errno: errnoNumber[code],
      unique: request.unique,
    })
    channel.send(head, protocol.outHeaderBytes)
  }

  const failed = (request: Request, caught: unknown): void => {
    if (caught instanceof PosixError && isErrnoName(caught.code)) return replyError(request, caught.code)
    log.error('a FUSE request failed', {
      operation: protocol.opcodeName(request.opcode),
      ino: request.ino,
      cause: caught,
    })
    replyError(request, 'EIO')
  }

  const refer = (nodeId: bigint): void => {
    const key = Number(nodeId)
    references.set(key, (references.get(key) ?? 0) + 1)
  }

  const forget = (nodeId: bigint, count: bigint): void => {
    const key = Number(nodeId)
    const left = (references.get(key) ?? 0) - Number(count)
    if (left > 0) references.set(key, left)
    else {
      references.delete(key)
      places.forgotten(nodeId)
      made.taken(nodeId)
      listings.allTaken(nodeId)
      doubtful.forgotten(nodeId)
    }
    fs.forget(inoOf(nodeId), count)
  }

  /** Attributes of a directory of which the kernel has listings that may be wrong are not to be believed. */
  const believable = (entry: Entry): Entry =>
    doubtful.has(nodeIdOf(entry.attributes.ino))
      ? { attributes: entry.attributes, validity: { ...entry.validity, attributesMs: 0 } }
      : entry

  const replyEntry = (request: Request, entry: Entry): Sent => {
    const nodeId = nodeIdOf(entry.attributes.ino)
    refer(nodeId)
    const sent = reply(request, protocol.encodeEntry(out, protocol.outHeaderBytes, nodeId, believable(entry)))
    if (sent === 'gone' || sent === 'refused') forget(nodeId, 1n)
    return sent
  }

  /** The answer to what has just made this in a directory is about to be sent. */
  const tellMade = ({ ino: directory }: Request, { attributes: { ino }, validity }: Entry): void => {
    if (validity.attributesMs > 0) made.told(nodeIdOf(ino), nodeIdOf(directory))
  }

  const replyMade = (request: Request, entry: Entry): void => {
    tellMade(request, entry)
    replyEntry(request, entry)
  }

  /** Undefined when the kernel may be told at once that the name leads there. */
  const placed = (parent: Ino, name: Buffer, { attributes: { ino, mode } }: Entry): Promise<void> | undefined =>
    isDots(name)
      ? undefined
      : places.told({ parent: nodeIdOf(parent), name }, isDirectory(mode) ? nodeIdOf(ino) : undefined)

  const lookup = async (request: Request): Promise<void> => {
    const { name } = protocol.decodeName(request.message, protocol.inHeaderBytes)
    try {
      let entry = await fs.lookup(request.caller, request.ino, name)
      const waits = placed(request.ino, name, entry)
      if (waits !== undefined) {
        await waits
        // For how long something may be believed is right only at the moment when it is asked.
        entry = await fs.lookup(request.caller, request.ino, name)
        void placed(request.ino, name, entry)
      }
      replyEntry(request, entry)
    } catch (caught) {
      if (!(caught instanceof NoSuchName) || caught.entryMs === 0) throw caught
      reply(request, protocol.encodeNoEntry(out, protocol.outHeaderBytes, caught.entryMs))
    }
  }

  const replyAttributes = (request: Request, entry: Entry): void => {
    reply(request, protocol.encodeAttr(out, protocol.outHeaderBytes, believable(entry)))
  }

  const encodeOpened = (at: number, opened: Opened, flags: number): number =>
    protocol.encodeOpened(out, at, { handle: opened.handle, flags: keepFlags(opened) | appendFlags(flags) })

  /** Of a handle that nobody has: the reply that told of it was not delivered. */
  const dropped = (what: Promise<void>): void => {
    what.catch((caught: unknown) => log.warn('dropping an open file failed', { cause: caught }))
  }

  const initialize = (request: Request): void => {
    const kernel = protocol.decodeInit(request.message)
    const result = negotiate(kernel)
    if (result.kind === 'refused') {
      replyError(request, 'EPROTO')
      return refused(new Error(result.reason))
    }
    const { init } = result
    reply(request, protocol.encodeInit(out, protocol.outHeaderBytes, init))
    if (result.kind === 'retry') return
    flags = init.flags
    minor = init.minor
    log.debug('FUSE session', { minor: init.minor, flags: init.flags.toString(16) })
    initializedNow()
  }

  /** The kernel has its lock alone. */
  const directoryChanges = (nodeId: bigint): void => {
    listings.allTaken(nodeId)
    made.allTaken(nodeId)
  }

  const rename = async (
    request: Request,
    { targetNodeId, flags, source, target: targetName }: RenameIn,
  ): Promise<void> => {
    directoryChanges(targetNodeId)
    await fs.rename(
      request.caller,
      { parent: request.ino, name: source },
      { parent: inoOf(targetNodeId), name: targetName },
      flags,
    )
    const target = { parent: targetNodeId, name: targetName }
    places.renamed({ parent: nodeIdOf(request.ino), name: source }, target, flags === renameExchange)
    reply(request)
  }

  /** Under which an answer to a listing waits to be taken over. Threads of other pid namespaces have no numbers. */
  const readerOf = ({ caller: { pid }, ino }: Request): bigint => (pid > 0 ? BigInt(pid) : -nodeIdOf(ino))

  const list = async (request: Request, plus: boolean): Promise<void> => {
    const { offset, size } = protocol.decodeRead(request.message)
    const directory = nodeIdOf(request.ino)
    const listing = protocol.messageOf(Buffer.allocUnsafe(Math.min(size, listingBytesMax)))
    const counted: bigint[] = []
    let end = 0
    let cut = false
    const mayKeep = await fs.readdir(request.caller, request.ino, offset, { plus }, (found) => {
      const entry = plus && found.entry !== undefined ? believable(found.entry) : undefined
      const dirent: DirentOut = {
        name: found.name,
        ino: found.ino,
        type: found.type,
        cookie: found.cookie,
        entry: entry && { nodeId: nodeIdOf(entry.attributes.ino), value: entry },
      }
      const next = protocol.encodeDirent(listing, end, dirent, plus)
      cut = next === undefined
      if (next === undefined) return false
      end = next
      if (entry) {
        counted.push(nodeIdOf(entry.attributes.ino))
        void placed(request.ino, found.name, entry)
      }
      return true
    })
    // An empty answer would mean the end of the directory.
    if (cut && end === 0) throw new PosixError('EINVAL')
    for (const nodeId of counted) refer(nodeId)
    if (end > 0) listings.told(readerOf(request), directory)
    if (!mayKeep) doubtful.add(directory)
    const sent = reply(request, protocol.outHeaderBytes, listing.bytes.subarray(0, end))
    if (sent !== 'gone' && sent !== 'refused') return
    listings.taken(readerOf(request))
    for (const nodeId of counted) forget(nodeId, 1n)
  }

  /** Who begins to read a directory asks for its attributes when it does not believe any. */
  const getattr = async (request: Request): Promise<void> => {
    const handle: Handle | undefined = protocol.decodeGetattr(request.message)
    const entry = await fs.getattr(request.caller, request.ino, handle)
    const directory = nodeIdOf(request.ino)
    if (!doubtful.has(directory)) return replyAttributes(request, entry)
    await doubtful.drop(directory)
    // What has been waited with is not to be believed.
    replyAttributes(request, { ...entry, validity: nothingValid })
  }

  const copyFileRange = async (request: Request, bytesMax?: bigint): Promise<bigint> => {
    const { source, target, length }: CopyFileRangeIn = protocol.decodeCopyFileRange(request.message)
    const bytes = bytesMax !== undefined && length > bytesMax ? bytesMax : length
    return await fs.copyFileRange(request.caller, source, target, bytes)
  }

  /** Size 0 asks how long the value is. */
  const replySized = (request: Request, size: number, value: Buffer): void => {
    if (size === 0) {
      reply(request, protocol.encodeCount(out, protocol.outHeaderBytes, value.length))
      return
    }
    if (value.length > size) throw new PosixError('ERANGE')
    reply(request, protocol.outHeaderBytes, value)
  }

  const isAcl = (name: Buffer): boolean =>
    (flags & protocol.initFlag.POSIX_ACL) === 0n && name.subarray(0, aclPrefix.length).equals(aclPrefix)

  const write = (request: Request): { done: Promise<void>; kept: boolean } => {
    const { message, caller } = request
    const { handle, offset, size, writeFlags, openFlags } = protocol.decodeWrite(message)
    const data = message.bytes.subarray(protocol.writeDataOffset, protocol.writeDataOffset + size)
    const kept = size >= keptWriteBytesMin
    const options: WriteOptions = {
      killPrivileges: has(writeFlags, protocol.writeFlag.KILL_SUIDGID),
      // What was written through a mapping has its place, whatever file the kernel writes it back with.
      append: has(openFlags, openAppend) && !has(writeFlags, protocol.writeFlag.CACHE),
      sync: has(openFlags, openDsync),
    }
    const done = fs.write(caller, handle, offset, kept ? data : Buffer.from(data), options).then(() => {
      reply(request, protocol.encodeCount(out, protocol.outHeaderBytes, size))
    })
    return { done, kept }
  }

  const setLock = async (request: Request, wait: boolean): Promise<void> => {
    const { handle, owner, lock, kind } = protocol.decodeLock(request.message)
    if (kind === 'posix' && lock.type !== 'unlock') lockOwners.add(handle, { ino: request.ino, owner })
    await fs.setlk(request.caller, request.ino, { owner, kind, lock }, { wait })
    reply(request)
  }

  const release = async (request: Request): Promise<void> => {
    const { handle, releaseFlags, lockOwner } = protocol.decodeRelease(request.message)
    const left = lockOwners.release(handle)
    for (const owner of left?.owners ?? []) {
      const lock = { type: 'unlock', start: 0n, end: fileBytesMax, pid: request.caller.pid } as const
      await fs
        .setlk(request.caller, request.ino, { owner, kind: 'posix', lock }, { wait: false })
        .catch((caught: unknown) => log.warn('dropping the locks of a closed file failed', { cause: caught }))
    }
    const flockOwner = has(releaseFlags, protocol.releaseFlag.FLOCK_UNLOCK) ? lockOwner : undefined
    await (flockOwner === undefined ? fs.release(handle) : fs.release(handle, flockOwner))
    reply(request)
  }

  const open = async (request: Request): Promise<void> => {
    const { flags, openFlags } = protocol.decodeOpen(request.message)
    const truncates = has(flags, openTruncate)
    // Before the truncation, so that there are never new contents under old privileges.
    if (truncates && has(openFlags, protocol.openRequestFlag.KILL_SUIDGID)) {
      await fs.setattr(request.caller, request.ino, { killPrivileges: true })
    }
    const opened = await fs.open(request.caller, request.ino, flags)
    const sent = reply(request, encodeOpened(protocol.outHeaderBytes, opened, flags))
    if (sent === 'gone' || sent === 'refused') dropped(fs.release(opened.handle))
  }

  const create = async (request: Request): Promise<void> => {
    const { flags, mode, umask, name } = protocol.decodeCreate(request.message)
    request.caller.umask = umask
    const { entry, opened } =
      request.opcode === opcode.TMPFILE
        ? await fs.tmpfile(request.caller, request.ino, mode, flags)
        : await fs.create(request.caller, request.ino, name, mode, flags)
    const nodeId = nodeIdOf(entry.attributes.ino)
    refer(nodeId)
    tellMade(request, entry)
    const end = protocol.encodeEntry(out, protocol.outHeaderBytes, nodeId, entry)
    const sent = reply(request, encodeOpened(end, opened, flags))
    if (sent === 'gone' || sent === 'refused') {
      forget(nodeId, 1n)
      dropped(fs.release(opened.handle))
    }
  }

  const ioctl = async (request: Request): Promise<void> => {
    const { command, data, answerBytesMax } = protocol.decodeIoctl(request.message)
    const { caller, ino } = request
    switch (command) {
      case flagsIoctl.GETFLAGS:
      case flagsIoctl.FSGETXATTR: {
        const { attributes } = await fs.getattr(caller, ino)
        const answer = encodeFlags(command, attributes.flags)
        reply(request, protocol.encodeIoctl(out, protocol.outHeaderBytes), answer.subarray(0, answerBytesMax))
        return
      }
      case flagsIoctl.SETFLAGS:
      case flagsIoctl.FSSETXATTR: {
        const flags = decodeFlags(command, data)
        if (flags === undefined) throw new PosixError('EOPNOTSUPP')
        await fs.setattr(caller, ino, { flags })
        reply(request, protocol.encodeIoctl(out, protocol.outHeaderBytes))
        return
      }
      default:
        throw new PosixError('ENOTTY')
    }
  }

  const unsupported: Handler = (request) => {
    replyError(request, 'ENOSYS')
    return Promise.resolve()
  }

  const { opcode } = protocol
  const handlers = new Map<number, Handler>([
    [opcode.LOOKUP, lookup],
    [opcode.GETATTR, getattr],
    [
      opcode.STATX,
      async (request) => {
        const handle = protocol.decodeGetattr(request.message)
        const entry = await fs.getattr(request.caller, request.ino, handle)
        reply(request, protocol.encodeStatx(out, protocol.outHeaderBytes, believable(entry)))
      },
    ],
    [
      opcode.SETATTR,
      async (request) => {
        const { changes, handle } = protocol.decodeSetattr(request.message)
        replyAttributes(request, await fs.setattr(request.caller, request.ino, changes, handle))
      },
    ],
    [
      opcode.READLINK,
      async (request) => {
        reply(request, protocol.outHeaderBytes, await fs.readlink(request.caller, request.ino))
      },
    ],
    [
      opcode.SYMLINK,
      async (request) => {
        const { name, target } = protocol.decodeSymlink(request.message)
        replyMade(request, await fs.symlink(request.caller, request.ino, name, target))
      },
    ],
    [
      opcode.MKNOD,
      async (request) => {
        const { mode, rdev, umask, name } = protocol.decodeMknod(request.message)
        request.caller.umask = umask
        replyMade(request, await fs.mknod(request.caller, request.ino, name, mode, rdev))
      },
    ],
    [
      opcode.MKDIR,
      async (request) => {
        const { mode, umask, name } = protocol.decodeMkdir(request.message)
        request.caller.umask = umask
        const entry = await fs.mkdir(request.caller, request.ino, name, mode)
        void placed(request.ino, name, entry)
        replyMade(request, entry)
      },
    ],
    [
      opcode.UNLINK,
      async (request) => {
        const { name } = protocol.decodeName(request.message, protocol.inHeaderBytes)
        await fs.unlink(request.caller, request.ino, name)
        reply(request)
      },
    ],
    [
      opcode.RMDIR,
      async (request) => {
        const { name } = protocol.decodeName(request.message, protocol.inHeaderBytes)
        await fs.rmdir(request.caller, request.ino, name)
        reply(request)
      },
    ],
    [opcode.RENAME, (request) => rename(request, protocol.decodeRename(request.message))],
    [opcode.RENAME2, (request) => rename(request, protocol.decodeRename2(request.message))],
    [
      opcode.LINK,
      async (request) => {
        const { nodeId, name } = protocol.decodeLink(request.message)
        made.taken(nodeId)
        replyEntry(request, await fs.link(request.caller, inoOf(nodeId), request.ino, name))
      },
    ],
    [opcode.OPEN, open],
    [opcode.CREATE, create],
    [opcode.TMPFILE, create],
    [
      opcode.READ,
      async (request) => {
        const { handle, offset, size } = protocol.decodeRead(request.message)
        const data = await fs.read(request.caller, handle, offset, size)
        if (data.length > size) throw new Error(`read gave ${data.length} bytes where ${size} were asked for`)
        reply(request, protocol.outHeaderBytes, data)
        giveBackBuffer(data)
      },
    ],
    [
      opcode.STATFS,
      async (request) => {
        reply(request, protocol.encodeStatfs(out, protocol.outHeaderBytes, await fs.statfs(request.caller)))
      },
    ],
    [opcode.RELEASE, release],
    [
      opcode.FSYNC,
      async (request) => {
        const { handle, dataOnly } = protocol.decodeFsync(request.message)
        await fs.fsync(request.caller, handle, dataOnly)
        reply(request)
      },
    ],
    [
      opcode.FLUSH,
      async (request) => {
        const { handle, lockOwner } = protocol.decodeFlush(request.message)
        lockOwners.flush(request.ino, lockOwner)
        await fs.flush(request.caller, handle, lockOwner)
        reply(request)
      },
    ],
    [
      opcode.SETXATTR,
      async (request) => {
        const extended = (flags & protocol.initFlag.SETXATTR_EXT) !== 0n
        const { name, value, flags: mode, killSgid } = protocol.decodeSetxattr(request.message, extended)
        if (isAcl(name)) throw new PosixError('EOPNOTSUPP')
        await fs.setxattr(request.caller, request.ino, name, value, { flags: mode, killSgid })
        reply(request)
      },
    ],
    [
      opcode.GETXATTR,
      async (request) => {
        const { size, name } = protocol.decodeGetxattr(request.message)
        if (isAcl(name)) throw new PosixError('EOPNOTSUPP')
        replySized(request, size, await fs.getxattr(request.caller, request.ino, name))
      },
    ],
    [
      opcode.LISTXATTR,
      async (request) => {
        const size = protocol.decodeListxattr(request.message)
        const found = await fs.listxattr(request.caller, request.ino)
        const end = Buffer.alloc(1)
        replySized(request, size, Buffer.concat(found.flatMap((name) => [name, end])))
      },
    ],
    [
      opcode.REMOVEXATTR,
      async (request) => {
        const { name } = protocol.decodeName(request.message, protocol.inHeaderBytes)
        if (isAcl(name)) throw new PosixError('EOPNOTSUPP')
        await fs.removexattr(request.caller, request.ino, name)
        reply(request)
      },
    ],
    // For good: directories are read without being opened (see doubtful-listings.ts), and RELEASEDIR never comes.
    [opcode.OPENDIR, async (request) => replyError(request, 'ENOSYS')],
    [opcode.READDIR, (request) => list(request, false)],
    [opcode.READDIRPLUS, (request) => list(request, true)],
    [
      opcode.FSYNCDIR,
      async (request) => {
        await fs.fsyncdir(request.caller, request.ino)
        reply(request)
      },
    ],
    [
      opcode.GETLK,
      async (request) => {
        const { owner, lock, kind } = protocol.decodeLock(request.message)
        const found = await fs.getlk(request.caller, request.ino, { owner, kind, lock })
        reply(request, protocol.encodeLock(out, protocol.outHeaderBytes, found))
      },
    ],
    [opcode.SETLK, (request) => setLock(request, false)],
    [opcode.SETLKW, (request) => setLock(request, true)],
    [
      opcode.FALLOCATE,
      async (request) => {
        const { handle, mode, offset, length } = protocol.decodeFallocate(request.message)
        await fs.fallocate(request.caller, handle, mode, offset, length)
        reply(request)
      },
    ],
    [
      opcode.LSEEK,
      async (request) => {
        const { handle, offset, whence } = protocol.decodeLseek(request.message)
        const found = await fs.lseek(request.caller, handle, offset, whence)
        reply(request, protocol.encodeCount64(out, protocol.outHeaderBytes, found))
      },
    ],
    [
      opcode.COPY_FILE_RANGE,
      async (request) => {
        const copied = Number(await copyFileRange(request, copyBytesMax))
        reply(request, protocol.encodeCount(out, protocol.outHeaderBytes, copied))
      },
    ],
    [
      opcode.COPY_FILE_RANGE_64,
      async (request) => {
        const copied = await copyFileRange(request)
        reply(request, protocol.encodeCount64(out, protocol.outHeaderBytes, copied))
      },
    ],
    [
      opcode.SYNCFS,
      async (request) => {
        await fs.syncfs(request.caller)
        reply(request)
      },
    ],
    [
      opcode.DESTROY,
      (request) => {
        reply(request)
        return Promise.resolve()
      },
    ],
    [opcode.IOCTL, ioctl],
    [opcode.ACCESS, unsupported],
    [opcode.BMAP, unsupported],
    [opcode.POLL, unsupported],
    [opcode.SETUPMAPPING, unsupported],
    [opcode.REMOVEMAPPING, unsupported],
  ])

  const signalled = (request: Request): void => {
    const { caller, unique } = request
    if (request.opcode === opcode.SETLKW) return caller.interrupt()
    callers.whenKilled(
      caller.pid,
      () => pending.get(unique) !== request,
      () => caller.interrupt(),
    )
  }

  const interrupt = (unique: number): void => {
    const request = pending.get(unique)
    if (request !== undefined) return signalled(request)
    // Either it has been answered already, or it is still to come.
    earlyInterrupts.add(unique)
    if (earlyInterrupts.size > earlyInterruptsMax) {
      for (const oldest of earlyInterrupts) {
        earlyInterrupts.delete(oldest)
        break
      }
    }
  }

  /** What gets no reply, or is answered at once; false: everything else. */
  const withoutHandler = (code: number, nodeId: bigint, message: Message): boolean => {
    switch (code) {
      case opcode.FORGET:
        forget(nodeId, protocol.decodeForget(message))
        return true
      case opcode.BATCH_FORGET:
        for (const forgotten of protocol.decodeBatchForget(message)) forget(forgotten.nodeId, forgotten.count)
        return true
      case opcode.INTERRUPT:
        interrupt(protocol.decodeInterrupt(message))
        return true
      case opcode.NOTIFY_REPLY:
        return true
      default:
        return false
    }
  }

  const request = (message: Message): boolean => {
    let header: protocol.InHeader
    try {
      header = protocol.decodeInHeader(message)
    } catch (caught) {
      // There is nobody to answer.
      log.error('a malformed FUSE request', { cause: caught })
      return false
    }
    const { unique, opcode: code } = header
    const { length } = message
    const request: Request = { unique, opcode: code, ino: inoOf(header.nodeId), caller: callerOf(header), message }
    try {
      if (header.length !== length || length < protocol.inHeaderBytes + (protocol.structBytes.get(code) ?? 0)) {
        throw new protocol.MalformedRequest(`${protocol.opcodeName(code)} of ${header.length} bytes in ${length}`)
      }
      if (withoutHandler(code, header.nodeId, message)) return false
      if (code === opcode.INIT) {
        initialize(request)
        return false
      }
      pending.set(unique, request)
      made.taken(header.nodeId)
      // A READ may come from a page fault while a listing is being copied to its reader.
      if (header.pid > 0 && code !== opcode.READ) listings.taken(BigInt(header.pid))
      if (earlyInterrupts.size > 0 && earlyInterrupts.delete(unique)) signalled(request)
      if (code === opcode.WRITE) {
        const { done, kept } = write(request)
        done
          .catch((caught: unknown) => failed(request, caught))
          .finally(() => {
            if (kept) channel.giveBack(message)
          })
        return kept
      }
      const handler = handlers.get(code)
      if (handler === undefined) {
        log.debug('an unknown FUSE request', { opcode: code })
        replyError(request, 'ENOSYS')
        return false
      }
      if (changesNames.has(code)) directoryChanges(header.nodeId)
      handler(request).catch((caught: unknown) => failed(request, caught))
    } catch (caught) {
      // There is no reply to these, not even an error; the kernel would take it for the reply to something else.
      if (code === opcode.FORGET || code === opcode.BATCH_FORGET || code === opcode.INTERRUPT) {
        log.error('a malformed FUSE request', { cause: caught })
      } else failed(request, caught)
    }
    return false
  }

  return {
    request,
    initialized,
    ended: () => {
      refused(new Error('unmounted before the first request'))
      for (const { caller } of pending.values()) caller.interrupt()
      pending.clear()
    },
    nodeIdOf,
    isReferenced: (ino) => references.has(Number(nodeIdOf(ino))),
    isDataBusy: (ino) => {
      for (const request of pending.values()) if (request.ino === ino && holdsPages.has(request.opcode)) return true
      return false
    },
    minor: () => minor,
  }
}
