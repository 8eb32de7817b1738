/**
 * Changes to the extents of one file within one operation: segments are read and replaced, and at the end the space accounts and the
 * file's allocated bytes follow from the difference.
 */
import { allocatedBytes, cut, overlay, segmentOf } from '../../domain/extents.ts'
import type { Extent, Range } from '../../domain/extents.ts'
import { PosixError } from '../../domain/errors.ts'
import type { Ino } from '../../domain/ids.ts'
import { blockBytes, segmentBytes } from '../../domain/limits.ts'
import type { ChunkGate } from '../context.ts'
import { segmentBounds, segments } from '../keys.ts'
import type { Segment } from '../keys.ts'
import { SpaceChange } from '../space.ts'
import type { Tx } from '../store.ts'

/** One segment's extents fit in one message with this many; a file that needs more is refused (EFBIG) until it was rewritten. */
export const segmentExtentsMax = 131_072
/** Segments that one operation creates at most: 1 TiB of a file. */
export const segmentsPerOperationMax = 16_384

/** Each page has twice as many as the one before: with each one the operation runs again from its start. */
const pageSegmentsMin = 64
const pageSegmentsMax = 8192

export class FileEdit {
  /** By how much the file's allocated bytes grow. */
  allocatedDelta = 0n
  #tx: Tx
  #ino: Ino
  #space = new SpaceChange()
  /** Where a file without extents has got some by this edit; undefined: it may have had some before. */
  readonly #begun: Set<bigint> | undefined

  /** `isBare`: the file has no extents yet, so nothing has to be loaded to know what is there. */
  constructor(tx: Tx, ino: Ino, { isBare = false } = {}) {
    this.#tx = tx
    this.#ino = ino
    this.#begun = isBare ? new Set() : undefined
  }

  segment(index: bigint): Segment {
    if (this.#begun?.has(index) === false) return []
    return this.#tx.get(segments, { ino: this.#ino, index }) ?? []
  }

  /** Loads several segments at once, so that the next reads of them need no further run. */
  prefetch(indexes: readonly bigint[]): void {
    if (this.#begun !== undefined) return
    this.#tx.getMany(
      segments,
      indexes.map((index) => ({ ino: this.#ino, index })),
    )
  }

  /** The segments that exist from one index up to (not including) another. */
  *existing(from: bigint, to?: bigint): Generator<[bigint, Segment]> {
    for (let at = from, limit = pageSegmentsMin; ; limit = Math.min(2 * limit, pageSegmentsMax)) {
      const page = this.#tx.range(segments, segmentBounds(this.#ino, at, to), limit)
      for (const [{ index }, extents] of page) yield [index, extents]
      if (page.length < limit) return
      at = page.at(-1)![0].index + 1n
    }
  }

  /** Takes a whole segment, with these extents, out of the file. */
  remove(index: bigint, before: Segment): void {
    this.#tx.delete(segments, { ino: this.#ino, index })
    this.#account(before, [], [])
    this.allocatedDelta -= BigInt(allocatedBytes(before))
  }

  /** Lays extents over what is there. */
  overlay(index: bigint, added: readonly Extent[], fresh: readonly Extent[] = []): void {
    const first = added[0]!
    const last = added.at(-1)!
    const range = { offset: first.offset, length: last.offset + last.length - first.offset }
    this.#edit(index, range, (window) => overlay(window, added), fresh)
  }

  /** Makes a hole of a range that lies within one segment. */
  cut(index: bigint, range: Range): void {
    this.#edit(index, range, (window) => cut(window, range), [])
  }

  /**
   * Changes what is within a range. Only the extents around the range are looked at: a segment of a randomly written file has thousands.
   */
  #edit(index: bigint, range: Range, change: (window: Segment) => Extent[], fresh: readonly Extent[]): void {
    const key = { ino: this.#ino, index }
    const before = this.segment(index)
    const { start, end } = windowOf(before, range)
    const window = before.slice(start, end)
    const next = change(window)
    const { removed, added } = difference(window, next)
    if (removed.length === 0 && added.length === 0) return
    this.#begun?.add(index)
    const count = before.length - window.length + next.length
    if (count > segmentExtentsMax) throw new PosixError('EFBIG', 'the file is in too many pieces')
    if (count === 0) this.#tx.delete(segments, key)
    else this.#tx.put(segments, key, before.slice(0, start).concat(next, before.slice(end)))
    this.#account(removed, added, fresh)
    this.allocatedDelta += BigInt(allocatedBytes(next) - allocatedBytes(window))
  }

  #account(removed: Segment, added: Segment, fresh: readonly Extent[]): void {
    this.#space.remove(removed)
    this.#space.add(added)
    this.#space.markFresh(fresh)
  }

  /** Makes a hole of everything from an offset on. */
  cutFrom(offset: bigint): void {
    const { index, within } = segmentOf(offset)
    if (within > 0) this.cut(index, { offset: within, length: segmentBytes - within })
    for (const [later, extents] of this.existing(within > 0 ? index + 1n : index)) this.remove(later, extents)
  }

  /** Writes the space accounts; call once, after the last change. Returns the bytes by which `allocated` changes. */
  finish(gate: Pick<ChunkGate, 'freed'>): bigint {
    this.#space.apply(this.#tx, gate)
    return this.allocatedDelta
  }
}

const same = (a: Readonly<Extent>, b: Readonly<Extent>): boolean =>
  a.offset === b.offset && a.length === b.length && a.chunkId === b.chunkId && a.chunkOffset === b.chunkOffset

/** What differs between two lists, without what they have in common at the start and at the end. */
const difference = (before: Segment, next: Segment): { removed: Segment; added: Segment } => {
  let start = 0
  while (start < before.length && start < next.length && same(before[start]!, next[start]!)) start++
  let end = 0
  while (
    end < before.length - start &&
    end < next.length - start &&
    same(before[before.length - 1 - end]!, next[next.length - 1 - end]!)
  ) {
    end++
  }
  return { removed: before.slice(start, before.length - end), added: next.slice(start, next.length - end) }
}

const endOf = (range: Range): number => range.offset + range.length
const blockOf = (offset: number): number => Math.floor(offset / blockBytes)

/** Index of the first extent that ends at or after an offset. */
const firstEndingFrom = (extents: Segment, offset: number): number => {
  let low = 0
  let high = extents.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (endOf(extents[middle]!) >= offset) high = middle
    else low = middle + 1
  }
  return low
}

/**
 * Which extents a change of this range can concern: those that overlap it, those that it may join, and those in the same 4 KiB
 * blocks as any of them, so that allocated bytes can be counted within the window alone.
 */
const windowOf = (extents: Segment, range: Range): { start: number; end: number } => {
  let start = firstEndingFrom(extents, range.offset)
  let end = start
  let from = range.offset
  let to = endOf(range)
  while (end < extents.length && (extents[end]!.offset <= to || blockOf(extents[end]!.offset) <= blockOf(to - 1))) {
    to = Math.max(to, endOf(extents[end]!))
    end++
  }
  if (start < end) from = Math.min(from, extents[start]!.offset)
  while (start > 0 && blockOf(endOf(extents[start - 1]!) - 1) >= blockOf(from)) {
    start--
    from = extents[start]!.offset
  }
  return { start, end }
}
