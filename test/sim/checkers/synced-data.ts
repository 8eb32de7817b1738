/**
 * Whether bytes of a file would be there if the power failed everywhere at this moment and took all that was not synced: the master's record of
 * where they are, and on enough disks the blocks themselves with good checksums.
 */
import { crc32c } from '@node-rs/crc32'
import { dataStart, decodeHeader, entryBytes, headerBytes, tableStart } from '../../../src/chunkserver/format.ts'
import { chunkPath } from '../../../src/chunkserver/scan.ts'
import { asChunkId } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { blockBytes, segmentBytes } from '../../../src/domain/limits.ts'
import { inodes, segments } from '../../../src/master/keys.ts'
import type { Table } from '../../../src/master/keys.ts'
import type { MemoryKv } from '../../lib/memory-kv.ts'
import type { SimulatedDisk } from '../../lib/simulated-disk.ts'

/** What a file must hold, from this offset on, within its first 64 MiB. */
export interface Synced {
  ino: Ino
  offset: number
  data: Buffer
}

/** Undefined: it is safe. */
export type SyncedCheck = (synced: Synced) => string | undefined

export interface SyncedCheckOptions {
  /** The master's database, which another one may take the place of. */
  kv: () => MemoryKv
  disks: () => SimulatedDisk[]
  /** The directory of the directories of chunk files. */
  chunkRoot: string
  /** How many disks must hold each byte. */
  copies: number
}

export const syncedCheck = ({ kv, disks, chunkRoot, copies }: SyncedCheckOptions): SyncedCheck => {
  const record = <K, V>(table: Table<K, V>, key: K): V | undefined => {
    const value = kv().peekDurable(Buffer.from(table.encodeKey(key), 'latin1'))
    return value && table.decode(value)
  }
  /** The bytes of a chunk that a disk holds whatever happens. */
  const held = (disk: SimulatedDisk, chunk: bigint, from: number, to: number): Buffer | undefined => {
    const path = chunkPath(chunkRoot, asChunkId(chunk))
    const header = disk.durable(path, 0, headerBytes)
    if (header === undefined || 'problem' in decodeHeader(header)) return undefined
    const first = Math.floor(from / blockBytes)
    const end = Math.ceil(to / blockBytes)
    const data = disk.durable(path, dataStart + first * blockBytes, (end - first) * blockBytes)!
    const entries = disk.durable(path, tableStart + first * entryBytes, (end - first) * entryBytes)!
    for (let block = 0; block < end - first; block++) {
      const bytes = data.subarray(block * blockBytes, (block + 1) * blockBytes)
      if (bytes.length < blockBytes || crc32c(bytes) !== entries.readUInt32LE(block * entryBytes)) return undefined
    }
    return data.subarray(from - first * blockBytes, to - first * blockBytes)
  }
  return ({ ino, offset, data }) => {
    const end = offset + data.length
    if (end > segmentBytes) throw new Error('only the first segment is looked at')
    const inode = record(inodes, ino)
    if (inode === undefined) return `inode ${ino} is not on the master's disk`
    if (inode.size < end) return `inode ${ino} has ${inode.size} bytes on the master's disk instead of ${end}`
    if (inode.content !== undefined) {
      return inode.content.subarray(offset, end).equals(data) ? undefined : `inode ${ino} has other inline data on disk`
    }
    const rest = Buffer.from(data)
    for (const extent of record(segments, { ino, index: 0n }) ?? []) {
      const from = Math.max(offset, extent.offset)
      const to = Math.min(end, extent.offset + extent.length)
      if (from >= to || extent.chunkId === 0n) continue
      const at = extent.chunkOffset + from - extent.offset
      const expected = data.subarray(from - offset, to - offset)
      const good = disks().filter((disk) => held(disk, extent.chunkId, at, at + to - from)?.equals(expected))
      if (good.length < copies) {
        return `bytes ${from} to ${to} of inode ${ino}, at ${at} of chunk ${extent.chunkId}, are on ${good.length} disks`
      }
      rest.fill(0, from - offset, to - offset)
    }
    // What no extent holds reads as zeros.
    const missing = rest.findIndex((byte) => byte !== 0)
    return missing < 0 ? undefined : `byte ${offset + missing} of inode ${ino} is in no extent on the master's disk`
  }
}
