/**
 * Which blocks of a chunk are live, and how often each is used.
 *
 * An extent references every 4 KiB block of its chunk that it touches, once, whatever part of the block it shows. A live block has a
 * count of at least 1; 1 is not written down, 2 and more are intervals in the reference table. A block whose count falls to 0
 * becomes a pending free (a hole to punch in each replica) and never comes back to life: appends only ever use new blocks.
 *
 * All changes of one operation are collected first and applied together, so that a block that only moves from one place to another
 * is never free in between.
 *
 * Invariants: a count never falls below 0. A chunk's liveBlocks is the number of its blocks with a count of at least 1, and
 * the liveBytes counter is the sum over all chunks.
 */
import { invariant } from '../domain/errors.ts'
import type { Extent } from '../domain/extents.ts'
import { asChunkId } from '../domain/ids.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import type { ChunkGate } from './context.ts'
import { chunks, counters, pendingFreeBounds, pendingFrees, referenceBounds, references } from './keys.ts'
import { readTogether } from './store.ts'
import type { Tx } from './store.ts'

/** Blocks first .. end - 1. */
export interface BlockRange {
  first: number
  end: number
}

interface Counted extends BlockRange {
  count: number
}

/** By how much the count of these blocks changes. */
interface Delta extends BlockRange {
  delta: number
}

interface ChunkChange {
  /** Where the count changes, and by how much from there on. */
  edges: { block: number; delta: number }[]
  fresh: BlockRange[]
}

/** The blocks of its chunk that an extent touches. */
export const blocksOf = (extent: Readonly<Extent>): BlockRange => ({
  first: Math.floor(extent.chunkOffset / blockBytes),
  end: Math.ceil((extent.chunkOffset + extent.length) / blockBytes),
})

export class SpaceChange {
  #chunks = new Map<bigint, ChunkChange>()

  /** These extents are no longer in a file. */
  remove(extents: Iterable<Readonly<Extent>>): void {
    for (const extent of extents) this.#count(extent, -1)
  }

  /** These extents are in a file now; their blocks are live already, unless they are marked fresh. */
  add(extents: Iterable<Readonly<Extent>>): void {
    for (const extent of extents) this.#count(extent, 1)
  }

  /**
   * These extents, among what `add` was or will be told, are of blocks that were never used before and that nothing else touches:
   * they begin to live with a count of 1.
   */
  markFresh(extents: Iterable<Readonly<Extent>>): void {
    for (const extent of extents) {
      this.#of(extent.chunkId).fresh.push(blocksOf(extent))
      this.#count(extent, -1)
    }
  }

  #of(chunkId: bigint): ChunkChange {
    let change = this.#chunks.get(chunkId)
    if (change === undefined) {
      change = { edges: [], fresh: [] }
      this.#chunks.set(chunkId, change)
    }
    return change
  }

  #count(extent: Readonly<Extent>, delta: number): void {
    if (extent.chunkId === 0n) return
    const { first, end } = blocksOf(extent)
    this.#of(extent.chunkId).edges.push({ block: first, delta }, { block: end, delta: -delta })
  }

  /** Writes all of it. The chunk gate hears of freed blocks once that is on disk. */
  apply(tx: Tx, gate: Pick<ChunkGate, 'freed'>): void {
    const changes = [...this.#chunks]
      .map(([id, { edges, fresh }]) => ({ chunkId: asChunkId(id), deltas: sweep(edges), fresh }))
      .filter(({ deltas, fresh }) => deltas.length > 0 || fresh.length > 0)
    const intervals = intervalsOf(tx, changes)
    let live = 0
    for (const { chunkId, deltas, fresh } of changes) {
      const chunk = tx.get(chunks, chunkId)
      invariant(chunk !== undefined, `an extent in chunk ${chunkId}, which does not exist`)
      const counted = recount(tx, chunkId, intervals.get(chunkId) ?? [], deltas)
      let liveBlocks = chunk.liveBlocks
      for (const { first, end } of fresh) liveBlocks += end - first
      for (const { first, end } of counted.freed) {
        liveBlocks -= end - first
        tx.put(pendingFrees, { chunk: chunkId, block: first }, end - first)
      }
      invariant(liveBlocks >= 0, `chunk ${chunkId} with fewer than no live blocks`)
      tx.put(chunks, chunkId, {
        ...chunk,
        liveBlocks,
        referenceIntervals: chunk.referenceIntervals + counted.intervals,
      })
      live += liveBlocks - chunk.liveBlocks
      if (counted.freed.length > 0) tx.afterCommit(() => gate.freed(chunkId))
    }
    if (live !== 0) {
      tx.put(counters, 'liveBytes', (tx.get(counters, 'liveBytes') ?? 0n) + BigInt(live) * BigInt(blockBytes))
    }
  }
}

/** Removes what is left of a chunk without live blocks: its record, and the punches that nobody needs any more. */
export const deleteChunk = (tx: Tx, chunkId: ChunkId): void => {
  const chunk = tx.get(chunks, chunkId)
  if (chunk === undefined) return
  invariant(chunk.liveBlocks === 0, `chunk ${chunkId} with live blocks is to be deleted`)
  for (const [key] of allOf((gte) => tx.range(pendingFrees, { ...pendingFreeBounds(chunkId), gte }, pageEntries), {
    from: pendingFreeBounds(chunkId).gte,
    next: ([key]) => `${pendingFrees.encodeKey(key)}\0`,
  })) {
    tx.delete(pendingFrees, key)
  }
  tx.delete(chunks, chunkId)
}

const pageEntries = 256
/** Chunks whose reference intervals are loaded together. */
const chunksPerLoad = 256

/** All records of a range, page by page. */
function* allOf<T>(
  load: (gte: string) => T[],
  { from, next }: { from: string; next: (last: T) => string },
): Generator<T> {
  for (let gte = from; ;) {
    const page = load(gte)
    yield* page
    if (page.length < pageEntries) return
    gte = next(page.at(-1)!)
  }
}

/** The intervals with a change that is not 0, in order. */
const sweep = (edges: { block: number; delta: number }[]): Delta[] => {
  const sorted = edges.toSorted((a, b) => a.block - b.block)
  const found: Delta[] = []
  let delta = 0
  for (let i = 0; i < sorted.length;) {
    const first = sorted[i]!.block
    while (i < sorted.length && sorted[i]!.block === first) delta += sorted[i++]!.delta
    if (delta === 0) continue
    found.push({ first, end: sorted[i]!.block, delta })
  }
  return found
}

/** Applies the deltas to the chunk's reference intervals around them; returns what became free and how many intervals there are more. */
const recount = (
  tx: Tx,
  chunkId: ChunkId,
  before: readonly Counted[],
  deltas: readonly Delta[],
): { freed: BlockRange[]; intervals: number } => {
  const after: Counted[] = []
  const freed: BlockRange[] = []
  const emit = (piece: Counted): void => {
    invariant(piece.count >= 0, `chunk ${chunkId} has blocks from ${piece.first} on that are used less than never`)
    if (piece.count === 0) {
      const last = freed.at(-1)
      if (last?.end === piece.first) last.end = piece.end
      else freed.push({ first: piece.first, end: piece.end })
    } else if (piece.count > 1) {
      const last = after.at(-1)
      if (last?.end === piece.first && last.count === piece.count) last.end = piece.end
      else after.push({ ...piece })
    }
  }
  // Both lists are cut into pieces within which neither the old count nor the delta changes.
  const cuts = [...new Set([...before, ...deltas].flatMap(({ first, end }) => [first, end]))].toSorted((a, b) => a - b)
  let b = 0
  let d = 0
  for (let i = 0; i + 1 < cuts.length; i++) {
    const first = cuts[i]!
    const end = cuts[i + 1]!
    while (b < before.length && before[b]!.end <= first) b++
    while (d < deltas.length && deltas[d]!.end <= first) d++
    const old = before[b]
    const delta = deltas[d]
    const count = old !== undefined && old.first <= first ? old.count : 1
    const change = delta !== undefined && delta.first <= first ? delta.delta : 0
    // What neither list covers is no concern of this change: live once, free, or never used.
    if (count === 1 && change === 0) continue
    emit({ first, end, count: count + change })
  }
  const kept = new Map(after.map((interval) => [interval.end - 1, interval]))
  for (const old of before) {
    if (!kept.has(old.end - 1)) tx.delete(references, { chunk: chunkId, block: old.end - 1 })
  }
  for (const interval of after) {
    const { first, end, count } = interval
    tx.put(references, { chunk: chunkId, block: end - 1 }, { blocks: end - first, count })
  }
  return { freed, intervals: after.length - before.length }
}

/** The reference intervals that the deltas concern, of all chunks, in few loads: a large file is in thousands of chunks. */
const intervalsOf = (
  tx: Tx,
  changes: readonly { chunkId: ChunkId; deltas: readonly Delta[] }[],
): Map<ChunkId, Counted[]> => {
  const records = tx.getMany(
    chunks,
    changes.map(({ chunkId }) => chunkId),
  )
  const found = new Map<ChunkId, Counted[]>()
  const reads = changes.flatMap(({ chunkId, deltas }, index) => {
    if (deltas.length === 0 || (records[index]?.referenceIntervals ?? 0) === 0) return []
    // One block more on each side, where a neighbour may have the same count from now on.
    const from = Math.max(0, deltas[0]!.first - 1)
    const to = deltas.at(-1)!.end + 1
    return [() => found.set(chunkId, intervalsBetween(tx, chunkId, from, to))]
  })
  for (let at = 0; at < reads.length; at += chunksPerLoad) readTogether(...reads.slice(at, at + chunksPerLoad))
  return found
}

const intervalsBetween = (tx: Tx, chunkId: ChunkId, from: number, to: number): Counted[] => {
  const found: Counted[] = []
  const bounds = referenceBounds(chunkId, from)
  for (const [{ block }, { blocks, count }] of allOf((gte) => tx.range(references, { ...bounds, gte }, pageEntries), {
    from: bounds.gte,
    next: ([key]) => `${references.encodeKey(key)}\0`,
  })) {
    const end = block + 1
    const first = end - blocks
    if (first >= to) break
    found.push({ first, end, count })
  }
  return found
}
