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
