/** getxattr: one extended attribute. ENODATA, and for the name ERANGE, EINVAL and EOPNOTSUPP; ESTALE. Replies value. */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import { checkXattrName } from '../../domain/xattr-names.ts'
import type { GetxattrRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { xattrs } from '../keys.ts'
import { existing, readable } from './operation.ts'
import type { Operation } from './operation.ts'

export const getxattr: Operation<GetxattrRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  checkXattrName(request.name)
  const inode = existing(tx, ino)
  readable(context, ino)
  const value = inode.xattrs === 0 ? undefined : tx.get(xattrs, { ino, name: request.name })
  if (value === undefined) throw new PosixError('ENODATA')
  return { $case: 'value', value }
}
