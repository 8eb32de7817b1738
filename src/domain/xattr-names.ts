/**
 * Names of extended attributes: which there are, as ext4 has them (xattr(7)). `user.`, `trusted.` and `security.` with something behind
 * them, and the two access control lists; the kernel knows who may use which.
 */
import { PosixError } from './errors.ts'
import { nameBytesMax } from './limits.ts'

export const accessAclName = Buffer.from('system.posix_acl_access')
export const defaultAclName = Buffer.from('system.posix_acl_default')

const trustedPrefix = Buffer.from('trusted.')
const prefixes = [Buffer.from('user.'), trustedPrefix, Buffer.from('security.')]

const startsWith = (name: Buffer, prefix: Buffer): boolean => name.subarray(0, prefix.length).equals(prefix)

export const isAclName = (name: Buffer): boolean => name.equals(accessAclName) || name.equals(defaultAclName)

/** Shown to nobody but the superuser. */
export const isTrustedName = (name: Buffer): boolean => startsWith(name, trustedPrefix)

/** ERANGE for a name of no or over 255 bytes, EINVAL for one that is a prefix alone, EOPNOTSUPP for one that no part of the system has. */
export const checkXattrName = (name: Buffer): void => {
  if (name.length === 0 || name.length > nameBytesMax) throw new PosixError('ERANGE')
  if (name.includes(0)) throw new PosixError('EINVAL')
  const prefix = prefixes.find((known) => startsWith(name, known))
  if (prefix === undefined && !isAclName(name)) throw new PosixError('EOPNOTSUPP')
  if (prefix?.length === name.length) throw new PosixError('EINVAL')
}
