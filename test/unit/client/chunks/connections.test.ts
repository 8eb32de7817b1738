import t from 'tap'
import { UnavailableError } from '../../../../src/domain/errors.ts'
import { asChunkId } from '../../../../src/domain/ids.ts'
import { transferBytesMax } from '../../../../src/domain/limits.ts'
import { dataPath } from '../../../lib/data-path.ts'

const once = { copies: 3, sync: false }
const whole = (servers: { address: object }[]): never[] => servers.map(({ address }) => address) as never[]

t.test('one append stream and one read stream per server, on the bulk lane', async (t) => {
  const { writer, reader, servers, network, settle } = await dataPath()
  await settle(Promise.all([1, 2, 3, 4].map(() => writer.append([Buffer.alloc(100_000)], once))))
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: whole(servers.slice(0, 1)) }
  await settle(Promise.all([reader.read(read), reader.read(read)]))
  t.same(
    servers.map(({ accepted }) => accepted),
    [
      { rpc: 0, bulk: 2 },
      { rpc: 0, bulk: 1 },
      { rpc: 0, bulk: 1 },
    ],
  )
  t.equal(network.streamsOpen(), 4)
})

t.test('without a bulk lane, and when it does not connect, gRPC carries everything', async (t) => {
  const { writer, reader, servers, settle, stored, master, clock } = await dataPath()
  await servers[0]!.stopBulk()
  servers[1]!.address.bulkAddress = ''
  const piece = Buffer.alloc(3 * transferBytesMax + 5, 3)
  const appended = await settle(writer.append([piece], once), 500)
  t.same(appended.results[0]!.serverIds, [1, 2, 3])
  t.equal(master.allocations.length, 1)
  for (const server of servers) t.ok(stored(server, appended, 0).equals(piece))
  t.same(
    servers.map(({ accepted }) => accepted),
    [
      { rpc: 1, bulk: 0 },
      { rpc: 1, bulk: 0 },
      { rpc: 0, bulk: 1 },
    ],
  )
  const read = { chunkId: asChunkId(1n), chunkOffset: 0, length: 10, servers: whole(servers.slice(0, 1)) }
  const startedMs = clock.nowMs()
  await settle(reader.read(read))
  t.equal(clock.nowMs(), startedMs, 'no waiting for the lane')
})

t.test('idle streams are closed, and opened again when they are needed', async (t) => {
  const { writer, network, settle, clock } = await dataPath()
  writer.committed(await settle(writer.append([Buffer.alloc(1)], once)))
  t.equal(network.streamsOpen(), 3)
  await clock.advance(62_000)
  t.equal(network.streamsOpen(), 0)
  t.equal((await settle(writer.append([Buffer.alloc(1)], once))).results[0]!.serverIds.length, 3)
})

t.test('a stream that breaks fails what waits on it at once', async (t) => {
  const { connections, servers, network, settle, clock } = await dataPath()
  const [server] = servers
  server!.onRead = () => 'never'
  const outcome = new Promise((resolve) => {
    connections.read(server!.address, { chunkId: 1n, offset: 0, length: 4096 }, resolve)
  })
  await clock.advance(100)
  t.match(connections.readLoad(server!.address), { outstanding: 1, silentMs: 100 })
  network.drop(server!.address.bulkAddress)
  network.drop(server!.address.address)
  // The bulk lane had never answered, so gRPC was tried as well; it says nothing either.
  await clock.advance(10)
  network.drop(server!.address.address)
  t.ok((await settle(outcome, 100)) instanceof UnavailableError)
  t.match(connections.readLoad(server!.address), { outstanding: 0, silentMs: 0 })
})

t.test('silence for too long fails what waits', async (t) => {
  const { connections, servers, settle, clock } = await dataPath()
  servers[0]!.onRead = () => 'never'
  const outcome = new Promise((resolve) => {
    connections.read(servers[0]!.address, { chunkId: 1n, offset: 0, length: 4096 }, resolve)
  })
  t.ok((await settle(outcome)) instanceof UnavailableError)
  t.ok(clock.nowMs() >= 10_000 && clock.nowMs() < 11_000)
})

t.test('close settles everything, and nothing can be sent afterwards', async (t) => {
  const { connections, servers, network, settle, clock } = await dataPath()
  servers[0]!.onRead = () => 'never'
  const ask = (): Promise<unknown> =>
    new Promise((resolve) => {
      connections.read(servers[0]!.address, { chunkId: 1n, offset: 0, length: 4096 }, resolve)
    })
  const before = ask()
  await clock.advance(0)
  connections.close()
  t.ok((await settle(before)) instanceof UnavailableError)
  t.ok((await settle(ask())) instanceof UnavailableError)
  await clock.advance(10)
  t.equal(network.streamsOpen(), 0)
})

t.test('a malformed reply breaks the stream, not the client', async (t) => {
  const { connections, network, settle } = await dataPath()
  const host = '10.0.0.77'
  await network.transport(host).listen(`${host}:1`, {
    unary: new Map(),
    stream: new Map([
      [
        '/shoal.v1.ChunkStore/Read',
        (stream) => ({
          message: () => {
            stream.send(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff]))
          },
          closed: () => {},
        }),
      ],
    ]),
  })
  const server = { serverId: 77, address: `${host}:1`, bulkAddress: '', rack: '', host }
  const outcome = new Promise((resolve) => {
    connections.read(server, { chunkId: 1n, offset: 0, length: 4096 }, resolve)
  })
  t.match(await settle(outcome, 1000), /malformed/)
})
