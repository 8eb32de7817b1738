/** A whole chunk server on real transports, with a master that the test plays. */
import { connect } from 'node:net'
import { open, readFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { firstCorruptBlock } from '../../../src/platform/block-checksums.ts'
import { PosixError } from '../../../src/domain/errors.ts'
import { startChunkServer } from '../../../src/chunkserver/chunk-server.ts'
import { dataStart } from '../../../src/chunkserver/format.ts'
import type { Running } from '../../../src/main/running.ts'
import { realClock } from '../../../src/platform/clock.ts'
import { framedTransport } from '../../../src/platform/framed-transport.ts'
import { grpcTransport } from '../../../src/platform/grpc-transport.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { realRandom } from '../../../src/platform/random.ts'
import { realDisk } from '../../../src/platform/real-disk.ts'
import type { Transport } from '../../../src/platform/transport.ts'
import { ChunkStoreDefinition } from '../../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { ServerAddress } from '../../../src/protocol/gen/shoal/v1/types.pb.ts'
import { callUnary, methodPath } from '../../../src/protocol/rpc.ts'
import { client, startMaster, until, type FakeMaster } from '../../lib/chunk-server-peers.ts'
import { blocks, padded, pattern } from '../../lib/chunk-store.ts'

const transports = (t: Test): { rpc: Transport; bulk: Transport } => {
  const rpc = grpcTransport({ log: silentLog })
  const bulk = framedTransport()
  t.teardown(async () => {
    await bulk.close()
    await rpc.close()
  })
  return { rpc, bulk }
}

const startServer = async (
  t: Test,
  { rpc, bulk }: { rpc: Transport; bulk: Transport },
  options: { directory: string; master: string },
): Promise<Running> => {
  const running = await startChunkServer({
    dataDirectory: options.directory,
    masterAddress: options.master,
    listenAddress: '127.0.0.1:0',
    rack: 'r1',
    host: 'here',
    clock: realClock,
    random: realRandom,
    disk: realDisk,
    rpc,
    bulk,
    log: silentLog,
  })
  t.teardown(() => running.close())
  return running
}

const asSource = (master: FakeMaster, index: number): ServerAddress => master.registrations[index]!.address!

const { methods } = ChunkStoreDefinition
const callOptions = { deadlineMs: 10_000 }

t.test('serves both lanes, registers, reports what changes', async (t) => {
  const lanes = transports(t)
  const master = await startMaster(t, lanes.rpc)
  const server = await startServer(t, lanes, { directory: t.testdir(), master: master.address })
  const [registration] = master.registrations
  t.match(registration, { protocolVersion: 1, clusterId: '', serverId: 0, chunkIdMax: 0n })
  t.equal(registration?.address?.address, server.address)
  t.match(registration?.address, { rack: 'r1', host: 'here' })
  t.ok(registration!.capacityBytes > 0n)
  const bulkAddress = registration!.address!.bulkAddress

  const whole = Buffer.concat([pattern(1, 1024 * 1024), padded(pattern(2, 10_000))])
  const viaBulk = client(t, lanes.bulk, bulkAddress)
  const viaRpc = client(t, lanes.rpc, server.address)
  t.same(await viaBulk.append({ chunkId: 5n, offset: 0, data: whole.subarray(0, 1024 * 1024) }), {
    requestId: 1,
    failure: undefined,
    length: 1024 * 1024,
  })
  const reply = await viaRpc.append({ chunkId: 5n, offset: 1024 * 1024, data: pattern(2, 10_000), sync: true })
  t.equal(reply.length, whole.length)
  t.match(await viaBulk.append({ chunkId: 5n, offset: 0, data: pattern(9, 10) }), {
    failure: { code: 'ESTALE' },
    length: whole.length,
  })

  for (const lane of [viaBulk, viaRpc]) {
    const { data, checksums, failure } = await lane.read({ chunkId: 5n, offset: blocks(255), length: blocks(4) })
    t.equal(failure, undefined)
    t.ok(data.equals(whole.subarray(blocks(255), blocks(259))))
    t.equal(firstCorruptBlock(data, checksums), -1)
    t.match(await lane.read({ chunkId: 6n, offset: 0, length: blocks(1) }), { failure: { code: 'ENOENT' } })
    t.match(await lane.read({ chunkId: 5n, offset: 0, length: 0xffff_f000 }), { failure: { code: 'EINVAL' } })
  }
  const answers = await Promise.all(
    Array.from({ length: 200 }, (_, index) => viaBulk.read({ chunkId: 5n, offset: blocks(index), length: blocks(2) })),
  )
  for (const [index, { data }] of answers.entries()) {
    if (!data.equals(whole.subarray(blocks(index), blocks(index + 2)))) t.fail(`read ${index} got other bytes`)
  }
  await until(() => master.replicas.get(5n)?.length === whole.length, 'the master knows the length')
  await callUnary(
    lanes.rpc,
    server.address,
    ChunkStoreDefinition,
    methods.seal,
    { chunkId: 5n, length: blocks(256) },
    callOptions,
  )
  await until(() => master.replicas.get(5n)?.sealed === true, 'the master knows that it is sealed')
  const verified = await callUnary(
    lanes.rpc,
    server.address,
    ChunkStoreDefinition,
    methods.verify,
    { chunkId: 5n },
    callOptions,
  )
  t.same(verified, { length: blocks(256), sealed: true, corrupt: [] })
  const ranges = [{ offset: 0, length: blocks(10) }]
  await callUnary(lanes.rpc, server.address, ChunkStoreDefinition, methods.punch, { chunkId: 5n, ranges }, callOptions)
  t.ok((await viaBulk.read({ chunkId: 5n, offset: 0, length: blocks(10) })).data.equals(Buffer.alloc(blocks(10))))
  await t.rejects(
    callUnary(lanes.rpc, server.address, ChunkStoreDefinition, methods.seal, { chunkId: 8n, length: 0 }, callOptions),
    { name: 'PosixError', code: 'ENOENT' },
  )
  await callUnary(lanes.rpc, server.address, ChunkStoreDefinition, methods.delete, { chunkIds: [5n, 6n] }, callOptions)
  await until(() => !master.replicas.has(5n), 'the master knows that it is deleted')
  await until(() => master.heartbeats.at(-1)?.usedBytes === 0n, 'the space is back')
  t.equal(master.heartbeats.at(-1)?.load, 0)
})

t.test('copies a chunk from peers, from another one where a source is damaged', async (t) => {
  const lanes = transports(t)
  const master = await startMaster(t, lanes.rpc)
  const directory = t.testdir()
  const names = ['a', 'b', 'c']
  const servers = []
  for (const name of names) {
    servers.push(await startServer(t, lanes, { directory: `${directory}/${name}`, master: master.address }))
  }
  const data = Buffer.concat([pattern(3, 3 * 1024 * 1024), Buffer.alloc(1024 * 1024), pattern(4, blocks(3))])
  for (const index of [0, 1]) {
    const writer = client(t, lanes.bulk, asSource(master, index).bulkAddress)
    for (let offset = 0; offset < data.length; offset += 1024 * 1024) {
      const piece = data.subarray(offset, offset + 1024 * 1024)
      t.equal((await writer.append({ chunkId: 9n, offset, data: piece })).failure, undefined)
    }
    await callUnary(
      lanes.rpc,
      servers[index]!.address,
      ChunkStoreDefinition,
      methods.seal,
      { chunkId: 9n, length: data.length },
      callOptions,
    )
  }
  // Each source is damaged in another place; a third one is not there at all.
  for (const [name, block] of [
    ['a', 5],
    ['b', 300],
  ] as const) {
    const file = await open(`${directory}/${name}/chunks/09/0000000000000009`, 'r+')
    await file.write(Buffer.from('damage'), 0, 6, dataStart + blocks(block))
    await file.close()
  }
  const nobody = { serverId: 77, address: '127.0.0.1:1', bulkAddress: '127.0.0.1:1', rack: '', host: '' }
  const target = servers[2]!.address
  const wish = {
    chunkId: 9n,
    length: data.length,
    sources: [nobody, asSource(master, 0), asSource(master, 1)],
    bytesPerSecondMax: 0n,
  }
  const copy = (): Promise<unknown> =>
    callUnary(lanes.rpc, target, ChunkStoreDefinition, methods.copy, wish, callOptions)
  await Promise.all([copy(), copy(), copy()])
  const reader = client(t, lanes.bulk, asSource(master, 2).bulkAddress)
  for (let offset = 0; offset < data.length; offset += 1024 * 1024) {
    const length = Math.min(1024 * 1024, data.length - offset)
    const reply = await reader.read({ chunkId: 9n, offset, length })
    t.equal(reply.failure, undefined)
    t.ok(reply.data.equals(data.subarray(offset, offset + length)))
  }
  // The copy may have found only one of the two; whoever reads the other place finds that as well.
  const damagedReader = client(t, lanes.bulk, asSource(master, 1).bulkAddress)
  const damagedRead = await damagedReader.read({ chunkId: 9n, offset: blocks(300), length: blocks(1) })
  t.equal(damagedRead.failure?.code, 'EBADMSG')
  const told = (): number => {
    const corrupt = master.heartbeats.filter(({ changed }) => changed.some((replica) => replica.corrupt))
    return new Set(corrupt.map(({ registration }) => registration)).size
  }
  await until(() => told() === 2, 'both sources have told of their damage')
  await t.rejects(
    callUnary(lanes.rpc, target, ChunkStoreDefinition, methods.copy, { ...wish, chunkId: 10n }, callOptions),
    { name: 'PosixError' },
    'a chunk that nobody has',
  )
  await t.rejects(
    callUnary(
      lanes.rpc,
      target,
      ChunkStoreDefinition,
      methods.copy,
      { ...wish, chunkId: 11n, sources: [] },
      callOptions,
    ),
    { name: 'PosixError', code: 'EINVAL' },
  )
  await copy()
})

t.test('a copy keeps to its rate', async (t) => {
  const lanes = transports(t)
  const master = await startMaster(t, lanes.rpc)
  const directory = t.testdir()
  await startServer(t, lanes, { directory: `${directory}/a`, master: master.address })
  const target = await startServer(t, lanes, { directory: `${directory}/b`, master: master.address })
  const writer = client(t, lanes.bulk, asSource(master, 0).bulkAddress)
  for (let index = 0; index < 3; index++) {
    await writer.append({ chunkId: 1n, offset: index * 1024 * 1024, data: pattern(index, 1024 * 1024) })
  }
  const startedMs = realClock.nowMs()
  const wish = {
    chunkId: 1n,
    length: 3 * 1024 * 1024,
    sources: [asSource(master, 0)],
    bytesPerSecondMax: 4n * 1024n * 1024n,
  }
  await callUnary(lanes.rpc, target.address, ChunkStoreDefinition, methods.copy, wish, callOptions)
  t.ok(realClock.nowMs() - startedMs >= 490)
})

t.test('serves while the master is away, and comes back by itself', async (t) => {
  const lanes = transports(t)
  const directory = t.testdir()
  const master = await startMaster(t, lanes.rpc)
  let server = await startServer(t, lanes, { directory, master: master.address })
  const bulkAddress = asSource(master, 0).bulkAddress
  const lane = client(t, lanes.bulk, bulkAddress)
  await lane.append({ chunkId: 1n, offset: 0, data: pattern(1, blocks(1)) })
  await master.close()
  t.equal(
    (await lane.append({ chunkId: 1n, offset: blocks(1), data: pattern(1, blocks(1)), sync: true })).length,
    blocks(2),
  )
  const again = await startMaster(t, lanes.rpc, { listen: master.address })
  again.refuse.heartbeat = new PosixError('ENOENT')
  await until(() => again.reports > 0, 'it has registered again')
  t.match(again.registrations[0], { clusterId: 'cluster', serverId: 1, chunkIdMax: 1n })
  t.equal(again.replicas.get(1n)?.length, blocks(2), 'the report is complete')
  delete again.refuse.heartbeat
  await lane.append({ chunkId: 1n, offset: blocks(2), data: pattern(1, blocks(1)) })
  await until(() => again.replicas.get(1n)?.length === blocks(3), 'heartbeats go on')
  await server.close()
  await again.close()

  server = await startServer(t, lanes, { directory, master: master.address })
  t.ok(server.address, 'it starts without its master')
  await server.close()
  await server.closed
})

t.test('a refusal by the master ends it with the sentence', async (t) => {
  const lanes = transports(t)
  const directory = t.testdir()
  const master = await startMaster(t, lanes.rpc)
  const server = await startServer(t, lanes, { directory, master: master.address })
  master.refuse.register = new PosixError('EPERM', 'This data directory belongs to another cluster.')
  master.refuse.heartbeat = new PosixError('ENOENT')
  await t.rejects(server.closed, { name: 'UsageError', message: 'This data directory belongs to another cluster.' })
  await server.close()
  await t.rejects(startServer(t, lanes, { directory, master: master.address }), { name: 'UsageError' })
  const other = await startMaster(t, lanes.rpc, { clusterId: 'another' })
  await t.rejects(startServer(t, lanes, { directory, master: other.address }), {
    name: 'UsageError',
    message: /belongs to cluster cluster, but the master's is another/,
  })
  t.match(await readFile(`${directory}/store.json`, 'utf8'), /"cluster_id": "cluster"/)
  await t.rejects(
    startChunkServer({
      dataDirectory: directory,
      masterAddress: master.address,
      listenAddress: '0.0.0.0:0',
      rack: '',
      host: '',
      clock: realClock,
      random: realRandom,
      disk: realDisk,
      ...lanes,
      log: silentLog,
    }),
    { name: 'UsageError', message: /cannot listen on 0.0.0.0:0/ },
  )
})

t.test('garbage on either port harms nobody else', async (t) => {
  const lanes = transports(t)
  const master = await startMaster(t, lanes.rpc)
  const server = await startServer(t, lanes, { directory: t.testdir(), master: master.address })
  const { bulkAddress } = asSource(master, 0)
  const lane = client(t, lanes.bulk, bulkAddress)
  await lane.append({ chunkId: 1n, offset: 0, data: pattern(1, blocks(1)) })
  for (const address of [server.address, bulkAddress]) {
    const port = Number(address.split(':')[1])
    await new Promise<void>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(pattern(7, 100_000)))
      socket.on('error', () => undefined).on('close', () => resolve())
      socket.resume()
      setTimeout(() => socket.destroy(), 300)
    })
  }
  // Well framed, but no message.
  const path = methodPath(ChunkStoreDefinition, methods.append)
  for (const [transport, address] of [
    [lanes.bulk, bulkAddress],
    [lanes.rpc, server.address],
  ] as const) {
    await new Promise<void>((resolve) => {
      const stream = transport.open(address, path, { message: () => undefined, closed: () => resolve() })
      stream.send(Buffer.alloc(100, 0xff))
    })
  }
  await t.rejects(
    lanes.rpc.call(server.address, methodPath(ChunkStoreDefinition, methods.seal), Buffer.alloc(50, 0xff), callOptions),
    {
      name: 'PosixError',
      code: 'EPROTO',
    },
  )
  t.equal((await lane.append({ chunkId: 1n, offset: blocks(1), data: pattern(1, blocks(1)) })).length, blocks(2))
})
