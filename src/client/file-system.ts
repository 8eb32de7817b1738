/**
 * The FileSystem port: what a mount (or any other front end) asks of a file system. Operations have the names of the system calls
 * and the semantics of their man pages; inodes are handles, names are single components as bytes.
 *
 * Errors: each method rejects with PosixError and nothing else; an operation that found no answer by its deadline gives EIO,
 * one whose signal was aborted gives EINTR, unless it had taken effect.
 * Concurrency: calls may overlap at will. Buffers that are passed in belong to the callee until the promise settles, buffers that
 * come back belong to the caller and are never written again.
 * Permission checks are the caller's (the kernel's, by default_permissions), except where a call says otherwise.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { Timespec } from '../domain/time.ts'

/** What stat(2) tells. The shape is that of shoal.v1.Attributes. */
export interface Attributes {
  ino: Ino
  mode: number
  nlink: number
  uid: number
  gid: number
  /** dev_t in the kernel's 32-bit encoding. */
  rdev: number
  size: bigint
  /** Bytes occupied in one copy: st_blocks * 512. */
  allocated: bigint
  atime: Timespec
  mtime: Timespec
  ctime: Timespec
  btime: Timespec
  /** FS_*_FL. */
  flags: number
  copies: number
  /** Grows with every change of the inode. */
  change: bigint
}

/** Who calls, and how the call can be given up. */
export interface Context {
  uid: number
  gid: number
  pid: number
  /** Mask for modes of new files. */
  umask: number
  /** Aborted when the caller was interrupted. */
  signal: AbortSignal
}

/** An open file of this client; never 0, never reused. */
export type Handle = bigint

/**
 * How long the front end may believe what it was told, counted from the answer, unless it is told otherwise by `Invalidations`. Such a time
 * ends before the file system could lose its right to what it told, also when its process is stopped.
 */
export interface Validity {
  entryMs: number
  attributesMs: number
}

export const nothingValid: Validity = { entryMs: 0, attributesMs: 0 }

/** ENOENT for a name, and for how long that may be believed. */
export class NoSuchName extends PosixError {
  readonly entryMs: number

  constructor(entryMs: number) {
    super('ENOENT')
    this.entryMs = entryMs
  }
}

export interface Entry {
  attributes: Attributes
  validity: Validity
}

export interface Opened {
  handle: Handle
  /** Pages that the kernel has of the file are still right. */
  keepCache: boolean
}

export interface DirectoryEntry {
  name: Buffer
  ino: Ino
  /** S_IFMT bits. */
  type: number
  /** Continue after this entry: 1 is ".", 2 is "..", others are the directory's own. */
  cookie: bigint
  /** With `plus`, except for "." and "..". */
  entry?: Entry
}

/** Only what is present changes. */
export interface SetattrChanges {
  mode?: number
  uid?: number
  gid?: number
  size?: bigint
  atime?: Timespec | 'now'
  mtime?: Timespec | 'now'
  ctime?: Timespec
  /** Clear setuid, and setgid where group-executable. */
  killPrivileges?: boolean
  /** FS_*_FL of FS_IOC_SETFLAGS. */
  flags?: number
  copies?: number
}

export interface FileSystemStatistics {
  bytesTotal: bigint
  bytesFree: bigint
  inodesUsed: bigint
  inodesFree: bigint
  nameBytesMax: number
  blockBytes: number
}

export interface WriteOptions {
  /** Clear setuid, and setgid where group-executable. */
  killPrivileges: boolean
  /** At the end of the file, wherever that is by then; the offset is ignored. */
  append?: boolean
  /** Durable when it resolves. */
  sync?: boolean
}

export type LockType = 'read' | 'write' | 'unlock'

/** Bytes start .. end inclusive; end 2^63 - 1 is "however far". */
export interface FileLock {
  type: LockType
  start: bigint
  end: bigint
  pid: number
}

export interface LockRequest {
  /** The kernel's lock owner: a process, or an open file description. */
  owner: bigint
  kind: 'posix' | 'flock'
  lock: FileLock
}

/**
 * What the file system tells its front end without being asked. These must neither wait for operations in progress nor for locks that one of
 * those may hold. An answer that is on its way, and was asked for before, must not be believed any longer than what is invalidated here;
 * that of attributes holds for answers to what looks at an inode or makes one, not for setattr, link and tmpfile.
 */
export interface Invalidations {
  /** False: names cannot be invalidated, so entries must be told with a validity of 0. */
  readonly canForgetNames: boolean
  /** The names of a directory are not to be believed any longer. Undefined: took effect at once; else when the promise resolves. */
  forgetNames(directory: Ino): Promise<void> | undefined
  /** The attributes of an inode are not to be believed any longer. Undefined: took effect at once; else when the promise resolves. */
  forgetAttributes(ino: Ino): Promise<void> | undefined
  /**
   * What readdir told of a directory as right for a while is not to be believed any longer, nor what of it is on its way. Undefined: took effect at
   * once; else when the promise resolves.
   */
  forgetListing(directory: Ino): Promise<void> | undefined
  /**
   * Cached bytes are to be dropped; length -1: to the end. For those who look at them without asking: mapped memory. Resolves when that took
   * effect, or sooner when an operation on the file's data is in progress: such an operation may hold them and wait for the caller.
   */
  dropData(ino: Ino, range: { offset: bigint; length: bigint }): Promise<void>
}

export interface FileSystem {
  /** Inode that the mount shows as its root. */
  readonly root: Ino

  /** Rejects with NoSuchName where that may be believed for a while. */
  lookup(context: Context, parent: Ino, name: Buffer): Promise<Entry>
  /** The kernel dropped this many references from lookups, creates and readdirplus. */
  forget(ino: Ino, count: bigint): void
  getattr(context: Context, ino: Ino, handle?: Handle): Promise<Entry>
  setattr(context: Context, ino: Ino, changes: SetattrChanges, handle?: Handle): Promise<Entry>
  readlink(context: Context, ino: Ino): Promise<Buffer>
  /** Any type but directories and symlinks. */
  mknod(context: Context, parent: Ino, name: Buffer, mode: number, rdev: number): Promise<Entry>
  mkdir(context: Context, parent: Ino, name: Buffer, mode: number): Promise<Entry>
  symlink(context: Context, parent: Ino, name: Buffer, target: Buffer): Promise<Entry>
  link(context: Context, ino: Ino, parent: Ino, name: Buffer): Promise<Entry>
  unlink(context: Context, parent: Ino, name: Buffer): Promise<void>
  rmdir(context: Context, parent: Ino, name: Buffer): Promise<void>
  /** flags: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2. */
  rename(
    context: Context,
    source: { parent: Ino; name: Buffer },
    target: { parent: Ino; name: Buffer },
    flags: number,
  ): Promise<void>

  /** flags: open(2)'s, in Linux's x86 numbering as FUSE sends them. O_TRUNC is carried out here, atomically with the open. */
  open(context: Context, ino: Ino, flags: number): Promise<Opened>
  /** Opens an existing file unless O_EXCL. */
  create(
    context: Context,
    parent: Ino,
    name: Buffer,
    mode: number,
    flags: number,
  ): Promise<{ entry: Entry; opened: Opened }>
  /** Shorter than asked only at the end of the file. The buffer is the caller's, who may give it back to the buffer pool. */
  read(context: Context, handle: Handle, offset: bigint, length: number): Promise<Buffer>
  /** The whole of data or an error. */
  write(context: Context, handle: Handle, offset: bigint, data: Buffer, options: WriteOptions): Promise<void>
  /** A regular file without a name, open; `link` may give it one. */
  tmpfile(context: Context, parent: Ino, mode: number, flags: number): Promise<{ entry: Entry; opened: Opened }>
  /** close(2) of one descriptor: gives one that may write an error that was kept for the file. Drops the owner's POSIX locks. */
  flush(context: Context, handle: Handle, lockOwner: bigint): Promise<void>
  /** The last reference to the handle is gone. flockOwner: drop this owner's flock(2) locks. */
  release(handle: Handle, flockOwner?: bigint): Promise<void>
  /** Durable when it resolves: data, and unless dataOnly all metadata, and the file's name. */
  fsync(context: Context, handle: Handle, dataOnly: boolean): Promise<void>

  /**
   * Entries after the cookie (0: from ".", 1: from ".."), as many as `accept` takes; it is called in order until it returns false.
   * With `plus` there may be fewer, but none only at the end. Directories are not opened: the parts that one caller (`context.pid`) asks for
   * are taken for one listing, which leaves out what is made after its beginning.
   *
   * True: what was told may be kept and told again at any later time at which the directory's attributes are believed and its mtime is what it
   * was, unless `forgetListing` comes. The directory was read, whoever tells it again.
   */
  readdir(
    context: Context,
    directory: Ino,
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<boolean>
  /**
   * What was done in the directory is durable when it resolves. EIO when something of it is lost: once for each caller whose change it was, and
   * once for somebody else unless one of those was told before.
   */
  fsyncdir(context: Context, directory: Ino): Promise<void>
  /**
   * Everything that this client has buffered becomes durable. EIO when some of it cannot be stored, or when a change of names or attributes that was
   * answered is lost and no syncfs has told it.
   */
  syncfs(context: Context): Promise<void>
  statfs(context: Context): Promise<FileSystemStatistics>

  getxattr(context: Context, ino: Ino, name: Buffer): Promise<Buffer>
  /** flags: XATTR_CREATE 1, XATTR_REPLACE 2. */
  setxattr(
    context: Context,
    ino: Ino,
    name: Buffer,
    value: Buffer,
    options: { flags: number; killSgid: boolean },
  ): Promise<void>
  listxattr(context: Context, ino: Ino): Promise<Buffer[]>
  removexattr(context: Context, ino: Ino, name: Buffer): Promise<void>

  /** mode: FALLOC_FL_* of fallocate(2). */
  fallocate(context: Context, handle: Handle, mode: number, offset: bigint, length: bigint): Promise<void>
  /** whence: SEEK_DATA 3, SEEK_HOLE 4. */
  lseek(context: Context, handle: Handle, offset: bigint, whence: number): Promise<bigint>
  /** Returns the bytes copied: metadata only, no data moves. */
  copyFileRange(
    context: Context,
    source: { handle: Handle; offset: bigint },
    target: { handle: Handle; offset: bigint },
    length: bigint,
  ): Promise<bigint>

  /** The lock that stands in the way, or the request itself with type unlock. */
  getlk(context: Context, ino: Ino, request: LockRequest): Promise<FileLock>
  /** Without `wait` EAGAIN; with it EDEADLK, or EINTR when the context's signal is aborted. */
  setlk(context: Context, ino: Ino, request: LockRequest, options: { wait: boolean }): Promise<void>

  /** Where to send invalidations from now on; at most one receiver. */
  onInvalidate(receiver: Invalidations): void
  /** Makes everything durable and gives everything back. */
  close(): Promise<void>
}
