/**
 * tmpfile: makes a regular file without a name, for open(2) with O_TMPFILE. The session has it open, and the write lease on it. It is an
 * orphan from the start, so it goes with the last session that has it open, unless link gives it a name.
 * ENOENT, ENOTDIR, EPERM (an immutable directory), ESTALE. Replies entry; the directory does not change.
 */
import { asIno } from '../../domain/ids.ts'
import { checkMutable } from '../../domain/inode-flags.ts'
import { S_IFREG } from '../../domain/mode.ts'
import type { TmpfileRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { createWithAcl } from './acl.ts'
import { attributesOf, namedDirectory, readable } from './operation.ts'
import type { Operation } from './operation.ts'

const noName = Buffer.alloc(0)

export const tmpfile: Operation<TmpfileRequest> = (tx, request, context) => {
  const parent = asIno(request.parent)
  readable(context, parent)
  checkMutable(namedDirectory(tx, parent))
  const mode = S_IFREG | (request.mode & 0o7777)
  const place = { parent, name: noName }
  const { ino, inode } = createWithAcl(tx, place, request.caller, { mode, unnamed: true })
  tx.onApply(() => context.opens.open(context.session, ino))
  const lease = context.leases.grant(context.session, ino, 'write', (effect) => tx.onApply(effect))
  const attributes = attributesOf(context, ino, inode)
  return { $case: 'entry', value: { attributes, lease, parentLease: undefined, changed: [] } }
}
