/**
 * What becomes of an inode's attributes: of a new one, and by chmod, chown and utimensat. The master and a client that works ahead of it both
 * compute it, and must come to the same result.
 */
import { S_ISGID, isDirectory, withoutPrivileges, fileType } from './mode.ts'
import type { Timespec } from './time.ts'

/** Owner, group and mode of a new inode: Linux's inode_init_owner. */
export const ownerOfNew = (
  parent: { readonly mode: number; readonly gid: number },
  caller: { readonly uid: number; readonly gid: number } | undefined,
  mode: number,
): { mode: number; uid: number; gid: number } => {
  const inherits = (parent.mode & S_ISGID) !== 0
  return {
    mode: inherits && isDirectory(mode) ? mode | S_ISGID : mode,
    uid: caller?.uid ?? 0,
    gid: inherits ? parent.gid : (caller?.gid ?? 0),
  }
}

/** Only what is present changes. */
export interface AttributeChanges {
  readonly mode?: number | undefined
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  readonly atime: Timespec | undefined
  readonly mtime: Timespec | undefined
  readonly ctime: Timespec | undefined
  readonly atimeNow: boolean
  readonly mtimeNow: boolean
  readonly killPrivileges: boolean
}

export interface ChangedAttributes {
  mode?: number
  uid?: number
  gid?: number
  atime?: Timespec
  mtime?: Timespec
  ctime?: Timespec
}

/** What a setattr changes beside the size; ctime only when it was given, it becomes now otherwise. */
export const changedBySetattr = (
  before: { readonly mode: number },
  changes: AttributeChanges,
  now: Timespec,
): ChangedAttributes => {
  const after: ChangedAttributes = {}
  const chowned = changes.uid !== undefined || changes.gid !== undefined
  if (changes.killPrivileges || (chowned && !isDirectory(before.mode))) after.mode = withoutPrivileges(before.mode)
  if (changes.mode !== undefined) after.mode = fileType(before.mode) | (changes.mode & 0o7777)
  if (changes.uid !== undefined) after.uid = changes.uid
  if (changes.gid !== undefined) after.gid = changes.gid
  const atime = changes.atimeNow ? now : changes.atime
  if (atime !== undefined) after.atime = atime
  const mtime = changes.mtimeNow ? now : changes.mtime
  if (mtime !== undefined) after.mtime = mtime
  if (changes.ctime !== undefined) after.ctime = changes.ctime
  return after
}
