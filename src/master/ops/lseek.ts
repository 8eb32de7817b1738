/**
 * lseek: SEEK_DATA 3 and SEEK_HOLE 4. Allocated ranges that were never written are holes, as in ext4; the end of the file is one too.
 * ENXIO (beyond the end, or no data there), EINVAL, EISDIR, ESTALE. Replies offset.
 */
import { PosixError } from '../../domain/errors.ts'
import { segmentOf, segmentStart } from '../../domain/extents.ts'
import { asIno } from '../../domain/ids.ts'
import type { LseekRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { FileEdit } from './file-edit.ts'
import { readable, regular } from './operation.ts'
import type { Operation, Result } from './operation.ts'

const SEEK_DATA = 3
const SEEK_HOLE = 4

const found = (at: bigint): Result => ({ $case: 'offset', value: at })

export const lseek: Operation<LseekRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { offset, whence } = request
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new PosixError('EINVAL')
  const inode = regular(tx, ino)
  readable(context, ino)
  const { size } = inode
  if (offset >= size) throw new PosixError('ENXIO')
  if (inode.content !== undefined) return found(whence === SEEK_DATA ? offset : size)
  let at = offset
  if (inode.allocated > 0n) {
    for (const [index, extents] of new FileEdit(tx, ino).existing(segmentOf(offset).index)) {
      for (const extent of extents) {
        const start = segmentStart(index) + BigInt(extent.offset)
        const end = start + BigInt(extent.length)
        if (end <= at || extent.chunkId === 0n) continue
        if (whence === SEEK_DATA) {
          const data = start > at ? start : at
          if (data >= size) throw new PosixError('ENXIO')
          return found(data)
        }
        if (start > at) return found(at)
        at = end
        if (at >= size) return found(size)
      }
    }
  }
  if (whence === SEEK_DATA) throw new PosixError('ENXIO')
  return found(at < size ? at : size)
}
