/**
 * getExtents: what a reader needs of some segments, with a read lease (or the write lease that the session has already): attributes, extents,
 * where the chunks are, or the inline data. The same of small files that it will probably read next, as far as nobody has to be waited for.
 *
 * E2BIG when the asked segments have more extents than fit in a message: ask for one segment at a time, which always fits.
 * ESTALE, EISDIR, EINVAL (no regular file; segment_count not 1 .. 16; more than 64 following).
 */
import { PosixError } from '../../domain/errors.ts'
import { asChunkId, asIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import { segmentBytes } from '../../domain/limits.ts'
import { isRegular } from '../../domain/mode.ts'
import { LeaseMode } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { ExtentsReply, GetExtentsRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { ChunkLocation, Segment } from '../../protocol/gen/shoal/v1/types.pb.ts'
import type { OpContext } from '../context.ts'
import { inodes, segments } from '../keys.ts'
import type { Inode } from '../keys.ts'
import type { Tx } from '../store.ts'
import { segmentExtentsMax } from './file-edit.ts'
import { attributesOf, readable, regular } from './operation.ts'
import type { Operation } from './operation.ts'

export const segmentCountMax = 16
export const followingMax = 64
/** A file that follows is small, so its extents are few. */
const followingExtentsMax = 64

export const getExtents: Operation<GetExtentsRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { segmentFirst, segmentCount } = request
  if (segmentCount < 1 || segmentCount > segmentCountMax || segmentFirst >= 1n << 37n) throw new PosixError('EINVAL')
  if (request.following.length > followingMax) throw new PosixError('EINVAL')
  const inode = regular(tx, ino)
  readable(context, ino)
  const reply = layoutOf(tx, { ino, inode }, segmentFirst, segmentCount)
  const others = following(tx, request.following, context)
  const locations = new Map<bigint, ChunkLocation>()
  for (const { segments: found } of [reply, ...others.map(({ layout }) => layout)]) {
    for (const { extents } of found) {
      for (const { chunkId } of extents) {
        if (chunkId === 0n || locations.has(chunkId)) continue
        locations.set(chunkId, { chunkId, servers: context.chunks.locate(asChunkId(chunkId)) })
      }
    }
  }
  reply.locations = [...locations.values()]
  for (const other of others) {
    const lease = context.leases.offer(context.session, other.ino)
    if (lease.mode === LeaseMode.LEASE_MODE_NONE) continue
    reply.following.push({ ...other.layout, attributes: attributesOf(context, other.ino, other.inode), lease })
  }
  reply.attributes = attributesOf(context, ino, inode)
  reply.lease = context.leases.grant(context.session, ino, 'read')
  return { $case: 'extents', value: reply }
}

interface File {
  ino: Ino
  inode: Inode
}

/** The content, or some segments, without attributes and lease. E2BIG. */
const layoutOf = (tx: Tx, { ino, inode }: File, segmentFirst: bigint, segmentCount: number): ExtentsReply => {
  const reply: ExtentsReply = { attributes: undefined, lease: undefined, segments: [], locations: [], following: [] }
  if (inode.content !== undefined) reply.inlineData = inode.content
  else if (inode.allocated > 0n) {
    const indexes = Array.from({ length: segmentCount }, (_, i) => segmentFirst + BigInt(i))
    const found = tx.getMany(
      segments,
      indexes.map((index) => ({ ino, index })),
    )
    let count = 0
    for (const [i, index] of indexes.entries()) {
      const extents = found[i]
      if (extents === undefined) continue
      count += extents.length
      if (count > segmentExtentsMax && reply.segments.length > 0) throw new PosixError('E2BIG')
      reply.segments.push({ index, extents: [...extents] })
    }
  }
  return reply
}

/** Of these files those that are small and that nobody else has something newer of. */
const following = (
  tx: Tx,
  wanted: readonly bigint[],
  { leases, session }: OpContext,
): (File & { layout: ExtentsReply })[] => {
  const inos = wanted.map(asIno).filter((ino) => !leases.writtenByOther(session, ino))
  const found = tx.getMany(inodes, inos)
  const files = inos.flatMap((ino, i): File[] => {
    const inode = found[i]
    const isSmall = inode !== undefined && isRegular(inode.mode) && inode.size <= BigInt(segmentBytes)
    return isSmall ? [{ ino, inode }] : []
  })
  const withExtents = files.filter(({ inode }) => inode.content === undefined && inode.allocated > 0n)
  // All at once.
  tx.getMany(
    segments,
    withExtents.map(({ ino }) => ({ ino, index: 0n })),
  )
  const extentsOf = ({ segments: found }: { segments: readonly Segment[] }): number => found[0]?.extents.length ?? 0
  return files
    .map((file) => ({ ...file, layout: layoutOf(tx, file, 0n, 1) }))
    .filter(({ layout }) => extentsOf(layout) <= followingExtentsMax)
}
