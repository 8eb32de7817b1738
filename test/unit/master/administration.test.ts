import t from 'tap'
import { ScrubRequest_Action } from '../../../src/protocol/gen/shoal/v1/admin.pb.ts'
import { LeaseMode } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { StoreCheck } from '../../../src/master/fsck.ts'
import { chunks as chunkTable, inodes } from '../../../src/master/keys.ts'
import { asChunkId, asIno } from '../../../src/domain/ids.ts'
import type { MasterCluster } from '../../lib/master-cluster.ts'
import { acquire, expect, masterCluster, writeFile } from '../../lib/master-cluster.ts'
import type { SessionClient } from '../../lib/session-client.ts'

const mebibyte = 1024 * 1024

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

const sealed = async (cluster: MasterCluster, client: SessionClient, name: string, length: number) => {
  const file = await writeFile(cluster, client, name, length)
  expect(await client.request({ $case: 'sealChunk', value: { chunkId: file.chunk, serversFailed: [] } }), 'empty')
  return file
}

const holdersOf = (cluster: MasterCluster, chunk: bigint): number[] =>
  cluster.servers.filter(({ replicas }) => replicas.get(chunk)?.corrupt === false).map(({ serverId }) => serverId)

t.test('servers are filled evenly, and no chunk is ever short of a copy on the way', async (t) => {
  const cluster = await masterCluster(t, { servers: 0 })
  for (let i = 0; i < 3; i++) await cluster.addServer({ capacityBytes: 256 * mebibyte })
  const client = await beating(cluster)
  const chunks: bigint[] = []
  for (let i = 0; i < 12; i++) chunks.push((await sealed(cluster, client, `f${i}`, 16 * mebibyte)).chunk)
  // What the servers have is what their replicas take.
  const settle = (): void => {
    for (const server of cluster.servers) {
      const used = [...server.replicas.values()].reduce((sum, { length }) => sum + length, 0)
      server.freeBytes = 256 * mebibyte - used
    }
  }
  settle()
  await cluster.until('sealed', () =>
    cluster.servers.every((server) => [...server.replicas.values()].every((r) => r.sealed)),
  )
  await cluster.addServer({ capacityBytes: 256 * mebibyte })
  let fewest = 3
  await cluster.until(
    'even',
    async () => {
      settle()
      for (const chunk of chunks) fewest = Math.min(fewest, holdersOf(cluster, chunk).length)
      const { rebalance } = await cluster.status()
      return rebalance!.state === 'even' && rebalance!.movesDone > 0n
    },
    300,
  )
  t.equal(fewest, 3)
  for (const chunk of chunks) t.equal(holdersOf(cluster, chunk).length, 3)
  const fills = cluster.servers.map(({ replicas }) => replicas.size / 16)
  const mean = fills.reduce((a, b) => a + b) / fills.length
  for (const fill of fills) t.ok(Math.abs(fill - mean) <= 0.05, `${fill} is within 5 % of ${mean}`)
})

t.test('a drained server gives its replicas away and gets none; who it is survives a restart', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const client = await beating(cluster)
  const { chunk, servers } = await sealed(cluster, client, 'f', 8192)
  const serverId = servers[0]!
  await cluster.admin('setServer', { serverId, label: 'old', rack: 'z' })
  await cluster.admin('drainServer', { serverId, cancel: false })
  await t.rejects(
    cluster.admin('drainServer', { serverId: servers[1]!, cancel: false }),
    /3 copies need 3 other servers .* there are 2; add 1/,
  )
  await cluster.until('drained', async () => {
    const found = (await cluster.status()).servers.find((server) => server.serverId === serverId)
    return found?.drain?.done === true
  })
  t.notOk(holdersOf(cluster, chunk).includes(serverId))
  t.equal(holdersOf(cluster, chunk).length, 3)
  for (let i = 0; i < 5; i++) t.notOk((await writeFile(cluster, client, `g${i}`, 4096)).servers.includes(serverId))
  await cluster.restart()
  const server = (await cluster.status()).servers.find((candidate) => candidate.serverId === serverId)
  t.match(server, { label: 'old', rack: 'z' })
  t.ok(server?.drain)
  await t.rejects(cluster.admin('removeServer', { serverId, force: false, loseData: false }), /has just started/)
})

t.test('a server is not removed while it has the only copy', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await sealed(cluster, client, 'f', 8192)
  await cluster.clock.advance(2000)
  const [only, ...others] = cluster.servers
  await only!.stop()
  await cluster.until('down', async () => (await cluster.status()).servers.some(({ state }) => state === 'down'))
  await cluster.clock.advance(10_000)
  for (const server of others) {
    server.replicas.delete(chunk)
    await server.heartbeat([{ chunkId: chunk, length: 0, sealed: false, corrupt: false, deleted: true, more: false }])
  }
  const serverId = only!.serverId
  const remove = (force: boolean, loseData: boolean) => cluster.admin('removeServer', { serverId, force, loseData })
  await t.rejects(remove(false, false), /would lose a copy: 1 chunk .*--force/)
  await t.rejects(remove(true, false), /would lose data: of 1 chunk no other copy/)
  t.match(await remove(true, true), { chunksShort: 1n, chunksLost: 1n })
  t.equal((await cluster.status()).servers.length, 2)
  await t.rejects(remove(true, true), /There is no server/)
})

t.test('a server that is removed while it registers from another address is refused', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const { serverId } = cluster.servers[0]!
  await cluster.admin('drainServer', { serverId, cancel: false })
  const moved = cluster.servers[0]!.join({
    address: { serverId: 0, address: 'x:1', bulkAddress: '', rack: '', host: '' },
  })
  const refused = t.rejects(moved, { code: 'EPERM', message: /was removed from the cluster/ })
  await cluster.servers[0]!.stop()
  await cluster.clock.advance(1000)
  await cluster.admin('removeServer', { serverId, force: false, loseData: false })
  await cluster.clock.advance(2000)
  await refused
})

t.test('a server that is removed while its address is in doubt does not come back with its number', async (t) => {
  const cluster = await masterCluster(t, { servers: 4 })
  const [first, second] = cluster.servers
  const { serverId } = first!
  await cluster.admin('drainServer', { serverId, cancel: false })
  await first!.stop()
  await second!.stop()
  const moved = first!.join({
    address: { serverId: 0, address: second!.address, bulkAddress: '', rack: '', host: '' },
  })
  const refused = t.rejects(moved, { code: 'EPERM', message: /was removed from the cluster/ })
  await cluster.clock.advance(1000)
  await cluster.admin('removeServer', { serverId, force: false, loseData: false })
  await cluster.clock.advance(2000)
  await refused
  await cluster.restart()
  t.notOk((await cluster.status()).servers.some((server) => server.serverId === serverId))
})

t.test('a server that went away in the middle of its report may hold the only copy of anything', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await sealed(cluster, client, 'f', 8192)
  await cluster.clock.advance(2000)
  const [only, ...others] = cluster.servers
  for (const server of cluster.servers) await server.stop()
  for (const server of others) server.replicas.delete(chunk)
  await cluster.restart()
  for (const server of others) await server.start()
  only!.registered = async () => {
    throw new Error('it lost its power')
  }
  await t.rejects(only!.start(), /it lost its power/)
  await only!.stop()
  await cluster.clock.advance(30_000)
  const { serverId } = only!
  const remove = (force: boolean, loseData: boolean) => cluster.admin('removeServer', { serverId, force, loseData })
  await t.rejects(remove(false, false), /would lose a copy: 1 chunk .*--force/)
  await t.rejects(remove(true, false), /would lose data: of 1 chunk no other copy/)
})

t.test(
  'the number of copies below a directory: chunks follow, also across a restart; the most demanding file counts',
  async (t) => {
    const cluster = await masterCluster(t, { servers: 4 })
    const client = await beating(cluster)
    const first = await sealed(cluster, client, 'first', 8192)
    // It holds no lease any more, which it would have to be asked for.
    expect(await client.request({ $case: 'endSession', value: {} }), 'empty')
    t.match(await cluster.admin('getCopies', { path: '/first' }), { copies: 3, isDefault: true, directory: false })
    await t.rejects(
      cluster.admin('setCopies', { path: '/first', copies: 5 }),
      /5 copies need 5 chunk servers .* there are 4/,
    )
    await t.rejects(cluster.admin('setCopies', { path: '/none', copies: 2 }), /There is no \/none/)
    await cluster.admin('setCopies', { path: '/', copies: 4 })
    await cluster.until('four copies', () => holdersOf(cluster, first.chunk).length === 4)
    t.match(await cluster.admin('getCopies', { path: '/' }), { copies: 4, directory: true })
    await cluster.until('done', async () => (await cluster.status()).copiesJobs.length === 0)
    await cluster.admin('setCopies', { path: '/first', copies: 2 })
    await cluster.restart()
    for (const server of cluster.servers) await server.join()
    await cluster.until('two copies', () => holdersOf(cluster, first.chunk).length === 2, 120)
    const record = await cluster.kv.get(Buffer.from(chunkTable.encodeKey(asChunkId(first.chunk)), 'latin1'))
    t.equal(chunkTable.decode(record!).copies, 2)
    const inode = await cluster.kv.get(Buffer.from(inodes.encodeKey(asIno(first.ino)), 'latin1'))
    t.equal(inodes.decode(inode!).copies, 2)
  },
)

t.test('a number of copies that is set while sessions may still come back is set when they are', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { sessionId, sessionSecret } = await client.welcome
  const { ino } = await sealed(cluster, client, 'f', 8192)
  const { lease } = expect(await acquire(client, ino, 'write'), 'attributesAndLease')
  await cluster.restart()
  for (const server of cluster.servers) await server.join()
  await cluster.admin('setCopies', { path: '/f', copies: 2 })
  await cluster.clock.advance(2000)
  const back = cluster.client({ sessionId, sessionSecret, leases: [lease!], openFiles: [{ ino }] }, 100n)
  await back.welcome
  await cluster.until('recalled', () => back.recalls().some((recall) => recall.ino === ino), 5)
  back.send({ leaseReturns: [{ ino, mode: LeaseMode.LEASE_MODE_NONE, grant: lease!.grant }] })
  await cluster.until('done', async () => (await cluster.status()).copiesJobs.length === 0, 5)
  t.match(await cluster.admin('getCopies', { path: '/f' }), { copies: 2 })
})

t.test('a snapshot is the whole store, and serves one repair', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  for (let i = 0; i < 20; i++) await sealed(cluster, client, `f${i}`, 8192)
  const { snapshotId } = await cluster.admin('openSnapshot', {})
  await sealed(cluster, client, 'later', 8192)
  const check = new StoreCheck()
  for (let last = false; !last;) {
    const page = await cluster.admin('readSnapshot', { snapshotId })
    for (const { key, value } of page.records) check.add(Buffer.from(key), Buffer.from(value))
    last = page.last
  }
  t.same(check.finish(), [])
  t.match(check.totals, { inodes: 21, names: 20, chunks: 20 })
  await t.rejects(cluster.admin('readSnapshot', { snapshotId }), /is closed/)
  const fix = { fix: { $case: 'counter' as const, value: { name: 'inodes', delta: 3n } } }
  t.same((await cluster.admin('repair', { snapshotId, fixes: [fix] })).refused, [''])
  t.equal((await cluster.status()).inodes, 25n)
  await t.rejects(cluster.admin('repair', { snapshotId, fixes: [fix] }), /run it again/)
  t.equal((await cluster.status()).inodes, 25n)
})

t.test('a snapshot of a former run of the master serves no repair', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  await sealed(cluster, client, 'f', 8192)
  const { snapshotId } = await cluster.admin('openSnapshot', {})
  await cluster.clock.advance(2000)
  await cluster.restart()
  await cluster.admin('openSnapshot', {})
  const fix = { fix: { $case: 'counter' as const, value: { name: 'inodes', delta: 3n } } }
  await t.rejects(cluster.admin('repair', { snapshotId, fixes: [fix] }), /run it again/)
})

t.test('a scrub asks each server for each replica, and tells what it found', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const client = await beating(cluster)
  const { chunk } = await sealed(cluster, client, 'f', 8192)
  await cluster.clock.advance(2000)
  cluster.servers[0]!.set(chunk, { corrupt: true })
  await cluster.admin('scrub', { action: ScrubRequest_Action.ACTION_START, serverId: 0 })
  await cluster.until('scrubbed', async () => (await cluster.status()).scrub?.running === false)
  t.match((await cluster.status()).scrub, { replicasTotal: 3n, replicasDone: 3n, corrupt: 1n, unread: 0n })
  await t.rejects(
    cluster.admin('scrub', { action: ScrubRequest_Action.ACTION_START, serverId: 9 }),
    /There is no server 9/,
  )
})
