import { createServer, connect, type AddressInfo, type Server } from 'node:net'
import { connect as connectHttp2 } from 'node:http2'
import t, { type Test } from 'tap'
import { UnavailableError } from '../../src/domain/errors.ts'
import { messageBytesMax } from '../../src/domain/limits.ts'
import { framedTransport } from '../../src/platform/framed-transport.ts'
import { grpcTransport } from '../../src/platform/grpc-transport.ts'
import { parseAddress } from '../../src/platform/address.ts'
import { silentLog } from '../../src/platform/log.ts'
import type { Transport } from '../../src/platform/transport.ts'
import { memoryNetwork } from '../lib/memory-transport.ts'
import { Recorder, echo, transportSuite, type TransportFixture } from './transport-suite.ts'

const log = silentLog

/** A port of this machine where nothing listens. */
const unusedAddress = async (): Promise<string> => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return `127.0.0.1:${port}`
}

const onSockets = async (make: () => Transport, unary: boolean): Promise<TransportFixture> => ({
  listening: make(),
  opening: make(),
  address: '127.0.0.1:0',
  nobody: await unusedAddress(),
  unary,
})

await transportSuite(t, 'gRPC', () => onSockets(() => grpcTransport({ log }), true))
await transportSuite(t, 'framed TCP', () => onSockets(() => framedTransport({ log }), false))
await transportSuite(t, 'memory', async () => {
  const network = memoryNetwork()
  return {
    listening: network.transport('server'),
    opening: network.transport('client'),
    address: 'server:0',
    nobody: 'server:1',
    unary: true,
  }
})

const echoServices = {
  unary: new Map([['/test/Call', async (bytes: Buffer) => bytes]]),
  stream: new Map([['/test/Echo', echo]]),
}

/** A connection of the test's own, which may send anything. Resolves when the other side has closed it. */
const rawConnection = (address: string, ...chunks: Buffer[]): Promise<Buffer> =>
  new Promise((resolve) => {
    const received: Buffer[] = []
    const socket = connect(parseAddress(address)!)
    socket.on('data', (chunk) => received.push(chunk))
    socket.on('error', () => {})
    socket.on('close', () => resolve(Buffer.concat(received)))
    for (const chunk of chunks) socket.write(chunk)
  })

const stillServes = async (t: Test, transport: Transport, address: string): Promise<void> => {
  const near = new Recorder()
  const stream = transport.open(address, '/test/Echo', near)
  stream.send(Buffer.from('alive'))
  await near.count(1)
  t.same(near.messages.map(String), ['alive'], 'the listener goes on')
  stream.end()
}

const greeting = (path: string, version = 1): Buffer => {
  const head = Buffer.from([...Buffer.from('SHOALTCP'), version, 0, 0])
  head.writeUInt16LE(Buffer.byteLength(path), 9)
  return Buffer.concat([head, Buffer.from(path)])
}

const number = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

await t.test('framed TCP: whatever a stranger sends, only its own connection ends', async (t) => {
  const transport = framedTransport({ silenceMs: 500, log })
  const listener = await transport.listen('127.0.0.1:0', echoServices)
  t.teardown(async () => {
    await transport.close()
    await listener.close()
  })
  const hello = greeting('/test/Echo')
  const cases: Record<string, Buffer[]> = {
    'an HTTP request': [Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    'another version': [greeting('/test/Echo', 2)],
    'an endless path': [
      Buffer.concat([Buffer.from('SHOALTCP\x01'), Buffer.from([0xff, 0xff]), Buffer.alloc(70_000, 65)]),
    ],
    'an unknown method': [greeting('/test/Missing')],
    'a length beyond the largest': [hello, number(messageBytesMax + 1), Buffer.alloc(100)],
    'an unknown mark': [hello, number(0xffff_fff0)],
    'half a greeting and silence': [Buffer.from('SHOAL')],
    'half a message and silence': [hello, number(1000), Buffer.alloc(10)],
    'nothing at all': [],
    'random bytes': [Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919) % 251))],
    'a broken abort': [hello, number(0xffff_fffd), number(3), Buffer.from([0xff, 0xfe, 0xfd])],
  }
  for (const [what, chunks] of Object.entries(cases)) {
    await rawConnection(listener.address, ...chunks)
    t.pass(`${what}: dropped`)
  }
  const answer = await rawConnection(listener.address, greeting('/test/Echo', 9))
  t.equal(answer.toString('latin1', 0, 9), 'SHOALTCP\x01', 'a newer opener learns which version is spoken here')
  await stillServes(t, transport, listener.address)
})

await t.test('framed TCP: a message is put together from any pieces', async (t) => {
  const transport = framedTransport({ log })
  const near: Buffer[] = []
  const listener = await transport.listen('127.0.0.1:0', {
    unary: new Map(),
    stream: new Map([['/test/Sink', () => ({ message: (bytes: Buffer) => void near.push(bytes), closed: () => {} })]]),
  })
  t.teardown(() => listener.close())
  const body = Buffer.from(Array.from({ length: 300 }, (_, i) => i % 256))
  const bytes = Buffer.concat([
    greeting('/test/Sink'),
    number(300),
    body,
    number(0),
    number(1),
    Buffer.from('x'),
    number(0xffff_fffe),
  ])
  const socket = connect({ ...parseAddress(listener.address)!, noDelay: true })
  socket.on('error', () => {})
  const closed = new Promise((resolve) => socket.on('close', resolve))
  // Piece by piece, across every boundary that there is.
  for (let at = 0, size = 1; at < bytes.length; at += size, size = (size % 5) + 1) {
    socket.write(bytes.subarray(at, at + size))
    await new Promise((resolve) => setImmediate(resolve))
  }
  socket.resume()
  await closed
  t.same(
    near.map((message) => message.toString('hex')),
    [body.toString('hex'), '', '78'],
  )
})

await t.test('framed TCP: large messages of several connections at once keep apart', async (t) => {
  const transport = framedTransport({ log })
  const near: Buffer[][] = []
  const sink = (): { message: (bytes: Buffer) => void; closed: () => void } => {
    const mine: Buffer[] = []
    near.push(mine)
    return { message: (bytes) => void mine.push(bytes), closed: () => {} }
  }
  const listener = await transport.listen('127.0.0.1:0', { unary: new Map(), stream: new Map([['/test/Sink', sink]]) })
  t.teardown(() => listener.close())
  const sizes = [100_000, 3, 16_384, 300_000, 16_383, 65_536, 1_000_000, 0, 70_000]
  const send = async (fill: number, pieceBytes: number): Promise<void> => {
    const frames = sizes.flatMap((size, index) => [number(size), Buffer.alloc(size, fill + index)])
    const bytes = Buffer.concat([greeting('/test/Sink'), ...frames])
    const socket = connect(parseAddress(listener.address)!)
    t.teardown(() => socket.destroy())
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      socket.write(bytes.subarray(at, at + pieceBytes))
      await tick()
    }
  }
  const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  await Promise.all([send(10, 7777), send(50, 20_000), send(90, 1_000_001), send(130, 131_072)])
  while (near.length < 4 || near.some((messages) => messages.length < sizes.length)) await tick()
  for (const messages of near) {
    t.same(
      messages.map((bytes) => bytes.length),
      sizes,
    )
    const fill = messages[0]![0]!
    t.ok(messages.every((bytes, index) => bytes.every((byte) => byte === fill + index)))
  }
  t.same(new Set(near.map((messages) => messages[0]![0])), new Set([10, 50, 90, 130]))
})

await t.test('framed TCP: a peer that dies without a word is no good order', async (t) => {
  const transport = framedTransport({ log })
  const far = new Recorder()
  const listener = await transport.listen('127.0.0.1:0', {
    unary: new Map(),
    stream: new Map([['/test/Sink', () => far]]),
  })
  t.teardown(() => listener.close())
  const socket = connect(parseAddress(listener.address)!)
  socket.write(Buffer.concat([greeting('/test/Sink'), number(4), Buffer.from('last')]))
  await far.count(1)
  // What the kernel does for a process that was killed.
  socket.destroy()
  t.type(await far.close(), UnavailableError)
})

const silentServer = async (t: Test): Promise<string> => {
  const sockets = new Set<import('node:net').Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.resume()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

await t.test('a peer that accepts and never answers is given up', async (t) => {
  const address = await silentServer(t)
  for (const transport of [framedTransport({ silenceMs: 400, log }), grpcTransport({ connectMs: 400, log })]) {
    const near = new Recorder()
    const startedMs = performance.now()
    transport.open(address, '/test/Echo', near).send(Buffer.from('anybody?'))
    t.type(await near.close(), UnavailableError)
    t.ok(performance.now() - startedMs < 3000)
    await transport.close()
  }
  const transport = grpcTransport({ connectMs: 400, log })
  await t.rejects(transport.call(address, '/test/Call', Buffer.alloc(1), { deadlineMs: 300 }), {
    name: 'UnavailableError',
  })
  await transport.close()
})

await t.test('a server of another protocol is refused', async (t) => {
  const grpc = grpcTransport({ log, connectMs: 1000 })
  const framed = framedTransport({ log, silenceMs: 1000 })
  const speaksGrpc = await grpc.listen('127.0.0.1:0', echoServices)
  const speaksFramed = await framed.listen('127.0.0.1:0', echoServices)
  t.teardown(async () => {
    await Promise.all([grpc.close(), framed.close(), speaksGrpc.close(), speaksFramed.close()])
  })
  const near = new Recorder()
  framed.open(speaksGrpc.address, '/test/Echo', near)
  t.match(await near.close(), { name: 'UnavailableError' })
  const other = new Recorder()
  grpc.open(speaksFramed.address, '/test/Echo', other)
  t.match(await other.close(), { name: 'UnavailableError' })
  await stillServes(t, grpc, speaksGrpc.address)
  await stillServes(t, framed, speaksFramed.address)
})

/** Stands between two transports; while frozen it passes nothing on and says nothing: a cut network. */
const relay = async (t: Test, target: string): Promise<{ address: string; freeze(frozen: boolean): void }> => {
  let frozen = false
  const sockets = new Set<import('node:net').Socket>()
  const server = createServer((near) => {
    const far = connect(parseAddress(target)!)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from)
      from.on('error', () => {})
      from.on('data', (chunk) => {
        if (!frozen) to.write(chunk)
      })
      from.on('close', () => {
        if (!frozen) to.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    freeze: (value) => {
      frozen = value
    },
  }
}

await t.test('a cut network is noticed on both sides, and afterwards it works again', async (t) => {
  const makers: Record<string, () => Transport> = {
    framed: () => framedTransport({ silenceMs: 500, log }),
    gRPC: () => grpcTransport({ keepaliveMs: 200, keepaliveTimeoutMs: 300, connectMs: 500, log }),
  }
  for (const [name, make] of Object.entries(makers)) {
    const [listening, opening] = [make(), make()]
    const far = new Recorder()
    const listener = await listening.listen('127.0.0.1:0', {
      unary: new Map(),
      stream: new Map([
        ['/test/Sink', () => far],
        ['/test/Echo', echo],
      ]),
    })
    const wire = await relay(t, listener.address)
    const near = new Recorder()
    const stream = opening.open(wire.address, '/test/Sink', near)
    stream.send(Buffer.from('hello'))
    await far.count(1)
    await new Promise((resolve) => setTimeout(resolve, 1200))
    t.same([near.closedTimes, far.closedTimes], [0, 0], `${name}: an idle stream stays open`)
    wire.freeze(true)
    const startedMs = performance.now()
    const errors = await Promise.all([near.close(), far.close()])
    for (const error of errors) t.type(error, UnavailableError, name)
    t.ok(performance.now() - startedMs < 3000, `${name}: soon`)
    wire.freeze(false)
    let answered = false
    for (let i = 0; i < 50 && !answered; i++) {
      const next = new Recorder()
      opening.open(wire.address, '/test/Echo', next).send(Buffer.from('x'))
      await next.count(1)
      answered = next.messages.length === 1
      if (!answered) await new Promise((resolve) => setTimeout(resolve, 100))
    }
    t.ok(answered, `${name}: it works again`)
    await opening.close()
    await listener.close()
    await listening.close()
  }
})

/** A gRPC message with any header. */
const frame = (compressed: number, length: number, body: Buffer): Buffer => {
  const head = Buffer.alloc(5)
  head.writeUInt8(compressed, 0)
  head.writeUInt32BE(length, 1)
  return Buffer.concat([head, body])
}

await t.test('gRPC: whatever a stranger sends, the listener goes on', async (t) => {
  const transport = grpcTransport({ log })
  const listener = await transport.listen('127.0.0.1:0', echoServices)
  t.teardown(async () => {
    await transport.close()
    await listener.close()
  })
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
  for (const chunks of [
    [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    [Buffer.alloc(5000, 0xa5)],
    [preface, Buffer.alloc(64, 0xff)],
    // A frame that announces 16 MiB.
    [preface, Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), Buffer.alloc(100)],
  ]) {
    await rawConnection(listener.address, ...chunks)
    t.pass('dropped')
  }

  /** A well-formed HTTP/2 request with a body of our own; resolves with the gRPC status. */
  const post = (path: string, body: Buffer, headers: Record<string, string> = {}): Promise<string> =>
    new Promise((resolve) => {
      const session = connectHttp2(`http://${listener.address}`)
      session.on('error', () => resolve('session error'))
      const request = session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        ...headers,
      })
      let grpcStatus = 'none'
      request.on('response', (answer) => {
        grpcStatus = String(answer['grpc-status'] ?? `http ${answer[':status']}`)
      })
      request.on('trailers', (trailers) => {
        grpcStatus = String(trailers['grpc-status'])
      })
      request.on('error', () => {})
      request.on('close', () => {
        session.destroy()
        resolve(grpcStatus)
      })
      request.resume()
      request.end(body)
    })
  t.equal(await post('/test/Echo', frame(0, 0xffff_ffff, Buffer.alloc(10))), '8', 'an oversized message on a stream')
  t.equal(await post('/test/Call', frame(0, messageBytesMax + 1, Buffer.alloc(10))), '8', 'and in a call')
  const garbage = frame(1, 4, Buffer.from('zzzz'))
  t.not(await post('/test/Call', garbage, { 'grpc-encoding': 'gzip' }), '0', 'compressed garbage')
  t.not(await post('/test/Call', Buffer.from([0, 0])), '0', 'half a message')
  t.equal(await post('/no/Such', Buffer.alloc(0)), '12')
  await post('/test/Call', frame(0, 0, Buffer.alloc(0)), { 'grpc-timeout': 'soon' })
  await post('/test/Call', frame(0, 0, Buffer.alloc(0)), { 'content-type': 'text/html' })
  await stillServes(t, transport, listener.address)
  const reply = await transport.call(listener.address, '/test/Call', Buffer.from('alive'), { deadlineMs: 5000 })
  t.equal(reply.toString(), 'alive')
})

await t.test('the faults of the network in memory', async (t) => {
  const network = memoryNetwork({ silenceMs: 100 })
  const [server, client] = [network.transport('server'), network.transport('client')]
  let handled = 0
  const listener = await server.listen('server:1', {
    unary: new Map([
      [
        '/test/Count',
        async (bytes) => {
          handled += 1
          return bytes
        },
      ],
    ]),
    stream: new Map([['/test/Echo', echo]]),
  })
  const call = (): Promise<Buffer> => client.call('server:1', '/test/Count', Buffer.from('x'), { deadlineMs: 100 })
  await call()
  network.loseReplies('server:1', 1)
  await t.rejects(call(), { name: 'UnavailableError', maybeCommitted: true })
  t.equal(handled, 2, 'the handler ran although the reply was lost')
  await call()

  const near = new Recorder()
  const stream = client.open('server:1', '/test/Echo', near)
  stream.send(Buffer.from('a'))
  await near.count(1)
  network.cut('client', 'server')
  stream.send(Buffer.from('b'))
  await t.rejects(call(), { name: 'UnavailableError', maybeCommitted: true })
  t.equal(handled, 3, 'nothing passes a cut')
  t.type(await near.close(), UnavailableError)
  network.heal('client', 'server')
  await call()

  const dropped = new Recorder()
  client.open('server:1', '/test/Echo', dropped).send(Buffer.from('a'))
  await dropped.count(1)
  network.drop('server:1')
  t.type(await dropped.close(), UnavailableError)

  const robbed = new Recorder()
  const victim = client.open('server:1', '/test/Echo', robbed)
  victim.send(Buffer.from('a'))
  await robbed.count(1)
  network.loseReplies('server:1', 1)
  victim.send(Buffer.from('b'))
  t.type(await robbed.close(), UnavailableError, 'a stream breaks where it lost a message')
  t.equal(robbed.messages.length, 1)
  await listener.close()
  t.equal(network.streamsOpen(), 0, 'nothing is left over')
})
