/**
 * The key schema of the master's store, all of it. A key is a printable prefix and big-endian numbers, so that the engine's byte order
 * is the order of the numbers, and what belongs together is one range. Each value starts with a version byte (see record.ts).
 *
 *   F                               format       format number, cluster id
 *   c  name                         counter      the next id of a kind, or a total
 *   d  parent:8  name               dentry       inode, type, cookie
 *   e  ino:8  index:8               segment      the extents of 64 MiB of a file
 *   f  chunk:8  block:4             free         how many blocks from `block` on wait to be punched
 *   i  ino:8                        inode        attributes, inline data or link target, what a directory counts
 *   k  chunk:8                      chunk        copies, committed length, sealed, live blocks, owner
 *   l  parent:8  cookie:8           listing      name, inode, type: a directory in the order of its cookies
 *   o  ino:8                        orphan       no name leads there any more; to be freed when nobody has it open
 *   p  job:8                        copies job   an inode below which the number of copies is being changed
 *   q  session:8  request:8         result       the encoded reply of a request that changed something
 *   r  chunk:8  last block:4        reference    blocks of a chunk that two or more extents touch: how many blocks, how often
 *   s  session:8                    session      secret, host, mount point
 *   v  server:4                     server       store id, rack, host; label, drained, removed
 *   x  ino:8  name                  xattr        value
 *
 * A reference interval has its LAST block in the key: the first interval that ends at or after a block is one seek away.
 * Keys travel in the master as strings of bytes (latin1), which a Map can look up; the engine gets them as Buffers.
 *
 * Invariants: dentry (parent, name) and listing (parent, cookie) exist in pairs. A directory's `entries` is the number of its
 * dentries. Cookies start at 3 and are never used again within a directory. Reference intervals of a chunk do not overlap, each
 * count is at least 2, neighbours differ in their count, and the chunk's `referenceIntervals` is their number.
 */
import type { Extent } from '../domain/extents.ts'
import { asChunkId, asIno, asServerId, asSessionId } from '../domain/ids.ts'
import type { ChunkId, Ino, ServerId, SessionId } from '../domain/ids.ts'
import type { Timespec } from '../domain/time.ts'
import { RecordReader, RecordWriter } from './record.ts'

/** One kind of record. Values are immutable once they were put. */
export interface Table<K, V> {
  readonly name: string
  /** One printable character that no other table has. */
  readonly prefix: string
  encodeKey(key: K): string
  decodeKey(key: string): K
  encode(value: V): Buffer
  decode(bytes: Buffer): V
  /** Roughly what the decoded value takes in memory, in bytes. */
  weigh(value: V): number
  /** Its records are read in ranges, or hardly ever: there is no use in keeping them in the cache once they are on disk. */
  readonly uncached?: true
}

/** Bounds of a range of keys: gte inclusive, lt exclusive. */
export interface Bounds {
  gte: string
  lt: string
}

const be64 = (value: bigint): string => {
  // Two halves as numbers are several times faster than one 64-bit write into a Buffer.
  const high = Number(value >> 32n)
  const low = Number(value & 0xffff_ffffn)
  return be32(high) + be32(low)
}

const be32 = (value: number): string =>
  String.fromCharCode((value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff)

const number32 = (key: string, at: number): number =>
  key.charCodeAt(at) * 0x100_0000 +
  (key.charCodeAt(at + 1) << 16) +
  (key.charCodeAt(at + 2) << 8) +
  key.charCodeAt(at + 3)

const bigint64 = (key: string, at: number): bigint => (BigInt(number32(key, at)) << 32n) | BigInt(number32(key, at + 4))

/** The range of all keys that start with this; the last byte of a prefix here is never 0xff. */
const startingWith = (start: string): Bounds => ({ gte: start, lt: nextAfterPrefix(start) })

const nextAfterPrefix = (prefix: string): string => {
  let end = prefix.length
  while (prefix.charCodeAt(end - 1) === 0xff) end--
  return prefix.slice(0, end - 1) + String.fromCharCode(prefix.charCodeAt(end - 1) + 1)
}

/** Every key of a table. */
export const tableBounds = (table: { readonly prefix: string }): Bounds => startingWith(table.prefix)

const writer = new RecordWriter()

const writeTime = (time: Timespec): void => {
  writer.signed(time.seconds).number(time.nanos)
}
const readTime = (reader: RecordReader): Timespec => ({ seconds: reader.signed(), nanos: reader.number() })

// --- format ---------------------------------------------------------------------------------------------------------

/** The newest format of the whole store that this program reads and writes. */
export const formatNumber = 1

export interface Format {
  number: number
  clusterId: string
}

/** Its first two fields keep their place in every later format, so that any Shoal can say which format it has met. */
export const formats: Table<void, Format> = {
  name: 'format',
  prefix: 'F',
  encodeKey: () => 'F',
  decodeKey: () => undefined,
  encode: (value) => writer.start(1).number(value.number).string(value.clusterId).finish(),
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 255)
    return { number: reader.number(), clusterId: reader.string() }
  },
  weigh: () => 200,
}

// --- counters -------------------------------------------------------------------------------------------------------

/** next*: the next id to give out, from 1 on (inodes from 2: 1 is the root). liveBytes: blocks of chunks that extents touch, once each, in bytes. */
export type CounterName =
  | 'nextIno'
  | 'nextChunk'
  | 'nextSession'
  | 'nextServer'
  | 'nextJob'
  | 'inodes'
  | 'liveBytes'
  | 'orphans'
  // How often the store was restored from a backup; the ids above then jumped, and servers that it does not know may exist.
  | 'restores'

export const counters: Table<CounterName, bigint> = {
  name: 'counter',
  prefix: 'c',
  encodeKey: (key) => `c${key}`,
  decodeKey: (key) => key.slice(1) as CounterName,
  encode: (value) => writer.start(1).bigint(value).finish(),
  decode: (bytes) => new RecordReader(bytes, 1).bigint(),
  weigh: () => 150,
}

// --- inodes ---------------------------------------------------------------------------------------------------------

export interface Inode {
  readonly mode: number
  readonly nlink: number
  readonly uid: number
  readonly gid: number
  readonly rdev: number
  readonly size: bigint
  /** Bytes of the 4 KiB file blocks that extents or inline data touch. 0 exactly when there are neither. */
  readonly allocated: bigint
  readonly atime: Timespec
  readonly mtime: Timespec
  readonly ctime: Timespec
  readonly btime: Timespec
  readonly flags: number
  /** Replicas of its data's chunks; a directory hands it on to what is made in it. 0: what the cluster has as its default. */
  readonly copies: number
  readonly change: bigint
  /** How many xattrs it has; at 0 nobody needs to look. */
  readonly xattrs: number
  /** Of a directory; 0 otherwise. The root is its own parent. */
  readonly parent: Ino
  /** Of a directory: how many names are in it. */
  readonly entries: number
  /** Of a directory: the cookie that its next new name gets. */
  readonly nextCookie: bigint
  /** Target of a symlink; whole content of an inline file, then its length is `size` and the file has no extents. */
  readonly content: Buffer | undefined
}

export const inodes: Table<Ino, Inode> = {
  name: 'inode',
  prefix: 'i',
  encodeKey: (ino) => `i${be64(ino)}`,
  decodeKey: (key) => asIno(bigint64(key, 1)),
  encode: (value) => {
    writer
      .start(1)
      .number(value.mode)
      .number(value.nlink)
      .number(value.uid)
      .number(value.gid)
      .number(value.rdev)
      .bigint(value.size)
      .bigint(value.allocated)
    writeTime(value.atime)
    writeTime(value.mtime)
    writeTime(value.ctime)
    writeTime(value.btime)
    writer
      .number(value.flags)
      .number(value.copies)
      .bigint(value.change)
      .number(value.xattrs)
      .bigint(value.parent)
      .number(value.entries)
      .bigint(value.nextCookie)
      .boolean(value.content !== undefined)
    if (value.content !== undefined) writer.bytes(value.content)
    return writer.finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return {
      mode: reader.number(),
      nlink: reader.number(),
      uid: reader.number(),
      gid: reader.number(),
      rdev: reader.number(),
      size: reader.bigint(),
      allocated: reader.bigint(),
      atime: readTime(reader),
      mtime: readTime(reader),
      ctime: readTime(reader),
      btime: readTime(reader),
      flags: reader.number(),
      copies: reader.number(),
      change: reader.bigint(),
      xattrs: reader.number(),
      parent: asIno(reader.bigint()),
      entries: reader.number(),
      nextCookie: reader.bigint(),
      content: reader.boolean() ? reader.bytes() : undefined,
    }
  },
  weigh: (value) => 600 + (value.content?.length ?? 0),
}

// --- directories ----------------------------------------------------------------------------------------------------

export interface DentryKey {
  parent: Ino
  name: Buffer
}

export interface Dentry {
  readonly ino: Ino
  /** S_IFMT bits. */
  readonly type: number
  readonly cookie: bigint
}

export const dentries: Table<DentryKey, Dentry> = {
  name: 'dentry',
  prefix: 'd',
  encodeKey: (key) => `d${be64(key.parent)}${key.name.toString('latin1')}`,
  decodeKey: (key) => ({ parent: asIno(bigint64(key, 1)), name: Buffer.from(key.slice(9), 'latin1') }),
  encode: (value) => writer.start(1).bigint(value.ino).number(value.type).bigint(value.cookie).finish(),
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return { ino: asIno(reader.bigint()), type: reader.number(), cookie: reader.bigint() }
  },
  weigh: () => 250,
}

export interface ListingKey {
  parent: Ino
  cookie: bigint
}

export interface Listing {
  readonly name: Buffer
  readonly ino: Ino
  readonly type: number
}

export const listings: Table<ListingKey, Listing> = {
  name: 'listing',
  prefix: 'l',
  uncached: true,
  encodeKey: (key) => `l${be64(key.parent)}${be64(key.cookie)}`,
  decodeKey: (key) => ({ parent: asIno(bigint64(key, 1)), cookie: bigint64(key, 9) }),
  encode: (value) => writer.start(1).bytes(value.name).bigint(value.ino).number(value.type).finish(),
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return { name: reader.bytes(), ino: asIno(reader.bigint()), type: reader.number() }
  },
  weigh: () => 300,
}

/** The entries of a directory after a cookie. */
export const listingBounds = (parent: Ino, cookieAfter: bigint): Bounds => ({
  gte: listings.encodeKey({ parent, cookie: cookieAfter + 1n }),
  lt: nextAfterPrefix(`l${be64(parent)}`),
})

/** From the first cookie on, up to the other without it. */
export const listingBoundsBetween = (parent: Ino, first: bigint, end: bigint): Bounds => ({
  gte: listings.encodeKey({ parent, cookie: first }),
  lt: listings.encodeKey({ parent, cookie: end }),
})

// --- extended attributes ----------------------------------------------------------------------------------------------

export interface XattrKey {
  ino: Ino
  name: Buffer
}

export const xattrs: Table<XattrKey, Buffer> = {
  name: 'xattr',
  prefix: 'x',
  encodeKey: (key) => `x${be64(key.ino)}${key.name.toString('latin1')}`,
  decodeKey: (key) => ({ ino: asIno(bigint64(key, 1)), name: Buffer.from(key.slice(9), 'latin1') }),
  encode: (value) => writer.start(1).bytes(value).finish(),
  decode: (bytes) => new RecordReader(bytes, 1).bytes(),
  weigh: (value) => 250 + value.length,
}

export const xattrBounds = (ino: Ino): Bounds => startingWith(`x${be64(ino)}`)

// --- extents --------------------------------------------------------------------------------------------------------

export interface SegmentKey {
  ino: Ino
  index: bigint
}

/** Sorted by offset, not overlapping, not empty: a segment without extents has no record. */
export type Segment = readonly Readonly<Extent>[]

export const segments: Table<SegmentKey, Segment> = {
  name: 'segment',
  prefix: 'e',
  encodeKey: (key) => `e${be64(key.ino)}${be64(key.index)}`,
  decodeKey: (key) => ({ ino: asIno(bigint64(key, 1)), index: bigint64(key, 9) }),
  encode: (value) => {
    // Offsets count from the end of the extent before, so that a dense file has zeros there.
    writer.start(1).number(value.length)
    let end = 0
    for (const extent of value) {
      writer
        .number(extent.offset - end)
        .number(extent.length)
        .bigint(extent.chunkId)
      if (extent.chunkId !== 0n) writer.number(extent.chunkOffset)
      end = extent.offset + extent.length
    }
    return writer.finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    const extents: Extent[] = []
    const count = reader.number()
    let end = 0
    for (let i = 0; i < count; i++) {
      const offset = end + reader.number()
      const length = reader.number()
      const chunkId = reader.bigint()
      extents.push({ offset, length, chunkId, chunkOffset: chunkId === 0n ? 0 : reader.number() })
      end = offset + length
    }
    return extents
  },
  weigh: (value) => 200 + value.length * 100,
}

/** The segments of a file from an index on, up to (not including) another. */
export const segmentBounds = (ino: Ino, from = 0n, to?: bigint): Bounds => ({
  gte: segments.encodeKey({ ino, index: from }),
  lt: to === undefined ? nextAfterPrefix(`e${be64(ino)}`) : segments.encodeKey({ ino, index: to }),
})

// --- chunks ---------------------------------------------------------------------------------------------------------

export interface Chunk {
  /** Replicas that it is to have. */
  readonly copies: number
  /** Whole blocks. What replicas hold beyond it does not exist. */
  readonly committedBytes: number
  /** It takes no more appends and no more commits. */
  readonly sealed: boolean
  /** Blocks that at least one extent touches. */
  readonly liveBlocks: number
  /** Records in the reference table; at 0 nobody needs to look. */
  readonly referenceIntervals: number
  /** Who appends; 0 once it is sealed. */
  readonly owner: SessionId
  readonly created: Timespec
}

export const chunks: Table<ChunkId, Chunk> = {
  name: 'chunk',
  prefix: 'k',
  encodeKey: (chunk) => `k${be64(chunk)}`,
  decodeKey: (key) => asChunkId(bigint64(key, 1)),
  encode: (value) => {
    writer
      .start(1)
      .number(value.copies)
      .number(value.committedBytes)
      .boolean(value.sealed)
      .number(value.liveBlocks)
      .number(value.referenceIntervals)
      .bigint(value.owner)
    writeTime(value.created)
    return writer.finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return {
      copies: reader.number(),
      committedBytes: reader.number(),
      sealed: reader.boolean(),
      liveBlocks: reader.number(),
      referenceIntervals: reader.number(),
      owner: asSessionId(reader.bigint()),
      created: readTime(reader),
    }
  },
  weigh: () => 300,
}

export interface ChunkBlock {
  chunk: ChunkId
  block: number
}

export interface ReferenceInterval {
  readonly blocks: number
  /** At least 2. A live block without an interval is touched by one extent. */
  readonly count: number
}

/** The block in the key is the last one of the interval. */
export const references: Table<ChunkBlock, ReferenceInterval> = {
  name: 'reference',
  prefix: 'r',
  uncached: true,
  encodeKey: (key) => `r${be64(key.chunk)}${be32(key.block)}`,
  decodeKey: (key) => ({ chunk: asChunkId(bigint64(key, 1)), block: number32(key, 9) }),
  encode: (value) => writer.start(1).number(value.blocks).number(value.count).finish(),
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return { blocks: reader.number(), count: reader.number() }
  },
  weigh: () => 200,
}

/** The reference intervals of a chunk that end at this block or later. */
export const referenceBounds = (chunk: ChunkId, lastBlockMin = 0): Bounds => ({
  gte: references.encodeKey({ chunk, block: lastBlockMin }),
  lt: nextAfterPrefix(`r${be64(chunk)}`),
})

/** Value: how many blocks, from the block in the key on, are free and not punched yet. Intervals of a chunk do not overlap. */
export const pendingFrees: Table<ChunkBlock, number> = {
  name: 'free',
  prefix: 'f',
  uncached: true,
  encodeKey: (key) => `f${be64(key.chunk)}${be32(key.block)}`,
  decodeKey: (key) => ({ chunk: asChunkId(bigint64(key, 1)), block: number32(key, 9) }),
  encode: (value) => writer.start(1).number(value).finish(),
  decode: (bytes) => new RecordReader(bytes, 1).number(),
  weigh: () => 150,
}

export const pendingFreeBounds = (chunk: ChunkId): Bounds => startingWith(`f${be64(chunk)}`)

// --- orphans --------------------------------------------------------------------------------------------------------

export interface Orphan {
  /** When the last name went, or the inode was made without one. */
  readonly since: Timespec
  /** It never had a name, and may still get one. */
  readonly linkable: boolean
}

/** Version 1 has no `linkable`. */
export const orphans: Table<Ino, Orphan> = {
  name: 'orphan',
  prefix: 'o',
  encodeKey: (ino) => `o${be64(ino)}`,
  decodeKey: (key) => asIno(bigint64(key, 1)),
  encode: (value) => {
    writer.start(2)
    writeTime(value.since)
    return writer.boolean(value.linkable).finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 2)
    const since = readTime(reader)
    return { since, linkable: reader.version > 1 && reader.boolean() }
  },
  weigh: () => 150,
}

// --- sessions and servers ---------------------------------------------------------------------------------------------

export interface SessionRecord {
  /** Who knows it may come back; empty: the session has ended, and nobody may. */
  readonly secret: Buffer
  readonly host: string
  readonly mountPoint: string
  readonly pid: number
  /** The directory that the session sees as its root. */
  readonly root: Ino
  readonly created: Timespec
}

export const sessions: Table<SessionId, SessionRecord> = {
  name: 'session',
  prefix: 's',
  encodeKey: (session) => `s${be64(session)}`,
  decodeKey: (key) => asSessionId(bigint64(key, 1)),
  encode: (value) => {
    writer.start(1).bytes(value.secret).string(value.host).string(value.mountPoint).number(value.pid).bigint(value.root)
    writeTime(value.created)
    return writer.finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return {
      secret: reader.bytes(),
      host: reader.string(),
      mountPoint: reader.string(),
      pid: reader.number(),
      root: asIno(reader.bigint()),
      created: readTime(reader),
    }
  },
  weigh: () => 400,
}

export interface ResultKey {
  session: SessionId
  request: bigint
}

/** Value: an encoded shoal.v1.Reply. */
export const results: Table<ResultKey, Buffer> = {
  name: 'result',
  prefix: 'q',
  uncached: true,
  encodeKey: (key) => `q${be64(key.session)}${be64(key.request)}`,
  decodeKey: (key) => ({ session: asSessionId(bigint64(key, 1)), request: bigint64(key, 9) }),
  encode: (value) => writer.start(1).bytes(value).finish(),
  decode: (bytes) => new RecordReader(bytes, 1).bytes(),
  weigh: (value) => 250 + value.length,
}

export const resultBounds = (session: SessionId): Bounds => startingWith(`q${be64(session)}`)

export interface ServerRecord {
  /** Names the data directory. */
  readonly storeId: string
  readonly rack: string
  readonly host: string
  /** What the administrator calls it; may be empty. */
  readonly label: string
  /** The administrator's word on the rack, over the server's own; empty: there is none. */
  readonly rackGiven: string
  /** Nothing new goes there, and what is there is moved away. */
  readonly draining: boolean
  /** It does not belong to the cluster any more. The record stays, so that its data directory is known when it comes back. */
  readonly removed: boolean
}

/** The first version of the record had no more than these, and is still written where that is enough. */
const isPlain = ({ label, rackGiven, draining, removed }: ServerRecord): boolean =>
  label === '' && rackGiven === '' && !draining && !removed

export const servers: Table<ServerId, ServerRecord> = {
  name: 'server',
  prefix: 'v',
  encodeKey: (server) => `v${be32(server)}`,
  decodeKey: (key) => asServerId(number32(key, 1)),
  encode: (value) => {
    const plain = isPlain(value)
    writer
      .start(plain ? 1 : 2)
      .string(value.storeId)
      .string(value.rack)
      .string(value.host)
    if (!plain) writer.string(value.label).string(value.rackGiven).boolean(value.draining).boolean(value.removed)
    return writer.finish()
  },
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 2)
    const first = { storeId: reader.string(), rack: reader.string(), host: reader.string() }
    if (reader.version === 1) return { ...first, label: '', rackGiven: '', draining: false, removed: false }
    return {
      ...first,
      label: reader.string(),
      rackGiven: reader.string(),
      draining: reader.boolean(),
      removed: reader.boolean(),
    }
  },
  weigh: () => 400,
}

// --- changes of the number of copies ----------------------------------------------------------------------------------

/** Carried out in the order of their ids, each from its start after a restart of the master; gone when it is done. */
export interface CopiesJobRecord {
  readonly ino: Ino
  /** 0: the cluster's number. */
  readonly copies: number
}

export const copiesJobs: Table<bigint, CopiesJobRecord> = {
  name: 'copies job',
  prefix: 'p',
  encodeKey: (job) => `p${be64(job)}`,
  decodeKey: (key) => bigint64(key, 1),
  encode: (value) => writer.start(1).bigint(value.ino).number(value.copies).finish(),
  decode: (bytes) => {
    const reader = new RecordReader(bytes, 1)
    return { ino: asIno(reader.bigint()), copies: reader.number() }
  },
  weigh: () => 200,
}

export const allTables: readonly { readonly name: string; readonly prefix: string }[] = [
  formats,
  counters,
  inodes,
  dentries,
  listings,
  xattrs,
  segments,
  chunks,
  references,
  pendingFrees,
  orphans,
  sessions,
  results,
  servers,
  copiesJobs,
]
