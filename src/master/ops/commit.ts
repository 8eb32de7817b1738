/**
 * commit: the one linearization point of writing. The session holds the write lease (else ESTALE). New extents are laid over what is there,
 * or the whole content becomes inline data; size, times and the accounts follow, all of it or nothing.
 *
 * A size that is smaller than the file's leaves the file's (truncation is setattr). Extents must end within the size.
 * The first extents of an inline file must cover all of its inline data, which they replace. Inline data replaces all extents.
 *
 * ESTALE (no write lease), EROFS (a chunk is sealed, unknown or another session's: append again elsewhere, commit then), EFBIG,
 * EINVAL (malformed), EISDIR. Replies attributesAndLease.
 */
import { PosixError } from '../../domain/errors.ts'
import { checkExtents, holes, segmentStart } from '../../domain/extents.ts'
import { asChunkId, asIno } from '../../domain/ids.ts'
import { blockBytes, chunkBytes, fileBytesMax, segmentBytes } from '../../domain/limits.ts'
import { withoutPrivileges } from '../../domain/mode.ts'
import type { CommitRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { Segment } from '../../protocol/gen/shoal/v1/types.pb.ts'
import type { OpContext } from '../context.ts'
import { chunks } from '../keys.ts'
import type { Inode } from '../keys.ts'
import { blocksOf } from '../space.ts'
import type { BlockRange } from '../space.ts'
import type { Tx } from '../store.ts'
import { FileEdit } from './file-edit.ts'
import { changedResult, checkTime, regular, update } from './operation.ts'
import type { Operation } from './operation.ts'
import { inlineAllocated } from './setattr.ts'

export const commit: Operation<CommitRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { inlineData } = request
  checkTime(request.mtime)
  checkTime(request.ctime)
  if (request.size !== undefined && request.size > fileBytesMax) throw new PosixError('EFBIG')
  const inode = regular(tx, ino)
  if (context.leases.held(context.session, ino) !== 'write') throw new PosixError('ESTALE', 'no write lease')
  const size = request.size === undefined || request.size < inode.size ? inode.size : request.size
  const edit = new FileEdit(tx, ino, { isBare: inode.allocated === 0n || inode.content !== undefined })
  const changes: { content?: Buffer | undefined; allocated?: bigint } = {}
  if (inlineData !== undefined) {
    checkInline(request, size, context)
    if (inode.allocated > 0n && inode.content === undefined) edit.cutFrom(0n)
    edit.finish(context.chunks)
    // No content at all is how an empty file looks.
    changes.content = inlineData.length === 0 ? undefined : inlineData
    changes.allocated = inlineAllocated(inlineData.length)
  } else if (request.segments.length > 0) {
    checkSegments(request.segments, size)
    if (inode.content !== undefined) checkCovered(request.segments, inode.content.length)
    append(tx, request.segments, context)
    edit.prefetch(request.segments.map(({ index }) => index))
    for (const { index, extents } of request.segments) edit.overlay(index, extents, extents)
    const before = inode.content === undefined ? inode.allocated : 0n
    changes.content = undefined
    changes.allocated = before + edit.finish(context.chunks)
  } else if (inode.content !== undefined && size > inode.size) {
    throw new PosixError('EINVAL', 'inline data and size do not agree')
  }
  const committed = update(tx, ino, inode, {
    size,
    mtime: request.mtime ?? inode.mtime,
    ctime: request.ctime ?? tx.now,
    mode: request.killPrivileges ? withoutPrivileges(inode.mode) : inode.mode,
    ...(inlineData !== undefined || request.segments.length > 0 ? changes : {}),
  } satisfies Partial<Inode>)
  if (request.appended.length > 0) tx.onApply(() => context.chunks.appended(request.appended))
  return changedResult(context, ino, committed)
}

const checkInline = (request: CommitRequest, size: bigint, context: OpContext): void => {
  const length = request.inlineData!.length
  if (request.segments.length > 0 || BigInt(length) !== size || length > context.cluster.inlineBytesMax) {
    throw new PosixError('EINVAL', 'inline data that is not the whole content, or too large')
  }
}

const checkSegments = (segments: readonly Segment[], size: bigint): void => {
  const seen = new Set<bigint>()
  for (const { index, extents } of segments) {
    if (index >= 1n << 37n || seen.has(index)) throw new PosixError('EINVAL', 'segment index')
    seen.add(index)
    try {
      checkExtents(extents)
    } catch (cause) {
      throw new PosixError('EINVAL', cause instanceof Error ? cause.message : String(cause))
    }
    const last = extents.at(-1)
    if (last === undefined) throw new PosixError('EINVAL', 'a segment without extents')
    if (segmentStart(index) + BigInt(last.offset + last.length) > size) {
      throw new PosixError('EINVAL', 'an extent beyond the size')
    }
  }
}

/** Inline data that the new extents did not replace would be lost. */
const checkCovered = (segments: readonly Segment[], length: number): void => {
  const first = segments.find(({ index }) => index === 0n)
  if (holes(first?.extents ?? [], { offset: 0, length: Math.min(length, segmentBytes) }).length > 0) {
    throw new PosixError('EINVAL', 'extents that leave out inline data')
  }
}

/** The chunks that the extents are in grow to hold them. */
const append = (tx: Tx, segments: readonly Segment[], context: OpContext): void => {
  const ranges = new Map<bigint, BlockRange[]>()
  for (const { extents } of segments) {
    for (const extent of extents) {
      if (extent.chunkId === 0n || extent.chunkOffset % blockBytes !== 0) {
        throw new PosixError('EINVAL', 'an extent that does not start at a block of a chunk')
      }
      const list = ranges.get(extent.chunkId)
      if (list === undefined) ranges.set(extent.chunkId, [blocksOf(extent)])
      else list.push(blocksOf(extent))
    }
  }
  const ids = [...ranges.keys()].map(asChunkId)
  const records = tx.getMany(chunks, ids)
  for (const [i, id] of ids.entries()) {
    const chunk = records[i]
    if (chunk === undefined || chunk.sealed || chunk.owner !== context.session) {
      throw new PosixError('EROFS', `chunk ${id} takes no more data of this session`)
    }
    const sorted = ranges.get(id)!.toSorted((a, b) => a.first - b.first)
    for (const [at, { first }] of sorted.entries()) {
      if (at > 0 && sorted[at - 1]!.end > first) throw new PosixError('EINVAL', 'extents that share a block')
    }
    const end = sorted.at(-1)!.end * blockBytes
    if (end > chunkBytes) throw new PosixError('EINVAL', 'an extent beyond the end of its chunk')
    if (end > chunk.committedBytes) tx.put(chunks, id, { ...chunk, committedBytes: end })
  }
}
