/** What tests of chunk servers share: a store on a disk, blocks that are told apart, and appends of them. */
import { blockChecksums } from '../../src/domain/checksum.ts'
import { blockBytes } from '../../src/domain/limits.ts'
import { ChunkStore, type ChunkStoreOptions } from '../../src/chunkserver/store.ts'
import { realClock } from '../../src/platform/clock.ts'
import { silentLog } from '../../src/platform/log.ts'
import { realRandom } from '../../src/platform/random.ts'
import { realDisk } from '../../src/platform/real-disk.ts'

export const testCluster = { clusterId: 'cluster-of-a-test', serverId: 1 }

/** A store that belongs to the test's cluster. */
export const openStore = async (directory: string, options: Partial<ChunkStoreOptions> = {}): Promise<ChunkStore> => {
  const store = await ChunkStore.open({
    directory,
    disk: realDisk,
    clock: realClock,
    random: realRandom,
    log: silentLog,
    ...options,
  })
  await store.adopt(testCluster)
  return store
}

/** Bytes that depend on the seed and on the place, so that no two blocks are equal. */
export const pattern = (seed: number, length: number): Buffer => {
  const bytes = Buffer.alloc(length)
  let state = (seed * 2654435761 + 1) >>> 0
  for (let at = 0; at + 4 <= length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes.writeUInt32LE(state, at)
  }
  for (let at = length - (length % 4); at < length; at++) bytes[at] = (seed + at) & 0xff
  return bytes
}

export const blocks = (count: number): number => count * blockBytes

/** Appends data with its true checksums; creates the chunk at offset 0. */
export const append = (
  store: ChunkStore,
  chunkId: bigint,
  offset: number,
  data: Buffer,
  options: { sync?: boolean; create?: boolean; checksums?: Buffer } = {},
): Promise<number> =>
  store.append({
    chunkId,
    offset,
    data,
    checksums: options.checksums ?? blockChecksums(data),
    sync: options.sync ?? false,
    create: options.create ?? offset === 0,
  })

/** Data filled up with zeros to whole blocks, as it reads back. */
export const padded = (data: Buffer): Buffer =>
  Buffer.concat([data, Buffer.alloc((blockBytes - (data.length % blockBytes)) % blockBytes)])
