/**
 * accessed: a mount has read an inode. Its atime is this time, unless it is later already; nothing else changes, ctime neither. While
 * another session holds the write lease nothing happens: what that one writes makes the access old. ESTALE, EINVAL (malformed time).
 * Replies attributesAndLease.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { compareTimespec } from '../../domain/time.ts'
import type { AccessedRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { changedResult, checkTime, existing, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'

export const accessed: Operation<AccessedRequest> = (tx, { ino: number, time }, context) => {
  const ino = asIno(number)
  if (time === undefined) throw new PosixError('EINVAL')
  checkTime(time)
  const inode = existing(tx, ino)
  const isOld = compareTimespec(time, inode.atime) <= 0
  if (isOld || context.leases.writtenByOther(context.session, ino)) return changedResult(context, ino, inode)
  writable(context, ino)
  return changedResult(context, ino, update(tx, ino, inode, { atime: time, ctime: inode.ctime }))
}
