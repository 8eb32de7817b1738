/** symlink: a target of 1 .. 4095 bytes, not looked at. ENOENT (also an empty target), ENOTDIR, EEXIST, ENAMETOOLONG, EINVAL. Replies entry. */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkMutable } from '../../domain/inode-flags.ts'
import { symlinkBytesMax } from '../../domain/limits.ts'
import { S_IFLNK } from '../../domain/mode.ts'
import type { SymlinkRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { checkVacant, create } from './entries.ts'
import { madeResult, namedDirectory, newInode, writableIf } from './operation.ts'
import type { Operation } from './operation.ts'

export const symlink: Operation<SymlinkRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  if (request.target.length === 0) throw new PosixError('ENOENT')
  if (request.target.length > symlinkBytesMax) throw new PosixError('ENAMETOOLONG')
  if (request.target.includes(0)) throw new PosixError('EINVAL')
  writableIf(context, [place.parent], () => {
    const parent = namedDirectory(tx, place.parent)
    checkVacant(tx, place)
    checkMutable(parent)
  })
  // A piece of a network message must not be kept alive by a cached record.
  const { ino, inode } = create(tx, place, request.caller, {
    mode: S_IFLNK | 0o777,
    content: Buffer.from(request.target),
    ino: request.ino,
  })
  return madeResult(tx, context, place.parent, newInode(tx, context, ino, inode))
}
