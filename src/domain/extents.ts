/**
 * The extent algebra: which bytes of a file are where, as pure functions over the extents of one segment (64 MiB of a file).
 *
 * Invariant: the extents of a segment are sorted by offset, do not overlap, have a positive length and end within the segment.
 * What no extent covers is a hole. An extent of chunk 0 is allocated but was never written; both read as zeros.
 * Offsets and lengths are bytes within the segment. Inputs are never changed.
 */
import { blockBytes, segmentBytes, segmentShift } from './limits.ts'

/** The shape of shoal.v1.Extent. */
export interface Extent {
  offset: number
  length: number
  /** 0n: allocated, never written. */
  chunkId: bigint
  chunkOffset: number
}

export interface Range {
  offset: number
  length: number
}

/** Which segment a file offset is in, and where in it. */
export const segmentOf = (offset: bigint): { index: bigint; within: number } => ({
  index: offset >> segmentShift,
  within: Number(offset & BigInt(segmentBytes - 1)),
})

export const segmentStart = (index: bigint): bigint => index << segmentShift

/** The ranges of the segments that [offset, offset + length) of a file touches, in order. */
export function* segmentRanges(
  offset: bigint,
  length: bigint,
): Generator<{ index: bigint; range: Range; fileOffset: bigint }> {
  const end = offset + length
  for (let at = offset; at < end;) {
    const { index, within } = segmentOf(at)
    const room = BigInt(segmentBytes - within)
    const size = end - at < room ? end - at : room
    yield { index, range: { offset: within, length: Number(size) }, fileOffset: at }
    at += size
  }
}

const endOf = (range: Range): number => range.offset + range.length

/** The part of an extent within a range, or undefined when they do not meet. */
export const clip = (extent: Extent, range: Range): Extent | undefined => {
  const start = Math.max(extent.offset, range.offset)
  const end = Math.min(endOf(extent), endOf(range))
  if (end <= start) return undefined
  return {
    offset: start,
    length: end - start,
    chunkId: extent.chunkId,
    chunkOffset: extent.chunkId === 0n ? 0 : extent.chunkOffset + (start - extent.offset),
  }
}

/** The parts of the extents within a range, in order. */
export const slice = (extents: readonly Extent[], range: Range): Extent[] => {
  const parts: Extent[] = []
  for (let i = firstEndingAfter(extents, range.offset); i < extents.length; i++) {
    const extent = extents[i]!
    if (extent.offset >= endOf(range)) break
    parts.push(clip(extent, range)!)
  }
  return parts
}

/** Everything but a range: the range becomes a hole. */
export const cut = (extents: readonly Extent[], range: Range): Extent[] => {
  const kept: Extent[] = []
  for (const extent of extents) {
    if (endOf(extent) <= range.offset || extent.offset >= endOf(range)) {
      kept.push(extent)
      continue
    }
    const before = clip(extent, { offset: 0, length: range.offset })
    const after = clip(extent, { offset: endOf(range), length: Math.max(0, segmentBytes - endOf(range)) })
    if (before) kept.push(before)
    if (after) kept.push(after)
  }
  return kept
}

/** Lays extents (sorted, not overlapping) over others: what they cover is replaced, the rest stays; neighbours that continue each other become one. */
export const overlay = (extents: readonly Extent[], added: readonly Extent[]): Extent[] => {
  let rest: Extent[] = [...extents]
  for (const extent of added) rest = cut(rest, extent)
  return merge([...rest, ...added].toSorted((a, b) => a.offset - b.offset))
}

/** Joins neighbours that continue each other both in the file and in the chunk. */
export const merge = (extents: readonly Extent[]): Extent[] => {
  const merged: Extent[] = []
  for (const extent of extents) {
    const last = merged.at(-1)
    const continues =
      last !== undefined &&
      last.chunkId === extent.chunkId &&
      endOf(last) === extent.offset &&
      (extent.chunkId === 0n || last.chunkOffset + last.length === extent.chunkOffset)
    if (continues) {
      // By name: objects of one shape are read several times faster where thousands of extents are.
      const { offset, chunkId, chunkOffset } = last
      merged[merged.length - 1] = { offset, length: last.length + extent.length, chunkId, chunkOffset }
    } else merged.push(extent)
  }
  return merged
}

/** The holes of a range, in order. */
export const holes = (extents: readonly Extent[], range: Range): Range[] => {
  const found: Range[] = []
  let at = range.offset
  for (const part of slice(extents, range)) {
    if (part.offset > at) found.push({ offset: at, length: part.offset - at })
    at = endOf(part)
  }
  if (at < endOf(range)) found.push({ offset: at, length: endOf(range) - at })
  return found
}

/** Bytes of the 4 KiB file blocks that any extent touches: what st_blocks counts. */
export const allocatedBytes = (extents: readonly Extent[]): number => {
  let blocks = 0
  let counted = 0
  for (const extent of extents) {
    const first = Math.max(Math.floor(extent.offset / blockBytes), counted)
    const end = Math.ceil(endOf(extent) / blockBytes)
    if (end > first) blocks += end - first
    counted = Math.max(counted, end)
  }
  return blocks * blockBytes
}

/** Throws when the invariant of a segment's extents does not hold; for what comes from the network or the disk. */
export const checkExtents = (extents: readonly Extent[]): void => {
  let at = 0
  for (const extent of extents) {
    const sound =
      extent.offset >= at &&
      extent.length > 0 &&
      endOf(extent) <= segmentBytes &&
      extent.chunkOffset >= 0 &&
      extent.chunkOffset + (extent.chunkId === 0n ? 0 : extent.length) <= segmentBytes
    if (!sound)
      throw new RangeError(`extent at ${extent.offset} of ${extent.length} bytes overlaps or leaves its segment`)
    at = endOf(extent)
  }
}

const firstEndingAfter = (extents: readonly Extent[], offset: number): number => {
  let low = 0
  let high = extents.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (endOf(extents[middle]!) > offset) high = middle
    else low = middle + 1
  }
  return low
}
