/**
 * The layout of a chunk file, version 1 (docs/chunk-format.md), as pure functions.
 *
 *     0       header, one block: all that it says is in the first 512 bytes, which a disk writes as a whole or not at all
 *     4096    block table: 8 bytes for each of 16384 blocks, { crc32c u32, tag u32 }, little-endian
 *     135168  data: block i of the chunk at 135168 + i * 4096
 *
 * A tag of 0 says "never written". Otherwise it names the chunk, the block and the kind, so that a table that belongs elsewhere
 * is not taken for this one. Both halves of an entry are in one disk sector, so that no entry is ever torn.
 */
import { crc32c } from '@node-rs/crc32'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes, blocksPerChunk, chunkBytes } from '../domain/limits.ts'

export const chunkFormatVersion = 1
export const headerBytes = blockBytes
export const tableStart = headerBytes
export const entryBytes = 8
export const tableBytes = blocksPerChunk * entryBytes
export const dataStart = tableStart + tableBytes
/** The longest cluster id that a header has room for. */
export const clusterIdBytesMax = 64

const magic = Buffer.from('SHOALCHK', 'latin1')
const sectorBytes = 512
const checksumAt = sectorBytes - 4
const at = {
  magic: 0,
  version: 8,
  flags: 12,
  chunkId: 16,
  length: 24,
  clusterIdLength: 28,
  clusterId: 32,
  reserved: 96,
}
const flagSealed = 1
const flagCorrupt = 2

export interface ChunkHeader {
  clusterId: string
  chunkId: ChunkId
  sealed: boolean
  /** Bytes of a sealed chunk; 0 while it is open, because its table says how long it is. */
  length: number
  /** A stored checksum did not match once, or (the only cause while it is open) a sync failed: no reader may count on this replica. */
  corrupt: boolean
}

/** Why a block is no header: of no use (damaged), or not ours to judge (newer). */
export type HeaderProblem = { problem: 'damaged'; why: string } | { problem: 'newer'; version: number }

/** One whole block. */
export const encodeHeader = (header: ChunkHeader): Buffer => {
  const block = Buffer.alloc(headerBytes)
  const clusterId = Buffer.from(header.clusterId, 'utf8')
  if (clusterId.length > clusterIdBytesMax) throw new RangeError(`cluster id of ${clusterId.length} bytes`)
  magic.copy(block, at.magic)
  block.writeUInt32LE(chunkFormatVersion, at.version)
  block.writeUInt32LE((header.sealed ? flagSealed : 0) | (header.corrupt ? flagCorrupt : 0), at.flags)
  block.writeBigUInt64LE(header.chunkId, at.chunkId)
  block.writeUInt32LE(header.length, at.length)
  block.writeUInt32LE(clusterId.length, at.clusterIdLength)
  clusterId.copy(block, at.clusterId)
  block.writeUInt32LE(crc32c(block.subarray(0, checksumAt)), checksumAt)
  return block
}

const isZero = (bytes: Buffer): boolean => bytes.every((byte) => byte === 0)

const damaged = (why: string): HeaderProblem => ({ problem: 'damaged', why })

export const decodeHeader = (block: Buffer): ChunkHeader | HeaderProblem => {
  if (block.length < headerBytes) return damaged('the file is shorter than a header')
  if (!block.subarray(0, magic.length).equals(magic)) return damaged('there is no chunk header')
  if (crc32c(block.subarray(0, checksumAt)) !== block.readUInt32LE(checksumAt)) {
    return damaged('the checksum of the header does not match')
  }
  const version = block.readUInt32LE(at.version)
  if (version > chunkFormatVersion) return { problem: 'newer', version }
  const flags = block.readUInt32LE(at.flags)
  const length = block.readUInt32LE(at.length)
  const clusterIdLength = block.readUInt32LE(at.clusterIdLength)
  const sound =
    version === chunkFormatVersion &&
    flags <= (flagSealed | flagCorrupt) &&
    length <= chunkBytes &&
    length % blockBytes === 0 &&
    clusterIdLength <= clusterIdBytesMax &&
    isZero(block.subarray(at.clusterId + clusterIdLength, checksumAt)) &&
    isZero(block.subarray(sectorBytes))
  if (!sound) return damaged('a field of the header is out of its range')
  return {
    clusterId: block.toString('utf8', at.clusterId, at.clusterId + clusterIdLength),
    chunkId: block.readBigUInt64LE(at.chunkId) as ChunkId,
    sealed: (flags & flagSealed) !== 0,
    length,
    corrupt: (flags & flagCorrupt) !== 0,
  }
}

export const kindNone = 0
export const kindWritten = 1
export const kindPunched = 2
/** In memory only: the entry on disk is none of the three. */
export const kindDamaged = 3

/** What the tags of a chunk's table are made with. */
export const tagSeed = (chunkId: ChunkId): number => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(chunkId)
  return crc32c(bytes)
}

/** The tag of an entry that was written; never 0. */
export const tagOf = (seed: number, block: number, kind: number): number =>
  (((Math.imul(block + 1, 0x9e3779b1) ^ seed) & ~3) | kind) >>> 0

/** The kind that a tag stands for in this chunk at this block. */
export const kindOf = (seed: number, block: number, tag: number): number => {
  if (tag === 0) return kindNone
  const kind = tag & 3
  return (kind === kindWritten || kind === kindPunched) && tagOf(seed, block, kind) === tag ? kind : kindDamaged
}

const fileName = /^[0-9a-f]{16}$/

/** The name of a chunk's file; 16 hexadecimal digits. */
export const chunkFileName = (chunkId: ChunkId): string => chunkId.toString(16).padStart(16, '0')

/** Ids grow one by one, so their last two digits spread the files evenly. */
export const chunkDirectoryName = (chunkId: ChunkId): string => chunkFileName(chunkId).slice(-2)

export const parseChunkFileName = (name: string): ChunkId | undefined =>
  fileName.test(name) ? (BigInt(`0x${name}`) as ChunkId) : undefined

/** A chunk that is being copied to this server; of no use after a restart. */
export const copySuffix = '.copy'
/** A file whose header cannot be read, kept aside. */
export const damagedSuffix = '.damaged'
