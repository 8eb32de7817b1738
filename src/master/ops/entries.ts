/**
 * Names in directories: each is a dentry (found by name) and a listing record (found by cookie), always written together, and each
 * change of names changes the directory's times and counts.
 */
import { ownerOfNew } from '../../domain/attribute-rules.ts'
import { PosixError } from '../../domain/errors.ts'
import { asIno, rootIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import { inheritedFlags } from '../../domain/inode-flags.ts'
import { cookieFirst } from '../../domain/limits.ts'
import { fileType, isDirectory, isSymlink } from '../../domain/mode.ts'
import type { Caller } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { OpContext } from '../context.ts'
import { counters, dentries, inodes, listings, orphans } from '../keys.ts'
import type { Dentry, Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { changed, checkName, existing, isDot, isDotDot, update, writableIf } from './operation.ts'

export interface Place {
  parent: Ino
  name: Buffer
}

/** A place where a new name can be: ENAMETOOLONG, EINVAL, EEXIST. */
export const checkVacant = (tx: Tx, place: Place): void => {
  checkName(place.name)
  if (isDot(place.name) || isDotDot(place.name) || tx.get(dentries, place) !== undefined) throw new PosixError('EEXIST')
}

/** ENOENT. */
export const entryAt = (tx: Tx, place: Place): Dentry => {
  const entry = tx.get(dentries, place)
  if (entry === undefined) throw new PosixError('ENOENT')
  return entry
}

/** What a name leads to, when it and its directory may be changed and nothing that `check` looks at is against it. ENOENT. */
export const removable = (
  tx: Tx,
  place: Place,
  context: OpContext,
  check: (entry: Dentry) => void,
): { entry: Dentry; inode: Inode } => {
  const known = tx.get(dentries, place)
  writableIf(context, [place.parent, ...(known === undefined ? [] : [known.ino])], () => check(entryAt(tx, place)))
  const entry = entryAt(tx, place)
  return { entry, inode: existing(tx, entry.ino) }
}

const count = (tx: Tx, name: 'inodes' | 'orphans', by: bigint): void =>
  tx.put(counters, name, (tx.get(counters, name) ?? 0n) + by)

/** Writes both records of a name, without touching the directory's inode. */
export const putEntry = (tx: Tx, place: Place, entry: Dentry): void => {
  tx.put(dentries, place, entry)
  tx.put(
    listings,
    { parent: place.parent, cookie: entry.cookie },
    { name: place.name, ino: entry.ino, type: entry.type },
  )
}

/** Adds a name to a directory and its subdirectory to its link count. */
export const addEntry = (tx: Tx, place: Place, target: { ino: Ino; type: number }): void => {
  const parent = existing(tx, place.parent)
  putEntry(tx, place, { ino: target.ino, type: target.type, cookie: parent.nextCookie })
  update(tx, place.parent, parent, {
    mtime: tx.now,
    entries: parent.entries + 1,
    nextCookie: parent.nextCookie + 1n,
    nlink: parent.nlink + (isDirectory(target.type) ? 1 : 0),
  })
}

/** Takes a name out of a directory, and its subdirectory out of its link count. Gives the directory's inode. */
export const removeEntry = (tx: Tx, place: Place, entry: Dentry): Inode => {
  const parent = existing(tx, place.parent)
  tx.delete(dentries, place)
  tx.delete(listings, { parent: place.parent, cookie: entry.cookie })
  return update(tx, place.parent, parent, {
    mtime: tx.now,
    entries: parent.entries - 1,
    nlink: parent.nlink - (isDirectory(entry.type) ? 1 : 0),
  })
}

export interface NewInode {
  mode: number
  /** Without a name, open: an orphan that may still get one. The place's name is ignored. */
  unnamed?: true
  rdev?: number
  content?: Buffer
  /** Its number, out of a range that was reserved; undefined: the next one. */
  ino?: bigint | undefined
}

const numberFor = (tx: Tx, wanted: bigint | undefined): Ino => {
  const next = asIno(tx.get(counters, 'nextIno') ?? 2n)
  if (wanted === undefined) {
    tx.put(counters, 'nextIno', next + 1n)
    return next
  }
  const ino = asIno(wanted)
  if (ino <= rootIno || ino >= next || tx.get(inodes, ino) !== undefined) {
    throw new PosixError('EINVAL', `inode number ${ino} was not reserved, or is in use`)
  }
  return ino
}

/** Sets numbers aside for a client that makes inodes on its own; they are used once or never. Gives the first. */
export const reserveNumbers = (tx: Tx, howMany: number): Ino => {
  const first = asIno(tx.get(counters, 'nextIno') ?? 2n)
  tx.put(counters, 'nextIno', first + BigInt(howMany))
  return first
}

/** Makes an inode and its name. The place was checked before. Owner, group and mode follow Linux's inode_init_owner. */
export const create = (
  tx: Tx,
  place: Place,
  caller: Caller | undefined,
  what: NewInode,
): { ino: Ino; inode: Inode } => {
  const parent = existing(tx, place.parent)
  const ino = numberFor(tx, what.ino)
  const subdirectory = isDirectory(what.mode)
  const owner = ownerOfNew(parent, caller, what.mode)
  const inode: Inode = {
    mode: owner.mode,
    uid: owner.uid,
    gid: owner.gid,
    nlink: what.unnamed === true ? 0 : subdirectory ? 2 : 1,
    rdev: what.rdev ?? 0,
    size: BigInt(what.content?.length ?? 0),
    allocated: 0n,
    atime: tx.now,
    mtime: tx.now,
    ctime: tx.now,
    btime: tx.now,
    flags: isSymlink(what.mode) ? 0 : inheritedFlags(parent.flags),
    copies: parent.copies,
    change: 1n,
    xattrs: 0,
    parent: subdirectory ? place.parent : asIno(0n),
    entries: 0,
    nextCookie: subdirectory ? cookieFirst : 0n,
    content: what.content,
  }
  tx.put(inodes, ino, inode)
  count(tx, 'inodes', 1n)
  if (what.unnamed === true) putOrphan(tx, ino, true)
  else addEntry(tx, place, { ino, type: fileType(what.mode) })
  return { ino, inode }
}

const putOrphan = (tx: Tx, ino: Ino, linkable: boolean): void => {
  tx.put(orphans, ino, { since: tx.now, linkable })
  count(tx, 'orphans', 1n)
}

/** It is an orphan no longer: it has got a name, or is gone. */
export const removeOrphan = (tx: Tx, ino: Ino): void => {
  tx.delete(orphans, ino)
  count(tx, 'orphans', -1n)
}

/**
 * One name less leads to this inode. Without any it is freed: at once when that is little work, else by the reaper. Gives the inode as it
 * is now, or as it would be. `keepsOpen`: the session has it open from now on if it holds a lease of it.
 */
export const dropLink = (
  tx: Tx,
  ino: Ino,
  inode: Inode,
  context: OpContext,
  { keepsOpen }: { keepsOpen: boolean },
): Inode => {
  const nlink = isDirectory(inode.mode) ? 0 : inode.nlink - 1
  if (nlink > 0) return update(tx, ino, inode, { nlink })
  const nameless = changed(tx, inode, { nlink: 0 })
  const isKept = keepsOpen && context.leases.held(context.session, ino) !== 'none'
  if (isKept) tx.onApply(() => context.opens.open(context.session, ino))
  const isOpen = isKept || context.opens.isOpen(ino)
  const inExtents = inode.allocated > 0n && inode.content === undefined
  if (!isOpen && !inExtents && inode.xattrs === 0) {
    deleteInode(tx, ino)
    return nameless
  }
  tx.put(inodes, ino, nameless)
  putOrphan(tx, ino, false)
  if (!isOpen) tx.afterCommit(() => context.reap(ino))
  return nameless
}

/** Removes the record of an inode that nothing else belongs to any more. */
export const deleteInode = (tx: Tx, ino: Ino): void => {
  tx.delete(inodes, ino)
  count(tx, 'inodes', -1n)
}

/** The same for an orphan. */
export const deleteOrphan = (tx: Tx, ino: Ino): void => {
  removeOrphan(tx, ino)
  if (tx.get(inodes, ino) !== undefined) deleteInode(tx, ino)
}
