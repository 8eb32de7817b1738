/**
 * POSIX access control lists where they meet modes: inheritance from a directory's default list, chmod, and setting a list.
 * The lists are the xattrs system.posix_acl_access and system.posix_acl_default in the kernel's format (linux/posix_acl_xattr.h);
 * the rules are those of posix_acl_create_masq, __posix_acl_chmod_masq and posix_acl_equiv_mode in fs/posix_acl.c.
 *
 * Invariant: an access list that says no more than the mode is not stored; otherwise its owner, mask (or group) and other entries equal the
 * mode's permission bits.
 */
import { PosixError } from '../../domain/errors.ts'
import type { Ino } from '../../domain/ids.ts'
import { isDirectory } from '../../domain/mode.ts'
import { accessAclName, defaultAclName } from '../../domain/xattr-names.ts'
import type { Caller } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { inodes, xattrs } from '../keys.ts'
import type { Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { create } from './entries.ts'
import type { NewInode, Place } from './entries.ts'
import { existing } from './operation.ts'

const version = 2
const headerBytes = 4
const entryBytes = 8
const userObject = 0x01
const user = 0x02
const groupObject = 0x04
const group = 0x08
const mask = 0x10
const other = 0x20

interface AclEntry {
  tag: number
  permissions: number
  id: number
}

/** EINVAL for what is no list. */
export const parseAcl = (value: Buffer): AclEntry[] => {
  const count = (value.length - headerBytes) / entryBytes
  if (value.length < headerBytes || !Number.isInteger(count) || value.readUInt32LE(0) !== version) {
    throw new PosixError('EINVAL')
  }
  const entries: AclEntry[] = []
  for (let at = headerBytes; at < value.length; at += entryBytes) {
    const entry = {
      tag: value.readUInt16LE(at),
      permissions: value.readUInt16LE(at + 2),
      id: value.readUInt32LE(at + 4),
    }
    if (![userObject, user, groupObject, group, mask, other].includes(entry.tag) || entry.permissions > 7) {
      throw new PosixError('EINVAL')
    }
    entries.push(entry)
  }
  return entries
}

const formatAcl = (entries: readonly AclEntry[]): Buffer => {
  const value = Buffer.alloc(headerBytes + entries.length * entryBytes)
  value.writeUInt32LE(version, 0)
  for (const [i, entry] of entries.entries()) {
    const at = headerBytes + i * entryBytes
    value.writeUInt16LE(entry.tag, at)
    value.writeUInt16LE(entry.permissions, at + 2)
    value.writeUInt32LE(entry.id, at + 4)
  }
  return value
}

/** Entries of single users or groups, or a mask: then the mode alone cannot say it. */
const saysMoreThanMode = (entries: readonly AclEntry[]): boolean =>
  entries.some(({ tag }) => tag === user || tag === group || tag === mask)

/** Which entry the three bits of the mode's group class stand for. */
const groupClass = (entries: readonly AclEntry[]): number =>
  entries.some(({ tag }) => tag === mask) ? mask : groupObject

/** The bits of the mode that an entry stands for, as a shift; undefined for single users and groups. */
const shiftOf = (entry: AclEntry, entries: readonly AclEntry[]): number | undefined => {
  if (entry.tag === userObject) return 6
  if (entry.tag === other) return 0
  return entry.tag === groupClass(entries) ? 3 : undefined
}

/** The list that a new inode inherits: what list and mode both allow, in both. */
const inherited = (entries: readonly AclEntry[], mode: number): { entries: AclEntry[]; mode: number } => {
  let bits = mode
  const limited = entries.map((entry) => {
    const shift = shiftOf(entry, entries)
    if (shift === undefined) return entry
    const permissions = entry.permissions & (mode >> shift)
    bits &= (permissions << shift) | ~(7 << shift)
    return { ...entry, permissions }
  })
  return { entries: limited, mode: bits }
}

/** Makes an inode whose mode follows from the directory's default list, or from the caller's umask where there is none. */
export const createWithAcl = (
  tx: Tx,
  place: Place,
  caller: Caller | undefined,
  what: NewInode,
): { ino: Ino; inode: Inode } => {
  const parent = existing(tx, place.parent)
  const inheritedValue = parent.xattrs === 0 ? undefined : tx.get(xattrs, { ino: place.parent, name: defaultAclName })
  if (inheritedValue === undefined) {
    return create(tx, place, caller, { ...what, mode: what.mode & ~((caller?.umask ?? 0) & 0o777) })
  }
  const list = inherited(parseAcl(inheritedValue), what.mode)
  const made = create(tx, place, caller, { ...what, mode: list.mode })
  let count = 0
  if (saysMoreThanMode(list.entries)) {
    tx.put(xattrs, { ino: made.ino, name: accessAclName }, formatAcl(list.entries))
    count++
  }
  if (isDirectory(what.mode)) {
    tx.put(xattrs, { ino: made.ino, name: defaultAclName }, inheritedValue)
    count++
  }
  const inode = { ...made.inode, xattrs: count }
  tx.put(inodes, made.ino, inode)
  return { ino: made.ino, inode }
}

/** chmod: the access list, if there is one, follows the mode. */
export const modeChanged = (tx: Tx, ino: Ino, inode: Inode, mode: number): void => {
  if (inode.xattrs === 0) return
  const key = { ino, name: accessAclName }
  const value = tx.get(xattrs, key)
  if (value === undefined) return
  const entries = parseAcl(value)
  const next = entries.map((entry) => {
    const shift = shiftOf(entry, entries)
    return shift === undefined ? entry : { ...entry, permissions: (mode >> shift) & 7 }
  })
  tx.put(xattrs, key, formatAcl(next))
}

/** Setting an access list: the mode that it gives, and whether it has to be stored beside it. */
export const modeFromAcl = (value: Buffer, mode: number): { mode: number; stored: boolean } => {
  const entries = parseAcl(value)
  let bits = mode & ~0o777
  for (const entry of entries) {
    const shift = shiftOf(entry, entries)
    if (shift !== undefined) bits |= entry.permissions << shift
  }
  return { mode: bits, stored: saysMoreThanMode(entries) }
}
