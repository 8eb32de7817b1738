/**
 * How pieces of data become append messages, as pure functions: each piece starts at a block boundary of the chunk, is split only
 * at block boundaries, and small pieces share a message.
 */
import { invariant } from '../../domain/errors.ts'
import { roundUpToBlock } from '../../domain/checksum.ts'
import { blockBytes, transferBytesMax } from '../../domain/limits.ts'
import type { ChunkId } from '../../domain/ids.ts'
import type { Placed } from './ports.ts'

/** Consecutive bytes of a piece that are still to be placed. */
export interface Part {
  piece: number
  /** A multiple of 4096. */
  pieceOffset: number
  data: Buffer
}

/** The data of one append and which parts it consists of, in order. */
export interface Layout {
  parts: readonly { part: Part; /** Where it starts in `data`, a multiple of 4096. */ at: number }[]
  data: Buffer
}

/** From here on a part is sent as it is; smaller ones are copied together, which costs less than a message of their own. */
const sharedBytesMax = 256 * 1024

/**
 * Takes from the front of the queue what goes into the next message, at most `roomBytes` (a positive multiple of 4096) and at
 * most 1 MiB. A part that does not fit stays in the queue with what is left of it.
 */
export const takeLayout = (queue: Part[], roomBytes: number): Layout => {
  invariant(roomBytes >= blockBytes && roomBytes % blockBytes === 0, `room of ${roomBytes} bytes for an append`)
  const limit = Math.min(roomBytes, transferBytesMax)
  const first = queue[0]
  invariant(first !== undefined, 'an append of nothing')
  const alone = queue.length === 1 || first.data.length > sharedBytesMax || roundUpToBlock(first.data.length) >= limit
  if (alone) {
    const part = takePart(queue, limit)
    return { parts: [{ part, at: 0 }], data: part.data }
  }
  const parts: { part: Part; at: number }[] = []
  let length = 0
  for (
    let at = 0;
    at < limit && queue.length > 0 && queue[0]!.data.length <= sharedBytesMax;
    at = roundUpToBlock(length)
  ) {
    const part = takePart(queue, limit - at)
    parts.push({ part, at })
    length = at + part.data.length
  }
  const data = Buffer.allocUnsafe(length)
  let end = 0
  for (const { part, at } of parts) {
    data.fill(0, end, at)
    part.data.copy(data, at)
    end = at + part.data.length
  }
  return { parts, data }
}

const takePart = (queue: Part[], limit: number): Part => {
  const first = queue[0]!
  if (first.data.length <= limit) {
    queue.shift()
    return first
  }
  queue[0] = { ...first, pieceOffset: first.pieceOffset + limit, data: first.data.subarray(limit) }
  return { ...first, data: first.data.subarray(0, limit) }
}

/** Where the parts of a message are, once it is at this place of a chunk. */
export const placedParts = (layout: Layout, chunkId: ChunkId, chunkOffset: number): Placed[] =>
  layout.parts.map(({ part, at }) => ({
    piece: part.piece,
    pieceOffset: part.pieceOffset,
    length: part.data.length,
    chunkId,
    chunkOffset: chunkOffset + at,
  }))

/** Sorted by piece and offset; places that continue each other become one. */
export const joinPlaced = (placed: readonly Placed[]): Placed[] => {
  const joined: Placed[] = []
  for (const next of placed.toSorted((a, b) => a.piece - b.piece || a.pieceOffset - b.pieceOffset)) {
    const last = joined.at(-1)
    const continues =
      last !== undefined &&
      last.piece === next.piece &&
      last.chunkId === next.chunkId &&
      last.pieceOffset + last.length === next.pieceOffset &&
      last.chunkOffset + last.length === next.chunkOffset
    if (continues) last.length += next.length
    else joined.push({ ...next })
  }
  return joined
}
