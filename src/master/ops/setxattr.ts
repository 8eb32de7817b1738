/**
 * setxattr: sets an extended attribute; flags XATTR_CREATE 1 (EEXIST), XATTR_REPLACE 2 (ENODATA). An access control list also sets the
 * mode's permission bits, and is not stored when the mode says it all.
 * E2BIG (value over 64 KiB), ENOSPC (more attributes than can be listed), EINVAL, ERANGE and EOPNOTSUPP (name), ESTALE. Replies changed.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import { checkUnrestricted } from '../../domain/inode-flags.ts'
import { nameBytesMax, xattrValueBytesMax } from '../../domain/limits.ts'
import { S_ISGID, isDirectory, isSymlink } from '../../domain/mode.ts'
import { accessAclName, checkXattrName, defaultAclName } from '../../domain/xattr-names.ts'
import type { SetxattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { xattrBounds, xattrs } from '../keys.ts'
import { modeFromAcl, parseAcl } from './acl.ts'
import type { Tx } from '../store.ts'
import { changedInode, existing, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'

/** Attributes of one inode: what one operation can list or remove. */
export const xattrsMax = 1024
/** Of all names, each with its NUL: the kernel lists no more (XATTR_LIST_MAX). */
const listBytesMax = 65_536
const XATTR_CREATE = 1
const XATTR_REPLACE = 2

export const setxattr: Operation<SetxattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  checkXattrName(request.name)
  if (request.value.length > xattrValueBytesMax) throw new PosixError('E2BIG')
  if ((request.flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0) throw new PosixError('EINVAL')
  const inode = existing(tx, ino)
  checkUnrestricted(inode)
  writable(context, ino)
  const key = { ino, name: request.name }
  const before = inode.xattrs === 0 ? undefined : tx.get(xattrs, key)
  if (before !== undefined && (request.flags & XATTR_CREATE) !== 0) throw new PosixError('EEXIST')
  if (before === undefined && (request.flags & XATTR_REPLACE) !== 0) throw new PosixError('ENODATA')
  let { mode } = inode
  let stored = true
  if (request.name.equals(accessAclName)) {
    if (isSymlink(mode)) throw new PosixError('EOPNOTSUPP')
    ;({ mode, stored } = modeFromAcl(request.value, mode))
    if (request.killSgid) mode &= ~S_ISGID
  } else if (request.name.equals(defaultAclName)) {
    if (!isDirectory(mode)) throw new PosixError('EACCES')
    parseAcl(request.value)
  }
  if (stored && before === undefined) checkRoom(tx, ino, { names: inode.xattrs, added: request.name.length + 1 })
  if (stored) tx.put(xattrs, key, request.value)
  else if (before !== undefined) tx.delete(xattrs, key)
  const count = inode.xattrs + (stored ? 1 : 0) - (before === undefined ? 0 : 1)
  const next = update(tx, ino, inode, { mode, xattrs: count })
  return { $case: 'changed', value: { inodes: [changedInode(context, ino, next)] } }
}

/** ENOSPC when the names could not be listed any more. */
const checkRoom = (tx: Tx, ino: Ino, { names, added }: { names: number; added: number }): void => {
  if (names >= xattrsMax) throw new PosixError('ENOSPC')
  if (names * (nameBytesMax + 1) + added <= listBytesMax) return
  const found = tx.range(xattrs, xattrBounds(ino), xattrsMax)
  const bytes = found.reduce((sum, [{ name }]) => sum + name.length + 1, added)
  if (bytes > listBytesMax) throw new PosixError('ENOSPC')
}
