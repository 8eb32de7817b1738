/**
 * getExtents: what a reader needs of some segments, with a read lease (or the write lease that the session has already): attributes, extents,
 * where the chunks are, or the inline data.
 *
 * E2BIG when the asked segments have more extents than fit in a message: ask for one segment at a time, which always fits.
 * ESTALE, EISDIR, EINVAL (no regular file; segment_count not 1 .. 16).
 */
import { PosixError } from '../../domain/errors.ts'
import { asChunkId, asIno } from '../../domain/ids.ts'
import type { ExtentsReply, GetExtentsRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { ChunkLocation } from '../../protocol/gen/shoal/v1/types.pb.ts'
import { segments } from '../keys.ts'
import { segmentExtentsMax } from './file-edit.ts'
import { attributesOf, readable, regular } from './operation.ts'
import type { Operation } from './operation.ts'

export const segmentCountMax = 16

export const getExtents: Operation<GetExtentsRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { segmentFirst, segmentCount } = request
  if (segmentCount < 1 || segmentCount > segmentCountMax || segmentFirst >= 1n << 37n) throw new PosixError('EINVAL')
  const inode = regular(tx, ino)
  readable(context, ino)
  const reply: ExtentsReply = { attributes: undefined, lease: undefined, segments: [], locations: [] }
  if (inode.content !== undefined) reply.inlineData = inode.content
  else if (inode.allocated > 0n) {
    const indexes = Array.from({ length: segmentCount }, (_, i) => segmentFirst + BigInt(i))
    const found = tx.getMany(
      segments,
      indexes.map((index) => ({ ino, index })),
    )
    const locations = new Map<bigint, ChunkLocation>()
    let count = 0
    for (const [i, index] of indexes.entries()) {
      const extents = found[i]
      if (extents === undefined) continue
      count += extents.length
      if (count > segmentExtentsMax && reply.segments.length > 0) throw new PosixError('E2BIG')
      reply.segments.push({ index, extents: [...extents] })
      for (const { chunkId } of extents) {
        if (chunkId === 0n || locations.has(chunkId)) continue
        locations.set(chunkId, { chunkId, servers: context.chunks.locate(asChunkId(chunkId)) })
      }
    }
    reply.locations = [...locations.values()]
  }
  reply.attributes = attributesOf(context, ino, inode)
  reply.lease = context.leases.grant(context.session, ino, 'read')
  return { $case: 'extents', value: reply }
}
