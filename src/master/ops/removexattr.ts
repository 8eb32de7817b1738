/**
 * removexattr. An access control list that is not there counts as removed, as in ext4, and its mode stays what it is.
 * ENODATA, and for the name ERANGE, EINVAL and EOPNOTSUPP; ESTALE. Replies changed.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkUnrestricted } from '../../domain/inode-flags.ts'
import { checkXattrName, isAclName } from '../../domain/xattr-names.ts'
import type { RemovexattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { xattrs } from '../keys.ts'
import { changedInode, existing, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'

export const removexattr: Operation<RemovexattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  checkXattrName(request.name)
  const inode = existing(tx, ino)
  checkUnrestricted(inode)
  writable(context, ino)
  const key = { ino, name: request.name }
  if (inode.xattrs === 0 || tx.get(xattrs, key) === undefined) {
    if (isAclName(request.name)) return { $case: 'changed', value: { inodes: [] } }
    throw new PosixError('ENODATA')
  }
  tx.delete(xattrs, key)
  const next = update(tx, ino, inode, { xattrs: inode.xattrs - 1 })
  return { $case: 'changed', value: { inodes: [changedInode(context, ino, next)] } }
}
