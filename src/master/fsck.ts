/**
 * Checks a whole store for what must hold between its records: namespace ↔ inodes ↔ extents ↔ chunks, and the totals. It reads records in
 * the order of their keys, from a snapshot of a running master or from a backup, and changes nothing. What it finds comes with the fix
 * where one is provably harmless (see fsck-repair.ts).
 *
 * It holds a few hundred bytes for each inode and extent, so it runs in the process of whoever asks, never in the master.
 */
import { checkExtents, allocatedBytes } from '../domain/extents.ts'
import type { ChunkId, Ino, SessionId } from '../domain/ids.ts'
import { rootIno } from '../domain/ids.ts'
import { blockBytes, cookieFirst } from '../domain/limits.ts'
import { fileType, isDirectory, isRegular, isSymlink } from '../domain/mode.ts'
import type { Fix } from '../protocol/gen/shoal/v1/admin.pb.ts'
import {
  allTables,
  chunks as chunkTable,
  counters as counterTable,
  dentries as dentryTable,
  formats,
  inodes as inodeTable,
  listings as listingTable,
  orphans as orphanTable,
  pendingFrees as pendingFreeTable,
  references as referenceTable,
  segments as segmentTable,
  servers as serverTable,
  sessions as sessionTable,
  xattrs as xattrTable,
} from './keys.ts'
import type { Chunk, CounterName, Dentry, Listing, Table } from './keys.ts'
import { inlineAllocated } from './ops/setattr.ts'
import { blocksOf } from './space.ts'

export interface Finding {
  /** What is wrong, as one sentence. */
  what: string
  /** Does no harm; undefined: somebody has to decide. */
  fix?: Fix
}

/** The parts of an inode that a check needs. */
interface SeenInode {
  mode: number
  nlink: number
  allocated: bigint
  xattrs: number
  parent: Ino
  entries: number
  hasContent: boolean
  contentBytes: number
  // What the other records say.
  names: number
  childNames: number
  childDirectories: number
  xattrRecords: number
  allocatedInExtents: bigint
  orphan: boolean
  namedBy: Ino
}

interface SeenChunk extends Chunk {
  /** Blocks at which the number of extents changes, and by how much. */
  edges: { block: number; delta: number }[]
  references: { first: number; end: number; count: number }[]
  pendingFrees: { first: number; end: number }[]
}

export interface CheckedTotals {
  records: number
  inodes: number
  names: number
  extents: number
  chunks: number
}

export class StoreCheck {
  readonly #findings: Finding[] = []
  readonly #inodes = new Map<Ino, SeenInode>()
  readonly #dentries = new Map<string, Dentry>()
  readonly #listings = new Map<string, Listing & { cookie: bigint; parent: Ino }>()
  readonly #segments: { ino: Ino; allocated: bigint }[] = []
  readonly #chunks = new Map<ChunkId, SeenChunk>()
  readonly #edges = new Map<ChunkId, SeenChunk['edges']>()
  readonly #extentEnds = new Map<ChunkId, { end: number; ino: Ino }>()
  readonly #references: { chunk: ChunkId; first: number; end: number; count: number }[] = []
  readonly #pendingFrees: { chunk: ChunkId; first: number; end: number }[] = []
  readonly #xattrs = new Map<Ino, number>()
  readonly #orphans = new Set<Ino>()
  readonly #sessions = new Set<SessionId>()
  readonly #counters = new Map<CounterName, bigint>()
  /** By chunk: files that show data of it, a few of them. */
  readonly #filesOf = new Map<ChunkId, Ino[]>()
  #serverMax = 0
  #formats = 0
  #records = 0
  #extents = 0

  /** The next record; a key only once. */
  add(key: Buffer, value: Buffer): void {
    this.#records++
    const text = key.toString('latin1')
    const table = allTables.find(({ prefix }) => text.startsWith(prefix)) as Table<unknown, unknown> | undefined
    if (!table) {
      this.#found(`there is a record of no known kind (its key begins with 0x${key.subarray(0, 1).toString('hex')})`)
      return
    }
    try {
      this.#take(table, table.decodeKey(text), table.decode(value))
    } catch (caught) {
      const why = caught instanceof Error ? caught.message : String(caught)
      this.#found(`a record of kind ${table.name} (key ${key.toString('hex')}) cannot be read: ${why}`)
    }
  }

  get totals(): CheckedTotals {
    return {
      records: this.#records,
      inodes: this.#inodes.size,
      names: this.#dentries.size,
      extents: this.#extents,
      chunks: this.#chunks.size,
    }
  }

  /** After the last record. */
  finish(): Finding[] {
    if (this.#formats !== 1) this.#found('the record that says what this store is is missing')
    this.#checkNames()
    this.#checkInodes()
    this.#checkReachable()
    this.#checkChunks()
    this.#checkCounters()
    return this.#findings
  }

  /** Committed lengths by chunk, for a comparison with the replicas. */
  committed(): Map<ChunkId, { length: number; sealed: boolean; copies: number; live: boolean }> {
    const found = new Map<ChunkId, { length: number; sealed: boolean; copies: number; live: boolean }>()
    for (const [id, { committedBytes, sealed, copies, liveBlocks }] of this.#chunks) {
      found.set(id, { length: committedBytes, sealed, copies, live: liveBlocks > 0 })
    }
    return found
  }

  /** Paths of some files that show data of this chunk. */
  pathsOf(chunk: ChunkId): string[] {
    return (this.#filesOf.get(chunk) ?? []).map((ino) => this.pathOf(ino))
  }

  /** One path of an inode, or its number when none leads there. */
  pathOf(ino: Ino): string {
    this.#paths ??= this.#namesByIno()
    const names: string[] = []
    for (let at = ino; at !== rootIno;) {
      const name = this.#paths.get(at)
      if (!name || names.length > 4096) return `inode ${ino}`
      names.unshift(name.name)
      at = name.parent
    }
    return `/${names.join('/')}`
  }

  #paths: Map<Ino, { parent: Ino; name: string }> | undefined

  #namesByIno(): Map<Ino, { parent: Ino; name: string }> {
    const names = new Map<Ino, { parent: Ino; name: string }>()
    for (const [key, { ino }] of this.#dentries) {
      const { parent, name } = dentryTable.decodeKey(key)
      if (!names.has(ino)) names.set(ino, { parent, name: name.toString('utf8') })
    }
    return names
  }

  #found(what: string, fix?: Fix['fix']): void {
    this.#findings.push(fix === undefined ? { what } : { what, fix: { fix } })
  }

  #take(table: Table<unknown, unknown>, key: unknown, value: unknown): void {
    const is = <K, V>(other: Table<K, V>): boolean => table.prefix === other.prefix
    if (is(formats)) this.#formats++
    else if (is(counterTable)) this.#counters.set(key as CounterName, value as bigint)
    else if (is(dentryTable)) {
      this.#dentries.set(dentryTable.encodeKey(key as { parent: Ino; name: Buffer }), value as Dentry)
    } else if (is(listingTable)) {
      const place = key as { parent: Ino; cookie: bigint }
      this.#listings.set(`${place.parent}/${place.cookie}`, { ...(value as Listing), ...place })
    } else if (is(inodeTable)) this.#takeInode(key as Ino, value as ReturnType<typeof inodeTable.decode>)
    else if (is(segmentTable)) {
      const { ino } = key as { ino: Ino }
      const extents = value as ReturnType<typeof segmentTable.decode>
      checkExtents(extents)
      this.#extents += extents.length
      this.#segments.push({ ino, allocated: BigInt(allocatedBytes(extents)) })
      for (const extent of extents) {
        if (extent.chunkId === 0n) continue
        const chunk = extent.chunkId as ChunkId
        const { first, end } = blocksOf(extent)
        const edges = this.#edges.get(chunk)
        const both = [
          { block: first, delta: 1 },
          { block: end, delta: -1 },
        ]
        if (edges) edges.push(...both)
        else this.#edges.set(chunk, both)
        const last = this.#extentEnds.get(chunk)
        if (!last || end > last.end) this.#extentEnds.set(chunk, { end, ino })
        const files = this.#filesOf.get(chunk)
        if (!files) this.#filesOf.set(chunk, [ino])
        else if (files.length < 5 && !files.includes(ino)) files.push(ino)
      }
    } else if (is(chunkTable)) {
      this.#chunks.set(key as ChunkId, { ...(value as Chunk), edges: [], references: [], pendingFrees: [] })
    } else if (is(referenceTable)) {
      const { chunk, block } = key as { chunk: ChunkId; block: number }
      const { blocks, count } = value as { blocks: number; count: number }
      this.#references.push({ chunk, first: block + 1 - blocks, end: block + 1, count })
    } else if (is(pendingFreeTable)) {
      const { chunk, block } = key as { chunk: ChunkId; block: number }
      this.#pendingFrees.push({ chunk, first: block, end: block + (value as number) })
    } else if (is(xattrTable)) {
      const { ino } = key as { ino: Ino }
      this.#xattrs.set(ino, (this.#xattrs.get(ino) ?? 0) + 1)
    } else if (is(orphanTable)) this.#orphans.add(key as Ino)
    else if (is(sessionTable)) this.#sessions.add(key as SessionId)
    else if (is(serverTable)) this.#serverMax = Math.max(this.#serverMax, key as number)
  }

  #takeInode(ino: Ino, inode: ReturnType<typeof inodeTable.decode>): void {
    const { mode, nlink, allocated, xattrs, parent, entries, content } = inode
    this.#inodes.set(ino, {
      mode,
      nlink,
      allocated,
      xattrs,
      parent,
      entries,
      hasContent: content !== undefined,
      contentBytes: content?.length ?? 0,
      names: 0,
      childNames: 0,
      childDirectories: 0,
      xattrRecords: 0,
      allocatedInExtents: 0n,
      orphan: false,
      namedBy: parent,
    })
  }

  #checkNames(): void {
    for (const [key, dentry] of this.#dentries) {
      const { parent, name } = dentryTable.decodeKey(key)
      const shown = `"${name.toString('utf8')}" in inode ${parent}`
      const directory = this.#inodes.get(parent)
      const target = this.#inodes.get(dentry.ino)
      if (!directory || !isDirectory(directory.mode)) {
        this.#found(`the name ${shown} is in something that is no directory`)
      } else if (target) {
        directory.childNames++
        if (isDirectory(target.mode)) directory.childDirectories++
      } else directory.childNames++
      if (target) {
        target.names++
        target.namedBy = parent
        if (fileType(target.mode) !== dentry.type) this.#found(`the name ${shown} says another type than its inode`)
      } else {
        this.#found(`the name ${shown} leads to inode ${dentry.ino}, which does not exist`, {
          $case: 'dangling',
          value: { parent, name, cookie: dentry.cookie },
        })
      }
      const place = `${parent}/${dentry.cookie}`
      const listing = this.#listings.get(place)
      const isRight = listing?.ino === dentry.ino && listing.type === dentry.type && listing.name.equals(name)
      if (!isRight && dentry.cookie >= cookieFirst) {
        this.#found(`the name ${shown} is missing in the directory's listing, or is there as something else`, {
          $case: 'listing',
          value: { parent, name, cookie: 0n },
        })
      }
      this.#listings.delete(place)
    }
    for (const { parent, cookie, name } of this.#listings.values()) {
      this.#found(`the listing of inode ${parent} has "${name.toString('utf8')}", which is no name in it`, {
        $case: 'listing',
        value: { parent, name, cookie },
      })
    }
  }

  #checkInodes(): void {
    const root = this.#inodes.get(rootIno)
    if (!root || !isDirectory(root.mode)) this.#found('there is no root directory')
    for (const { ino, allocated } of this.#segments) {
      const inode = this.#inodes.get(ino)
      if (!inode) this.#found(`there are extents of inode ${ino}, which does not exist`)
      else if (!isRegular(inode.mode)) this.#found(`there are extents of inode ${ino}, which is no regular file`)
      else if (inode.hasContent) this.#found(`${this.pathOf(ino)} has extents and inline data`)
      else inode.allocatedInExtents += allocated
    }
    for (const [ino, count] of this.#xattrs) {
      const inode = this.#inodes.get(ino)
      if (inode) inode.xattrRecords = count
      else this.#found(`there are extended attributes of inode ${ino}, which does not exist`)
    }
    for (const ino of this.#orphans) {
      const inode = this.#inodes.get(ino)
      if (!inode) {
        this.#found(`inode ${ino} waits to be freed and does not exist`, { $case: 'orphanIno', value: ino })
        continue
      }
      inode.orphan = true
      if (inode.names > 0) this.#found(`${this.pathOf(ino)} waits to be freed, but has a name`)
    }
    for (const [ino, inode] of this.#inodes) this.#checkInode(ino, inode)
  }

  #checkInode(ino: Ino, inode: SeenInode): void {
    const delta = { ino, nlinkDelta: 0, entriesDelta: 0, xattrsDelta: 0, allocatedDelta: 0n }
    const wrong: string[] = []
    if (isDirectory(inode.mode)) {
      if (inode.entries !== inode.childNames) {
        delta.entriesDelta = inode.childNames - inode.entries
        wrong.push(`counts ${inode.entries} names and has ${inode.childNames}`)
      }
      if (!inode.orphan && inode.nlink !== 2 + inode.childDirectories) {
        delta.nlinkDelta = 2 + inode.childDirectories - inode.nlink
        wrong.push(`has a link count of ${inode.nlink} instead of ${2 + inode.childDirectories}`)
      }
      if (inode.names > 1) this.#found(`the directory inode ${ino} has ${inode.names} names`)
      if (ino !== rootIno && inode.names === 1 && inode.namedBy !== inode.parent) {
        this.#found(`the directory ${this.pathOf(ino)} says that its parent is inode ${inode.parent}`)
      }
    } else if (inode.names > 0 && inode.nlink !== inode.names) {
      delta.nlinkDelta = inode.names - inode.nlink
      wrong.push(`has a link count of ${inode.nlink} and ${inode.names} names`)
    }
    if (ino !== rootIno && inode.names === 0 && !inode.orphan) {
      this.#found(
        `inode ${ino} has no name, and nobody has removed it`,
        inode.nlink === 0 ? undefined : { $case: 'namelessIno', value: ino },
      )
    }
    if (inode.xattrs !== inode.xattrRecords) {
      delta.xattrsDelta = inode.xattrRecords - inode.xattrs
      wrong.push(`counts ${inode.xattrs} extended attributes and has ${inode.xattrRecords}`)
    }
    if (isRegular(inode.mode)) {
      const allocated = inode.hasContent ? inlineAllocated(inode.contentBytes) : inode.allocatedInExtents
      // A file whose end was cut within a block may count that block.
      if (allocated !== inode.allocated) {
        delta.allocatedDelta = allocated - inode.allocated
        wrong.push(`counts ${inode.allocated} allocated bytes and has ${allocated}`)
      }
    } else if (!isSymlink(inode.mode) && inode.hasContent) wrong.push('has content and is no file')
    if (wrong.length === 0) return
    const isCountable =
      delta.nlinkDelta !== 0 || delta.entriesDelta !== 0 || delta.xattrsDelta !== 0 || delta.allocatedDelta !== 0n
    const fix = isCountable ? ({ $case: 'inode', value: delta } as const) : undefined
    this.#found(`${this.pathOf(ino)} ${wrong.join(' and ')}`, fix)
  }

  /** Directories that form a ring, away from the root. */
  #checkReachable(): void {
    const good = new Set<Ino>([rootIno])
    for (const [ino, inode] of this.#inodes) {
      if (!isDirectory(inode.mode) || good.has(ino)) continue
      const way: Ino[] = []
      const onWay = new Set<Ino>()
      let at: Ino | undefined = ino
      while (at !== undefined && !good.has(at) && !onWay.has(at)) {
        way.push(at)
        onWay.add(at)
        const here = this.#inodes.get(at)
        at = here && here.names > 0 ? here.namedBy : undefined
      }
      if (at !== undefined && onWay.has(at)) this.#found(`directory inode ${ino} is in a ring that no path leads to`)
      for (const seen of way) good.add(seen)
    }
  }

  #checkChunks(): void {
    for (const [id, edges] of this.#edges) {
      const chunk = this.#chunks.get(id)
      if (chunk) chunk.edges = edges
      else this.#found(`${this.pathsOf(id).join(', ')}: has data in chunk ${id}, which does not exist`)
    }
    for (const { chunk: id, ...interval } of this.#references) {
      const chunk = this.#chunks.get(id)
      if (chunk) chunk.references.push(interval)
      else this.#found(`blocks of chunk ${id} are counted, which does not exist`)
    }
    for (const { chunk: id, ...range } of this.#pendingFrees) this.#chunks.get(id)?.pendingFrees.push(range)
    for (const [id, chunk] of this.#chunks) this.#checkChunk(id, chunk)
  }

  #checkChunk(id: ChunkId, chunk: SeenChunk): void {
    const end = this.#extentEnds.get(id)
    if (end && end.end * blockBytes > chunk.committedBytes) {
      this.#found(`${this.pathOf(end.ino)} has data beyond the end of chunk ${id}`)
    }
    if (!chunk.sealed && !this.#sessions.has(chunk.owner)) this.#found(`chunk ${id} is open, and its session is gone`)
    const counted = sweep(chunk.edges)
    const live = counted.reduce((sum, { first, end }) => sum + end - first, 0)
    if (live !== chunk.liveBlocks) this.#found(`chunk ${id} counts ${chunk.liveBlocks} live blocks and has ${live}`)
    const shared = joined(counted.filter(({ count }) => count >= 2))
    const stored = joined(chunk.references)
    const isSame =
      shared.length === stored.length &&
      shared.every((a, i) => a.first === stored[i]?.first && a.end === stored[i].end && a.count === stored[i].count)
    if (!isSame) this.#found(`chunk ${id} counts its shared blocks wrongly`)
    if (chunk.referenceIntervals !== chunk.references.length) {
      this.#found(`chunk ${id} counts ${chunk.referenceIntervals} shared ranges and has ${chunk.references.length}`)
    }
    const frees = chunk.pendingFrees.toSorted((a, b) => a.first - b.first)
    let at = 0
    for (const { first, end } of frees) {
      while (at < counted.length && counted[at]!.end <= first) at++
      if (at < counted.length && counted[at]!.first < end) {
        this.#found(`chunk ${id} is to be freed where files have data: ${this.pathsOf(id).join(', ')}`)
        return
      }
    }
  }

  #checkCounters(): void {
    const live = [...this.#chunks.values()].reduce((sum, { liveBlocks }) => sum + BigInt(liveBlocks), 0n)
    const right: [CounterName, bigint][] = [
      ['inodes', BigInt(this.#inodes.size)],
      ['orphans', BigInt(this.#orphans.size)],
      ['liveBytes', live * BigInt(blockBytes)],
    ]
    for (const [name, value] of right) {
      const stored = this.#counters.get(name) ?? 0n
      if (stored === value) continue
      this.#found(`the total ${name} is ${stored} instead of ${value}`, {
        $case: 'counter',
        value: { name, delta: value - stored },
      })
    }
    const greatest: [CounterName, Iterable<bigint>][] = [
      ['nextIno', this.#inodes.keys()],
      ['nextChunk', this.#chunks.keys()],
      ['nextSession', this.#sessions],
      ['nextServer', [BigInt(this.#serverMax)]],
    ]
    for (const [name, ids] of greatest) {
      let max = 0n
      for (const id of ids) if (id > max) max = id
      const next = this.#counters.get(name) ?? (name === 'nextIno' ? 2n : 1n)
      if (max >= next)
        this.#found(`${name} is ${next}, and ${max} is in use: stop the master, ids would be given out twice`)
    }
  }
}

/** Ranges of blocks with the number of extents there, where it is at least one; neighbours differ. */
const sweep = (edges: SeenChunk['edges']): { first: number; end: number; count: number }[] => {
  const sorted = edges.toSorted((a, b) => a.block - b.block)
  const ranges: { first: number; end: number; count: number }[] = []
  let count = 0
  let from = 0
  for (const { block, delta } of sorted) {
    if (block > from && count > 0) ranges.push({ first: from, end: block, count })
    from = block
    count += delta
  }
  return joined(ranges)
}

/** Neighbours with the same count as one. */
const joined = (ranges: readonly { first: number; end: number; count: number }[]) => {
  const found: { first: number; end: number; count: number }[] = []
  for (const range of ranges.toSorted((a, b) => a.first - b.first)) {
    const last = found.at(-1)
    if (last && last.end === range.first && last.count === range.count) last.end = range.end
    else found.push({ ...range })
  }
  return found
}
