/**
 * Reads files: the layers of an inode (see inode.ts) laid over each other, with committed bytes from the chunk servers.
 *
 * Everything that is cached of the inode is used under a pin on its lease, so that nobody else can change the file meanwhile. Our own
 * commits can: bytes of chunks that they replaced may be freed and read as zeros, so what was read is checked against the layout afterwards
 * and read again when the layout of these places has changed.
 */
import { holes, segmentRanges, slice } from '../domain/extents.ts'
import type { Extent } from '../domain/extents.ts'
import { PosixError, UnavailableError } from '../domain/errors.ts'
import { asChunkId, asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { segmentBytes, segmentShift } from '../domain/limits.ts'
import { isRegular } from '../domain/mode.ts'
import { giveBackBuffer, takeBuffer } from '../platform/buffer-pool.ts'
import type { ExtentsReply, GetExtentsRequest, Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ChunkCache } from './chunk-cache.ts'
import { FilesAhead } from './files-ahead.ts'
import type { Inode, Inodes } from './inode.ts'
import type { Leases } from './leases.ts'
import type { Locations } from './locations.ts'
import type { ReadAhead } from './read-ahead.ts'

const attemptsMax = 20
const staleAttemptsMax = 3
/** Segments asked for at once; each may have thousands of extents. */
const segmentsPerRequest = 4n
/** Cached segments per file. */
const segmentsMax = 256
/** Larger files are not fetched before somebody reads them. */
const followingBytesMax = 256n * 1024n
/** Parts of chunks that are not farther apart are fetched in one. */
const neighbourGapMax = 64 * 1024

export interface FileReaderOptions {
  leases: Leases
  cache: ChunkCache
  locations: Locations
  inodes: Inodes
  getExtents(request: GetExtentsRequest, signal?: AbortSignal): Promise<ExtentsReply>
  /** Attributes came with this lease. */
  learn(reply: ExtentsReply): void
  /** The session's leases count at this moment. */
  isConfirmed(): boolean
}

/** A place in the result that comes from a chunk. */
interface Want {
  extent: Extent
  /** In the result. */
  at: number
  /** Where the extent that it is a part of ends in the chunk. */
  extentEnd: number
}

interface Plan {
  length: number
  layoutVersion: number
  wants: Want[]
  /** Buffered bytes, copied; oldest layer first. */
  copies: { at: number; data: Buffer }[]
}

export class FileReader {
  readonly #options: FileReaderOptions
  readonly #filesAhead = new FilesAhead()

  constructor(options: FileReaderOptions) {
    this.#options = options
  }

  /** Bytes of a file; shorter only at its end. The buffer is the caller's, to be given back to the pool. The caller holds the inode's lock shared. */
  async read(
    inode: Inode,
    range: { offset: bigint; length: number },
    readAhead: ReadAhead | undefined,
    signal?: AbortSignal,
  ): Promise<Buffer> {
    const pattern = readAhead?.read(range.offset, range.length)
    const following = range.offset === 0n ? this.#followingUnknown(inode.ino) : []
    if (following.length > 0 && firstMissing(inode, 0n, 0n) === undefined) this.#askAhead(following)
    for (let attempt = 1; attempt <= attemptsMax; attempt++) {
      const pin = await this.#pinLayout(inode, range, following, signal)
      try {
        // Another reader may have dropped the layout since it was looked at.
        if (!isKnown(inode, range)) continue
        const plan = planOf(inode, range)
        if (pattern?.ahead !== undefined && attempt === 1) this.#fetchAhead(inode, pattern.ahead)
        const found = await this.#fetch(plan, pattern?.sequential ?? false, signal)
        // What is on its way may be committed already, and what it replaced freed.
        const isUnchanged = plan.layoutVersion === inode.layoutVersion && inode.batches.length === 0
        const same = isUnchanged || sameWants(plan, planOf(inode, range))
        // Once the lease may have ended, others may have replaced what was read, and freed it.
        if (same && !pin.lost && this.#options.isConfirmed()) return found
        giveBackBuffer(found)
      } catch (caught) {
        // The chunk is gone: the layout that named it is old.
        if (!(caught instanceof PosixError && caught.code === 'ESTALE') || attempt > staleAttemptsMax)
          throw asEio(caught)
        inode.segments.clear()
        inode.layoutVersion++
      } finally {
        pin.release()
      }
    }
    throw new PosixError('EIO', 'the file changes too fast to be read')
  }

  /** Makes the layout of a segment known under a lease that is held already. */
  async learn(inode: Inode, index: bigint): Promise<void> {
    await this.#ask(inode, index, 1)
  }

  async #pinLayout(
    inode: Inode,
    range: { offset: bigint; length: number },
    following: readonly Ino[],
    signal: AbortSignal | undefined,
  ): Promise<{ lost: boolean; release(): void }> {
    const { leases } = this.#options
    const { first, last } = segmentsOf(range)
    for (let attempt = 1; attempt <= attemptsMax; attempt++) {
      const missing = firstMissing(inode, first, last)
      if (missing === undefined) {
        const pin = leases.tryPin(inode.ino, 'read')
        if (pin !== undefined) return pin
      }
      const from = missing ?? first
      const count = last - from + 1n < segmentsPerRequest ? last - from + 1n : segmentsPerRequest
      const ask = (): Promise<Lease | undefined> => this.#ask(inode, from, Number(count), signal, following)
      const pin = await leases.acquire(inode.ino, 'read', ask, signal)
      if (pin === undefined) throw new UnavailableError('the master gives no lease', { maybeCommitted: false })
      if (firstMissing(inode, first, last) === undefined) return pin
      try {
        await this.#ask(inode, firstMissing(inode, first, last) ?? first, Number(count), signal, following)
        if (firstMissing(inode, first, last) === undefined && !pin.lost) return pin
      } catch (caught) {
        pin.release()
        throw caught
      }
      pin.release()
    }
    throw new PosixError('EIO', 'the layout of the file changes too fast to be read')
  }

  async #ask(
    inode: Inode,
    segmentFirst: bigint,
    segmentCount: number,
    signal?: AbortSignal,
    following: readonly Ino[] = [],
  ): Promise<Lease | undefined> {
    const { locations } = this.#options
    const request = { ino: inode.ino, segmentFirst, segmentCount, following: [...following] }
    let reply: ExtentsReply
    try {
      reply = await this.#options.getExtents(request, signal)
    } catch (caught) {
      // Too many extents for one message: one segment always fits.
      if (!(caught instanceof PosixError && caught.code === 'E2BIG') || segmentCount === 1) throw caught
      return this.#ask(inode, segmentFirst, 1, signal)
    }
    for (const { chunkId, servers } of reply.locations) locations.set(asChunkId(chunkId), servers)
    this.#learnLayout(inode, reply, segmentFirst, segmentCount)
    if (reply.following.length > 0) this.#learnFollowing(reply.following)
    return reply.lease
  }

  /** False: the reply is older than what is known, or came without a lease, and must not be cached. */
  #learnLayout(inode: Inode, reply: ExtentsReply, segmentFirst: bigint, segmentCount: number): boolean {
    const change = reply.attributes?.change ?? 0n
    if (change < inode.changeSeen || !this.#options.leases.current(inode.ino, reply.lease)) return false
    this.#options.learn(reply)
    inode.inline = reply.inlineData
    if (inode.segments.size + segmentCount > segmentsMax) inode.segments.clear()
    for (let index = segmentFirst; index < segmentFirst + BigInt(segmentCount); index++) inode.segments.set(index, [])
    for (const { index, extents } of reply.segments) inode.segments.set(index, extents)
    inode.layoutVersion++
    return true
  }

  /** Small files that will probably be read next. Of those whose layout is known the content is fetched; gives the others. */
  #followingUnknown(ino: Ino): Ino[] {
    const { leases, inodes } = this.#options
    const known: Inode[] = []
    const unknown: Ino[] = []
    for (const next of this.#filesAhead.read(ino)) {
      const attributes = leases.usableCached(next)?.attributes
      if (attributes === undefined || !isRegular(attributes.mode)) continue
      if (attributes.size === 0n || attributes.size > followingBytesMax) continue
      const inode = inodes.get(next)
      if (inode?.buffered === true) continue
      if (inode === undefined || firstMissing(inode, 0n, 0n) !== undefined) unknown.push(next)
      else known.push(inode)
    }
    if (known.length > 0) this.#fetchFiles(known)
    return unknown
  }

  /** Only a hint, like everything that is fetched ahead. */
  #askAhead([first, ...others]: Ino[]): void {
    const { inodes } = this.#options
    const inode = inodes.use(first!)
    this.#ask(inode, 0n, 1, undefined, others)
      .then(() => this.#fetchFiles([inode]))
      .catch(() => {})
      .finally(() => inodes.release(inode))
  }

  #learnFollowing(following: readonly ExtentsReply[]): void {
    const { inodes } = this.#options
    const learned: Inode[] = []
    for (const reply of following) {
      if (reply.attributes === undefined) continue
      const inode = inodes.use(asIno(reply.attributes.ino))
      if (!inode.buffered && this.#learnLayout(inode, reply, 0n, 1)) learned.push(inode)
      inodes.release(inode)
    }
    this.#fetchFiles(learned)
  }

  /** What these small files have in chunks is fetched: it lies side by side there if they were written one after the other. */
  #fetchFiles(files: readonly Inode[]): void {
    const extents = files.flatMap(({ segments }) => segments.get(0n) ?? []).filter(({ chunkId }) => chunkId !== 0n)
    for (const { chunkId, from, to } of neighbours(extents)) {
      this.#options.cache.prefetch(asChunkId(chunkId), from, to - from)
    }
  }

  async #fetch(plan: Plan, sequential: boolean, signal: AbortSignal | undefined): Promise<Buffer> {
    const { cache } = this.#options
    const single = plan.wants.length === 1 && plan.copies.length === 0 ? plan.wants[0] : undefined
    const parts = await Promise.all(
      plan.wants.map(({ extent, extentEnd }) =>
        cache.read(
          asChunkId(extent.chunkId),
          {
            offset: extent.chunkOffset,
            length: extent.length,
            ...(sequential ? { keepTo: extentEnd } : {}),
          },
          signal,
        ),
      ),
    )
    if (single !== undefined && single.extent.length === plan.length) return parts[0]!
    const result = takeBuffer(plan.length).fill(0)
    plan.wants.forEach(({ at }, i) => {
      parts[i]!.copy(result, at)
      giveBackBuffer(parts[i]!)
    })
    for (const { at, data } of plan.copies) data.copy(result, at)
    return result
  }

  /** Only a hint: what fails here is tried again by the read that needs it. */
  #fetchAhead(inode: Inode, { from, to }: { from: bigint; to: bigint }): void {
    const { cache } = this.#options
    const end = to < inode.size ? to : inode.size
    if (from >= end || inode.inline !== undefined) return
    for (const { index, range } of segmentRanges(from, end - from)) {
      const extents = inode.segments.get(index)
      if (extents === undefined) {
        this.#ask(inode, index, 1).catch(() => {})
        return
      }
      for (const part of slice(extents, range)) {
        if (part.chunkId !== 0n) cache.prefetch(asChunkId(part.chunkId), part.chunkOffset, part.length)
      }
    }
  }
}

/** ESTALE about a chunk is nothing that the reader of a file could understand. */
const asEio = (caught: unknown): unknown =>
  caught instanceof PosixError && caught.code === 'ESTALE' ? new PosixError('EIO', caught.message) : caught

const firstMissing = (inode: Inode, first: bigint, last: bigint): bigint | undefined => {
  if (inode.attributes === undefined) return first
  if (inode.inline !== undefined) return undefined
  for (let index = first; index <= last; index++) {
    // Beyond the committed size there is nothing to know.
    if (index << segmentShift >= inode.attributes.size) return undefined
    if (!inode.segments.has(index)) return index
  }
  return undefined
}

const segmentsOf = ({ offset, length }: { offset: bigint; length: number }): { first: bigint; last: bigint } => ({
  first: offset >> segmentShift,
  last: (offset + BigInt(Math.max(length, 1)) - 1n) >> segmentShift,
})

const isKnown = (inode: Inode, range: { offset: bigint; length: number }): boolean => {
  const { first, last } = segmentsOf(range)
  return firstMissing(inode, first, last) === undefined
}

/** What makes up a range at this moment. Buffered bytes are copied now, because they may change. */
const planOf = (inode: Inode, { offset, length }: { offset: bigint; length: number }): Plan => {
  const left = inode.size - offset
  const size = left <= 0n ? 0 : left < BigInt(length) ? Number(left) : length
  const plan: Plan = { length: size, layoutVersion: inode.layoutVersion, wants: [], copies: [] }
  if (size === 0) return plan
  const buffered: { at: number; data: Buffer }[] = []
  for (const { data } of inode.batches) {
    for (const part of data.parts(offset, size)) buffered.push({ at: Number(part.offset - offset), data: part.data })
  }
  for (const part of inode.dirty.parts(offset, size)) {
    buffered.push({ at: Number(part.offset - offset), data: Buffer.from(part.data) })
  }
  if (inode.inline !== undefined) {
    const within = offset < BigInt(inode.inline.length) ? inode.inline.subarray(Number(offset)) : Buffer.alloc(0)
    plan.copies.push({ at: 0, data: within.subarray(0, size) }, ...buffered)
    return plan
  }
  plan.copies.push(...buffered)
  const committed = inode.attributes?.size ?? 0n
  if (offset >= committed) return plan
  const end = offset + BigInt(size) < committed ? offset + BigInt(size) : committed
  // What is buffered need not be fetched.
  const covered: Extent[] = []
  for (const { at, data } of buffered) covered.push({ offset: at, length: data.length, chunkId: 0n, chunkOffset: 0 })
  const uncovered = gaps(covered, Number(end - offset))
  for (const gap of uncovered) {
    for (const { index, range, fileOffset } of segmentRanges(offset + BigInt(gap.offset), BigInt(gap.length))) {
      const extents = inode.segments.get(index) ?? []
      for (const part of slice(extents, range)) {
        if (part.chunkId === 0n) continue
        plan.wants.push({
          extent: part,
          at: Number(fileOffset - offset) + part.offset - range.offset,
          extentEnd: chunkEndOf(extents, part),
        })
      }
    }
  }
  return plan
}

/** Ranges of chunks that cover these extents, where what lies close together is one. */
const neighbours = (extents: readonly Extent[]): { chunkId: bigint; from: number; to: number }[] => {
  const sorted = extents.toSorted((a, b) =>
    a.chunkId === b.chunkId ? a.chunkOffset - b.chunkOffset : a.chunkId < b.chunkId ? -1 : 1,
  )
  const ranges: { chunkId: bigint; from: number; to: number }[] = []
  for (const { chunkId, chunkOffset, length } of sorted) {
    const last = ranges.at(-1)
    if (last?.chunkId === chunkId && chunkOffset <= last.to + neighbourGapMax) {
      last.to = Math.max(last.to, chunkOffset + length)
    } else ranges.push({ chunkId, from: chunkOffset, to: chunkOffset + length })
  }
  return ranges
}

/** Where the extent that a part was cut from ends in its chunk. */
const chunkEndOf = (extents: readonly Extent[], part: Extent): number => {
  let low = 0
  let high = extents.length - 1
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if (extents[middle]!.offset <= part.offset) low = middle
    else high = middle - 1
  }
  const whole = extents[low]!
  return whole.chunkOffset + whole.length
}

const gaps = (covered: Extent[], length: number): { offset: number; length: number }[] => {
  if (covered.length === 0) return [{ offset: 0, length }]
  const sorted = covered.toSorted((a, b) => a.offset - b.offset)
  const joined: Extent[] = []
  for (const extent of sorted) {
    const last = joined.at(-1)
    const lastEnd = last === undefined ? -1 : last.offset + last.length
    if (last !== undefined && extent.offset <= lastEnd) {
      last.length = Math.max(lastEnd, extent.offset + extent.length) - last.offset
    } else joined.push({ ...extent })
  }
  return holes(joined, { offset: 0, length: Math.min(length, segmentBytes) })
}

/** The same bytes of the same chunks are still at these places: what was read is right. */
const sameWants = (before: Plan, now: Plan): boolean => {
  if (before.length > now.length) return false
  const still = new Map(now.wants.map((want) => [want.at, want.extent]))
  // A place that is buffered by now was replaced by a newer write that this read may or may not see; but its chunk bytes may be gone.
  return before.wants.every(({ at, extent }) => {
    const other = still.get(at)
    return (
      other?.chunkId === extent.chunkId && other.chunkOffset === extent.chunkOffset && other.length >= extent.length
    )
  })
}
