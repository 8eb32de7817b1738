/** What operations refuse because it is too much, at the limit and one past it, and what still goes when the master's disk is full. */
import t from 'tap'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { S_IFREG } from '../../../src/domain/mode.ts'
import { inodes, segments } from '../../../src/master/keys.ts'
import type { Segment } from '../../../src/master/keys.ts'
import { segmentExtentsMax } from '../../../src/master/ops/file-edit.ts'
import { followingMax } from '../../../src/master/ops/get-extents.ts'
import { xattrsMax } from '../../../src/master/ops/setxattr.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import { fakeCluster, newChunk, openStore, requester, sessionOne, sessionTwo } from '../../lib/master-store.ts'

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
    requests.call('getExtents', 'extents', { ino, segmentFirst, segmentCount, following: [] })
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

void t.test('files that are probably read next come along where nobody has to be waited for', async (t) => {
  const { store, cluster, requests, mknod } = await setup()
  const inos: Ino[] = []
  for (let i = 0; i < 5; i++) inos.push(await mknod(`f${i}`))
  const [first, inline, scatteredIno, written, large] = inos as [Ino, Ino, Ino, Ino, Ino]
  await store.execute((tx) => {
    const change = (ino: Ino, changes: object) => tx.put(inodes, ino, { ...tx.get(inodes, ino)!, ...changes })
    change(inline, { size: 5n, content: Buffer.from('hello') })
    tx.put(segments, { ino: scatteredIno, index: 0n }, scattered(65))
    change(scatteredIno, { size: 65n * 512n, allocated: 4096n })
    change(large, { size: 1n << 30n })
  })
  cluster.leases.set(written, new Map([[sessionTwo, 'write']]))
  const ask = async (following: bigint[]) =>
    (await requests.call('getExtents', 'extents', { ino: first, segmentFirst: 0n, segmentCount: 1, following }))
      .following
  const missing = 1n << 40n
  const found = await ask([inline, scatteredIno, written, large, 1n, missing])
  t.strictSame(
    found.map(({ attributes, inlineData }) => [attributes?.ino, inlineData?.toString()]),
    [[inline, 'hello']],
    'not what is scattered, being written, large, no file, or gone',
  )
  t.equal(found[0]?.lease?.ino, inline)
  t.equal((await ask(Array.from({ length: followingMax }, () => inline))).length, followingMax)
  await t.rejects(ask(Array.from({ length: followingMax + 1 }, () => inline)), { code: 'EINVAL' })
})
