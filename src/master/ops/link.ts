/**
 * link: one more name for an inode, or the first one for a file that was made without (see tmpfile.ts). EPERM for directories and where
 * flags of the inodes forbid it (chattr(1)), EMLINK beyond 65,000 names, ENOENT when it has lost its last name, ESTALE, ENOTDIR, EEXIST,
 * ENAMETOOLONG, EINVAL. Replies entry.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkMutable, checkUnrestricted } from '../../domain/inode-flags.ts'
import { linksMax } from '../../domain/limits.ts'
import { fileType, isDirectory } from '../../domain/mode.ts'
import type { LinkRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { orphans } from '../keys.ts'
import { addEntry, checkVacant, removeOrphan } from './entries.ts'
import { changedInode, existing, madeResult, namedDirectory, update, writableIf } from './operation.ts'
import type { Operation } from './operation.ts'

export const link: Operation<LinkRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  const ino = asIno(request.ino)
  const inode = existing(tx, ino)
  writableIf(context, [place.parent, ino], () => {
    const parent = namedDirectory(tx, place.parent)
    checkVacant(tx, place)
    checkMutable(parent)
    checkUnrestricted(inode)
    if (isDirectory(inode.mode)) throw new PosixError('EPERM')
    if (inode.nlink === 0 && tx.get(orphans, ino)?.linkable !== true) throw new PosixError('ENOENT')
    if (inode.nlink >= linksMax) throw new PosixError('EMLINK')
  })
  if (inode.nlink === 0) removeOrphan(tx, ino)
  const linked = update(tx, ino, inode, { nlink: inode.nlink + 1 })
  addEntry(tx, { ...place, name: Buffer.from(place.name) }, { ino, type: fileType(inode.mode) })
  return madeResult(tx, context, place.parent, changedInode(context, ino, linked))
}
