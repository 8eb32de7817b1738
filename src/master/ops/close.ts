/** close: the session's last handle of the inode is gone. Never fails. Replies empty. */
import { asIno } from '../../domain/ids.ts'
import type { CloseRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { inodes } from '../keys.ts'
import { empty } from './operation.ts'
import type { Operation } from './operation.ts'

export const close: Operation<CloseRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const isOrphan = tx.get(inodes, ino)?.nlink === 0
  tx.onApply(() => {
    context.opens.close(context.session, ino)
    if (isOrphan && !context.opens.isOpen(ino)) context.reap(ino)
  })
  return empty
}
