/** getattr: stat(2) of an inode, named or not. ESTALE when it is gone. Replies attributesAndLease. */
import { asIno } from '../../domain/ids.ts'
import type { GetattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { existing, foundResult, readable } from './operation.ts'
import type { Operation } from './operation.ts'

export const getattr: Operation<GetattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const inode = existing(tx, ino)
  readable(context, ino)
  return foundResult(context, ino, inode)
}
