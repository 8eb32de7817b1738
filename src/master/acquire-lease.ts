/**
 * acquireLease: waits until no other session holds a conflicting lease, then grants. ESTALE when the inode is gone, EINVAL for a mode that
 * is none, EISDIR or EINVAL for what is no regular file. Replies attributesAndLease. Changes no record, so a repeat just grants again.
 */
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { AcquireLeaseRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import { leaseModeOf } from './leases.ts'
import type { Operation } from './ops/operation.ts'
import { attributesResult, readable, regular, writable } from './ops/operation.ts'

export const acquireLease: Operation<AcquireLeaseRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const mode = leaseModeOf(request.mode)
  if (mode === undefined || mode === 'none') throw new PosixError('EINVAL', 'no mode of a lease')
  const inode = regular(tx, ino)
  if (mode === 'write') writable(context, ino)
  else readable(context, ino)
  return attributesResult(context, ino, inode, context.leases.grant(context.session, ino, mode))
}
