import t from 'tap'
import { PosixError } from '../../../src/domain/errors.ts'
import { rootIno } from '../../../src/domain/ids.ts'
import { ReportReplicaRequest_Problem } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { codeOf, expect, masterCluster, writeFile } from '../../lib/master-cluster.ts'
import type { MasterCluster } from '../../lib/master-cluster.ts'
import type { ReplicaServer } from '../../lib/replica-server.ts'
import type { SessionClient } from '../../lib/session-client.ts'

const seal = async (client: SessionClient, chunk: bigint): Promise<void> => {
  expect(await client.request({ $case: 'sealChunk', value: { chunkId: chunk, serversFailed: [] } }), 'empty')
}

/** The client of these tests is there all the time. */
const beating = async (cluster: MasterCluster): Promise<SessionClient> => {
  const client = cluster.client()
  await client.welcome
  const beat = (): void => {
    client.send({ heartbeat: true })
    cluster.clock.after(1000, beat)
  }
  beat()
  return client
}

const validReplicas = (cluster: MasterCluster, chunk: bigint): number =>
  cluster.servers.filter(({ replicas }) => replicas.get(chunk)?.corrupt === false && replicas.get(chunk)?.sealed).length

t.test('a sealed chunk is sealed on every replica at its committed length', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 10_000)
  // Appended but never committed: it does not exist.
  cluster.servers[0]!.set(chunk, { length: 40_960 })
  await cluster.clock.advance(1100)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  for (const { replicas } of cluster.servers) t.match(replicas.get(chunk), { length: 12_288, sealed: true })
  await cluster.clock.advance(2000)
  t.match((await cluster.status()).chunks, {
    total: 1n,
    open: 0n,
    byValidReplicas: [0n, 0n, 0n, 1n],
    underReplicated: 0n,
  })
})

t.test('a chunk with nothing committed is gone when it is sealed', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const op = { $case: 'allocateChunk' as const, value: { copies: 3, serversExcluded: [] } }
  const { chunkId } = expect(await client.request(op), 'allocateChunk')
  for (const server of cluster.servers) server.set(chunkId, { length: 4096 })
  await seal(client, chunkId)
  await cluster.until('deleted', () => cluster.servers.every(({ replicas }) => replicas.size === 0))
  t.equal((await cluster.status()).chunks!.total, 0n)
  await seal(client, chunkId)
})

t.test('only its own session seals a chunk', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 100)
  const other = cluster.client()
  await other.welcome
  t.equal(codeOf(await other.request({ $case: 'sealChunk', value: { chunkId: chunk, serversFailed: [] } })), 'ESTALE')
})

t.test('a lost server: its chunks are copied after the delay, and what is too many later goes', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const { chunk, servers } = await writeFile(cluster, client, 'f', 8192)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  await cluster.clock.advance(2000)
  const victim = cluster.servers.find(({ serverId }) => serverId === servers[0])!
  const spare = cluster.servers.find(({ serverId }) => !servers.includes(serverId))!
  await victim.stop()
  await cluster.until('down', async () => (await cluster.status()).servers.some(({ state }) => state === 'down'))
  const status = await cluster.status()
  t.match(status.chunks, { underReplicated: 1n, byValidReplicas: [0n, 0n, 1n] })
  t.equal(status.repair!.queued, 1n)
  t.equal(status.repair!.bytesLeft, 8192n)
  t.equal(spare.replicas.has(chunk), false, 'not before the delay')
  await cluster.until('copied', () => spare.replicas.has(chunk))
  await cluster.clock.advance(1000)
  t.match((await cluster.status()).chunks, { underReplicated: 0n })
  t.ok((await cluster.status()).repair!.recent.some(({ what }) => what === 'copied'))
  // It comes back with what it had.
  const back = await cluster.addServer()
  back.set(chunk, { length: 8192, sealed: true })
  await back.heartbeat([{ chunkId: chunk, length: 8192, sealed: true, corrupt: false, deleted: false, more: false }])
  await cluster.until('surplus removed', () => {
    const holders = cluster.servers.filter((server) => server !== victim && server.replicas.has(chunk))
    return holders.length === 3
  })
  await cluster.clock.advance(10_000)
  t.equal(cluster.servers.filter((server) => server !== victim && server.replicas.has(chunk)).length, 3)
  t.match((await cluster.status()).chunks, { underReplicated: 0n, overReplicated: 0n })
})

t.test('the chunks with the fewest replicas come first', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, config: { repairDelayMs: 0 } })
  const client = await beating(cluster)
  const chunks: bigint[] = []
  for (let i = 0; i < 6; i++) chunks.push((await writeFile(cluster, client, `f${i}`, 4096)).chunk)
  const endangered = chunks.at(-1)!
  for (const server of cluster.servers) server.set(endangered, { length: server.serverId === 1 ? 4096 : 0 })
  for (const server of cluster.servers.slice(0, 2)) {
    for (const chunk of chunks.slice(0, -1)) server.set(chunk, { length: 4096 })
  }
  for (const chunk of chunks.slice(0, -1)) cluster.servers[2]!.set(chunk, { length: 0 })
  await cluster.clock.advance(1100)
  for (const chunk of chunks) await seal(client, chunk)
  await cluster.until('all copied', () => chunks.every((chunk) => validReplicas(cluster, chunk) === 3))
  const copies = cluster.servers.flatMap(({ asked }) => asked.filter((what) => what.startsWith('copy')))
  const order = cluster.servers[2]!.asked.filter((what) => what.startsWith('copy'))
  t.equal(copies.length, 7)
  t.match(order[0], new RegExp(`^copy ${endangered} `))
})

t.test(
  'a corrupt replica is replaced elsewhere before it goes, and in its place when there is no other server',
  async (t) => {
    for (const servers of [4, 3]) {
      const cluster = await masterCluster(t, { servers })
      const client = await beating(cluster)
      const { chunk, servers: holders } = await writeFile(cluster, client, 'f', 8192)
      await seal(client, chunk)
      await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
      const bad = cluster.servers.find(({ serverId }) => serverId === holders[1])!
      bad.set(chunk, { corrupt: true })
      // A reader complains; the server finds that it is true.
      const problem = ReportReplicaRequest_Problem.PROBLEM_CORRUPT
      expect(
        await client.request({ $case: 'reportReplica', value: { chunkId: chunk, serverId: bad.serverId, problem } }),
        'empty',
      )
      await cluster.until('replaced', () => validReplicas(cluster, chunk) === 3)
      await cluster.until('the bad one gone', () =>
        cluster.servers.every(({ replicas }) => !replicas.get(chunk)?.corrupt),
      )
      await cluster.clock.advance(2000)
      const status = await cluster.status()
      t.equal(status.repair!.corruptReplaced, 1n, `${servers} servers`)
      t.match(status.chunks, { underReplicated: 0n, overReplicated: 0n })
      t.ok(status.repair!.recent.some(({ what }) => what === 'corrupt replica'))
      if (servers === 4) t.ok(bad.asked.includes(`delete ${chunk}`))
      else t.ok(bad.asked.some((what) => what.startsWith(`copy ${chunk}`)) && !bad.asked.includes(`delete ${chunk}`))
    }
  },
)

t.test('a complaint that is not true changes nothing', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 8192)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  const problem = ReportReplicaRequest_Problem.PROBLEM_MISSING
  expect(await client.request({ $case: 'reportReplica', value: { chunkId: chunk, serverId: 1, problem } }), 'empty')
  await cluster.clock.advance(3000)
  t.match((await cluster.status()).chunks, { byValidReplicas: [0n, 0n, 0n, 1n] })
  t.ok(cluster.servers[0]!.asked.includes(`verify ${chunk}`))
})

t.test(
  'the last valid replica is never removed, and nothing is after a restart before the servers have reported',
  async (t) => {
    const cluster = await masterCluster(t, { servers: 3 })
    const client = await beating(cluster)
    const { chunk } = await writeFile(cluster, client, 'f', 8192)
    await seal(client, chunk)
    await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
    await cluster.restart()
    await cluster.clock.advance(3000)
    t.match((await cluster.status()).chunks, { total: 1n, lost: 1n })
    await cluster.servers[0]!.join()
    for (const server of cluster.servers) server.set(chunk, { corrupt: server.serverId !== 1 })
    await cluster.clock.advance(3000)
    t.same(
      cluster.servers.flatMap(({ asked }) => asked.filter((what) => /copy|delete/.test(what))),
      [],
    )
    await cluster.servers[1]!.join()
    await cluster.servers[2]!.join()
    await cluster.until('mended', () => validReplicas(cluster, chunk) === 3)
    t.ok(!cluster.servers[0]!.asked.includes(`delete ${chunk}`))
  },
)

t.test('replicas of unknown chunks go after the delay, and not those that the master has just given out', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, config: { unknownReplicaDelayMs: 20_000 } })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 8192)
  const [server] = cluster.servers
  server!.set(chunk, { length: 8192 })
  server!.set(1000n, { length: 4096, sealed: true })
  await cluster.clock.advance(15_000)
  t.ok(server!.replicas.has(1000n))
  await cluster.clock.advance(10_000)
  t.notOk(server!.replicas.has(1000n))
  t.ok(server!.replicas.has(chunk))
})

/** A sealed chunk of a file that is then removed, with a server that tells of changes alone and whose first deletion ends like this. */
const deleteOn = async (
  cluster: MasterCluster,
  ends: (server: ReplicaServer, chunk: bigint) => Promise<void>,
): Promise<{ server: ReplicaServer; chunk: bigint }> => {
  const client = await beating(cluster)
  const { ino, chunk } = await writeFile(cluster, client, 'f', 8192)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  await cluster.clock.advance(1100)
  await client.request({ $case: 'close', value: { ino } })
  const server = cluster.servers[0]!
  const { heartbeat } = server
  server.heartbeat = () => heartbeat()
  server.deleted = async () => {
    delete server.deleted
    server.set(chunk, { length: 8192, sealed: true })
    await ends(server, chunk)
  }
  expect(
    await client.request({ $case: 'unlink', value: { parent: rootIno, name: Buffer.from('f'), keepsOpen: false } }),
    'changed',
  )
  await cluster.until('asked', () => server.asked.includes(`delete ${chunk}`))
  return { server, chunk }
}

t.test('seed 10383: a deletion that failed on a server that stays is tried again', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, config: { unknownReplicaDelayMs: 20_000 } })
  const { server, chunk } = await deleteOn(cluster, () => Promise.reject(new PosixError('EIO')))
  t.ok(server.replicas.has(chunk))
  await cluster.clock.advance(25_000)
  t.notOk(server.replicas.has(chunk))
})

t.test('seed 10383: a deletion that a loss of power took back is not believed', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, config: { unknownReplicaDelayMs: 20_000 } })
  // The answer of the life that ended comes after the report of the next one.
  const { server, chunk } = await deleteOn(cluster, async (server) => void (await server.join()))
  t.ok(server.replicas.has(chunk))
  await cluster.clock.advance(25_000)
  t.notOk(server.replicas.has(chunk))
})

t.test('a heartbeat that a deletion has overtaken does not cost another replica', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const { chunk, servers } = await writeFile(cluster, client, 'f', 8192)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  const [source, other] = cluster.servers.filter(({ serverId }) => servers.includes(serverId))
  const target = cluster.servers.find(({ serverId }) => !servers.includes(serverId))!
  source!.freeBytes -= 4096
  await cluster.clock.advance(2000)
  const held = { chunkId: chunk, length: 8192, sealed: true, corrupt: false, deleted: false, more: false }
  target.set(chunk, held)
  await cluster.until('surplus removed', () => source!.asked.includes(`delete ${chunk}`))
  // Now another one would be the first to go.
  other!.freeBytes -= 65_536
  await cluster.clock.advance(2000)
  await source!.heartbeat([held])
  await cluster.clock.advance(10_000)
  t.equal(cluster.servers.flatMap(({ asked }) => asked.filter((what) => what.startsWith('delete'))).length, 1)
  t.equal(validReplicas(cluster, chunk), 3)
  t.match((await cluster.status()).chunks, { byValidReplicas: [0n, 0n, 0n, 1n], overReplicated: 0n })
})

t.test('registration: who must not take part is told why', async (t) => {
  const cluster = await masterCluster(t, { servers: 2 })
  const [first, second] = cluster.servers
  await t.rejects(first!.join({ clusterId: 'f'.repeat(32) }), { code: 'EPERM', message: /belongs to cluster ffff/ })
  await t.rejects(first!.join({ protocolVersion: 99 }), { code: 'EPERM', message: /versions 1 to 2 .* version 99/ })
  await t.rejects(first!.join({ chunkIdMax: 5n }), { code: 'EPERM', message: /old copy of its data.*chunk 5/ })
  await t.rejects(first!.join({ serverId: 9 }), { code: 'EPERM', message: /old copy of its data.*number 9/ })
  await t.rejects(first!.join({ serverId: second!.serverId }), { code: 'EPERM', message: /another data directory/ })
  await t.rejects(first!.join({ storeId: '' }), PosixError)
  t.equal((await first!.join({ serverId: 0 })).serverId, first!.serverId, 'the same store has the same number')
  // A copied data directory on another address, while the first one is running.
  const copied = first!.join({ address: { serverId: 0, address: 'x:1', bulkAddress: '', rack: '', host: '' } })
  const refused = t.rejects(copied, { code: 'EPERM', message: /running at .* already/ })
  await cluster.clock.advance(3000)
  await refused
  // A heartbeat of a registration that is not the newest: register again.
  await cluster.restart()
  await t.rejects(second!.heartbeat(), { code: 'ENOENT' })
})

t.test(
  'seeds 41495 and 41524: what has another data directory now takes the place of what was at its address',
  async (t) => {
    const cluster = await masterCluster(t, { servers: 3 })
    const client = await beating(cluster)
    const [first] = cluster.servers
    const lostId = first!.serverId
    const another = { storeId: 'another', serverId: 0 }
    // Both are running: a mistake.
    const mistaken = t.rejects(first!.join(another), { code: 'EPERM', message: /running at .* an address of its own/ })
    await cluster.clock.advance(1500)
    await first!.heartbeat()
    await cluster.clock.advance(1500)
    await mistaken
    // The disk was lost: there is one process, and one disk.
    await first!.stop()
    const replaced = first!.join(another)
    await cluster.clock.advance(3000)
    const { serverId } = await replaced
    t.not(serverId, lostId)
    const states = new Map((await cluster.status()).servers.map((server) => [server.serverId, server.state]))
    t.equal(states.get(lostId), 'down')
    t.equal(states.get(serverId), 'up')
    for (let i = 0; i < 20; i++) {
      const { servers } = expect(
        await client.request({ $case: 'allocateChunk', value: { copies: 3, serversExcluded: [] } }),
        'allocateChunk',
      )
      t.equal(new Set(servers.map((server) => server.address)).size, 3, 'three disks')
    }
  },
)

t.test(
  'seed 61158: a new server that registers again while the disk of the master is full gets one number',
  async (t) => {
    const cluster = await masterCluster(t, { servers: 1 })
    const [server] = cluster.servers
    const another = { storeId: 'another', serverId: 0 }
    cluster.kv.failWrites(new PosixError('ENOSPC'))
    const address = { serverId: 0, address: 'another:1', bulkAddress: '', rack: '', host: '' }
    const first = server!.join({ ...another, address }).catch(() => undefined)
    await cluster.clock.advance(500)
    const second = server!.join({ ...another, address })
    await cluster.clock.advance(500)
    cluster.kv.failWrites(undefined)
    await cluster.clock.advance(2000)
    await first
    const { serverId } = await second
    await cluster.restart()
    t.equal(
      (await server!.join({ storeId: 'another', serverId, address })).serverId,
      serverId,
      'the master knows it by that',
    )
    t.equal((await cluster.status()).servers.length, 2)
  },
)

t.test('a server that went silent and is heard again must register again', async (t) => {
  const cluster = await masterCluster(t, { servers: 0 })
  const server = await cluster.addServer()
  await server.stop()
  await cluster.clock.advance(6000)
  t.equal((await cluster.status()).servers[0]!.state, 'down')
  await t.rejects(server.heartbeat(), { code: 'ENOENT' })
  await server.join()
  t.equal((await cluster.status()).servers[0]!.state, 'up')
})

t.test('allocation: racks, exclusion, full servers, and waiting for servers that may come', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, racks: ['a', 'a', 'b'] })
  const client = await beating(cluster)
  const allocate = (copies: number, serversExcluded: number[] = []) =>
    client.request({ $case: 'allocateChunk', value: { copies, serversExcluded } })
  for (let i = 0; i < 20; i++) {
    const { servers } = expect(await allocate(2), 'allocateChunk')
    t.equal(new Set(servers.map(({ rack }) => rack)).size, 2)
  }
  t.equal(codeOf(await allocate(0)), 'EINVAL')
  t.equal(codeOf(await allocate(17)), 'EINVAL')
  const two = expect(await allocate(3, [1]), 'allocateChunk')
  t.same(
    two.servers.map(({ serverId }) => serverId).toSorted((x, y) => x - y),
    [2, 3],
  )
  t.equal(codeOf(await allocate(3, [1, 2])), 'ENOSPC', 'the client asks again with fewer exclusions')
  for (const server of cluster.servers.slice(0, 2)) await server.stop()
  await cluster.clock.advance(7000)
  const one = allocate(3)
  let answered = false
  void one.then(() => {
    answered = true
  })
  await cluster.clock.advance(20_000)
  t.equal(answered, false)
  const late = await cluster.addServer({ rack: 'b' })
  await cluster.clock.advance(1000)
  t.same(
    expect(await one, 'allocateChunk')
      .servers.map(({ serverId }) => serverId)
      .toSorted((x, y) => x - y),
    [3, late.serverId],
  )
  for (const server of cluster.servers) server.freeBytes = 1000
  await cluster.clock.advance(2100)
  const full = allocate(3)
  await cluster.clock.advance(31_000)
  t.equal(codeOf(await full), 'ENOSPC', 'those that were away did not come back')
})

t.test('a repeated allocation gives the same chunk', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const op = { $case: 'allocateChunk' as const, value: { copies: 3, serversExcluded: [] } }
  const first = expect(await client.request(op, 9n), 'allocateChunk')
  t.same(expect(await client.request(op, 9n), 'allocateChunk'), first)
  t.equal((await cluster.status()).chunks!.open, 1n)
})

t.test('when a server goes down, sessions are asked to seal what they append there', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 8192)
  await cluster.servers[0]!.stop()
  await cluster.until('asked', () => client.pushes().some((push) => push.$case === 'sealChunk' && push.value === chunk))
  t.ok(client.pushes().some((push) => push.$case === 'servers' && push.value.servers.length === 2))
})

t.test('an open chunk that was placed while servers were missing is sealed and copied when one is there', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const asked = (chunk: bigint): number =>
    client.pushes().filter((push) => push.$case === 'sealChunk' && push.value === chunk).length
  await cluster.servers[0]!.stop()
  // Beyond the time in which a new chunk waits for servers that may come.
  await cluster.clock.advance(11_000)
  const { chunk, servers } = await writeFile(cluster, client, 'f', 8192)
  t.notOk(servers.includes(1))
  await cluster.clock.advance(60_000)
  t.equal(asked(chunk), 0, 'nobody could take a copy')
  await cluster.addServer()
  await cluster.until('asked', () => asked(chunk) === 1, 15)
  // The request may be lost with the connection.
  await cluster.until('asked again', () => asked(chunk) === 2, 25)
  await seal(client, chunk)
  await cluster.until('three copies', () => validReplicas(cluster, chunk) === 3)
  await cluster.clock.advance(2000)
  t.match((await cluster.status()).chunks, { open: 0n, underReplicated: 0n })
})

t.test('a writer that cannot reach a server is not asked to seal again and again', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const asks = (): number => client.pushes().filter((push) => push.$case === 'sealChunk').length
  const sealed = new Set<bigint>()
  const written: bigint[] = []
  const write = async (serversExcluded: number[]): Promise<void> => {
    written.push((await writeFile(cluster, client, `f${written.length}`, 8192, serversExcluded)).chunk)
  }
  await write([1])
  for (let second = 0; second < 600; second++) {
    await cluster.clock.advance(1000)
    const last = written.at(-1)!
    if (sealed.has(last) || !client.pushes().some((push) => push.$case === 'sealChunk' && push.value === last)) continue
    await seal(client, last)
    sealed.add(last)
    await write([1])
  }
  t.ok(asks() >= 3 && asks() <= 7, `${asks()} times in ten minutes`)
  // Once it reaches all of them, the next one is asked for as soon as the first one was.
  await seal(client, written.at(-1)!)
  await write([])
  await cluster.clock.advance(30_000)
  await seal(client, written.at(-1)!)
  const before = asks()
  await write([1])
  await cluster.until('asked', () => asks() > before, 15)
})

t.test(
  "a session's open chunks are sealed when it ends, by itself or by a crash of the master in between",
  async (t) => {
    const cluster = await masterCluster(t, { servers: 3 })
    const client = cluster.client()
    await client.welcome
    const { chunk } = await writeFile(cluster, client, 'f', 8192)
    const op = { $case: 'allocateChunk' as const, value: { copies: 3, serversExcluded: [] } }
    expect(await client.request(op), 'allocateChunk')
    await cluster.restart()
    for (const server of cluster.servers) await server.join()
    await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
    t.match((await cluster.status()).chunks, { open: 0n, total: 1n })
  },
)

t.test('locate gives valid replicas on servers that are up', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 8192)
  const located = async (): Promise<number[]> => {
    const reply = expect(await client.request({ $case: 'locate', value: { chunkIds: [chunk, 99n] } }), 'locate')
    t.equal(reply.locations.length, 1, 'an unknown chunk has no location')
    return reply.locations[0]!.servers.map(({ serverId }) => serverId).toSorted((x, y) => x - y)
  }
  t.same(await located(), [1, 2, 3])
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  cluster.servers[0]!.set(chunk, { corrupt: true })
  await cluster.servers[1]!.stop()
  await cluster.clock.advance(900)
  await cluster.servers[0]!.heartbeat([
    { chunkId: chunk, length: 8192, sealed: true, corrupt: true, deleted: false, more: false },
  ])
  await cluster.clock.advance(6000)
  const now = await located()
  t.ok(now.includes(3) && !now.includes(2))
})

t.test('seed 71461: a replica that is short is not told of while whole ones may be away', async (t) => {
  const cluster = await masterCluster(t, { servers: 3, config: { repairDelayMs: 60_000 } })
  const client = await beating(cluster)
  const { chunk } = await writeFile(cluster, client, 'f', 8192)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  const [short, ...whole] = cluster.servers
  const located = async (by: SessionClient): Promise<number[]> => {
    const reply = expect(await by.request({ $case: 'locate', value: { chunkIds: [chunk] } }), 'locate')
    return reply.locations[0]!.servers.map(({ serverId }) => serverId)
  }
  short!.set(chunk, { length: 4096, sealed: false })
  for (const server of whole) await server.stop()
  await cluster.restart()
  const after = await beating(cluster)
  await short!.join()
  await cluster.until('every session is known', async () => (await cluster.status()).sessions.length === 1, 15)
  t.same(await located(after), [], 'those that have it may yet come')
  await cluster.clock.advance(60_000)
  t.same(await located(after), [short!.serverId], 'what it has is there')
})

t.test('a chunk whose end was lost everywhere is kept as far as a server has it', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const { chunk, servers } = await writeFile(cluster, client, 'f', 16_384)
  const holders = cluster.servers.filter(({ serverId }) => servers.includes(serverId))
  // The power failed everywhere before the end was synced.
  for (const [index, server] of holders.entries()) server.set(chunk, { length: 4096 * (index + 1) })
  await cluster.restart()
  for (const server of holders) await server.join()
  await beating(cluster)
  await cluster.clock.advance(60_000)
  t.equal((await cluster.status()).chunks!.lost, 1n)
  t.notOk(
    cluster.servers.some(({ asked }) => asked.some((what) => what.startsWith('copy'))),
    'a server is away that may have more',
  )

  await cluster.servers.find(({ serverId }) => !servers.includes(serverId))!.join()
  const kept = (): number[] => cluster.servers.map(({ replicas }) => replicas.get(chunk)?.length ?? 0)
  await cluster.until('there are enough copies', () => kept().filter((length) => length === 12_288).length === 3, 60)
  await cluster.clock.advance(10_000)
  t.match((await cluster.status()).chunks, { lost: 0n, underReplicated: 0n, overReplicated: 0n })
  const longest = holders[2]!
  t.match(longest.replicas.get(chunk), { length: 12_288, sealed: true })

  // Somebody has found a disk that has all of it.
  const found = cluster.servers.find(({ serverId }) => serverId !== longest.serverId)!
  found.set(chunk, { length: 16_384, sealed: false })
  await found.heartbeat([
    { chunkId: chunk, length: 16_384, sealed: false, corrupt: false, deleted: false, more: false },
  ])
  await cluster.until('all of it is copied', () => kept().filter((length) => length === 16_384).length === 3, 60)
})

for (const [what, replica] of [
  ['a corrupt replica has more of it', { corrupt: true }],
  ['a replica has good blocks behind a bad one', { length: 4096, more: true }],
] as const) {
  t.test(`a chunk is not cut while ${what}`, async (t) => {
    const cluster = await masterCluster(t, { servers: 3 })
    const client = await beating(cluster)
    const { chunk } = await writeFile(cluster, client, 'f', 16_384)
    const [other, ...short] = cluster.servers
    other!.set(chunk, replica)
    for (const server of short) server.set(chunk, { length: 8192 })
    await cluster.restart()
    for (const server of cluster.servers) await server.join()
    await beating(cluster)
    await cluster.clock.advance(120_000)
    t.same(
      cluster.servers.map(({ replicas }) => replicas.get(chunk)?.length),
      [other!.replicas.get(chunk)!.length, 8192, 8192],
    )
    t.equal((await cluster.status()).chunks!.lost, 1n)
  })
}

t.test('freed ranges are punched in each replica, and a dead chunk is deleted, across a restart too', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { ino, chunk } = await writeFile(cluster, client, 'f', 40_960)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  const punch = { ino, mode: 3, offset: 4096n, length: 8192n }
  expect(await client.request({ $case: 'fallocate', value: punch }), 'attributesAndLease')
  await cluster.until('punched', () => cluster.servers.every(({ asked }) => asked.includes(`punch ${chunk} 4096+8192`)))
  await cluster.clock.advance(2000)
  t.equal((await cluster.status()).punchesPending, 0n)
  expect(
    await client.request({ $case: 'fallocate', value: { ...punch, offset: 0n, length: 40_960n } }),
    'attributesAndLease',
  )
  await cluster.restart()
  for (const server of cluster.servers) await server.join()
  await cluster.until('deleted', () => cluster.servers.every(({ replicas }) => !replicas.has(chunk)))
  const status = await cluster.status()
  t.equal(status.chunks!.total, 0n)
  t.equal(status.liveBytes, 0n)
  t.equal(status.punchesPending, 0n)
})

t.test('a copy that is made in place of a bad replica during the punches is punched, too', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { ino, chunk } = await writeFile(cluster, client, 'f', 40_960)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  await cluster.clock.advance(2000)
  const [bad, slow] = cluster.servers
  let copied = 0
  slow!.punched = async () => {
    if (copied++ > 0) return
    // It is found during the punches.
    bad!.set(chunk, { corrupt: true })
    await cluster.clock.sleep(5000)
  }
  const punch = { ino, mode: 3, offset: 4096n, length: 8192n }
  expect(await client.request({ $case: 'fallocate', value: punch }), 'attributesAndLease')
  await cluster.until('punched', () => copied > 0)
  await cluster.until('settled', async () => (await cluster.status()).punchesPending === 0n)
  t.match(bad!.replicas.get(chunk), { corrupt: false, punched: [{ offset: 4096, length: 8192 }] })
})

t.test('seed 301059: what is free in many chunks at once does not wait for a tick of the clock each', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const files: { ino: bigint; chunk: bigint }[] = []
  for (let i = 0; i < 60; i++) {
    const file = await writeFile(cluster, client, `f${i}`, 40_960)
    await seal(client, file.chunk)
    files.push(file)
  }
  await cluster.until('sealed', () => files.every(({ chunk }) => validReplicas(cluster, chunk) === 3))
  for (const { ino } of files) {
    const punch = { ino, mode: 3, offset: 0n, length: 40_960n }
    expect(await client.request({ $case: 'fallocate', value: punch }), 'attributesAndLease')
  }
  const sinceMs = cluster.clock.nowMs()
  await cluster.until('deleted', () => cluster.servers.every(({ replicas }) => replicas.size === 0))
  const ms = cluster.clock.nowMs() - sinceMs
  t.ok(ms < 3000, `${ms} ms`)
  t.equal((await cluster.status()).chunks!.total, 0n)
})

t.test('when a server is lost its many small chunks do not wait for a tick of the clock each', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const chunks: bigint[] = []
  for (let i = 0; i < 60; i++) {
    const { chunk } = await writeFile(cluster, client, `f${i}`, 4096)
    await seal(client, chunk)
    chunks.push(chunk)
  }
  await cluster.until('sealed', () => chunks.every((chunk) => validReplicas(cluster, chunk) === 3))
  await cluster.servers[0]!.stop()
  cluster.servers[0]!.replicas.clear()
  const copied = (): bigint[] => chunks.filter((chunk) => validReplicas(cluster, chunk) === 3)
  const before = copied().length
  await cluster.until('the first copy', () => copied().length > before)
  const sinceMs = cluster.clock.nowMs()
  await cluster.until('copied', () => copied().length === chunks.length)
  const ms = cluster.clock.nowMs() - sinceMs
  t.ok(ms < 3000, `${ms} ms`)
})

t.test('a server that was away for longer than the delay punches, too, what was freed meanwhile', async (t) => {
  for (const restarts of [false, true]) {
    const cluster = await masterCluster(t, { servers: 3 })
    const [away, ...others] = cluster.servers
    const client = await beating(cluster)
    const { ino, chunk } = await writeFile(cluster, client, 'f', 40_960)
    await seal(client, chunk)
    await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
    await cluster.clock.advance(2000)
    await away!.stop()
    await cluster.until('down', async () => (await cluster.status()).servers.some(({ state }) => state === 'down'))
    await cluster.clock.advance(11_000)
    const punches = ({ asked }: ReplicaServer): string[] => asked.filter((what) => what.startsWith('punch'))
    const free = async (offset: bigint): Promise<void> => {
      const punch = { ino, mode: 3, offset, length: 4096n }
      expect(await client.request({ $case: 'fallocate', value: punch }), 'attributesAndLease')
    }
    await free(4096n)
    await free(8192n)
    const punched = `punch ${chunk} 4096+4096 8192+4096`
    await cluster.until('punched', () => others.every(({ asked }) => asked.includes(punched)))
    await cluster.clock.advance(60_000)
    for (const server of others) t.same(punches(server), [punched], 'once')
    t.equal((await cluster.status()).punchesPending, 0n, 'nothing can be done')
    await free(16_384n)
    const more = `punch ${chunk} 4096+8192 16384+4096`
    await cluster.until('more punched', () => others.every(({ asked }) => asked.includes(more)))
    if (restarts) {
      await cluster.restart()
      for (const server of others) await server.join()
      await cluster.until('punched again', () => others.every((server) => punches(server).length === 3))
    }
    t.same(punches(away!), [])
    await away!.start()
    await cluster.until('punched there', () => punches(away!).includes(more))
    await cluster.clock.advance(2000)
    t.equal((await cluster.status()).punchesPending, 0n)
    const before = cluster.servers.flatMap(punches).length
    await cluster.restart()
    for (const server of cluster.servers) await server.join()
    await cluster.clock.advance(30_000)
    t.equal(cluster.servers.flatMap(punches).length, before, 'nothing is left of it')
  }
})

t.test('what waits to be punched on a server that is removed is forgotten', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const { ino, chunk, servers } = await writeFile(cluster, client, 'f', 40_960)
  await seal(client, chunk)
  await cluster.until('sealed', () => validReplicas(cluster, chunk) === 3)
  await cluster.clock.advance(2000)
  const away = cluster.servers.find(({ serverId }) => serverId === servers[0])!
  await away.stop()
  await cluster.until('copied', () => cluster.servers.every(({ replicas }) => replicas.has(chunk)))
  const punch = { ino, mode: 3, offset: 4096n, length: 4096n }
  expect(await client.request({ $case: 'fallocate', value: punch }), 'attributesAndLease')
  const punches = (): number =>
    cluster.servers.flatMap(({ asked }) => asked.filter((what) => what.startsWith('punch'))).length
  await cluster.until('punched', () => punches() === 3)
  await cluster.admin('removeServer', { serverId: away.serverId, force: false, loseData: false })
  await cluster.until('settled', () => punches() === 6)
  await cluster.clock.advance(2000)
  await cluster.restart()
  for (const server of cluster.servers) if (server !== away) await server.join()
  await cluster.clock.advance(30_000)
  t.equal(punches(), 6)
})

t.test('the answer of a check that is late does not make an open chunk shorter', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { ino, chunk } = await writeFile(cluster, client, 'f', 4096)
  await cluster.clock.advance(1100)
  let answer!: () => void
  const released = new Promise<void>((resolve) => (answer = resolve))
  for (const server of cluster.servers) server.verified = () => released
  const problem = ReportReplicaRequest_Problem.PROBLEM_MISSING
  const servers = cluster.servers.map(({ serverId }) => serverId)
  for (const serverId of servers) {
    await client.request({ $case: 'reportReplica', value: { chunkId: chunk, serverId, problem } })
  }
  for (const server of cluster.servers) server.set(chunk, { length: 8192 })
  const committed = await client.request({
    $case: 'commit',
    value: {
      ino,
      segments: [{ index: 0n, extents: [{ offset: 4096, length: 4096, chunkId: chunk, chunkOffset: 4096 }] }],
      size: 8192n,
      mtime: undefined,
      ctime: undefined,
      appended: [{ chunkId: chunk, length: 8192, serverIds: servers }],
      killPrivileges: false,
      inlineData: undefined,
    },
  })
  expect(committed, 'attributesAndLease')
  answer()
  await new Promise((resolve) => setTimeout(resolve, 50))
  const { locations } = expect(await client.request({ $case: 'locate', value: { chunkIds: [chunk] } }), 'locate')
  t.equal(locations[0]!.servers.length, 3)
})
