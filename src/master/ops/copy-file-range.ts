/**
 * copyFileRange: lets a range of one file show the same blocks as a range of another (or of the same file); no data moves. Holes become
 * holes, allocated ranges stay allocated. Ranges of one file must not overlap (EINVAL).
 *
 * Copies less than asked at the end of the source, and after 64 GiB: ask again from there.
 *
 * Inline files: an inline source and a target that has no extents are copied byte by byte while the target stays inline. An inline target
 * that the copy covers wholly gives up its inline data. Every other mixture is EOPNOTSUPP, and nothing has changed: the client
 * copies the bytes by reading and writing.
 *
 * ESTALE, EPERM (immutable), EISDIR, EINVAL, EFBIG, EOPNOTSUPP. Replies copyFileRange, with the target's attributes.
 */
import { PosixError } from '../../domain/errors.ts'
import { segmentRanges, slice } from '../../domain/extents.ts'
import type { Extent } from '../../domain/extents.ts'
import { asChunkId, asIno } from '../../domain/ids.ts'
import { checkMutable } from '../../domain/inode-flags.ts'
import type { CopyFileRangeRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { OpContext } from '../context.ts'
import { chunks } from '../keys.ts'
import type { Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { FileEdit } from './file-edit.ts'
import { changedInode, checkRange, readable, regular, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'
import { inlineAllocated } from './setattr.ts'

export const copyBytesMax = 64n << 30n

/** What the target shows from now on has as many copies as the target is to have. */
const shareCopies = (tx: Tx, target: Inode, pieces: readonly { extent: Extent }[], context: OpContext): void => {
  const copies = target.copies === 0 ? context.cluster.copies : target.copies
  const ids = [...new Set(pieces.map(({ extent }) => extent.chunkId))].filter((id) => id !== 0n).map(asChunkId)
  for (const [i, chunk] of tx.getMany(chunks, ids).entries()) {
    const id = ids[i]!
    if (chunk !== undefined && chunk.copies < copies) tx.put(chunks, id, { ...chunk, copies })
    tx.onApply(() => context.chunks.wanted(id, copies))
  }
}

export const copyFileRange: Operation<CopyFileRangeRequest> = (tx, request, context) => {
  const sourceIno = asIno(request.source)
  const targetIno = asIno(request.target)
  const { sourceOffset, targetOffset } = request
  const source = regular(tx, sourceIno)
  const target = regular(tx, targetIno)
  checkMutable(target)
  checkRange(sourceOffset, request.length)
  checkRange(targetOffset, request.length)
  const overlap =
    sourceIno === targetIno &&
    sourceOffset < targetOffset + request.length &&
    targetOffset < sourceOffset + request.length
  if (overlap) throw new PosixError('EINVAL')
  readable(context, sourceIno)
  writable(context, targetIno)
  const left = sourceOffset >= source.size ? 0n : source.size - sourceOffset
  const length = [request.length, left, copyBytesMax].reduce((a, b) => (a < b ? a : b))
  const reply = (inode: Inode) =>
    ({
      $case: 'copyFileRange',
      value: { copied: length, ...changedInode(context, targetIno, inode) },
    }) as const
  if (length === 0n) return reply(target)
  const end = targetOffset + length
  const size = end > target.size ? end : target.size
  if (source.content !== undefined) {
    const inExtents = target.allocated > 0n && target.content === undefined
    if (inExtents || size > BigInt(context.cluster.inlineBytesMax)) throw new PosixError('EOPNOTSUPP')
    const content = Buffer.alloc(Number(size))
    target.content?.copy(content)
    source.content.copy(content, Number(targetOffset), Number(sourceOffset), Number(sourceOffset + length))
    const allocated = inlineAllocated(content.length)
    return reply(update(tx, targetIno, target, { mtime: tx.now, size, content, allocated }))
  }
  if (target.content !== undefined && (targetOffset > 0n || length < target.size)) throw new PosixError('EOPNOTSUPP')
  const from = new FileEdit(tx, sourceIno)
  const to = new FileEdit(tx, targetIno)
  const sourceRanges = [...segmentRanges(sourceOffset, length)]
  const targetRanges = [...segmentRanges(targetOffset, length)]
  from.prefetch(sourceRanges.map(({ index }) => index))
  to.prefetch(targetRanges.map(({ index }) => index))
  const pieces = sourceRanges.flatMap(({ index, range, fileOffset }) =>
    slice(from.segment(index), range).map((extent) => ({
      start: fileOffset - sourceOffset + targetOffset + BigInt(extent.offset - range.offset),
      extent,
    })),
  )
  shareCopies(tx, target, pieces, context)
  let next = 0
  for (const { index, range, fileOffset } of targetRanges) {
    const rangeEnd = fileOffset + BigInt(range.length)
    const added: Extent[] = []
    for (; next < pieces.length; next++) {
      const { start, extent } = pieces[next]!
      if (start >= rangeEnd) break
      const pieceEnd = start + BigInt(extent.length)
      const partStart = start > fileOffset ? start : fileOffset
      const partEnd = pieceEnd < rangeEnd ? pieceEnd : rangeEnd
      added.push({
        offset: range.offset + Number(partStart - fileOffset),
        length: Number(partEnd - partStart),
        chunkId: extent.chunkId,
        chunkOffset: extent.chunkId === 0n ? 0 : extent.chunkOffset + Number(partStart - start),
      })
      // The rest of it belongs to the next segment of the target.
      if (pieceEnd > rangeEnd) break
    }
    to.cut(index, range)
    if (added.length > 0) to.overlay(index, added)
  }
  const before = target.content === undefined ? target.allocated : 0n
  const allocated = before + to.finish(context.chunks)
  return reply(update(tx, targetIno, target, { mtime: tx.now, size, allocated, content: undefined }))
}
