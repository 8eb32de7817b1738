/**
 * Mends what a check of the store found (see fsck.ts). Each fix looks again at what is there now and does only what loses nothing:
 * totals and counts are corrected by their difference, names are paired with their listing again, a name that leads nowhere goes, and
 * an inode without a name gets one in /lost+found.
 *
 * Invariant: no fix frees data or changes what a file contains.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import { asIno, rootIno } from '../domain/ids.ts'
import { S_IFDIR, fileType, isDirectory } from '../domain/mode.ts'
import type { Fix } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { OpContext } from './context.ts'
import { counters, dentries, inodes, listings, orphans } from './keys.ts'
import type { CounterName } from './keys.ts'
import { addEntry, create } from './ops/entries.ts'
import { writable } from './ops/operation.ts'
import type { Store, Tx } from './store.ts'

export const lostAndFound = 'lost+found'
const correctable: readonly CounterName[] = ['inodes', 'orphans', 'liveBytes']

/** An empty string when it was done, or why it was not. */
export const applyFix = async (store: Store, context: OpContext, fix: Fix): Promise<string> => {
  try {
    return await store.execute((tx) => apply(tx, context, fix), { mayUseReserve: true })
  } catch (caught) {
    if (caught instanceof PosixError) return caught.message
    throw caught
  }
}

const changedMeanwhile = 'it has changed since the check began'

const apply = (tx: Tx, context: OpContext, { fix }: Fix): string => {
  switch (fix?.$case) {
    case 'counter': {
      const name = correctable.find((known) => known === fix.value.name)
      if (name === undefined) return `there is no total ${fix.value.name}`
      const value = (tx.get(counters, name) ?? 0n) + fix.value.delta
      if (value < 0n) return changedMeanwhile
      tx.put(counters, name, value)
      return ''
    }
    case 'inode': {
      const ino = asIno(fix.value.ino)
      const inode = tx.get(inodes, ino)
      if (!inode) return changedMeanwhile
      const { nlinkDelta, entriesDelta, xattrsDelta, allocatedDelta } = fix.value
      const next = {
        ...inode,
        nlink: inode.nlink + nlinkDelta,
        entries: inode.entries + entriesDelta,
        xattrs: inode.xattrs + xattrsDelta,
        allocated: inode.allocated + allocatedDelta,
        change: inode.change + 1n,
      }
      // A count that falls to nothing would have the inode freed.
      if (next.nlink < 1 || next.entries < 0 || next.xattrs < 0 || next.allocated < 0n) return changedMeanwhile
      writable(context, ino)
      tx.put(inodes, ino, next)
      return ''
    }
    case 'listing': {
      const parent = asIno(fix.value.parent)
      const { name, cookie } = fix.value
      const dentry = tx.get(dentries, { parent, name })
      if (dentry) {
        tx.put(listings, { parent, cookie: dentry.cookie }, { name, ino: dentry.ino, type: dentry.type })
      }
      if (cookie !== 0n && cookie !== dentry?.cookie) tx.delete(listings, { parent, cookie })
      writable(context, parent)
      return ''
    }
    case 'dangling': {
      const parent = asIno(fix.value.parent)
      const place = { parent, name: fix.value.name }
      const dentry = tx.get(dentries, place)
      if (!dentry || tx.get(inodes, dentry.ino)) return changedMeanwhile
      const directory = tx.get(inodes, parent)
      writable(context, parent)
      // What the directory counts besides is corrected by a fix of its own.
      if (directory) {
        const entries = Math.max(0, directory.entries - 1)
        tx.put(inodes, parent, { ...directory, entries, change: directory.change + 1n })
      }
      tx.delete(dentries, place)
      tx.delete(listings, { parent, cookie: dentry.cookie })
      return ''
    }
    case 'namelessIno':
      return reattach(tx, context, asIno(fix.value))
    case 'orphanIno': {
      const ino = asIno(fix.value)
      if (tx.get(inodes, ino)) return changedMeanwhile
      tx.delete(orphans, ino)
      return ''
    }
    case undefined:
      return 'there is no such fix'
  }
}

/** The name is the inode's number; link counts that are wrong afterwards are the next check's business. */
const reattach = (tx: Tx, context: OpContext, ino: Ino): string => {
  const inode = tx.get(inodes, ino)
  if (!inode || inode.nlink === 0 || tx.get(orphans, ino)) return changedMeanwhile
  const home = { parent: rootIno, name: Buffer.from(lostAndFound) }
  const existing = tx.get(dentries, home)
  if (existing && !isDirectory(existing.type)) return `/${lostAndFound} is not a directory`
  writable(context, rootIno, ino, ...(existing ? [existing.ino] : []))
  const caller = { uid: 0, gid: 0, pid: 0, umask: 0 }
  const directory = existing?.ino ?? create(tx, home, caller, { mode: S_IFDIR | 0o700 }).ino
  const place = { parent: directory, name: Buffer.from(`#${ino}`) }
  if (tx.get(dentries, place)) return changedMeanwhile
  addEntry(tx, place, { ino, type: fileType(inode.mode) })
  const nlink = isDirectory(inode.mode) ? inode.nlink : 1
  tx.put(inodes, ino, {
    ...inode,
    nlink,
    parent: isDirectory(inode.mode) ? directory : inode.parent,
    change: inode.change + 1n,
  })
  return ''
}
