/**
 * What is cached of one inode under its lease. It lives in the record of the lease and goes with it, so it can never outlive it; it may be
 * used only while the lease is usable (see leases.ts). There may be very many of these, so they are small.
 */
import { compareTimespec } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import type { DirectoryNames } from './directory-names.ts'
import type { Attributes } from './file-system.ts'

export type KnownAttributes = Attributes & { hasXattrs: boolean }

export class Cached {
  /** As the master gave them last. What is buffered of a file is not in them. */
  attributes: KnownAttributes | undefined
  /** The greatest change number seen: older replies tell nothing new. */
  changeSeen = 0n
  /** Of a directory. */
  names: DirectoryNames | undefined
  /** Of a symlink. */
  target: Buffer | undefined
  /** The pages of the file that the front end has were read under this lease. */
  hasPages = false
  /** Of a directory: the front end may keep a listing that it was told under this lease. */
  hasListing = false
  /** Number of the newest entry of the journal that concerns it. */
  journaled = 0
  /** The inode was made under this lease, nothing of which was ever given back: no other client has it open, or ever had. */
  isUnseen = false
  /** Until when the front end believes the attributes that it was told last, and the names of the directory. */
  attributesToldMs = 0
  namesToldMs = 0

  /** Takes note of attributes that are right under the lease, unless newer ones are known. Gives the newest. */
  learn(attributes: KnownAttributes): KnownAttributes {
    if (attributes.change < this.changeSeen) return this.attributes ?? attributes
    this.changeSeen = attributes.change
    this.attributes = withSharedTimes(attributes)
    return this.attributes
  }
}

const same = (a: Timespec, b: Timespec): Timespec => (compareTimespec(a, b) === 0 ? a : b)

/** Most files have one or two different times in their four. */
const withSharedTimes = (attributes: KnownAttributes): KnownAttributes => {
  const { btime } = attributes
  const mtime = same(btime, attributes.mtime)
  const ctime = same(mtime, attributes.ctime)
  const atime = same(ctime, same(mtime, same(btime, attributes.atime)))
  const isShared = mtime === attributes.mtime && ctime === attributes.ctime && atime === attributes.atime
  return isShared ? attributes : { ...attributes, mtime, ctime, atime }
}
