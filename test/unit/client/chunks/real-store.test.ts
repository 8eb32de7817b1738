/** The client's data path against the real chunk store, over real sockets and on a real disk: that both read the contract alike. */
import { Activity } from '../../../../src/domain/activity.ts'
import t, { type Test } from 'tap'
import { randomBytes } from 'node:crypto'
import { ChunkConnections } from '../../../../src/client/chunks/connections.ts'
import { ChunkReader } from '../../../../src/client/chunks/reader.ts'
import { ChunkWriter } from '../../../../src/client/chunks/writer.ts'
import { appendService } from '../../../../src/chunkserver/append-service.ts'
import { readService } from '../../../../src/chunkserver/read-service.ts'
import { ChunkStore } from '../../../../src/chunkserver/store.ts'
import { asChunkId } from '../../../../src/domain/ids.ts'
import { blockBytes, transferBytesMax } from '../../../../src/domain/limits.ts'
import { realClock } from '../../../../src/platform/clock.ts'
import { framedTransport } from '../../../../src/platform/framed-transport.ts'
import { grpcTransport } from '../../../../src/platform/grpc-transport.ts'
import { silentLog } from '../../../../src/platform/log.ts'
import { RequestLog } from '../../../../src/platform/request-log.ts'
import { realDisk } from '../../../../src/platform/real-disk.ts'
import { realRandom } from '../../../../src/platform/random.ts'
import type { ChunkMaster, ServerAddress } from '../../../../src/client/chunks/ports.ts'
import type { Listener, Services } from '../../../../src/platform/transport.ts'

interface RealServer {
  address: ServerAddress
  store: ChunkStore
  listeners: Listener[]
}

const environment = async (
  t: Test,
  options: { lane: 'bulk' | 'rpc' },
): Promise<{ servers: RealServer[]; writer: ChunkWriter; reader: ChunkReader }> => {
  const directory = t.testdir()
  const rpc = grpcTransport()
  const bulk = framedTransport()
  const servers: RealServer[] = []
  for (const serverId of [1, 2, 3]) {
    const store = await ChunkStore.open({
      directory: `${directory}/${serverId}`,
      disk: realDisk,
      clock: realClock,
      random: realRandom,
      log: silentLog,
    })
    await store.adopt({ clusterId: 'test', serverId })
    const load = { count: 0, activity: new Activity(), clock: realClock }
    const forClients = { store, load, log: silentLog, requestLog: new RequestLog(silentLog, realClock) }
    const stream: Services['stream'] = new Map([appendService(forClients), readService(forClients)])
    const services = { unary: new Map(), stream }
    const listeners = [await rpc.listen('127.0.0.1:0', services), await bulk.listen('127.0.0.1:0', services)]
    const [first, second] = listeners.map(({ address }) => address)
    const bulkAddress = options.lane === 'bulk' ? second! : ''
    servers.push({ store, listeners, address: { serverId, address: first!, bulkAddress, rack: '', host: '' } })
  }
  let chunks = 0n
  const addresses = servers.map(({ address }) => address)
  const master: ChunkMaster = {
    allocateChunk: async (_copies, excluded) => ({
      chunkId: asChunkId(++chunks),
      servers: addresses.filter(({ serverId }) => !(excluded as readonly number[]).includes(serverId)),
    }),
    sealChunk: async () => {},
    locate: async (chunkIds) => new Map(chunkIds.map((chunkId) => [chunkId, addresses])),
    reportReplica: () => {},
  }
  const connections = new ChunkConnections({ rpc, bulk, clock: realClock, log: silentLog })
  const common = { connections, master, clock: realClock, log: silentLog }
  const writer = new ChunkWriter({ ...common, copiesMin: () => 2 })
  const reader = new ChunkReader({ ...common, place: { host: '', rack: '' } })
  t.teardown(async () => {
    await writer.close()
    connections.close()
    await rpc.close()
    await bulk.close()
    for (const { listeners, store } of servers) {
      for (const listener of listeners) await listener.close()
      await store.close()
    }
  })
  return { servers, writer, reader }
}

for (const lane of ['bulk', 'rpc'] as const) {
  t.test(`what was appended can be read from each replica (${lane})`, async (t) => {
    const { writer, reader, servers } = await environment(t, { lane })
    const pieces = [1, 4096, 5000, 300_000, 2 * transferBytesMax + 77, 3 * transferBytesMax].map((n) => randomBytes(n))
    const both = await Promise.all([
      writer.append(pieces, { copies: 3, sync: true }),
      writer.append(pieces.toReversed(), { copies: 3, sync: false }),
    ])
    for (const [call, appended] of both.entries()) {
      for (const { address } of servers) {
        for (const { piece, pieceOffset, length, chunkId, chunkOffset } of appended.placed) {
          const expected = (call === 0 ? pieces : pieces.toReversed())[piece]!.subarray(
            pieceOffset,
            pieceOffset + length,
          )
          t.ok((await reader.read({ chunkId, chunkOffset, length, servers: [address] })).equals(expected))
        }
      }
    }
    await writer.sync(both[1].locations.keys())
  })
}

t.test('a server that goes away in the middle, and a sync of what it took', async (t) => {
  const { writer, reader, servers } = await environment(t, { lane: 'bulk' })
  const piece = randomBytes(16 * transferBytesMax)
  const appending = writer.append([piece], { copies: 3, sync: true })
  await realClock.sleep(20)
  for (const listener of servers[0]!.listeners) await listener.close()
  const appended = await appending
  const parts: Buffer[] = []
  for (const { chunkId, chunkOffset, length } of appended.placed) {
    const away = servers[0]!.address
    const others = [servers[1]!.address, servers[2]!.address]
    parts.push(await reader.read({ chunkId, chunkOffset, length, servers: [away, ...others] }))
  }
  t.ok(Buffer.concat(parts).equals(piece))
  await writer.sync(appended.locations.keys())
})

t.test('sync of a chunk that was sealed, also shorter than what was appended', async (t) => {
  const { writer, servers } = await environment(t, { lane: 'bulk' })
  const appended = await writer.append([randomBytes(3 * blockBytes)], { copies: 3, sync: false })
  const [chunkId] = [...appended.locations.keys()]
  await servers[0]!.store.seal(chunkId!, 3 * blockBytes)
  await servers[1]!.store.seal(chunkId!, blockBytes)
  await servers[2]!.store.seal(chunkId!, blockBytes)
  await writer.sync([chunkId!])
  const next = await writer.append([randomBytes(10)], { copies: 3, sync: true })
  t.not(next.placed[0]!.chunkId, chunkId, 'a sealed chunk takes no more, and that is nobody’s failure')
  t.equal(next.results[0]!.serverIds.length, 3)
})
