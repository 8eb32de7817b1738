/** What operations refuse because it is too much, at the limit and one past it, and what still goes when the master's disk is full. */
import t from 'tap'
import { asIno } from '../../../src/domain/ids.ts'
import { S_IFREG } from '../../../src/domain/mode.ts'
import { inodes, segments } from '../../../src/master/keys.ts'
import type { Segment } from '../../../src/master/keys.ts'
import { segmentExtentsMax } from '../../../src/master/ops/file-edit.ts'
import { xattrsMax } from '../../../src/master/ops/setxattr.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import { fakeCluster, newChunk, openStore, requester, sessionOne } from '../../lib/master-store.ts'

const setup = async (admitWrites: () => boolean = () => true) => {
  const store = await openStore(memoryKv(), { admitWrites })
  const cluster = fakeCluster()
  const requests = requester(store, cluster.context(sessionOne))
  const mknod = async (name: string) =>
    asIno(
      (
        await requests.call('mknod', 'entry', {
          parent: 1n,
          name: Buffer.from(name),
          mode: S_IFREG | 0o644,
          rdev: 0,
          caller: undefined,
          open: false,
        })
      ).attributes!.ino,
    )
  return { store, cluster, requests, mknod }
}

/** Extents of never written blocks, every other 256 bytes, so that none joins another. */
const scattered = (count: number): Segment =>
  Array.from({ length: count }, (_, i) => ({ offset: i * 512, length: 256, chunkId: 0n, chunkOffset: 0 }))

void t.test('a segment holds so many extents and no more; two such segments are two answers', async (t) => {
  const { store, cluster, requests, mknod } = await setup()
  const ino = await mknod('f')
  const size = 128n << 20n
  await store.execute((tx) => {
    tx.put(segments, { ino, index: 0n }, scattered(segmentExtentsMax - 1))
    tx.put(segments, { ino, index: 1n }, scattered(2))
    tx.put(inodes, ino, { ...tx.get(inodes, ino)!, size, allocated: (64n << 20n) + 4096n })
  })
  const extents = (segmentFirst: bigint, segmentCount: number) =>
    requests.call('getExtents', 'extents', { ino, segmentFirst, segmentCount })
  await t.rejects(extents(0n, 2), { code: 'E2BIG' })
  t.equal((await extents(0n, 1)).segments[0]?.extents.length, segmentExtentsMax - 1)
  t.equal((await extents(1n, 16)).segments.length, 1)
  for (const count of [0, 17]) await t.rejects(extents(0n, count), { code: 'EINVAL' })
  cluster.context(sessionOne).leases.grant(sessionOne, ino, 'write')
  const chunk: bigint = await newChunk(store, sessionOne)
  const commit = (offset: number, chunkOffset: number) =>
    requests.call('commit', 'attributesAndLease', {
      ino,
      segments: [{ index: 0n, extents: [{ offset, length: 1, chunkId: chunk, chunkOffset }] }],
      mtime: undefined,
      ctime: undefined,
      appended: [],
      killPrivileges: false,
    })
  await commit(300, 0)
  await t.rejects(commit(900, 4096), { code: 'EFBIG' })
  t.equal((await extents(0n, 1)).segments[0]?.extents.length, segmentExtentsMax, 'and nothing changed')
})

void t.test('fallocate: the cluster has to have the room, one call takes 1 TiB', async (t) => {
  const { cluster, requests, mknod } = await setup()
  const ino = await mknod('f')
  const allocate = (offset: bigint, length: bigint, mode = 0) =>
    requests.call('fallocate', 'attributesAndLease', { ino, mode, offset, length })
  cluster.bytesFree = 1n << 20n
  t.equal((await allocate(0n, 1n << 20n)).attributes?.allocated, 1n << 20n)
  await t.rejects(allocate(0n, (2n << 20n) + 1n), { code: 'ENOSPC' })
  t.equal((await allocate(0n, 1n << 20n)).attributes?.size, 1n << 20n, 'what is allocated needs no room')
  cluster.bytesFree = 1n << 62n
  await t.rejects(allocate(0n, (1n << 40n) + (64n << 20n)), { code: 'EFBIG' })
  await t.rejects(allocate(1n, (1n << 63n) - 1n), { code: 'EFBIG' })
  await t.rejects(allocate(0n, 0n), { code: 'EINVAL' })
  await t.rejects(allocate(0n, 1n, 2), { code: 'EOPNOTSUPP' }, 'punch without keep-size')
  await t.rejects(allocate(0n, 100n, 8), { code: 'EINVAL' }, 'collapse of half a block')
})

void t.test('so many xattrs, and no more', async (t) => {
  const { requests, mknod } = await setup()
  const ino = await mknod('f')
  const set = (i: number) =>
    requests.call('setxattr', 'changed', {
      ino,
      name: Buffer.from(`user.${i}`),
      value: Buffer.from('v'),
      flags: 0,
      caller: undefined,
      killSgid: false,
    })
  await Promise.all(Array.from({ length: xattrsMax }, (_, i) => set(i)))
  await t.rejects(set(xattrsMax), { code: 'ENOSPC' })
  await set(0)
  t.equal((await requests.call('listxattr', 'names', { ino })).names.length, xattrsMax)
})

void t.test("the master's disk is full: writing is ENOSPC, reading and removing go on", async (t) => {
  let room = true
  const { requests, mknod } = await setup(() => room)
  const ino = await mknod('f')
  room = false
  await t.rejects(mknod('g'), { code: 'ENOSPC' })
  t.equal((await requests.call('getattr', 'attributesAndLease', { ino })).attributes?.ino, ino)
  const { entries } = await requests.call('readdir', 'readdir', { ino: 1n, cookie: 0n, entriesMax: 10, plus: true })
  t.strictSame(
    entries.map(({ name }) => String(name)),
    ['f'],
  )
  await requests.call('unlink', 'changed', { parent: 1n, name: Buffer.from('f') })
  room = true
  await mknod('f')
})
