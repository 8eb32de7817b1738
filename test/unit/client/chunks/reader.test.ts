import t from 'tap'
import { randomBytes } from 'node:crypto'
import type { Appended } from '../../../../src/client/chunks/ports.ts'
import { UnavailableError } from '../../../../src/domain/errors.ts'
import { asChunkId } from '../../../../src/domain/ids.ts'
import { blockBytes, chunkBytes, transferBytesMax } from '../../../../src/domain/limits.ts'
import { dataPath } from '../../../lib/data-path.ts'
import type { DataPath } from '../../../lib/data-path.ts'
import type { FakeChunkServer, Verdict } from '../../../lib/fake-chunk-server.ts'

const bytes = 5 * transferBytesMax

/** A chunk of 5 MiB on three servers, in the order in which the reader asks them. */
const written = async (
  options: Parameters<typeof dataPath>[0] = {},
): Promise<DataPath & { content: Buffer; appended: Appended; ordered: FakeChunkServer[] }> => {
  const path = await dataPath(options)
  const content = randomBytes(bytes)
  const appended = await path.settle(path.writer.append([content], { copies: 3, sync: false }))
  const { chunkId } = appended.placed[0]!
  const ordered: FakeChunkServer[] = []
  const rest = new Set(path.servers.filter(({ chunks }) => chunks.has(chunkId)))
  while (rest.size > 0) {
    const servers = [...rest].map(({ address }) => address)
    await path.settle(path.reader.read({ chunkId, chunkOffset: 0, length: 1, servers }))
    for (const server of rest) {
      if (server.reads === 0) continue
      ordered.push(server)
      rest.delete(server)
    }
  }
  for (const server of path.servers) server.reads = 0
  return { ...path, content, appended, ordered }
}

const everywhere = (path: { servers: readonly FakeChunkServer[] }): FakeChunkServer['address'][] =>
  path.servers.map(({ address }) => address)

t.test('any range of bytes, whatever its alignment', async (t) => {
  const path = await written()
  const { reader, content, settle } = path
  const ranges = [
    [0, 1],
    [0, bytes],
    [4095, 2],
    [5000, transferBytesMax],
    [blockBytes, transferBytesMax],
    [transferBytesMax - 1, 2 * transferBytesMax + 2],
    [bytes - 1, 1],
    [1, bytes - 2],
  ]
  for (const [chunkOffset, length] of ranges) {
    const read = { chunkId: asChunkId(1n), chunkOffset: chunkOffset!, length: length!, servers: everywhere(path) }
    const result = await settle(reader.read(read))
    t.ok(result.equals(content.subarray(chunkOffset, chunkOffset! + length!)), `${length} bytes at ${chunkOffset}`)
  }
  t.equal(path.servers.filter(({ reads }) => reads > 0).length, 1, 'all from one server, so that its cache is of use')
  const outside = { chunkId: asChunkId(1n), chunkOffset: chunkBytes, length: 1, servers: [] }
  await t.rejects(reader.read(outside), /broken invariant/)
})

t.test('the same machine first, then the same rack', async (t) => {
  for (const [place, expected] of [
    [{ host: '10.0.0.2' }, 2],
    [{ host: '10.0.0.3' }, 3],
  ] as const) {
    const path = await dataPath(place)
    await path.settle(path.writer.append([Buffer.alloc(1)], { copies: 3, sync: false }))
    const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 1, servers: everywhere(path) }
    await path.settle(path.reader.read(read))
    t.same(
      path.servers.filter(({ reads }) => reads > 0).map(({ id }) => id),
      [expected],
    )
  }
})

t.test('damaged bytes never come through: the next replica answers, and the bad one is reported once', async (t) => {
  const path = await written()
  const { reader, content, settle, master, ordered } = path
  ordered[0]!.corrupt(1n, 8192 + 5)
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: bytes, servers: everywhere(path) }
  t.ok((await settle(reader.read(read))).equals(content))
  t.ok((await settle(reader.read(read))).equals(content))
  t.same(master.reports, [{ chunkId: 1n, serverId: ordered[0]!.id, problem: 'corrupt' }])
})

t.test('what a replica says of itself is reported', async (t) => {
  for (const [code, problem] of [
    ['EBADMSG', 'corrupt'],
    ['ENOENT', 'missing'],
    ['ERANGE', 'missing'],
    ['EIO', undefined],
  ] as const) {
    const path = await written()
    const { reader, content, settle, master, ordered } = path
    ordered[0]!.onRead = () => code
    const read = { chunkId: asChunkId(1n), chunkOffset: 10, length: 100, servers: everywhere(path) }
    t.ok((await settle(reader.read(read))).equals(content.subarray(10, 110)))
    t.same(
      master.reports.map((report) => report.problem),
      problem === undefined ? [] : [problem],
      code,
    )
  }
})

t.test('a slow server is not waited for, and is asked last until it answers', async (t) => {
  const path = await written()
  const { reader, content, settle, clock, ordered } = path
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 4096, servers: everywhere(path) }
  for (let count = 0; count < 16; count++) await settle(reader.read(read))
  ordered[0]!.onRead = () => 'never'
  const startedMs = clock.nowMs()
  t.ok((await settle(reader.read(read))).equals(content.subarray(0, 4096)))
  t.ok(clock.nowMs() - startedMs <= 50, `${clock.nowMs() - startedMs} ms`)
  await clock.advance(300)
  const asked = ordered[0]!.reads
  await settle(reader.read(read))
  t.equal(ordered[0]!.reads, asked, 'it is not even asked')
  t.equal(path.master.reports.length, 0, 'slow is not bad')
})

t.test('hedges are rationed, but a dead server never costs more than a second', async (t) => {
  const path = await written()
  const { reader, settle, clock, ordered } = path
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 4096, servers: everywhere(path) }
  for (let count = 0; count < 16; count++) await settle(reader.read(read))
  for (const server of ordered) {
    server.onRead = async (): Promise<Verdict> => {
      await clock.sleep(60)
      return 'serve'
    }
  }
  const before = ordered.reduce((sum, { reads }) => sum + reads, 0)
  const count = 40
  for (let index = 0; index < count; index++) await settle(reader.read(read))
  const sent = ordered.reduce((sum, { reads }) => sum + reads, 0) - before
  t.ok(sent <= count + 10 + count / 10 + 1, `${sent} requests for ${count} reads`)
  ordered[0]!.onRead = () => 'never'
  const startedMs = clock.nowMs()
  await settle(reader.read(read))
  t.ok(clock.nowMs() - startedMs < 1000)
})

t.test('a server that goes away in the middle', async (t) => {
  const path = await written()
  const { reader, content, settle, clock, ordered } = path
  ordered[0]!.onRead = async ({ offset }): Promise<Verdict> => {
    if (offset === 2 * transferBytesMax) await ordered[0]!.stop()
    return 'serve'
  }
  const startedMs = clock.nowMs()
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: bytes, servers: everywhere(path) }
  t.ok((await settle(reader.read(read))).equals(content))
  t.ok(clock.nowMs() - startedMs < 100)
})

t.test('when none of them has it, the master is asked where it is now, and that is remembered', async (t) => {
  const path = await written({ servers: 5 })
  const { reader, content, settle, master, servers } = path
  const chunk = servers[0]!.chunks.get(1n)!
  for (const server of servers.slice(0, 3)) server.chunks.delete(1n)
  servers[4]!.chunks.set(1n, chunk)
  master.located.set(asChunkId(1n), [servers[4]!])
  const stale = servers.slice(0, 3).map(({ address }) => address)
  const read = { chunkId: asChunkId(1n), chunkOffset: 100, length: 200, servers: stale }
  t.ok((await settle(reader.read(read), 1000)).equals(content.subarray(100, 300)))
  const asked = servers[0]!.reads
  t.ok((await settle(reader.read(read), 1000)).equals(content.subarray(100, 300)))
  t.equal(servers[0]!.reads, asked)
  t.equal(master.locates, 1)
})

t.test('no servers given: the master is asked', async (t) => {
  const { reader, content, settle } = await written()
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: [] }
  t.ok((await settle(reader.read(read))).equals(content.subarray(0, 10)))
})

t.test('all servers away: waits for them, until the deadline', async (t) => {
  const path = await written()
  const { reader, content, settle, clock, servers } = path
  for (const server of servers) await server.stop()
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: everywhere(path) }
  const reading = reader.read(read)
  await clock.advance(5000)
  await servers[1]!.start()
  t.ok((await settle(reading, 3000)).equals(content.subarray(0, 10)))
  await servers[1]!.stop()
  await t.rejects(settle(reader.read(read)), UnavailableError)
})

t.test('the master and the servers away: waits as well', async (t) => {
  const path = await written()
  const { reader, content, settle, clock, servers, master } = path
  for (const server of servers) await server.stop()
  master.failure = new UnavailableError('away', { maybeCommitted: false })
  const reading = reader.read({ chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: everywhere(path) })
  await clock.advance(5000)
  await servers[1]!.start()
  t.ok((await settle(reading, 3000)).equals(content.subarray(0, 10)))
})

t.test('every replica is damaged: EIO, soon', async (t) => {
  const path = await written()
  const { reader, settle, servers, master } = path
  for (const server of servers) server.corrupt(1n, 0)
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: everywhere(path) }
  await t.rejects(settle(reader.read(read), 5000), { code: 'EIO' })
  t.equal(master.reports.length, 3)
  t.equal((await settle(reader.read({ ...read, chunkOffset: 4096 }))).length, 10, 'other blocks are good')
})

t.test(
  'seed 151871: a damaged replica is not the last word while the master does not know the others yet',
  async (t) => {
    const path = await written()
    const { reader, content, settle, clock, servers, master } = path
    const [damaged, good] = servers
    damaged!.corrupt(1n, 0)
    master.located.set(asChunkId(1n), [])
    const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: [damaged!.address] }
    const reading = reader.read(read)
    reading.catch(() => undefined)
    await clock.advance(10_000)
    master.located.set(asChunkId(1n), [good!])
    t.ok((await settle(reading, 3000)).equals(content.subarray(0, 10)))
  },
)

t.test('a read that failed leaves nothing behind that goes on', async (t) => {
  const path = await written()
  const { reader, settle, servers, clock } = path
  for (const server of servers) {
    server.corrupt(1n, 0)
    server.onRead = ({ offset }) => (offset === 0 ? 'serve' : 'EAGAIN')
  }
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: bytes, servers: everywhere(path) }
  await t.rejects(settle(reader.read(read), 5000), { code: 'EIO' })
  // What was asked for already is still answered.
  await clock.advance(1000)
  const asked = servers.map(({ reads }) => reads)
  await clock.advance(100_000)
  t.same(
    servers.map(({ reads }) => reads),
    asked,
  )
})

t.test('a chunk that does not exist any more: ESTALE, at once', async (t) => {
  const path = await written()
  const { reader, settle, servers, master } = path
  for (const server of servers) server.chunks.delete(1n)
  master.locate = async () => new Map()
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: everywhere(path) }
  await t.rejects(settle(reader.read(read), 1000), { code: 'ESTALE' })
  await t.rejects(settle(reader.read({ ...read, servers: [] }), 1000), { code: 'ESTALE' })
})

t.test('the signal ends it at once', async (t) => {
  const path = await written()
  const { reader, servers, clock, settle } = path
  for (const server of servers) server.onRead = () => 'never'
  const controller = new AbortController()
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: bytes, servers: everywhere(path) }
  const reading = reader.read({ ...read, signal: controller.signal })
  const rejected = t.rejects(reading, UnavailableError)
  await clock.advance(10)
  controller.abort(new Error('interrupted'))
  await settle(rejected, 100)
  await t.rejects(reader.read({ ...read, signal: controller.signal }), UnavailableError, 'already aborted')
})
