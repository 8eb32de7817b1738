/** Flags of inodes (FS_*_FL of linux/fs.h), as chattr(1) sets them. */
import { PosixError } from './errors.ts'

/** Nothing of it changes: no content, attributes or names. */
const IMMUTABLE = 0x10
/** Of a file only its end grows; of a directory no name goes. */
const APPEND = 0x20
/** For dump(8) alone. */
const NODUMP = 0x40
/** Reading it leaves no trace. */
export const NOATIME = 0x80

/** Those that mean something here. */
export const inodeFlagsKnown = IMMUTABLE | APPEND | NODUMP | NOATIME

/** What a new inode gets from its directory, as in ext4. */
export const inheritedFlags = (flags: number): number => flags & (NODUMP | NOATIME)

interface Flagged {
  readonly flags: number
}

export const isImmutable = ({ flags }: Flagged): boolean => (flags & IMMUTABLE) !== 0
export const isAppendOnly = ({ flags }: Flagged): boolean => (flags & APPEND) !== 0

/** Before content or times change in a way that an append does, or a name is added to a directory. EPERM. */
export const checkMutable = (inode: Flagged): void => {
  if (isImmutable(inode)) throw new PosixError('EPERM', 'it is immutable')
}

/** Before anything else changes, or its name. EPERM. */
export const checkUnrestricted = (inode: Flagged): void => {
  checkMutable(inode)
  if (isAppendOnly(inode)) throw new PosixError('EPERM', 'it is append-only')
}
