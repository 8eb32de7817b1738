/**
 * lookup: one name of a directory, also ".."; and "." of any inode, which is how a file handle finds it again (ESTALE when it has no
 * name and nobody has it open). ENOTDIR, ENAMETOOLONG. Replies entry, with leases on the directory and on what was
 * found; without attributes when there is no such name, which may be cached under the directory's lease, too.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { LookupRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { dentries } from '../keys.ts'
import { attributesOf, checkName, directory, existing, isDot, isDotDot, readable } from './operation.ts'
import type { Operation } from './operation.ts'

export const lookup: Operation<LookupRequest> = (tx, request, context) => {
  const { leases, session } = context
  const parent = asIno(request.parent)
  checkName(request.name)
  if (isDot(request.name)) {
    const self = existing(tx, parent)
    if (self.nlink === 0 && !context.opens.isOpen(parent)) throw new PosixError('ESTALE')
    readable(context, parent)
    const attributes = attributesOf(context, parent, self)
    return {
      $case: 'entry',
      value: { attributes, lease: leases.offer(session, parent), parentLease: undefined, changed: [] },
    }
  }
  const inode = directory(tx, parent)
  const ino = isDotDot(request.name) ? inode.parent : tx.get(dentries, { parent, name: request.name })?.ino
  readable(context, parent, ...(ino === undefined ? [] : [ino]))
  if (ino === undefined) {
    const parentLease = leases.offer(session, parent)
    return { $case: 'entry', value: { attributes: undefined, lease: undefined, parentLease, changed: [] } }
  }
  const found = existing(tx, ino)
  const attributes = attributesOf(context, ino, found)
  const parentLease = leases.offer(session, parent)
  return { $case: 'entry', value: { attributes, lease: leases.offer(session, ino), parentLease, changed: [] } }
}
