import t from 'tap'
import {
  appendHandler,
  decodeAppend,
  decodeReadReply,
  encodeAppend,
  encodeReadReply,
  openAppend,
  openRead,
  readHandler,
} from '../../../src/protocol/bulk.ts'
import { AppendRequest, ReadReply } from '../../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import { framedTransport } from '../../../src/platform/framed-transport.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { memoryNetwork } from '../../lib/memory-transport.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const append = (change: Partial<AppendRequest> = {}): AppendRequest => ({
  requestId: 7,
  chunkId: 2n ** 64n - 1n,
  offset: 4096,
  sync: true,
  create: true,
  checksums: Buffer.from('checksum'),
  data: Buffer.from('the data'),
  ...change,
})
const reply = (change: Partial<ReadReply> = {}): ReadReply => ({
  requestId: 7,
  failure: undefined,
  checksums: Buffer.from('checksum'),
  data: Buffer.from('the data'),
  ...change,
})
const empty = Buffer.alloc(0)
const appends = [
  append(),
  append({ requestId: 0, chunkId: 0n, offset: 0, sync: false, create: false, checksums: empty, data: empty }),
  append({ data: empty }),
  append({ checksums: empty }),
  append({ requestId: 2 ** 32 - 1, offset: 2 ** 26, data: Buffer.alloc(60_000, 3), checksums: Buffer.alloc(60, 4) }),
]
const largeAppend = append({ data: Buffer.alloc(1 << 20, 3), checksums: Buffer.alloc(1024, 4) })
const replies = [
  reply(),
  reply({ requestId: 0, checksums: empty, data: empty }),
  reply({ failure: { code: 'ERANGE', message: 'Ä' }, checksums: empty, data: empty }),
  reply({ failure: { code: '', message: '' } }),
  reply({ data: Buffer.alloc(1 << 20, 3) }),
]

void t.test('the same bytes as the generated code, in both directions', async (t) => {
  for (const message of appends) {
    const bytes = Buffer.concat(encodeAppend(message))
    t.ok(bytes.equals(AppendRequest.encode(message).finish()))
    t.same(decodeAppend(bytes), message)
    t.same(AppendRequest.decode(bytes), message)
  }
  for (const message of replies) {
    const bytes = Buffer.concat(encodeReadReply(message))
    t.ok(bytes.equals(ReadReply.encode(message).finish()))
    t.same(decodeReadReply(bytes), message)
    t.same(ReadReply.decode(bytes), message)
  }
})

void t.test(
  'much data starts at a page of the message, whatever is before it, and the filler changes nothing',
  async (t) => {
    for (let size = 0; size < 4400; size++) {
      const message = { ...largeAppend, checksums: Buffer.alloc(size, 4) }
      const [header] = encodeAppend(message)
      if (header.length % 4096 !== 0) t.fail(`after ${size} bytes of checksums it starts at ${header.length}`)
    }
    const bytes = Buffer.concat(encodeAppend(largeAppend))
    t.equal(bytes.length, largeAppend.data.length + 4096)
    t.same(decodeAppend(bytes), largeAppend)
    t.same(AppendRequest.decode(bytes), largeAppend)
    t.same(decodeAppend(Buffer.from(AppendRequest.encode(largeAppend).finish())), largeAppend, 'it need not be there')
  },
)

void t.test('data is not copied', async (t) => {
  const message = append({ data: Buffer.alloc(100_000, 1) })
  const parts = encodeAppend(message)
  t.equal(parts[1], message.data)
  const bytes = Buffer.concat(parts)
  const decoded = decodeAppend(bytes)
  t.equal(decoded.data.buffer, bytes.buffer)
  bytes.fill(9)
  t.ok(decoded.data.every((byte) => byte === 9))
  t.equal(encodeReadReply(reply({ data: message.data }))[1], message.data)
})

void t.test('a message that is malformed throws, whatever it is', async (t) => {
  const whole = Buffer.concat(encodeAppend(append()))
  let threw = 0
  for (let length = 1; length < whole.length; length++) {
    const cut = whole.subarray(0, length)
    let expected: AppendRequest | undefined
    try {
      expected = AppendRequest.decode(cut)
    } catch {
      threw += 1
    }
    if (expected) t.same(decodeAppend(cut), expected)
    else t.throws(() => decodeAppend(cut))
  }
  t.ok(threw > 10)
})

void t.test('random bytes: the same answer as the generated code', async (t) => {
  const seed = Number(process.env['SIM_SEED'] ?? 4711)
  t.comment(`seed=${seed}`)
  const random = seededRandom(seed)
  const attempt = <T>(act: () => T): T | 'threw' => {
    try {
      return act()
    } catch {
      return 'threw'
    }
  }
  const shown = (value: unknown): string =>
    JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? String(each) : each))
  let understood = 0
  for (let round = 0; round < 20_000; round++) {
    const bytes =
      round % 2 === 0
        ? random.bytes(random.below(24))
        : Buffer.concat(encodeAppend(append({ data: random.bytes(random.below(8)) })))
    for (let flips = random.below(3); flips > 0 && bytes.length > 0; flips--) {
      bytes[random.below(bytes.length)] = random.below(256)
    }
    const [ours, theirs] = [attempt(() => decodeAppend(bytes)), attempt(() => AppendRequest.decode(bytes))]
    if (theirs !== 'threw') understood += 1
    if (shown(ours) !== shown(theirs)) t.same(ours, theirs, bytes.toString('hex'))
    const [ourReply, theirReply] = [attempt(() => decodeReadReply(bytes)), attempt(() => ReadReply.decode(bytes))]
    if (shown(ourReply) !== shown(theirReply)) t.same(ourReply, theirReply, bytes.toString('hex'))
  }
  t.ok(understood > 1000)
})

void t.test('append and read over a transport; a malformed message drops the stream with a reason', async (t) => {
  const framed = framedTransport({ log: silentLog })
  const network = memoryNetwork()
  for (const { listening, opening, address } of [
    { listening: framed, opening: framed, address: '127.0.0.1:0' },
    { listening: network.transport('server'), opening: network.transport('client'), address: 'server:0' },
  ]) {
    const listener = await listening.listen(address, {
      unary: new Map(),
      stream: new Map([
        appendHandler((stream) => ({
          message: ({ requestId, offset, data }) => {
            stream.send({ requestId, failure: undefined, length: offset + data.length })
          },
          closed: () => {},
        })),
        readHandler((stream) => ({
          message: ({ requestId, length }) => {
            stream.send({
              requestId,
              failure: undefined,
              checksums: Buffer.from('sums'),
              data: Buffer.alloc(length, requestId),
            })
          },
          closed: () => {},
        })),
      ]),
    })
    const length = await new Promise<number>((resolve, reject) => {
      const stream = openAppend(opening, listener.address, {
        message: (answer) => {
          stream.end()
          resolve(answer.length)
        },
        closed: reject,
      })
      stream.send(append({ offset: 8192, data: Buffer.alloc(500_000) }))
    })
    t.equal(length, 508_192)
    const answer = await new Promise<ReadReply>((resolve, reject) => {
      const stream = openRead(opening, listener.address, {
        message: (answer) => {
          stream.end()
          resolve(answer)
        },
        closed: reject,
      })
      stream.send({ requestId: 5, chunkId: 1n, offset: 0, length: 8192 })
    })
    t.match(answer, { requestId: 5, checksums: Buffer.from('sums'), data: Buffer.alloc(8192, 5) })

    const error = await new Promise<Error | undefined>((resolve) => {
      opening
        .open(listener.address, '/shoal.v1.ChunkStore/Append', { message: () => {}, closed: resolve })
        .send(Buffer.from([0x7a, 0xff]))
    })
    t.match(error, { name: 'UnavailableError', message: /malformed message/ })
    await opening.close()
    await listener.close()
  }
})
