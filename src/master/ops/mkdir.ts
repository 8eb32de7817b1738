/** mkdir: makes an empty directory. ENOENT, ENOTDIR, EEXIST, ENAMETOOLONG, EINVAL. Replies entry. */
import { asIno } from '../../domain/ids.ts'
import { checkMutable } from '../../domain/inode-flags.ts'
import { S_IFDIR } from '../../domain/mode.ts'
import type { MkdirRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { createWithAcl } from './acl.ts'
import { checkVacant } from './entries.ts'
import { madeResult, namedDirectory, newInode, writableIf } from './operation.ts'
import type { Operation } from './operation.ts'

export const mkdir: Operation<MkdirRequest> = (tx, request, context) => {
  const place = { parent: asIno(request.parent), name: request.name }
  writableIf(context, [place.parent], () => {
    const parent = namedDirectory(tx, place.parent)
    checkVacant(tx, place)
    checkMutable(parent)
  })
  const mode = S_IFDIR | (request.mode & 0o7777)
  const { ino, inode } = createWithAcl(tx, place, request.caller, { mode, ino: request.ino })
  return madeResult(tx, context, place.parent, newInode(tx, context, ino, inode))
}
