/**
 * The block table of one chunk in memory: a checksum and a kind for each block.
 *
 * Invariant: a block that is punched has the checksum of a block of zeros, and reads as zeros whatever the disk says.
 */
import { zeroBlockChecksum } from '../domain/checksum.ts'
import { blockChecksums } from '../platform/block-checksums.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import { entryBytes, kindDamaged, kindNone, kindOf, kindPunched, kindWritten, tagOf, tagSeed } from './format.ts'

export interface ByteSpan {
  offset: number
  length: number
}

export class ChunkTable {
  readonly #seed: number
  readonly #checksums: Uint32Array
  readonly #kinds: Uint8Array

  constructor(chunkId: ChunkId, blocks: number) {
    this.#seed = tagSeed(chunkId)
    this.#checksums = new Uint32Array(blocks)
    this.#kinds = new Uint8Array(blocks)
  }

  /** Takes entries as they are on disk, from the first block; what is missing was never written. */
  load(bytes: Buffer): void {
    const count = Math.min(Math.floor(bytes.length / entryBytes), this.#kinds.length)
    for (let block = 0; block < count; block++) {
      const kind = kindOf(this.#seed, block, bytes.readUInt32LE(block * entryBytes + 4))
      this.#kinds[block] = kind
      this.#checksums[block] = kind === kindPunched ? zeroBlockChecksum : bytes.readUInt32LE(block * entryBytes)
    }
  }

  /** The entries of blocks [first, end) as they go to disk. */
  encode(first: number, end: number): Buffer {
    const bytes = Buffer.alloc((end - first) * entryBytes)
    for (let block = first; block < end; block++) {
      const kind = this.#kinds[block]!
      if (kind === kindNone) continue
      // A damaged entry stays what it is: neither written nor never written.
      const tag = kind === kindDamaged ? 0xffffffff : tagOf(this.#seed, block, kind)
      bytes.writeUInt32LE(this.#checksums[block]!, (block - first) * entryBytes)
      bytes.writeUInt32LE(tag, (block - first) * entryBytes + 4)
    }
    return bytes
  }

  /** Checksums of blocks from this one on, 4 bytes each. */
  setWritten(first: number, checksums: Buffer): void {
    for (let at = 0, block = first; at < checksums.length; at += 4, block++) {
      this.#checksums[block] = checksums.readUInt32LE(at)
      this.#kinds[block] = kindWritten
    }
  }

  setPunched(first: number, end: number): void {
    this.#kinds.fill(kindPunched, first, end)
    this.#checksums.fill(zeroBlockChecksum, first, end)
  }

  clear(first: number, end: number): void {
    this.#kinds.fill(kindNone, first, end)
    this.#checksums.fill(0, first, end)
  }

  /** One past the last block that is not "never written". */
  end(): number {
    let end = this.#kinds.length
    while (end > 0 && this.#kinds[end - 1] === kindNone) end--
    return end
  }

  /** One past the last block that is not punched: those after it need nothing of the disk. */
  dataEnd(): number {
    let end = this.#kinds.length
    while (end > 0 && this.#kinds[end - 1] === kindPunched) end--
    return end
  }

  /** Whether the blocks from this one on were written with exactly these checksums. */
  matches(first: number, checksums: Buffer): boolean {
    for (let at = 0, block = first; at < checksums.length; at += 4, block++) {
      if (this.#kinds[block] !== kindWritten || this.#checksums[block] !== checksums.readUInt32LE(at)) return false
    }
    return true
  }

  /** The checksums of blocks [first, end), 4 bytes little-endian each. */
  checksums(first: number, end: number): Buffer {
    const bytes = Buffer.allocUnsafe((end - first) * 4)
    for (let block = first, at = 0; block < end; block++) at = bytes.writeUInt32LE(this.#checksums[block]!, at)
    return bytes
  }

  /**
   * Compares whole blocks that were read from this offset on with what they should be; makes punched ones zeros.
   * Returns the ranges that do not match, in order, neighbours joined.
   */
  check(data: Buffer, offset: number): ByteSpan[] {
    const wrong: ByteSpan[] = []
    const checksums = blockChecksums(data)
    for (let at = 0; at < data.length; at += blockBytes) {
      const block = (offset + at) / blockBytes
      const kind = this.#kinds[block]
      if (kind === kindPunched) {
        data.fill(0, at, at + blockBytes)
        continue
      }
      if (kind === kindWritten && checksums.readUInt32LE((at / blockBytes) * 4) === this.#checksums[block]) continue
      const last = wrong.at(-1)
      if (last && last.offset + last.length === offset + at) last.length += blockBytes
      else wrong.push({ offset: offset + at, length: blockBytes })
    }
    return wrong
  }
}
