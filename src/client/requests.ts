/** The requests of a session: their type, what can be done with them when a session is lost, and how to take a reply apart. */
import { isErrnoName, PosixError } from '../domain/errors.ts'
import type { Context } from './file-system.ts'
import type { Caller, JournalRequest, Lease, Reply, Request } from '../protocol/gen/shoal/v1/session.pb.ts'

export const callerOf = ({ uid, gid, pid, umask }: Context): Caller => ({ uid, gid, pid, umask })

export type Operation = NonNullable<Request['op']>
export type OperationName = Operation['$case']
export type Result = NonNullable<Reply['result']>
export type ResultName = Result['$case']
export type ResultValue<Name extends ResultName> = Extract<Result, { $case: Name }>['value']

/**
 * What becomes of a request whose session has ended before it was answered:
 * - again: it changes nothing, or nothing more when it runs twice; it is sent in the new session.
 * - gone: what it speaks of ended with the session.
 * - unknown: it may have taken effect; only a request that was never sent is sent in the new session, and only when nothing was lost that
 *   had been answered: whoever made the request may rely on that.
 */
const fates: Record<OperationName, 'again' | 'gone' | 'unknown'> = {
  lookup: 'again',
  getattr: 'again',
  setattr: 'unknown',
  readlink: 'again',
  mknod: 'unknown',
  tmpfile: 'unknown',
  mkdir: 'unknown',
  symlink: 'unknown',
  link: 'unknown',
  unlink: 'unknown',
  rmdir: 'unknown',
  rename: 'unknown',
  open: 'again',
  close: 'gone',
  readdir: 'again',
  getxattr: 'again',
  setxattr: 'unknown',
  listxattr: 'again',
  removexattr: 'unknown',
  getExtents: 'again',
  commit: 'gone',
  fallocate: 'unknown',
  copyFileRange: 'unknown',
  lseek: 'again',
  statfs: 'again',
  getlk: 'again',
  setlk: 'again',
  allocateChunk: 'again',
  sealChunk: 'gone',
  reportReplica: 'again',
  locate: 'again',
  endSession: 'gone',
  acquireLease: 'again',
  accessed: 'again',
  journal: 'gone',
  reserveInos: 'again',
}

export const fateOf = (operation: Operation): 'again' | 'gone' | 'unknown' => fates[operation.$case]

/** The leases that came with a reply; the master vouches for them at the moment when the reply goes out, also when the answer is an old one. */
export const leasesOf = (result: Result): (Lease | undefined)[] => {
  switch (result.$case) {
    case 'entry': {
      const { lease, parentLease, changed } = result.value
      return [parentLease, lease, ...changed.map((inode) => inode.lease)]
    }
    case 'changed':
      return result.value.inodes.map((inode) => inode.lease)
    case 'readdir':
      return [result.value.lease, ...result.value.entries.map((entry) => entry.lease)]
    case 'extents':
      return [result.value.lease, ...result.value.following.map((file) => file.lease)]
    case 'attributesAndLease':
    case 'copyFileRange':
      return [result.value.lease]
    default:
      return []
  }
}

/**
 * It may take for ever, and changes nothing on disk: a wait for a lock. Its answer need not be kept, because the same owner gets the same lock
 * a second time.
 */
export const waitsForLock = (operation: Operation): boolean => operation.$case === 'setlk' && operation.value.wait

/** A rough size on the wire, to keep messages well below what a peer accepts. */
export const bytesEstimate = (operation: Operation): number => {
  switch (operation.$case) {
    case 'commit': {
      const { segments, inlineData } = operation.value
      return segments.reduce((sum, { extents }) => sum + extents.length * 24, 256) + (inlineData?.length ?? 0)
    }
    case 'setxattr':
      return 512 + operation.value.value.length
    case 'journal':
      return journalBytes(operation.value)
    case 'symlink':
      return 512 + operation.value.target.length
    default:
      return 512
  }
}

const journalBytes = ({ entries }: JournalRequest): number =>
  entries.reduce((sum, { op }) => sum + 256 + (op?.$case === 'commit' ? (op.value.inlineData?.length ?? 0) : 0), 0)

/** The value of a result of this kind. Throws what the failure says, or EPROTO when it is of another kind. */
export const expectResult = <Name extends ResultName>(result: Result, name: Name): ResultValue<Name> => {
  if (result.$case === 'failure') {
    const { code, message } = result.value
    throw new PosixError(isErrnoName(code) ? code : 'EIO', message || code)
  }
  if (result.$case !== name)
    throw new PosixError('EPROTO', `the master answered with ${result.$case} where ${name} is due`)
  return result.value as ResultValue<Name>
}
