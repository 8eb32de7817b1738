/** A reader beside others who change what is known of the file at the worst moment. */
import t from 'tap'
import { Cached } from '../../../src/client/cached.ts'
import type { KnownAttributes } from '../../../src/client/cached.ts'
import type { ChunkCache } from '../../../src/client/chunk-cache.ts'
import { FileReader } from '../../../src/client/file-reader.ts'
import { Inodes } from '../../../src/client/inode.ts'
import type { Inode } from '../../../src/client/inode.ts'
import type { Leases } from '../../../src/client/leases.ts'
import { Locations } from '../../../src/client/locations.ts'
import { DirtyData } from '../../../src/client/dirty-data.ts'
import type { Batch } from '../../../src/client/flusher.ts'
import { asIno } from '../../../src/domain/ids.ts'

const bytes = 8192
const old = Buffer.alloc(bytes, 'o')

/** A file of one extent. `pinned` is called when the lease has been pinned, `fetch` gives what the chunk has. */
const startReader = ({
  pinned = () => {},
  fetch = () => old,
}: { pinned?(inode: Inode): void; fetch?(inode: Inode): Buffer } = {}): { inode: Inode; read(): Promise<Buffer> } => {
  const cached = new Cached()
  const attributes: Partial<KnownAttributes> = { size: BigInt(bytes), change: 1n }
  cached.attributes = attributes as KnownAttributes
  const inodes = new Inodes(() => cached)
  const inode = inodes.use(asIno(5n))
  const extents = [{ offset: 0, length: bytes, chunkId: 7n, chunkOffset: 0 }]
  inode.segments.set(0n, extents)
  const pin = { lost: false, release: () => {} }
  const leases: Partial<Leases> = {
    tryPin: () => {
      pinned(inode)
      return pin
    },
    acquire: async (_ino, _mode, ask) => {
      await ask()
      return pin
    },
    current: () => true,
    usableCached: () => undefined,
  }
  const cache: Partial<ChunkCache> = { read: () => Promise.resolve(Buffer.from(fetch(inode))) }
  const reader = new FileReader({
    leases: leases as Leases,
    cache: cache as ChunkCache,
    locations: new Locations(),
    inodes,
    getExtents: () =>
      Promise.resolve({
        attributes: undefined,
        lease: undefined,
        inlineData: undefined,
        segments: [{ index: 0n, extents }],
        locations: [],
        following: [],
      }),
    learn: () => {},
    isConfirmed: () => true,
  })
  return { inode, read: () => reader.read(inode, { offset: 0n, length: bytes }, undefined) }
}

t.test('a layout that another reader drops before it is used is no hole', async (t) => {
  let drops = 1
  const { read } = startReader({
    pinned: (inode) => {
      if (drops-- > 0) queueMicrotask(() => inode.segments.clear())
    },
  })
  t.ok((await read()).equals(old))
})

t.test(
  'what is overwritten and freed while it is being read is not read as zeros, before the answer to the commit either',
  async (t) => {
    const data = new DirtyData()
    data.write(0n, Buffer.alloc(4096, 'n'))
    const batch: Partial<Batch> = { data, bytes: 4096 }
    let reads = 0
    const { read } = startReader({
      fetch: (inode) => {
        if (reads++ > 0) return old.subarray(4096)
        inode.batches.push(batch as Batch)
        return Buffer.concat([Buffer.alloc(4096), old.subarray(4096)])
      },
    })
    t.ok((await read()).equals(Buffer.concat([Buffer.alloc(4096, 'n'), old.subarray(4096)])))
    t.equal(reads, 2)
  },
)
