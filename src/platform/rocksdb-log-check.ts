/**
 * Looks through the write-ahead logs of a RocksDB directory before it is opened.
 *
 * The binding opens RocksDB without paranoid_checks, and then recovery steps over a damaged log record and goes on with those behind
 * it: acknowledged batches would be missing without a word. A torn record at the end is normal after a crash. So: a record that does
 * not match its checksum is damage exactly when a whole batch begins behind it. As long as every batch is synced before the next one
 * is written, power loss cannot bring that about; with batches that are not synced it can, and then opening is refused rather than a
 * batch in the middle left out.
 *
 * Format: blocks of 32 KiB; in each, records of checksum (4 bytes, masked CRC-32C of what follows the length), length (2, little-
 * endian), type (1) and payload. A batch is one record of type 1, or 2, any number of 3, and 4. Types 5 to 8 are the same with a
 * log number (4) before the payload. Source: rocksdb/db/log_format.h.
 */
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32c } from '@node-rs/crc32'

const logBlockBytes = 32_768
const headerBytes = 7
const typesMax = 8
/** Types that begin a batch: whole and first, both also with a log number. */
const beginnings: ReadonlySet<number> = new Set([1, 2, 5, 6])

const unmasked = (masked: number): number => {
  const rotated = (masked - 0xa282_ead8) >>> 0
  return ((rotated >>> 17) | (rotated << 15)) >>> 0
}

/** Offset of the first record that is damaged although a whole batch begins behind it, or undefined. */
export const damagedLogRecord = (log: Buffer): number | undefined => {
  let bad: number | undefined
  for (let block = 0; block < log.length; block += logBlockBytes) {
    const end = Math.min(block + logBlockBytes, log.length)
    for (let at = block; at + headerBytes <= end;) {
      const length = log.readUInt16LE(at + 4)
      const type = log[at + 6]!
      // Room that was reserved and not used.
      if (type === 0 && length === 0 && log.readUInt32LE(at) === 0) break
      const next = at + headerBytes + length + (type > 4 ? 4 : 0)
      const isWhole =
        type >= 1 &&
        type <= typesMax &&
        next <= end &&
        crc32c(log.subarray(at + headerBytes - 1, next)) === unmasked(log.readUInt32LE(at))
      if (!isWhole) bad ??= at
      else if (bad !== undefined && beginnings.has(type)) return bad
      // The length may be what is damaged; if it leads astray, the next block is in step again.
      if (next > end) break
      at = next
    }
  }
  return undefined
}

/** Name and offset of the first damaged record in the logs of a directory, or undefined. */
export const findDamagedLog = async (directory: string): Promise<{ name: string; offset: number } | undefined> => {
  const names = (await readdir(directory)).filter((name) => /^\d+\.log$/.test(name)).toSorted()
  for (const name of names) {
    const offset = damagedLogRecord(await readFile(join(directory, name)))
    if (offset !== undefined) return { name, offset }
  }
  return undefined
}
