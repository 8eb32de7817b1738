/** readlink: the target of a symlink. EINVAL for anything else, ESTALE. Replies value. */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { isSymlink } from '../../domain/mode.ts'
import type { ReadlinkRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { existing } from './operation.ts'
import type { Operation } from './operation.ts'

export const readlink: Operation<ReadlinkRequest> = (tx, request) => {
  const inode = existing(tx, asIno(request.ino))
  if (!isSymlink(inode.mode)) throw new PosixError('EINVAL')
  return { $case: 'value', value: inode.content ?? Buffer.alloc(0) }
}
