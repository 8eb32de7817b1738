/** CRC-32C (Castagnoli) per 4 KiB block, as stored and sent: 4 bytes little-endian each. */
import { crc32c } from '@node-rs/crc32'
import { blockBytes } from './limits.ts'

const zeroBlock = Buffer.alloc(blockBytes)
/** The checksum of a block of zeros. */
export const zeroBlockChecksum = crc32c(zeroBlock)

export const roundUpToBlock = (length: number): number => Math.ceil(length / blockBytes) * blockBytes

/** The checksum of each block of data; a short last block counts as filled up with zeros. */
export const blockChecksums = (data: Buffer): Buffer => {
  const checksums = Buffer.allocUnsafe((roundUpToBlock(data.length) / blockBytes) * 4)
  let at = 0
  for (let offset = 0; offset < data.length; offset += blockBytes) {
    const block = data.subarray(offset, offset + blockBytes)
    let checksum = crc32c(block)
    if (block.length < blockBytes) checksum = crc32c(zeroBlock.subarray(block.length), checksum)
    at = checksums.writeUInt32LE(checksum, at)
  }
  return checksums
}

/** Offset of the first block whose checksum does not match, or -1; also 0 when there are not as many checksums as blocks. */
export const firstCorruptBlock = (data: Buffer, checksums: Buffer): number => {
  if (checksums.length * (blockBytes / 4) !== roundUpToBlock(data.length)) return 0
  const actual = blockChecksums(data)
  if (actual.equals(checksums)) return -1
  for (let at = 0; at < actual.length; at += 4) {
    if (actual.readUInt32LE(at) !== checksums.readUInt32LE(at)) return (at / 4) * blockBytes
  }
  return -1
}
