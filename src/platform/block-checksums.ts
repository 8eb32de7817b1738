/**
 * The checksums of src/domain/checksum.ts, several times as fast where the processor has an instruction for them: every byte that is written or
 * read passes here at least twice.
 */
import { blockChecksums as portable } from '../domain/checksum.ts'
import { blockBytes } from '../domain/limits.ts'
import { nativeDisk } from './native-disk.ts'

/** The checksum of each block of data, 4 bytes little-endian each; a short last block counts as filled up with zeros. */
export const blockChecksums = (data: Buffer): Buffer => {
  if (nativeDisk?.blockChecksums === undefined) return portable(data)
  const checksums = Buffer.allocUnsafe(Math.ceil(data.length / blockBytes) * 4)
  nativeDisk.blockChecksums(data, blockBytes, checksums)
  const restBytes = data.length % blockBytes
  if (restBytes > 0) portable(data.subarray(data.length - restBytes)).copy(checksums, checksums.length - 4)
  return checksums
}

/** Offset of the first block whose checksum does not match, or -1; also 0 when there are not as many checksums as blocks. */
export const firstCorruptBlock = (data: Buffer, checksums: Buffer): number => {
  const actual = blockChecksums(data)
  if (actual.equals(checksums)) return -1
  if (actual.length !== checksums.length) return 0
  for (let at = 0; at < actual.length; at += 4) {
    if (actual.readUInt32LE(at) !== checksums.readUInt32LE(at)) return (at / 4) * blockBytes
  }
  return -1
}
