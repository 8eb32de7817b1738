/**
 * rename: moves a name, over another one if there is one (renameat2(2), and do_renameat2 and vfs_rename in the kernel for the order of the
 * checks). flags: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2. Both names of the same inode: nothing happens, and that is success.
 *
 * A name that is replaced or exchanged keeps its cookie: a listing that goes on meanwhile sees it exactly once.
 *
 * ENOENT, EPERM (flags of the inodes), ENOTDIR, EISDIR, ENOTEMPTY, EEXIST, EINVAL (into its own descendant; unknown flags), EBUSY ("." and ".."), ENAMETOOLONG.
 * Replies changed.
 */
import { PosixError, invariant } from '../../domain/errors.ts'
import { asIno, rootIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import { checkMutable, checkUnrestricted } from '../../domain/inode-flags.ts'
import { S_IFDIR } from '../../domain/mode.ts'
import type { RenameRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { dentries, listings } from '../keys.ts'
import type { Dentry, Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { addEntry, dropLink, entryAt, putEntry, removeEntry } from './entries.ts'
import type { Place } from './entries.ts'
import {
  changedDirectory,
  changedInode,
  checkName,
  directory,
  existing,
  isDot,
  isDotDot,
  namedDirectory,
  update,
  writableIf,
} from './operation.ts'
import type { Operation, Result } from './operation.ts'

export const RENAME_NOREPLACE = 1
export const RENAME_EXCHANGE = 2
/** Deeper trees cannot be walked to by any path that the kernel takes at once, and a loop would be a broken invariant. */
const depthMax = 1_000_000

export const rename: Operation<RenameRequest> = (tx, request, context) => {
  const source = { parent: asIno(request.parent), name: request.name }
  const target = { parent: asIno(request.newParent), name: Buffer.from(request.newName) }
  const { flags } = request
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) !== 0) throw new PosixError('EINVAL')
  if (flags === (RENAME_NOREPLACE | RENAME_EXCHANGE)) throw new PosixError('EINVAL')
  for (const { name } of [source, target]) {
    checkName(name)
    if (isDot(name) || isDotDot(name)) throw new PosixError('EBUSY')
  }
  directory(tx, source.parent)
  directory(tx, target.parent)
  const involved = [tx.get(dentries, source)?.ino, tx.get(dentries, target)?.ino].filter((ino) => ino !== undefined)
  writableIf(context, [source.parent, target.parent, ...involved], () => check(tx, source, target, flags))
  const moved = entryAt(tx, source)
  const replaced = tx.get(dentries, target)
  if (replaced?.ino === moved.ino) return { $case: 'changed', value: { inodes: [] } }
  const movedInode = existing(tx, moved.ino)
  /** The directories, and what else has changed. */
  const changed = (...others: [Ino, Inode][]): Result => {
    const directories = new Set([source.parent, target.parent])
    const inodes = [...directories].map((ino) => changedDirectory(tx, context, ino, existing(tx, ino)))
    return {
      $case: 'changed',
      value: { inodes: [...inodes, ...others.map(([ino, inode]) => changedInode(context, ino, inode))] },
    }
  }
  if (replaced === undefined) {
    removeEntry(tx, source, moved)
    addEntry(tx, target, moved)
    return changed([moved.ino, moveInode(tx, moved.ino, movedInode, target.parent)])
  }
  const replacedInode = existing(tx, replaced.ino)
  const keepsOpen = request.keepsOpen === true && replaced.type !== S_IFDIR
  if (flags === RENAME_EXCHANGE) {
    repoint(tx, source, moved, replaced)
    repoint(tx, target, replaced, moved)
    return changed(
      [moved.ino, moveInode(tx, moved.ino, movedInode, target.parent)],
      [replaced.ino, moveInode(tx, replaced.ino, replacedInode, source.parent)],
    )
  }
  removeEntry(tx, source, moved)
  repoint(tx, target, replaced, moved)
  return changed(
    [moved.ino, moveInode(tx, moved.ino, movedInode, target.parent)],
    [replaced.ino, dropLink(tx, replaced.ino, replacedInode, context, { keepsOpen })],
  )
}

/** What is against it. */
const check = (tx: Tx, source: Place, target: Place, flags: number): void => {
  const targetDirectory = namedDirectory(tx, target.parent)
  const moved = entryAt(tx, source)
  const replaced = tx.get(dentries, target)
  if (replaced === undefined && flags === RENAME_EXCHANGE) throw new PosixError('ENOENT')
  if (replaced !== undefined && flags === RENAME_NOREPLACE) throw new PosixError('EEXIST')
  if (source.parent !== target.parent) {
    if (moved.type === S_IFDIR && isAncestor(tx, moved.ino, target.parent)) throw new PosixError('EINVAL')
    if (replaced?.type === S_IFDIR && isAncestor(tx, replaced.ino, source.parent)) {
      throw new PosixError(flags === RENAME_EXCHANGE ? 'EINVAL' : 'ENOTEMPTY')
    }
  }
  if (replaced?.ino === moved.ino) return
  checkUnrestricted(existing(tx, source.parent))
  checkUnrestricted(existing(tx, moved.ino))
  checkMutable(targetDirectory)
  if (replaced === undefined) return
  checkUnrestricted(targetDirectory)
  checkUnrestricted(existing(tx, replaced.ino))
  if (flags === RENAME_EXCHANGE) return
  if (replaced.type === S_IFDIR) {
    if (moved.type !== S_IFDIR) throw new PosixError('EISDIR')
    if (existing(tx, replaced.ino).entries > 0) throw new PosixError('ENOTEMPTY')
  } else if (moved.type === S_IFDIR) {
    throw new PosixError('ENOTDIR')
  }
}

/** Whether the directory is the other one or lies on its way to the root. */
const isAncestor = (tx: Tx, ancestor: Ino, from: Ino): boolean => {
  let at = from
  for (let depth = 0; depth < depthMax; depth++) {
    if (at === ancestor) return true
    if (at === rootIno) return false
    at = existing(tx, at).parent
  }
  invariant(false, `directory ${from} is its own ancestor`)
}

/** Lets a name lead to another inode; the name keeps its cookie, the directory's link count follows. */
const repoint = (tx: Tx, place: Place, from: Dentry, to: Dentry): void => {
  const parent = existing(tx, place.parent)
  tx.delete(listings, { parent: place.parent, cookie: from.cookie })
  putEntry(tx, place, { ino: to.ino, type: to.type, cookie: from.cookie })
  const subdirectories = (to.type === S_IFDIR ? 1 : 0) - (from.type === S_IFDIR ? 1 : 0)
  update(tx, place.parent, parent, { mtime: tx.now, nlink: parent.nlink + subdirectories })
}

/** ctime of what was moved, and where ".." of a directory leads. */
const moveInode = (tx: Tx, ino: Ino, inode: Inode, parent: Ino): Inode =>
  update(tx, ino, inode, inode.parent === 0n ? {} : { parent })
