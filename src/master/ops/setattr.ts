/**
 * setattr: chmod, chown, utimensat, truncate, chattr, and the number of copies; what is absent stays.
 *
 * A new size cuts the extents beyond it or leaves a hole; bytes that come back by a later extension are zeros. truncate(2) sets mtime and
 * ctime also when the size stays. chown of anything but a directory clears setuid and setgid, as Linux does.
 *
 * Inline files: cutting keeps them inline, and so does growing up to the cluster's inlineBytesMax. A file with inline data that is to
 * grow beyond that is EOPNOTSUPP, and nothing has changed: the client first commits the whole content as extents and asks again.
 * (A file without any data grows as it is: it has no inline data.)
 *
 * ESTALE, EISDIR and EINVAL (size of what is no regular file), EFBIG, EINVAL (malformed times, copies not 1 .. 16), EPERM (flags).
 * EOPNOTSUPP also for flags that mean nothing here.
 * Replies attributesAndLease.
 */
import { changedBySetattr } from '../../domain/attribute-rules.ts'
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkMutable, checkUnrestricted, inodeFlagsKnown } from '../../domain/inode-flags.ts'
import { blockBytes, fileBytesMax } from '../../domain/limits.ts'
import type { SetattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { modeChanged } from './acl.ts'
import type { OpContext } from '../context.ts'
import type { Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { FileEdit } from './file-edit.ts'
import { changedResult, checkTime, existing, regular, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'

export const copiesMax = 16

export const setattr: Operation<SetattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const inode = request.size === undefined ? existing(tx, ino) : regular(tx, ino)
  checkTime(request.atime)
  checkTime(request.mtime)
  checkTime(request.ctime)
  if (request.size !== undefined && request.size > fileBytesMax) throw new PosixError('EFBIG')
  if (request.copies !== undefined && (request.copies < 1 || request.copies > copiesMax)) throw new PosixError('EINVAL')
  checkFlags(inode, request)
  writable(context, ino)
  const changes: Partial<Writable<Inode>> = changedBySetattr(inode, request, tx.now)
  if (request.size !== undefined) {
    Object.assign(changes, resized(tx, { ino, inode, size: request.size }, context))
    changes.mtime ??= tx.now
  }
  // After what may be refused: in a journal that entry must have changed nothing.
  if (request.mode !== undefined) modeChanged(tx, ino, inode, changes.mode!)
  if (request.flags !== undefined) changes.flags = request.flags
  if (request.copies !== undefined) changes.copies = request.copies
  return changedResult(context, ino, update(tx, ino, inode, changes))
}

/** What chattr(1) has forbidden, and flags that mean nothing. EPERM, EOPNOTSUPP. */
const checkFlags = (inode: Inode, request: SetattrRequest): void => {
  if (request.flags !== undefined && (request.flags & ~inodeFlagsKnown) !== 0) throw new PosixError('EOPNOTSUPP')
  const { mode, uid, gid, size, atime, mtime } = request
  if (mode !== undefined || uid !== undefined || gid !== undefined || size !== undefined) checkUnrestricted(inode)
  if (atime !== undefined || mtime !== undefined) checkUnrestricted(inode)
  if (request.atimeNow || request.mtimeNow) checkMutable(inode)
}

type Writable<T> = { -readonly [K in keyof T]: T[K] }

const resized = (
  tx: Tx,
  { ino, inode, size }: { ino: ReturnType<typeof asIno>; inode: Inode; size: bigint },
  context: OpContext,
): Partial<Inode> => {
  if (inode.content !== undefined) {
    if (size === 0n) return { size, allocated: 0n, content: undefined }
    if (size > BigInt(context.cluster.inlineBytesMax) && size > inode.size) {
      throw new PosixError('EOPNOTSUPP', 'the inline file becomes too large; commit its content as extents first')
    }
    const content = Buffer.alloc(Number(size))
    inode.content.copy(content)
    return { size, content, allocated: inlineAllocated(content.length) }
  }
  if (inode.allocated === 0n || size > inode.size) return { size }
  // Also at the same size: what was allocated beyond the end goes, as in ext4.
  const edit = new FileEdit(tx, ino)
  edit.cutFrom(size)
  return { size, allocated: inode.allocated + edit.finish(context.chunks) }
}

/** What st_blocks counts for inline data. */
export const inlineAllocated = (length: number): bigint => BigInt(Math.ceil(length / blockBytes) * blockBytes)
