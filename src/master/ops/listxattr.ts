/** listxattr: the names of all extended attributes, in the order of their bytes. ESTALE. Replies names. */
import { asIno } from '../../domain/ids.ts'
import type { ListxattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { xattrBounds, xattrs } from '../keys.ts'
import { existing, readable } from './operation.ts'
import type { Operation } from './operation.ts'
import { xattrsMax } from './setxattr.ts'

export const listxattr: Operation<ListxattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const inode = existing(tx, ino)
  readable(context, ino)
  const found = inode.xattrs === 0 ? [] : tx.range(xattrs, xattrBounds(ino), xattrsMax)
  return { $case: 'names', value: { names: found.map(([key]) => key.name) } }
}
