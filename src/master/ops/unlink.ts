/** unlink: removes a name that is no directory's. ENOENT, EISDIR, ENOTDIR, ENAMETOOLONG. Replies changed. */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkUnrestricted } from '../../domain/inode-flags.ts'
import { S_IFDIR } from '../../domain/mode.ts'
import type { UnlinkRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { dropLink, removable, removeEntry } from './entries.ts'
import { changedDirectory, changedInode, checkName, directory, existing, isDot, isDotDot } from './operation.ts'
import type { Operation } from './operation.ts'

export const unlink: Operation<UnlinkRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  checkName(place.name)
  if (isDot(place.name) || isDotDot(place.name)) throw new PosixError('EISDIR')
  directory(tx, place.parent)
  const { entry, inode } = removable(tx, place, context, (found) => {
    if (found.type === S_IFDIR) throw new PosixError('EISDIR')
    checkUnrestricted(existing(tx, place.parent))
    checkUnrestricted(existing(tx, found.ino))
  })
  const parent = removeEntry(tx, place, entry)
  const dropped = dropLink(tx, entry.ino, inode, context, { keepsOpen: request.keepsOpen === true })
  const inodes = [changedDirectory(tx, context, place.parent, parent), changedInode(context, entry.ino, dropped)]
  return { $case: 'changed', value: { inodes } }
}
