/** rmdir: removes an empty directory. ENOENT, ENOTDIR, ENOTEMPTY, EINVAL for ".", ENAMETOOLONG. Replies changed. */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkUnrestricted } from '../../domain/inode-flags.ts'
import { S_IFDIR } from '../../domain/mode.ts'
import type { RmdirRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { dropLink, removable, removeEntry } from './entries.ts'
import { changedDirectory, changedInode, checkName, directory, existing, isDot, isDotDot } from './operation.ts'
import type { Operation } from './operation.ts'

export const rmdir: Operation<RmdirRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  checkName(place.name)
  if (isDot(place.name)) throw new PosixError('EINVAL')
  if (isDotDot(place.name)) throw new PosixError('ENOTEMPTY')
  directory(tx, place.parent)
  const { entry, inode } = removable(tx, place, context, (found) => {
    if (found.type !== S_IFDIR) throw new PosixError('ENOTDIR')
    if (existing(tx, found.ino).entries > 0) throw new PosixError('ENOTEMPTY')
    checkUnrestricted(existing(tx, place.parent))
    checkUnrestricted(existing(tx, found.ino))
  })
  const parent = removeEntry(tx, place, entry)
  const dropped = dropLink(tx, entry.ino, inode, context, { keepsOpen: false })
  const inodes = [changedDirectory(tx, context, place.parent, parent), changedInode(context, entry.ino, dropped)]
  return { $case: 'changed', value: { inodes } }
}
