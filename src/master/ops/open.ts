/**
 * open: the session has the inode open from now on, and it outlives its last name. Sent once, for the first handle; idempotent.
 * ESTALE when it is gone, or has no name and nobody has it open (it is being freed). Replies attributesAndLease.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { OpenRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { existing, foundResult, readable } from './operation.ts'
import type { Operation } from './operation.ts'

export const open: Operation<OpenRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const inode = existing(tx, ino)
  if (inode.nlink === 0 && !context.opens.isOpen(ino)) throw new PosixError('ESTALE')
  readable(context, ino)
  tx.onApply(() => context.opens.open(context.session, ino))
  return foundResult(context, ino, inode)
}
