/** The dispatcher without a kernel: requests are built here, a fake device takes the replies. */
import { UntakenAnswers } from '../../../mount/untaken-answers.ts'
import t from 'tap'
import { DoubtfulListings } from '../../../mount/doubtful-listings.ts'
import { DirectoryPlaces } from '../../../mount/directory-places.ts'
import { createDispatcher } from '../../../mount/dispatcher.ts'
import type { Dispatcher } from '../../../mount/dispatcher.ts'
import type { Sent } from '../../../mount/device.ts'
import { errnoNumber } from '../../../mount/errno.ts'
import { messageOf, opcode, requestBytesMax, structBytes } from '../../../mount/protocol.ts'
import type { Message } from '../../../mount/protocol.ts'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { PosixError, UnavailableError } from '../../../src/domain/errors.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { realClock } from '../../../src/platform/clock.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { memoryFileSystem } from '../../lib/memory-file-system.ts'

interface Reply {
  unique: bigint
  errno: number
  body: Buffer
}

interface Fake {
  dispatcher: Dispatcher
  listings: UntakenAnswers
  made: UntakenAnswers
  doubtful: DoubtfulListings
  /** Notifications that the kernel is not through with. */
  notified: (() => void)[]
  replies: Reply[]
  returned: Message[]
  /** What the next replies meet with. */
  outcome: (outcome: Sent) => void
  /** Sends a request and returns whether its buffer was kept. */
  send: (code: number, options?: { nodeId?: bigint; unique?: bigint; pid?: number; body?: Buffer }) => boolean
  /** Sends one and waits for its answer. */
  ask: (code: number, options?: { nodeId?: bigint; pid?: number; body?: Buffer }) => Promise<Reply>
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

const u32 = (...numbers: number[]): Buffer => {
  const bytes = Buffer.alloc(numbers.length * 4)
  numbers.forEach((number, i) => bytes.writeUInt32LE(number, i * 4))
  return bytes
}
const u64 = (...numbers: bigint[]): Buffer => {
  const bytes = Buffer.alloc(numbers.length * 8)
  numbers.forEach((number, i) => bytes.writeBigUInt64LE(number, i * 8))
  return bytes
}
const named = (name: string, ...before: Buffer[]): Buffer => Buffer.concat([...before, Buffer.from(`${name}\0`)])

const requestOf = (code: number, nodeId: bigint, unique: bigint, pid: number, body: Buffer): Message => {
  // A large buffer with the remains of an earlier request, as in real life.
  const bytes = Buffer.alloc(Math.min(requestBytesMax, 40 + body.length + 512), 0x41)
  u32(40 + body.length, code).copy(bytes, 0)
  u64(unique, nodeId).copy(bytes, 8)
  u32(1000, 1001, pid, 0).copy(bytes, 24)
  body.copy(bytes, 40)
  const message = messageOf(bytes)
  message.length = 40 + body.length
  return message
}

const start = (fileSystem: FileSystem, options: { holdsNotifications?: boolean } = {}): Fake => {
  const replies: Reply[] = []
  const returned: Message[] = []
  let outcome: Sent = 'sent'
  let uniqueNext = 1000n
  const listings = new UntakenAnswers()
  const made = new UntakenAnswers()
  const notified: (() => void)[] = []
  const doubtful = new DoubtfulListings(
    {
      send: () => 'sent',
      notify: (_message, done) => {
        if (options.holdsNotifications === true) notified.push(done ?? (() => undefined))
        else done?.()
      },
    },
    realClock,
    listings,
  )
  const dispatcher = createDispatcher({
    // Every signal kills.
    callers: { whenKilled: (_pid, isOver, interrupt) => void (isOver() || interrupt()) },
    listings,
    made,
    doubtful,
    places: new DirectoryPlaces({ clock: realClock, cacheNames: true, notify: (_message, done) => done() }),
    fileSystem,
    log: silentLog,
    channel: {
      send: (head, headBytes, data) => {
        const whole = Buffer.concat([head.subarray(0, headBytes), data ?? Buffer.alloc(0)])
        if (whole.readUInt32LE(0) !== whole.length) throw new Error('a reply with a wrong length')
        replies.push({ errno: -whole.readInt32LE(4), unique: whole.readBigUInt64LE(8), body: whole.subarray(16) })
        return outcome
      },
      giveBack: (message) => returned.push(message),
    },
  })
  const fake: Fake = {
    dispatcher,
    listings,
    made,
    doubtful,
    notified,
    replies,
    returned,
    outcome: (next) => {
      outcome = next
    },
    send: (code, { nodeId = 1n, unique = (uniqueNext += 2n), pid = 77, body = Buffer.alloc(0) } = {}) =>
      dispatcher.request(requestOf(code, nodeId, unique, pid, body)),
    ask: async (code, options = {}) => {
      const unique = (uniqueNext += 2n)
      fake.send(code, { ...options, unique })
      await settled()
      const found = replies.filter((reply) => reply.unique === unique)
      if (found.length !== 1) throw new Error(`${found.length} replies`)
      return found[0] as Reply
    },
  }
  return fake
}

const errnoName = ({ errno }: Reply): string =>
  errno === 0 ? 'fine' : (Object.entries(errnoNumber).find(([, number]) => number === errno)?.[0] ?? `${errno}`)

const create = async (fake: Fake, name: string): Promise<{ nodeId: bigint; handle: bigint }> => {
  const { body } = await fake.ask(opcode.CREATE, { body: named(name, u32(2, 0o100644, 0o022, 0)) })
  return { nodeId: body.readBigUInt64LE(0), handle: body.readBigUInt64LE(128) }
}
const writeBody = (size: number): Buffer =>
  Buffer.concat([u64(1n, 0n), u32(size, 0, 0, 0, 0, 0), Buffer.alloc(size, 7)])
const lockBody = (owner: bigint, type: number, handle = 1n): Buffer =>
  Buffer.concat([u64(handle, owner, 0n, 100n), u32(type, 77, 0, 0)])

t.test('an operation that nobody knows', async (t) => {
  const fake = start(memoryFileSystem())
  t.equal(errnoName(await fake.ask(999)), 'ENOSYS')
  t.equal(errnoName(await fake.ask(opcode.BMAP, { body: u32(0, 0, 0, 0) })), 'ENOSYS')
  t.equal(errnoName(await fake.ask(opcode.IOCTL, { body: Buffer.alloc(32) })), 'ENOTTY')
})

t.test('a copy is not longer than its answer can say', async (t) => {
  const fileSystem = memoryFileSystem()
  const asked: bigint[] = []
  fileSystem.copyFileRange = async (_context, _source, _target, length) => {
    asked.push(length)
    return length
  }
  const fake = start(fileSystem)
  const body = u64(1n, 0n, 0n, 1n, 0n, 8n << 30n, 0n)
  t.equal((await fake.ask(opcode.COPY_FILE_RANGE, { body })).body.readUInt32LE(0), 0xffff_f000)
  t.equal((await fake.ask(opcode.COPY_FILE_RANGE_64, { body })).body.readBigUInt64LE(0), 8n << 30n)
  t.strictSame(asked, [0xffff_f000n, 8n << 30n])
})

t.test('where and how a WRITE goes is said by its own flags, not by those of the open', async (t) => {
  const fileSystem = memoryFileSystem()
  const asked: unknown[] = []
  const { write } = fileSystem
  fileSystem.write = (context, handle, offset, data, options) => {
    asked.push(options)
    return write(context, handle, offset, data, options)
  }
  const fake = start(fileSystem)
  await create(fake, 'f')
  const [append, dsync, sync] = [0o2000, 0o10000, 0o4010000]
  for (const [writeFlags, openFlags] of [
    [0, 2],
    [0, append],
    [1, append],
    [4, dsync],
    [0, sync],
  ] as const) {
    const body = Buffer.concat([u64(1n, 0n), u32(1, writeFlags), u64(0n), u32(openFlags, 0), Buffer.alloc(1)])
    t.equal(errnoName(await fake.ask(opcode.WRITE, { body })), 'fine')
  }
  const plain = { killPrivileges: false, append: false, sync: false }
  t.strictSame(asked, [
    plain,
    { ...plain, append: true },
    plain,
    { ...plain, killPrivileges: true, sync: true },
    { ...plain, sync: true },
  ])
})

t.test('TMPFILE', async (t) => {
  const fake = start(memoryFileSystem())
  const made = await fake.ask(opcode.TMPFILE, { body: named('/', u32(2, 0o100644, 0o022, 0)) })
  t.equal(errnoName(made), 'fine')
  t.equal(made.body.readUInt32LE(40 + 64), 0, 'no links')
  const nodeId = made.body.readBigUInt64LE(0)
  const linked = await fake.ask(opcode.LINK, { body: named('name', u64(nodeId)) })
  t.equal(linked.body.readBigUInt64LE(0), nodeId)
  t.equal(linked.body.readUInt32LE(40 + 64), 1)
})

t.test('what a handler throws', async (t) => {
  const fileSystem = memoryFileSystem()
  const fake = start(fileSystem)
  for (const [error, code] of [
    [new PosixError('EDQUOT'), 'EDQUOT'],
    [new TypeError('a bug'), 'EIO'],
    [new UnavailableError('away', { maybeCommitted: true }), 'EIO'],
    ['not even an error', 'EIO'],
    [undefined, 'EIO'],
  ] as const) {
    fileSystem.failNext('getattr', error)
    t.equal(errnoName(await fake.ask(opcode.GETATTR, { body: Buffer.alloc(16) })), code)
  }
  fileSystem.getattr = () => {
    throw new RangeError('not from a promise')
  }
  t.equal(errnoName(await fake.ask(opcode.GETATTR, { body: Buffer.alloc(16) })), 'EIO')
})

t.test('malformed requests get an error, or nothing where there is no reply, and harm nothing', async (t) => {
  const fake = start(memoryFileSystem())
  fake.dispatcher.request({ ...messageOf(Buffer.alloc(100)), length: 39 })
  const wrong = requestOf(opcode.GETATTR, 1n, 2n, 77, Buffer.alloc(16))
  wrong.bytes.writeUInt32LE(999, 0)
  fake.dispatcher.request(wrong)
  t.equal(fake.replies.length, 1)
  t.equal(errnoName(await fake.ask(opcode.LOOKUP, { body: Buffer.from('no end') })), 'EIO')
  t.equal(errnoName(await fake.ask(opcode.SYMLINK, { body: named('one name only') })), 'EIO')
  t.equal(
    errnoName(
      await fake.ask(opcode.WRITE, { body: Buffer.concat([u64(1n, 0n), u32(5, 0, 0, 0, 0, 0), Buffer.alloc(4)]) }),
    ),
    'EIO',
  )
  t.equal(errnoName(await fake.ask(opcode.SETLK, { body: lockBody(1n, 7) })), 'EIO')
  const before = fake.replies.length
  fake.send(opcode.BATCH_FORGET, { body: u32(1000, 0) })
  fake.send(opcode.FORGET)
  fake.send(opcode.INTERRUPT)
  t.equal(fake.replies.length, before)
  t.equal(errnoName(await fake.ask(opcode.GETATTR, { body: Buffer.alloc(16) })), 'fine')
})

t.test('bytes at random for every operation: exactly one reply to each that has one', async (t) => {
  // A linear congruential generator with a fixed seed: each run is the same.
  let seed = 12345
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
    return Math.floor((seed / 2 ** 32) * below)
  }
  const fake = start(memoryFileSystem())
  await create(fake, 'f')
  const silent: number[] = [opcode.FORGET, opcode.BATCH_FORGET, opcode.INTERRUPT, opcode.NOTIFY_REPLY]
  const waiting: number[] = [opcode.SETLKW]
  for (let i = 0; i < 4000; i++) {
    const code = random(56)
    if (waiting.includes(code)) continue
    const least = structBytes.get(code) ?? 0
    const body = Buffer.alloc(random(2) === 0 ? random(least + 1) : least + random(60))
    // Small numbers are more likely to be ids, sizes and flags that exist.
    for (let at = 0; at < body.length; at++) body[at] = random(3) === 0 ? random(4) : 0
    const before = fake.replies.length
    fake.send(code, { nodeId: BigInt(random(4)), body })
    await settled()
    const expected = silent.includes(code) ? 0 : 1
    if (fake.replies.length - before !== expected) {
      throw new Error(`${fake.replies.length - before} replies to operation ${code} with ${body.toString('hex')}`)
    }
    const last = fake.replies.at(-1)
    if (last !== undefined && (last.errno < 0 || last.errno >= 512)) throw new Error(`errno ${last.errno}`)
  }
  t.equal(errnoName(await fake.ask(opcode.GETATTR, { body: Buffer.alloc(16) })), 'fine', 'it lives on')
})

t.test('the root has node id 1, whatever its inode number', async (t) => {
  const asked: Ino[] = []
  const plain = memoryFileSystem()
  const fileSystem: FileSystem = {
    ...plain,
    root: asIno(4711n),
    getattr: (context, ino) => {
      asked.push(ino)
      return plain.getattr(context, plain.root)
    },
    lookup: async () => {
      const entry = await plain.getattr({} as never, plain.root)
      return { ...entry, attributes: { ...entry.attributes, ino: asIno(4711n) } }
    },
  }
  const fake = start(fileSystem)
  await fake.ask(opcode.GETATTR, { nodeId: 1n, body: Buffer.alloc(16) })
  await fake.ask(opcode.GETATTR, { nodeId: 12n, body: Buffer.alloc(16) })
  t.strictSame(asked, [4711n, 12n])
  const { body } = await fake.ask(opcode.LOOKUP, { body: named('root') })
  t.equal(body.readBigUInt64LE(0), 1n)
  t.equal(body.readBigUInt64LE(40), 4711n, 'st_ino')
  t.equal(fake.dispatcher.nodeIdOf(asIno(4711n)), 1n)
})

t.test('interrupts', async (t) => {
  const fileSystem = memoryFileSystem()
  const fake = start(fileSystem)
  const { nodeId, handle } = await create(fake, 'f')
  t.equal(errnoName(await fake.ask(opcode.SETLK, { nodeId, body: lockBody(1n, 1, handle) })), 'fine')

  await t.test('of a request that waits', async (t) => {
    fake.send(opcode.SETLKW, { nodeId, unique: 50n, body: lockBody(2n, 1, handle) })
    await settled()
    t.notOk(fake.replies.some((reply) => reply.unique === 50n))
    fake.send(opcode.INTERRUPT, { body: u64(50n) })
    await settled()
    t.strictSame(fake.replies.filter((reply) => reply.unique === 50n).map(errnoName), ['EINTR'])
  })

  await t.test('that come before their request', async (t) => {
    fake.send(opcode.INTERRUPT, { body: u64(52n) })
    fake.send(opcode.SETLKW, { nodeId, unique: 52n, body: lockBody(2n, 1, handle) })
    await settled()
    t.strictSame(fake.replies.filter((reply) => reply.unique === 52n).map(errnoName), ['EINTR'])
  })

  await t.test('that come too late, in great numbers', async (t) => {
    for (let unique = 100n; unique < 300n; unique++) fake.send(opcode.INTERRUPT, { body: u64(unique) })
    fake.send(opcode.SETLKW, { nodeId, unique: 100n, body: lockBody(2n, 1, handle) })
    await settled()
    t.notOk(
      fake.replies.some((reply) => reply.unique === 100n),
      'only the most recent ones are remembered',
    )
  })

  await t.test('the end of the mount gives up what waits', async (t) => {
    fake.dispatcher.ended()
    await settled()
    t.strictSame(fake.replies.filter((reply) => reply.unique === 100n).map(errnoName), ['EINTR'])
  })
})

t.test('references that the kernel did not get are given back', async (t) => {
  const fileSystem = memoryFileSystem()
  const fake = start(fileSystem)
  await create(fake, 'f')
  const before = fileSystem.counts()
  fake.outcome('gone')
  await fake.ask(opcode.LOOKUP, { body: named('f') })
  await fake.ask(opcode.CREATE, { body: named('g', u32(2, 0o100644, 0, 0)) })
  await fake.ask(opcode.OPEN, { nodeId: 2n, body: u32(0, 0) })
  fake.outcome('sent')
  await settled()
  t.strictSame(fileSystem.counts(), { ...before, inodes: before.inodes + 1 })
  t.equal(errnoName(await fake.ask(opcode.LOOKUP, { body: named('g') })), 'fine', 'the file itself stays')
})

t.test('a listing counts what it holds, and only that', async (t) => {
  const fileSystem = memoryFileSystem()
  const fake = start(fileSystem)
  for (let i = 0; i < 10; i++) await create(fake, `file${i}`)
  const { references } = fileSystem.counts()
  t.equal(errnoName(await fake.ask(opcode.OPENDIR, { body: u32(0, 0) })), 'ENOSYS', 'directories are not opened')
  const read = (size: number, cookie = 0n): Promise<Reply> =>
    fake.ask(opcode.READDIRPLUS, { body: Buffer.concat([u64(0n, cookie), u32(size, 0, 0, 0, 0, 0)]) })
  // A record is 128 + 24 + 8 bytes; "." and ".." are not counted.
  const { body } = await read(5 * 160 + 159)
  t.equal(body.length, 5 * 160)
  t.equal(fileSystem.counts().references, references + 3n)
  t.equal(body.readBigUInt64LE(0), 0n, '"." has no entry')
  t.equal(body.readBigUInt64LE(2 * 160), 2n)
  const cookie = body.readBigUInt64LE(4 * 160 + 128 + 8)
  t.equal((await read(4096, cookie)).body.length, 7 * 160)
  t.equal(errnoName(await read(100)), 'EINVAL', 'no record fits: an empty answer would be the end')
  t.equal((await read(4096, 1000n)).body.length, 0)
})

t.test(
  'a listing with names that may be believed is unread until the kernel asks for something that it could not ask before',
  async (t) => {
    const fake = start(memoryFileSystem({ validityMs: 1000 }))
    const { nodeId: file } = await create(fake, 'f')
    const [one, other] = [100, 101]
    const read = (pid: number, cookie = 0n): Promise<Reply> =>
      fake.ask(opcode.READDIRPLUS, { pid, body: Buffer.concat([u64(0n, cookie), u32(4096, 0, 0, 0, 0, 0)]) })
    const isUntaken = (): boolean => fake.listings.isUntaken(1n)
    t.equal(isUntaken(), false)
    await read(one)
    t.equal(isUntaken(), true)
    await fake.ask(opcode.LOOKUP, { body: named('f') })
    await read(other)
    await read(other, 1000n)
    t.equal(isUntaken(), true, 'others may look things up and list meanwhile')
    await read(one, 1000n)
    t.equal(isUntaken(), false, 'the same reader goes on')
    await read(one)
    await fake.ask(opcode.READ, { nodeId: file, pid: one, body: Buffer.alloc(40) })
    t.equal(isUntaken(), true, 'a page fault in the middle')
    await fake.ask(opcode.LOOKUP, { pid: one, body: named('f') })
    t.equal(isUntaken(), false, 'or asks for something else')
    await read(0)
    await fake.ask(opcode.LOOKUP, { pid: 0, body: named('f') })
    t.equal(isUntaken(), true, 'a reader without a number')
    await read(other)
    await fake.ask(opcode.MKDIR, { nodeId: file, body: named('d', u32(0o755, 0)) })
    t.equal(isUntaken(), true)
    await fake.ask(opcode.MKDIR, { body: named('d', u32(0o755, 0)) })
    t.equal(isUntaken(), false, 'the directory is changed')
    fake.outcome('gone')
    await read(other)
    t.equal(isUntaken(), false, 'nobody got it')
  },
)

t.test('what the kernel may have of a listing that need not be right is dropped before it could be used', async (t) => {
  const fileSystem = memoryFileSystem({ validityMs: 1000 })
  let mayKeep = true
  const { readdir } = fileSystem
  fileSystem.readdir = async (...args) => {
    await readdir(...args)
    return mayKeep
  }
  const fake = start(fileSystem, { holdsNotifications: true })
  const made = await fake.ask(opcode.MKDIR, { body: named('d', u32(0o755, 0)) })
  const nodeId = made.body.readBigUInt64LE(0)
  const list = (): Promise<Reply> =>
    fake.ask(opcode.READDIR, { nodeId, body: Buffer.concat([u64(0n, 0n), u32(4096, 0, 0, 0, 0, 0)]) })
  const next = (): Promise<Reply> => fake.ask(opcode.LOOKUP, { body: named('none') })
  const getattr = { nodeId, body: Buffer.alloc(16) }
  /** Seconds; the memory file system says 1. */
  const lookedUp = async (): Promise<bigint> =>
    (await fake.ask(opcode.LOOKUP, { body: named('d') })).body.readBigUInt64LE(24)
  const asked = async (): Promise<bigint> => (await fake.ask(opcode.GETATTR, getattr)).body.readBigUInt64LE(0)

  await list()
  t.equal(fake.doubtful.has(nodeId), false)
  t.equal(await lookedUp(), 1n)
  mayKeep = false
  await list()
  await next()
  t.equal(fake.doubtful.has(nodeId), true)
  t.equal(await lookedUp(), 0n, 'its attributes are not believed')
  t.equal(await lookedUp(), 0n)

  const replies = fake.replies.length
  fake.send(opcode.GETATTR, getattr)
  await settled()
  t.equal(fake.replies.length, replies, 'who begins to read it waits')
  t.equal(fake.notified.length, 1)
  fake.notified.shift()?.()
  await settled()
  t.equal(fake.replies.at(-1)?.body.readBigUInt64LE(0), 0n)
  t.equal(fake.doubtful.has(nodeId), false)
  t.equal(await asked(), 1n)
  t.equal(await lookedUp(), 1n)

  await list()
  fake.send(opcode.GETATTR, { ...getattr, pid: 5 })
  await settled()
  t.equal(fake.notified.length, 2, 'what takes the lock of the directory, and what takes the pages')
  const [locked, dropped] = fake.notified.splice(0)
  dropped?.()
  await settled()
  t.equal(fake.doubtful.has(nodeId), true, 'an answer may still bring pages')
  locked?.()
  fake.send(opcode.GETATTR, { ...getattr, pid: 5 })
  await settled()
  fake.notified.shift()?.()
  await settled()
  t.equal(fake.doubtful.has(nodeId), false)

  await list()
  fake.send(opcode.FORGET, { nodeId, body: u64(100n) })
  t.equal(fake.doubtful.has(nodeId), false, 'the kernel has forgotten it')
})

t.test('what was made is untaken until the kernel asks for something that it could not ask before', async (t) => {
  const fileSystem = memoryFileSystem({ validityMs: 1000 })
  const fake = start(fileSystem)
  const mkdir = async (name: string, nodeId = 1n): Promise<bigint> =>
    (await fake.ask(opcode.MKDIR, { nodeId, body: named(name, u32(0o755, 0)) })).body.readBigUInt64LE(0)
  const isUntaken = (nodeId: bigint): boolean => fake.made.directoryOf(nodeId) !== undefined

  const { nodeId: file } = await create(fake, 'f')
  t.equal(fake.made.directoryOf(file), 1n)
  await fake.ask(opcode.LOOKUP, { body: named('f') })
  await fake.ask(opcode.GETATTR, { body: Buffer.alloc(16) })
  t.equal(isUntaken(file), true, 'others may ask about the directory')
  await fake.ask(opcode.GETATTR, { nodeId: file, body: Buffer.alloc(16) })
  t.equal(isUntaken(file), false, 'it is asked about itself')

  const [one, two] = [await mkdir('one'), await mkdir('two')]
  t.equal(isUntaken(one), false, 'the directory is changed again')
  t.equal(isUntaken(two), true)
  await fake.ask(opcode.RENAME, { nodeId: one, body: named('b', u64(1n), named('a')) })
  t.equal(isUntaken(two), false, 'something is moved to the directory')

  const inner = await mkdir('inner', two)
  const { nodeId: other } = await create(fake, 'other')
  await fake.ask(opcode.LINK, { nodeId: two, body: named('linked', u64(other)) })
  t.equal(isUntaken(other), false, 'it gets another name')
  t.equal(isUntaken(inner), false)
  const forgotten = await mkdir('forgotten')
  fake.send(opcode.FORGET, { nodeId: forgotten, body: u64(1n) })
  t.equal(isUntaken(forgotten), false, 'the kernel has forgotten it')

  fake.outcome('gone')
  await mkdir('nobody')
  t.equal(fake.made.isUntaken(1n), false, 'nobody got it')

  const plain = start(memoryFileSystem())
  const { nodeId } = await create(plain, 'f')
  t.equal(plain.made.directoryOf(nodeId), undefined, 'nothing is believed')
})

t.test('the buffer of a large WRITE is kept until it is written, and then given back', async (t) => {
  const plain = memoryFileSystem()
  let finish: ((error?: Error) => void) | undefined
  let seen: Buffer | undefined
  const fileSystem: FileSystem = {
    ...plain,
    write: (_context, _handle, _offset, data) => {
      seen = data
      return new Promise((resolve, reject) => {
        finish = (error) => (error === undefined ? resolve() : reject(error))
      })
    },
  }
  const fake = start(fileSystem)
  t.equal(fake.send(opcode.WRITE, { body: writeBody(65536) }), true)
  t.equal(fake.returned.length, 0)
  t.strictSame(seen, Buffer.alloc(65536, 7))
  finish?.()
  await settled()
  t.equal(fake.returned.length, 1)
  t.equal(fake.replies.at(-1)?.body.readUInt32LE(0), 65536)

  t.equal(fake.send(opcode.WRITE, { body: writeBody(65536) }), true)
  finish?.(new PosixError('ENOSPC'))
  await settled()
  t.equal(fake.returned.length, 2)
  t.equal(errnoName(fake.replies.at(-1) as Reply), 'ENOSPC')

  t.equal(fake.send(opcode.WRITE, { body: writeBody(65535) }), false, 'a smaller one is copied')
})

t.test('xattr sizes', async (t) => {
  const fake = start(memoryFileSystem())
  const { nodeId } = await create(fake, 'f')
  const set = (name: string, value: string): Promise<Reply> =>
    fake.ask(opcode.SETXATTR, { nodeId, body: Buffer.concat([named(name, u32(value.length, 0)), Buffer.from(value)]) })
  const get = (size: number, name = 'user.a'): Promise<Reply> =>
    fake.ask(opcode.GETXATTR, { nodeId, body: named(name, u32(size, 0)) })
  t.equal(errnoName(await set('user.a', 'value')), 'fine')
  t.strictSame((await get(0)).body, u32(5, 0))
  t.equal(errnoName(await get(4)), 'ERANGE')
  t.equal((await get(5)).body.toString(), 'value')
  t.equal(errnoName(await get(5, 'user.none')), 'ENODATA')
  t.strictSame((await fake.ask(opcode.LISTXATTR, { nodeId, body: u32(0, 0) })).body, u32(7, 0))
  t.equal(errnoName(await fake.ask(opcode.LISTXATTR, { nodeId, body: u32(6, 0) })), 'ERANGE')
  t.equal((await fake.ask(opcode.LISTXATTR, { nodeId, body: u32(7, 0) })).body.toString(), 'user.a\0')
  t.equal(errnoName(await set('system.posix_acl_access', 'acl')), 'EOPNOTSUPP', 'it would not be applied')
})

t.test('a file system that reads more than it was asked for does not reach the kernel', async (t) => {
  const fake = start({ ...memoryFileSystem(), read: () => Promise.resolve(Buffer.alloc(11)) })
  t.equal(errnoName(await fake.ask(opcode.READ, { body: Buffer.concat([u64(1n, 0n), u32(10, 0, 0, 0, 0, 0)]) })), 'EIO')
})
