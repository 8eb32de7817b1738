/**
 * fallocate(2), with FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2 (with KEEP_SIZE only), COLLAPSE_RANGE 8, ZERO_RANGE 16, INSERT_RANGE 32.
 *
 * Allocated ranges that were never written are extents of chunk 0: they read as zeros and count in st_blocks. They take no room in chunks
 * yet; a request for more than the cluster has free is ENOSPC all the same. COLLAPSE and INSERT take whole 4 KiB blocks, as ext4's do.
 *
 * Inline files: allocation within what is inline changes nothing, punching and zeroing write zeros into the inline data while the result
 * still is inline. Everything else on a file with inline data is EOPNOTSUPP, and nothing has changed: the client first commits the content as
 * extents and asks again.
 *
 * ESTALE, EISDIR, EINVAL, EFBIG (also beyond 1 TiB in one call), ENOSPC, EOPNOTSUPP (unknown modes). Replies attributesAndLease.
 */
import { PosixError } from '../../domain/errors.ts'
import { holes, merge, segmentOf, segmentRanges, segmentStart, slice } from '../../domain/extents.ts'
import type { Extent } from '../../domain/extents.ts'
import { asIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import { checkMutable, checkUnrestricted } from '../../domain/inode-flags.ts'
import { blockBytes, fileBytesMax, segmentBytes } from '../../domain/limits.ts'
import type { FallocateRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { OpContext } from '../context.ts'
import type { Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { FileEdit, segmentsPerOperationMax } from './file-edit.ts'
import { changedResult, checkRange, regular, update, writable } from './operation.ts'
import type { Operation } from './operation.ts'
import { inlineAllocated } from './setattr.ts'

const KEEP_SIZE = 1
const PUNCH_HOLE = 2
const COLLAPSE_RANGE = 8
const ZERO_RANGE = 16
const INSERT_RANGE = 32

interface Target {
  ino: Ino
  inode: Inode
  offset: bigint
  length: bigint
  keepSize: boolean
}

export const fallocate: Operation<FallocateRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { mode, offset, length } = request
  if (length === 0n) throw new PosixError('EINVAL')
  checkRange(offset, length)
  const inode = regular(tx, ino)
  if ((mode & ~KEEP_SIZE) === 0) checkMutable(inode)
  else checkUnrestricted(inode)
  writable(context, ino)
  const target: Target = { ino, inode, offset, length, keepSize: (mode & KEEP_SIZE) !== 0 }
  const changes = applyMode(tx, mode, target, context)
  return changedResult(context, ino, update(tx, ino, inode, { mtime: tx.now, ...changes }))
}

const applyMode = (tx: Tx, mode: number, target: Target, context: OpContext): Partial<Inode> => {
  switch (mode) {
    case 0:
    case KEEP_SIZE:
      return target.inode.content === undefined ? allocate(tx, target, context) : allocateInline(target, context)
    case PUNCH_HOLE | KEEP_SIZE:
      return target.inode.content === undefined ? punch(tx, target, context) : zeroInline(target, context)
    case ZERO_RANGE:
    case ZERO_RANGE | KEEP_SIZE:
      return target.inode.content === undefined ? zero(tx, target, context) : zeroInline(target, context)
    case COLLAPSE_RANGE:
      return collapse(tx, target, context)
    case INSERT_RANGE:
      return insert(tx, target, context)
    default:
      throw new PosixError('EOPNOTSUPP')
  }
}

const sizeAfter = ({ inode, offset, length, keepSize }: Target): bigint =>
  keepSize || offset + length <= inode.size ? inode.size : offset + length

const checkSegmentCount = ({ offset, length }: Target): void => {
  if (length >> 26n >= BigInt(segmentsPerOperationMax))
    throw new PosixError('EFBIG', `too long for one call at ${offset}`)
}

const unwritten = (range: { offset: number; length: number }): Extent => ({ ...range, chunkId: 0n, chunkOffset: 0 })

/** Room in the cluster for what an allocation adds. */
const checkRoom = (edit: FileEdit, context: OpContext): void => {
  if (edit.allocatedDelta > context.cluster.statistics().bytesFree) throw new PosixError('ENOSPC')
}

const allocate = (tx: Tx, target: Target, context: OpContext): Partial<Inode> => {
  checkSegmentCount(target)
  const edit = new FileEdit(tx, target.ino)
  const ranges = [...segmentRanges(target.offset, target.length)]
  edit.prefetch(ranges.map(({ index }) => index))
  for (const { index, range } of ranges) {
    const added = holes(edit.segment(index), range).map(unwritten)
    if (added.length > 0) edit.overlay(index, added)
  }
  checkRoom(edit, context)
  const size = sizeAfter(target)
  const allocated = target.inode.allocated + edit.finish(context.chunks)
  // Allocation alone changes no content, so mtime stays unless the file grew, as in ext4.
  return size === target.inode.size ? { size, allocated, mtime: target.inode.mtime } : { size, allocated }
}

const punch = (tx: Tx, target: Target, context: OpContext): Partial<Inode> => {
  if (target.inode.allocated === 0n) return {}
  const edit = new FileEdit(tx, target.ino)
  punchRange(edit, target.offset, target.length)
  return { allocated: target.inode.allocated + edit.finish(context.chunks) }
}

/** Holes where there are extents: the segments that do not exist need no look. */
const punchRange = (edit: FileEdit, offset: bigint, length: bigint): void => {
  const end = offset + length
  for (const [index, extents] of edit.existing(segmentOf(offset).index, segmentOf(end - 1n).index + 1n)) {
    const start = segmentStart(index)
    const from = offset > start ? Number(offset - start) : 0
    const to = end - start < BigInt(segmentBytes) ? Number(end - start) : segmentBytes
    if (to - from === segmentBytes) edit.remove(index, extents)
    else edit.cut(index, { offset: from, length: to - from })
  }
}

const zero = (tx: Tx, target: Target, context: OpContext): Partial<Inode> => {
  checkSegmentCount(target)
  const edit = new FileEdit(tx, target.ino)
  const ranges = [...segmentRanges(target.offset, target.length)]
  edit.prefetch(ranges.map(({ index }) => index))
  for (const { index, range } of ranges) edit.overlay(index, [unwritten(range)])
  checkRoom(edit, context)
  return { size: sizeAfter(target), allocated: target.inode.allocated + edit.finish(context.chunks) }
}

const asExtentsFirst = (): never => {
  throw new PosixError('EOPNOTSUPP', 'the file is inline; commit its content as extents first')
}

const allocateInline = (target: Target, context: OpContext): Partial<Inode> => {
  const { inode, offset, length } = target
  const size = sizeAfter(target)
  if (offset + length > size || size > BigInt(context.cluster.inlineBytesMax)) return asExtentsFirst()
  return inlineOf(inode, Number(size))
}

const zeroInline = (target: Target, context: OpContext): Partial<Inode> => {
  const { inode, offset, length } = target
  const size = sizeAfter(target)
  if (size > inode.size && size > BigInt(context.cluster.inlineBytesMax)) return asExtentsFirst()
  const changes = inlineOf(inode, Number(size))
  const end = offset + length < size ? offset + length : size
  if (offset < end) changes.content.fill(0, Number(offset), Number(end))
  return changes
}

const inlineOf = (inode: Inode, size: number): { content: Buffer; size: bigint; allocated: bigint } => {
  const content = Buffer.alloc(size)
  inode.content!.copy(content)
  return { content, size: BigInt(size), allocated: inlineAllocated(size) }
}

const checkBlocks = ({ offset, length, inode }: Target): void => {
  if (offset % BigInt(blockBytes) !== 0n || length % BigInt(blockBytes) !== 0n) throw new PosixError('EINVAL')
  if (inode.content !== undefined) asExtentsFirst()
}

/** Takes a range out of the file; what follows moves down. */
const collapse = (tx: Tx, target: Target, context: OpContext): Partial<Inode> => {
  const { ino, inode, offset, length } = target
  checkBlocks(target)
  if (offset + length >= inode.size) throw new PosixError('EINVAL')
  const edit = new FileEdit(tx, ino)
  const tail = take(edit, offset + length)
  edit.cutFrom(offset)
  putShifted(edit, tail, -length)
  return { size: inode.size - length, allocated: inode.allocated + edit.finish(context.chunks) }
}

/** Makes room for a range, a hole; what follows moves up. */
const insert = (tx: Tx, target: Target, context: OpContext): Partial<Inode> => {
  const { ino, inode, offset, length } = target
  checkBlocks(target)
  if (offset >= inode.size) throw new PosixError('EINVAL')
  if (inode.size + length > fileBytesMax) throw new PosixError('EFBIG')
  const edit = new FileEdit(tx, ino)
  const tail = take(edit, offset)
  if (tail.length > 0 && tail.at(-1)!.start + BigInt(tail.at(-1)!.extent.length) + length > fileBytesMax) {
    throw new PosixError('EFBIG')
  }
  edit.cutFrom(offset)
  putShifted(edit, tail, length)
  return { size: inode.size + length, allocated: inode.allocated + edit.finish(context.chunks) }
}

interface Piece {
  /** In the file. */
  start: bigint
  extent: Extent
}

/** All extents from an offset on. EFBIG when they are too many to be moved at once. */
const take = (edit: FileEdit, from: bigint): Piece[] => {
  const pieces: Piece[] = []
  const { index: first, within } = segmentOf(from)
  let count = 0
  for (const [index, extents] of edit.existing(first)) {
    if (++count > segmentsPerOperationMax) throw new PosixError('EFBIG', 'too much to move at once')
    const offset = index === first ? within : 0
    for (const extent of slice(extents, { offset, length: segmentBytes - offset })) {
      pieces.push({ start: segmentStart(index) + BigInt(extent.offset), extent })
    }
  }
  return pieces
}

/** Puts extents back at other places of the file, where there is nothing now. */
const putShifted = (edit: FileEdit, pieces: readonly Piece[], by: bigint): void => {
  const bySegment = new Map<bigint, Extent[]>()
  for (const { start, extent } of pieces) {
    for (const { index, range, fileOffset } of segmentRanges(start + by, BigInt(extent.length))) {
      const into = Number(fileOffset - (start + by))
      const part = {
        ...range,
        chunkId: extent.chunkId,
        chunkOffset: extent.chunkId === 0n ? 0 : extent.chunkOffset + into,
      }
      const list = bySegment.get(index)
      if (list === undefined) bySegment.set(index, [part])
      else list.push(part)
    }
  }
  for (const [index, extents] of bySegment) edit.overlay(index, merge(extents))
}
