/**
 * What every operation of the master is made of, and the small rules that many of them share.
 *
 * An operation is a synchronous function of the transaction, the request and the context (see store.ts and context.ts). It throws
 * PosixError for a refusal, before it has changed anything. Permissions are the kernel's business (default_permissions).
 *
 * Leases: whoever reads attributes, data or names of an inode first reduces the others to reading, because under a write lease all of these
 * may be newer in a client's buffer; whoever changes something of an inode reduces them to nothing. Names are something of their directory.
 * What never changes may be read without: an inode's type, the target of a symlink, and the parent of a directory, which only the master
 * changes.
 */
import { PosixError } from '../../domain/errors.ts'
import type { Ino } from '../../domain/ids.ts'
import { fileBytesMax, nameBytesMax } from '../../domain/limits.ts'
import { isDirectory, isRegular } from '../../domain/mode.ts'
import type { Timespec } from '../../domain/time.ts'
import type { AttributesAndLease, Lease, Reply } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { Attributes } from '../../protocol/gen/shoal/v1/types.pb.ts'
import type { OpContext } from '../context.ts'
import { inodes } from '../keys.ts'
import type { Inode } from '../keys.ts'
import { Blocked } from '../store.ts'
import type { Tx } from '../store.ts'

export type Result = NonNullable<Reply['result']>
export type Operation<Q> = (tx: Tx, request: Q, context: OpContext) => Result

export const empty: Result = { $case: 'empty', value: {} }

/** ESTALE when the inode is gone. */
export const existing = (tx: Tx, ino: Ino): Inode => {
  const inode = tx.get(inodes, ino)
  if (inode === undefined) throw new PosixError('ESTALE')
  return inode
}

/** ESTALE, ENOTDIR. */
export const directory = (tx: Tx, ino: Ino): Inode => {
  const inode = existing(tx, ino)
  if (!isDirectory(inode.mode)) throw new PosixError('ENOTDIR')
  return inode
}

/** A directory that something can be made in: ENOENT when it was removed and only lives because it is open. */
export const namedDirectory = (tx: Tx, ino: Ino): Inode => {
  const inode = directory(tx, ino)
  if (inode.nlink === 0) throw new PosixError('ENOENT')
  return inode
}

/** ESTALE, EISDIR, EINVAL for what else has no data. */
export const regular = (tx: Tx, ino: Ino): Inode => {
  const inode = existing(tx, ino)
  if (isDirectory(inode.mode)) throw new PosixError('EISDIR')
  if (!isRegular(inode.mode)) throw new PosixError('EINVAL')
  return inode
}

/** A component of a path: 1 .. 255 bytes without '/' and NUL. */
export const checkName = (name: Buffer): void => {
  if (name.length === 0) throw new PosixError('ENOENT')
  if (name.length > nameBytesMax) throw new PosixError('ENAMETOOLONG')
  if (name.includes(0) || name.includes(0x2f)) throw new PosixError('EINVAL')
}

export const isDot = (name: Buffer): boolean => name.length === 1 && name[0] === 0x2e
export const isDotDot = (name: Buffer): boolean => name.length === 2 && name[0] === 0x2e && name[1] === 0x2e

/** A range of a file's bytes: EINVAL when it is not one, EFBIG when it ends beyond the largest file. */
export const checkRange = (offset: bigint, length: bigint): void => {
  if (length > fileBytesMax || offset > fileBytesMax || offset + length > fileBytesMax) throw new PosixError('EFBIG')
}

export const checkTime = (time: Timespec | undefined): void => {
  if (time !== undefined && time.nanos > 999_999_999) throw new PosixError('EINVAL')
}

/** Before attributes, data or names are read: nobody else has newer ones in a buffer. */
export const readable = (context: OpContext, ...inos: Ino[]): void => reduceOthers(context, inos, 'read')

/** Before something of these inodes changes: nobody else has it in a cache. All are asked for at once. */
export const writable = (context: OpContext, ...inos: Ino[]): void => reduceOthers(context, inos, 'none')

/**
 * Before something of these inodes changes, with a look at what may refuse it. A refusal rests on what is read, so while somebody else may
 * have newer names or attributes in a buffer these come first; otherwise a refusal costs nobody a lease.
 */
export const writableIf = (context: OpContext, inos: readonly Ino[], check: () => void): void => {
  const { leases, session } = context
  const isBuffered = inos.some((ino) => leases.writtenByOther(session, ino))
  if (!isBuffered) check()
  writable(context, ...inos)
  if (isBuffered) check()
}

const reduceOthers = ({ leases, session }: OpContext, inos: readonly Ino[], allowed: 'none' | 'read'): void => {
  let waiting: Promise<void>[] | undefined
  // Each once: who is let through has left the line, and would have to join it again behind the others.
  for (const ino of new Set(inos)) {
    const promise = leases.reduceOthers(session, ino, allowed)
    if (promise !== undefined) (waiting ??= []).push(promise)
  }
  if (waiting === undefined) return
  const places = new Map(inos.map((ino) => [`${ino}/${allowed}`, () => leases.leave(session, ino, allowed)]))
  throw new Blocked(waiting.length === 1 ? waiting[0]! : Promise.all(waiting).then(() => undefined), places)
}

/** The inode with changes, one step further in its `change` count. ctime is now unless the changes say otherwise. */
export const changed = (tx: Tx, inode: Inode, changes: Partial<Inode>): Inode => ({
  ...inode,
  ctime: tx.now,
  ...changes,
  change: inode.change + 1n,
})

export const update = (tx: Tx, ino: Ino, inode: Inode, changes: Partial<Inode>): Inode => {
  const next = changed(tx, inode, changes)
  tx.put(inodes, ino, next)
  return next
}

export const attributesOf = (context: OpContext, ino: Ino, inode: Inode): Attributes => ({
  ino,
  mode: inode.mode,
  nlink: inode.nlink,
  uid: inode.uid,
  gid: inode.gid,
  rdev: inode.rdev,
  size: inode.size,
  allocated: inode.allocated,
  atime: inode.atime,
  mtime: inode.mtime,
  ctime: inode.ctime,
  btime: inode.btime,
  flags: inode.flags,
  copies: inode.copies === 0 ? context.cluster.copies : inode.copies,
  change: inode.change,
  hasXattrs: inode.xattrs > 0,
})

/** What a request has changed, with the lease that the session has on it. */
export const changedInode = (context: OpContext, ino: Ino, inode: Inode): AttributesAndLease => ({
  attributes: attributesOf(context, ino, inode),
  lease: context.leases.holding(context.session, ino),
})

/** The same for a directory whose names have changed: whoever changes one will probably change more. */
export const changedDirectory = (tx: Tx, context: OpContext, ino: Ino, inode: Inode): AttributesAndLease => ({
  attributes: attributesOf(context, ino, inode),
  lease: context.leases.offerWrite(context.session, ino, (effect) => tx.onApply(effect)),
})

/** The answer to what has changed nothing but this inode. */
export const changedResult = (context: OpContext, ino: Ino, inode: Inode): Result => ({
  $case: 'attributesAndLease',
  value: changedInode(context, ino, inode),
})

/** The answer to what only reads: with a lease if there is one to be had. Comes last in a run. */
export const foundResult = (context: OpContext, ino: Ino, inode: Inode): Result =>
  attributesResult(context, ino, inode, context.leases.offer(context.session, ino))

export const attributesResult = (context: OpContext, ino: Ino, inode: Inode, lease: Lease): Result => ({
  $case: 'attributesAndLease',
  value: { attributes: attributesOf(context, ino, inode), lease },
})

/** The answer to what has made a name in a directory. */
export const madeResult = (tx: Tx, context: OpContext, parent: Ino, made: AttributesAndLease): Result => ({
  $case: 'entry',
  value: {
    attributes: made.attributes,
    lease: made.lease,
    parentLease: undefined,
    changed: [changedDirectory(tx, context, parent, existing(tx, parent))],
  },
})

/** A new inode, with a lease: nobody else can have one. Whoever makes a directory will probably make something in it. */
export const newInode = (tx: Tx, context: OpContext, ino: Ino, inode: Inode): AttributesAndLease => ({
  attributes: attributesOf(context, ino, inode),
  lease: isDirectory(inode.mode)
    ? context.leases.offerWrite(context.session, ino, (effect) => tx.onApply(effect))
    : context.leases.offer(context.session, ino, (effect) => tx.onApply(effect)),
})
