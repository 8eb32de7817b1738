import t from 'tap'
import { randomBytes } from 'node:crypto'
import { deferred } from '../../../../src/client/chunks/deferred.ts'
import { PosixError, UnavailableError } from '../../../../src/domain/errors.ts'
import { asServerId } from '../../../../src/domain/ids.ts'
import { blockBytes, chunkBytes, transferBytesMax } from '../../../../src/domain/limits.ts'
import { dataPath } from '../../../lib/data-path.ts'
import type { Verdict } from '../../../lib/fake-chunk-server.ts'

const once = { copies: 3, sync: false }
const synced = { copies: 3, sync: true }

t.test('places pieces of every size on all replicas', async (t) => {
  const { writer, servers, master, settle, stored } = await dataPath()
  const pieces = [1, 4096, 5000, 700_000, 3 * transferBytesMax + 1].map((length) => randomBytes(length))
  const appended = await settle(writer.append(pieces, once))
  t.same(
    appended.placed.map(({ piece, pieceOffset, length }) => [piece, pieceOffset, length]),
    pieces.map((piece, index) => [index, 0, piece.length]),
  )
  for (const server of servers) {
    for (const [index, piece] of pieces.entries()) t.ok(stored(server, appended, index).equals(piece))
  }
  t.equal(master.allocations.length, 1)
  t.match(appended.results, [{ chunkId: 1n, serverIds: [1, 2, 3] }])
  t.equal(appended.results[0]!.length, servers[0]!.chunks.get(1n)!.length)
  t.same(
    appended.locations.get(master.allocations[0]!.chunkId),
    servers.map(({ address }) => address),
  )
})

t.test('no pieces: nothing is placed and no chunk is opened', async (t) => {
  const { writer, master, settle } = await dataPath()
  t.same((await settle(writer.append([], synced))).placed, [])
  t.equal(master.allocations.length, 0)
  await t.rejects(writer.append([Buffer.alloc(0)], once), /broken invariant/)
})

t.test('overlapping calls go to one chunk, and each stays together', async (t) => {
  const { writer, servers, master, settle, stored } = await dataPath()
  const pieces = Array.from({ length: 12 }, () => randomBytes(2_500_000))
  const all = await settle(Promise.all(pieces.map((piece) => writer.append([piece], once))))
  t.equal(master.allocations.length, 1)
  for (const [index, appended] of all.entries()) {
    t.equal(appended.placed.length, 1, 'in one place')
    for (const server of servers) t.ok(stored(server, appended, 0).equals(pieces[index]!))
  }
})

t.test('a full chunk is sealed when all that was placed in it is committed, and the next one goes on', async (t) => {
  const { writer, servers, master, settle, stored } = await dataPath()
  const piece = randomBytes(chunkBytes)
  const first = await settle(writer.append([Buffer.alloc(5000, 1)], once))
  const second = await settle(writer.append([piece], once))
  t.same(
    second.placed.map(({ chunkId, chunkOffset, pieceOffset, length }) => [chunkId, chunkOffset, pieceOffset, length]),
    [
      [1n, 8192, 0, chunkBytes - 8192],
      [2n, 0, chunkBytes - 8192, 8192],
    ],
  )
  t.ok(stored(servers[2]!, second, 0).equals(piece))
  writer.committed(second)
  await settle(Promise.resolve())
  t.same(master.seals, [], 'the first result is not committed')
  writer.committed(first)
  writer.committed(first)
  await settle(Promise.resolve())
  t.same(master.seals, [{ chunkId: 1n, failed: [] }])
})

t.test('sync brings data to disk on the replicas, with the append or later', async (t) => {
  const { writer, servers, settle } = await dataPath()
  await settle(writer.append([Buffer.alloc(3 * transferBytesMax, 1)], synced))
  for (const server of servers) {
    t.equal(server.chunks.get(1n)!.synced, 3 * transferBytesMax)
    t.equal(server.appends, 3, 'no message of its own for the sync')
  }
  const later = await settle(writer.append([Buffer.alloc(100, 2)], once))
  const { chunkId } = later.placed[0]!
  t.equal(servers[0]!.chunks.get(1n)!.synced, 3 * transferBytesMax)
  await settle(writer.sync([chunkId, chunkId]))
  for (const server of servers) t.equal(server.chunks.get(1n)!.synced, 3 * transferBytesMax + blockBytes)
  const asked = servers[0]!.appends
  await settle(writer.sync([chunkId]))
  t.equal(servers[0]!.appends, asked, 'nothing to do')
})

t.test('a refusal of one replica: what the others hold counts, the chunk is left, the server excluded', async (t) => {
  const { writer, servers, master, settle, stored } = await dataPath({ servers: 4 })
  servers[1]!.onAppend = ({ offset }) => (offset >= transferBytesMax ? 'EIO' : 'serve')
  const piece = randomBytes(3 * transferBytesMax)
  const appended = await settle(writer.append([piece], once))
  t.same(
    appended.results.map(({ serverIds }) => serverIds),
    [[1, 3]],
  )
  t.same(
    appended.locations.get(appended.placed[0]!.chunkId)?.map(({ serverId }) => serverId),
    [1, 3],
  )
  t.ok(stored(servers[0]!, appended, 0).equals(piece))
  t.ok(stored(servers[2]!, appended, 0).equals(piece))
  const next = await settle(writer.append([Buffer.alloc(1)], once))
  t.same(next.results, [{ chunkId: 2n, length: 4096, serverIds: [1, 3, 4] }])
  t.same(master.allocations[1]?.excluded, [2])
  t.same(master.seals, [], 'not before the commit')
  writer.committed(appended)
  await settle(Promise.resolve())
  t.same(master.seals, [{ chunkId: 1n, failed: [2] }])
})

t.test('an excluded server comes back after some seconds', async (t) => {
  const { writer, servers, master, settle, clock } = await dataPath({ servers: 4 })
  servers[0]!.onAppend = () => 'EIO'
  writer.committed(await settle(writer.append([Buffer.alloc(1)], once)))
  servers[0]!.onAppend = () => 'serve'
  await settle(writer.append([Buffer.alloc(1)], once))
  await clock.advance(6000)
  await writer.sealAll()
  await settle(writer.append([Buffer.alloc(1)], once))
  t.same(
    master.allocations.map(({ servers }) => servers),
    [
      [1, 2, 3],
      [2, 3, 4],
      [1, 2, 3],
    ],
  )
})

t.test('what too few replicas hold is appended again elsewhere', async (t) => {
  const { writer, servers, master, settle, stored } = await dataPath({ servers: 5 })
  const pieces = [randomBytes(2 * transferBytesMax), randomBytes(9000)]
  for (const server of servers.slice(0, 2)) {
    server.onAppend = ({ offset }) => (offset >= transferBytesMax ? 'EIO' : 'serve')
  }
  const appended = await settle(writer.append(pieces, once))
  t.same(
    appended.placed.map(({ piece, pieceOffset, length, chunkId, chunkOffset }) => [
      piece,
      pieceOffset,
      length,
      chunkId,
      chunkOffset,
    ]),
    [
      [0, 0, transferBytesMax, 1n, 0],
      [0, transferBytesMax, transferBytesMax, 2n, 0],
      [1, 0, 9000, 2n, transferBytesMax],
    ],
    'only what failed moved',
  )
  for (const server of servers.slice(2, 5)) {
    const inSecond = server.chunks.get(2n)!
    t.ok(inSecond.data.subarray(0, transferBytesMax).equals(pieces[0]!.subarray(transferBytesMax)))
  }
  t.ok(stored(servers[2]!, appended, 1).equals(pieces[1]!))
  writer.committed(appended)
  await settle(Promise.resolve())
  t.same(master.seals, [{ chunkId: 1n, failed: [1, 2] }])
})

t.test('a first append that fails everywhere leaves no hole behind: its chunk is sealed empty', async (t) => {
  const { writer, servers, master, settle } = await dataPath({ servers: 6 })
  for (const server of servers.slice(0, 3)) server.onAppend = () => 'EIO'
  const appended = await settle(writer.append([Buffer.alloc(1)], once))
  t.equal(appended.placed[0]!.chunkId, 2n)
  t.same(master.seals, [{ chunkId: 1n, failed: [1, 2, 3] }])
})

t.test('a server that closes its connection in the middle costs nothing but itself', async (t) => {
  const { writer, servers, settle, stored } = await dataPath({ servers: 4 })
  servers[0]!.onAppend = async ({ offset }): Promise<Verdict> => {
    if (offset === 2 * transferBytesMax) await servers[0]!.stop()
    return 'serve'
  }
  const piece = randomBytes(20 * transferBytesMax)
  const appended = await settle(writer.append([piece], once), 1000)
  for (const server of servers.slice(1, 3)) t.ok(stored(server, appended, 0).equals(piece))
})

t.test('a server that says nothing any more is left out after two seconds', async (t) => {
  const { writer, servers, settle, clock } = await dataPath({ servers: 4 })
  servers[2]!.onAppend = () => 'never'
  const appended = await settle(writer.append([Buffer.alloc(100)], synced))
  t.ok(clock.nowMs() >= 2000 && clock.nowMs() < 3000, `${clock.nowMs()} ms`)
  t.same(appended.results[0]!.serverIds, [1, 2])
})

t.test('when the client itself stood still, nobody is blamed', async (t) => {
  const { writer, servers, settle, clock } = await dataPath()
  const answers = deferred<'serve'>()
  servers[2]!.onAppend = () => answers.promise
  const appending = writer.append([Buffer.alloc(100)], once)
  await clock.advance(500)
  const nowMs = clock.nowMs
  const stoodStillMs = 30_000
  clock.nowMs = () => nowMs() + stoodStillMs
  await clock.advance(500)
  answers.resolve('serve')
  t.same((await settle(appending)).results[0]!.serverIds, [1, 2, 3])
})

t.test('servers that are slow but answer are not left out', async (t) => {
  const { writer, servers, settle, clock, master } = await dataPath()
  for (const server of servers) {
    server.onAppend = async (): Promise<Verdict> => {
      await clock.sleep(1500)
      return 'serve'
    }
  }
  const appended = await settle(writer.append([randomBytes(5 * transferBytesMax)], once))
  t.same(appended.results[0]!.serverIds, [1, 2, 3])
  t.equal(master.allocations.length, 1)
})

t.test('a full server is left out; ENOSPC only when the master can place no more', async (t) => {
  const { writer, servers, master, settle } = await dataPath({ servers: 4 })
  servers[0]!.onAppend = () => 'ENOSPC'
  const appended = await settle(writer.append([Buffer.alloc(1)], once))
  t.same(appended.results[0]!.serverIds, [2, 3])
  for (const server of servers) server.onAppend = () => 'ENOSPC'
  await t.rejects(settle(writer.append([Buffer.alloc(1)], once)), { code: 'ENOSPC' })
  t.match(master.allocations.at(-1), { excluded: [1] })
})

t.test('servers that failed are asked again when there are no others', async (t) => {
  const { writer, servers, settle, clock, master } = await dataPath()
  for (const server of servers) await server.stop()
  const appending = writer.append([Buffer.alloc(1)], once)
  appending.catch(() => {})
  await clock.advance(8000)
  t.ok(
    master.allocations.length > 2 && master.allocations.length < 30,
    `${master.allocations.length} tries, not a busy loop`,
  )
  for (const server of servers) await server.start()
  t.same((await settle(appending)).results[0]!.serverIds, [1, 2, 3])
})

t.test('without any success the deadline ends it', async (t) => {
  const { writer, servers, settle, clock } = await dataPath()
  for (const server of servers) await server.stop()
  await t.rejects(settle(writer.append([Buffer.alloc(1)], once)), UnavailableError)
  t.ok(clock.nowMs() >= 60_000 && clock.nowMs() < 61_000)
})

t.test('the signal ends it at once, also in the queue behind others', async (t) => {
  const { writer, servers, master, settle, clock } = await dataPath()
  for (const server of servers) server.onAppend = () => 'never'
  const controller = new AbortController()
  const first = writer.append([Buffer.alloc(40 * transferBytesMax)], { ...once, signal: controller.signal })
  const second = writer.append([Buffer.alloc(1)], { ...once, signal: controller.signal })
  const rejected = Promise.all([t.rejects(first, UnavailableError), t.rejects(second, UnavailableError)])
  await clock.advance(10)
  controller.abort(new Error('interrupted'))
  await settle(rejected, 100)
  for (const server of servers) server.onAppend = () => 'serve'
  t.ok(
    (await settle(writer.append([Buffer.alloc(1)], once))).placed.length === 1,
    'the next call is not held up for ever',
  )
  t.same(master.seals[0]?.chunkId, 1n, 'nobody can commit anything in the abandoned chunk')
})

t.test('a master that is away is waited for; its refusal is final', async (t) => {
  const { writer, master, settle, clock } = await dataPath()
  master.failure = new UnavailableError('away', { maybeCommitted: false })
  const appending = writer.append([Buffer.alloc(1)], once)
  await clock.advance(3000)
  master.failure = undefined
  t.equal((await settle(appending)).placed.length, 1)
  await writer.sealAll()
  master.failure = new PosixError('ESTALE', 'the session has ended')
  await t.rejects(settle(writer.append([Buffer.alloc(1)], once)), { code: 'ESTALE' })
})

t.test('with one copy a failure means appending again', async (t) => {
  const { writer, servers, settle } = await dataPath({ copiesMin: 2 })
  servers[0]!.onAppend = () => 'EIO'
  const appended = await settle(writer.append([Buffer.alloc(1)], { copies: 1, sync: true }))
  t.same(appended.results, [{ chunkId: 2n, length: 4096, serverIds: [2] }])
})

t.test('bytes in flight are bounded', async (t) => {
  const { writer, servers, settle, clock } = await dataPath()
  const gate = deferred<'serve'>()
  for (const server of servers) server.onAppend = () => gate.promise
  const appending = writer.append([randomBytes(40 * transferBytesMax)], once)
  await clock.advance(100)
  t.equal(servers[0]!.appends, 16)
  gate.resolve('serve')
  t.equal((await settle(appending)).placed.length, 1)
  t.equal(servers[0]!.appends, 40)
})

t.test(
  'the master asks for a seal: appends go on in a new chunk, the old one is sealed after its commits',
  async (t) => {
    const { writer, master, settle } = await dataPath()
    const first = await settle(writer.append([Buffer.alloc(1)], once))
    writer.sealRequested(first.placed[0]!.chunkId)
    const second = await settle(writer.append([Buffer.alloc(1)], once))
    t.equal(second.placed[0]!.chunkId, 2n)
    t.same(master.seals, [])
    writer.committed(first)
    await settle(Promise.resolve())
    t.same(master.seals, [{ chunkId: 1n, failed: [] }])
  },
)

t.test('the session is lost: nothing of its chunks is handed out or sealed any more', async (t) => {
  const { writer, servers, master, settle, clock } = await dataPath()
  let held = true
  for (const server of servers) server.onAppend = () => (held ? 'never' : 'serve')
  const appending = writer.append([Buffer.alloc(2 * transferBytesMax, 7)], once)
  await clock.advance(10)
  writer.sessionEnded()
  held = false
  const appended = await settle(appending, 1000)
  t.same(
    appended.placed.map(({ chunkId, length }) => [chunkId, length]),
    [[2n, 2 * transferBytesMax]],
  )
  t.same(master.seals, [])
})

t.test('seals are tried again while the master is away', async (t) => {
  const { writer, master, settle, clock } = await dataPath()
  writer.committed(await settle(writer.append([Buffer.alloc(1)], once)))
  master.failure = new UnavailableError('away', { maybeCommitted: true })
  const sealing = writer.sealAll()
  await clock.advance(2500)
  master.failure = undefined
  await settle(sealing)
  t.equal(master.seals.length, 1)
})

t.test('an idle chunk is sealed', async (t) => {
  const { writer, master, settle, clock } = await dataPath()
  writer.committed(await settle(writer.append([Buffer.alloc(1)], once)))
  await clock.advance(130_000)
  t.equal(master.seals.length, 1)
})

t.test('sync after the seal', async (t) => {
  const { writer, servers, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(2 * blockBytes)], once))
  const { chunkId } = appended.placed[0]!
  writer.committed(appended)
  await settle(writer.sealAll())
  // Cut shorter than what was appended: the rest was never committed.
  for (const server of servers) server.seal(chunkId, blockBytes)
  await settle(writer.sync([chunkId]), 1000)
  t.pass('a sealed replica is on disk')
})

t.test('sync waits for servers that come back with the data', async (t) => {
  const { writer, servers, settle, clock } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(100)], once))
  for (const server of servers.slice(0, 2)) await server.stop()
  const syncing = writer.sync([appended.placed[0]!.chunkId])
  let done = false
  void syncing.then(() => {
    done = true
  })
  await clock.advance(5000)
  t.notOk(done, 'one of two is not enough')
  await servers[0]!.start()
  await settle(syncing, 5000)
  t.equal(servers[0]!.chunks.get(1n)!.synced, blockBytes)
})

t.test('sync never counts a replica that lost the data', async (t) => {
  const { writer, servers, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(100)], once))
  for (const server of servers.slice(0, 2)) {
    await server.stop()
    server.forgetUnsynced()
    await server.start()
  }
  await t.rejects(settle(writer.sync([appended.placed[0]!.chunkId])), UnavailableError)
})

t.test('sync fails with EIO when no replica can bring it to disk', async (t) => {
  const { writer, servers, master, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(100)], once))
  const { chunkId } = appended.placed[0]!
  for (const server of servers) server.onAppend = ({ sync }) => (sync ? 'EIO' : 'serve')
  await t.rejects(settle(writer.sync([chunkId])), { code: 'EIO' })
  for (const server of servers) server.onAppend = () => 'serve'
  await t.rejects(settle(writer.sync([chunkId])), { code: 'EIO' }, 'a failed sync stays failed')
  writer.committed(appended)
  await settle(Promise.resolve())
  t.same(master.seals, [{ chunkId: 1n, failed: [asServerId(1), asServerId(2), asServerId(3)] }])
})

t.test('sync of a chunk that was deleted meanwhile is done', async (t) => {
  const { writer, servers, master, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(100)], once))
  const { chunkId } = appended.placed[0]!
  writer.committed(appended)
  await settle(writer.sealAll())
  for (const server of servers) server.chunks.delete(chunkId)
  master.located.set(chunkId, [])
  const stillKnown = writer.sync([chunkId])
  await t.rejects(settle(stillKnown), UnavailableError, 'the master still counts on it')
  master.locate = async () => new Map()
  await settle(writer.sync([chunkId]), 1000)
})

t.test('sync of a chunk that was deleted with its session waits for no server that is away', async (t) => {
  const { writer, servers, master, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(100)], once))
  const { chunkId } = appended.placed[0]!
  writer.sessionEnded()
  writer.committed(appended)
  await servers[0]!.stop()
  for (const server of servers.slice(1)) server.chunks.delete(chunkId)
  master.locate = async () => new Map()
  await settle(writer.sync([chunkId]), 10_000)
  t.pass('although one of its servers may have it')
})

t.test('sync of what was committed in a session that is lost', async (t) => {
  const { writer, servers, settle } = await dataPath()
  const appended = await settle(writer.append([Buffer.alloc(2 * blockBytes)], once))
  const { chunkId } = appended.placed[0]!
  writer.committed(appended)
  writer.sessionEnded()
  // The master has sealed it in one place, and not in the others yet.
  servers[0]!.seal(chunkId, blockBytes)
  await settle(writer.sync([chunkId]), 1000)
  t.equal(servers[1]!.chunks.get(chunkId)!.synced, 2 * blockBytes)
})

t.test('an append with sync whose sync fails goes elsewhere', async (t) => {
  const { writer, servers, settle, stored } = await dataPath({ servers: 5 })
  for (const server of servers.slice(0, 2)) server.onAppend = ({ sync }) => (sync ? 'EIO' : 'serve')
  const piece = randomBytes(2 * transferBytesMax)
  const appended = await settle(writer.append([piece], synced))
  for (const server of servers.slice(2)) {
    t.ok(stored(server, appended, 0).equals(piece))
    t.equal(server.chunks.get(2n)!.synced, 2 * transferBytesMax)
    t.equal(appended.placed.length, 1, 'in its own order')
  }
})
