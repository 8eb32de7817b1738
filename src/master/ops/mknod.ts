/**
 * mknod: makes a regular file (also for open(O_CREAT)), fifo, socket or device. With `open` the session has it open from then on, and
 * gets the write lease of a regular file.
 * ENOENT, ENOTDIR, EEXIST, ENAMETOOLONG, EINVAL (directories and symlinks have their own operations). Replies entry.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkMutable } from '../../domain/inode-flags.ts'
import { S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK, fileType } from '../../domain/mode.ts'
import type { MknodRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { createWithAcl } from './acl.ts'
import { checkVacant } from './entries.ts'
import { attributesOf, madeResult, namedDirectory, newInode, writableIf } from './operation.ts'
import type { Operation } from './operation.ts'

const types: ReadonlySet<number> = new Set([S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK])

export const mknod: Operation<MknodRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  // mknod(2) without a type makes a regular file.
  const type = fileType(request.mode) === 0 ? S_IFREG : fileType(request.mode)
  if (!types.has(type)) throw new PosixError('EINVAL')
  writableIf(context, [place.parent], () => {
    const parent = namedDirectory(tx, place.parent)
    checkVacant(tx, place)
    checkMutable(parent)
  })
  const isDevice = type === S_IFCHR || type === S_IFBLK
  const { ino, inode } = createWithAcl(tx, place, request.caller, {
    mode: type | (request.mode & 0o7777),
    rdev: isDevice ? request.rdev : 0,
    ino: request.ino,
  })
  if (request.open) tx.onApply(() => context.opens.open(context.session, ino))
  if (!request.open || type !== S_IFREG) {
    return madeResult(tx, context, place.parent, newInode(tx, context, ino, inode))
  }
  // Who makes and opens a file is about to write it, and nobody else can have a lease on it yet.
  const lease = context.leases.grant(context.session, ino, 'write', (effect) => tx.onApply(effect))
  return madeResult(tx, context, place.parent, { attributes: attributesOf(context, ino, inode), lease })
}
