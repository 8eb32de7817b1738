import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { PosixError } from '../../../src/domain/errors.ts'
import { asChunkId, asSessionId, rootIno } from '../../../src/domain/ids.ts'
import { chunks, sessions as sessionTable } from '../../../src/master/keys.ts'
import { sessionsMax } from '../../../src/master/sessions.ts'
import { LeaseMode, LockKind, LockType } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { LostAnswers } from '../../lib/lost-answers.ts'
import { acquire, codeOf, createFile, expect, masterCluster, writeFile } from '../../lib/master-cluster.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import type { Result, SessionClient } from '../../lib/session-client.ts'

const setlk = (
  client: SessionClient,
  ino: bigint,
  type: LockType,
  options: { owner?: bigint; wait?: boolean; start?: bigint; end?: bigint; kind?: LockKind } = {},
) =>
  client.request({
    $case: 'setlk',
    value: {
      ino,
      owner: options.owner ?? 1n,
      kind: options.kind ?? LockKind.LOCK_KIND_POSIX,
      lock: { type, start: options.start ?? 0n, end: options.end ?? (1n << 63n) - 1n, pid: 7 },
      wait: options.wait ?? false,
    },
  })

t.test('a new session is welcomed, and one with another protocol version is refused with a sentence', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  const welcome = await client.welcome
  t.equal(welcome.failure, undefined)
  t.equal(welcome.rootIno, 1n)
  t.equal(welcome.leaseMs, 10_000)
  t.equal(welcome.copies, 3)
  t.equal(welcome.copiesMin, 2)
  t.match(welcome.clusterId, /^[0-9a-f]{32}$/)
  const refused = await cluster.client({ protocolVersion: 99 }).welcome
  t.match(refused.failure, { code: 'EPROTO', message: /versions 1 to 2 .* version 99/ })
})

t.test('root_path names a directory, or the session is refused', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  await client.welcome
  const caller = { uid: 0, gid: 0, pid: 1, umask: 0 }
  const made = await client.request({
    $case: 'mkdir',
    value: { parent: 1n, name: Buffer.from('sub'), mode: 0o755, caller },
  })
  const ino = expect(made, 'entry').attributes!.ino
  await createFile(client, 'file')
  // It would be asked for what it has done to the names.
  await client.request({ $case: 'endSession', value: {} })
  t.equal((await cluster.client({ rootPath: '/sub' }).welcome).rootIno, ino)
  t.equal((await cluster.client({ rootPath: 'sub/../sub/.' }).welcome).rootIno, ino)
  t.equal((await cluster.client({ rootPath: '/none' }).welcome).failure?.code, 'ENOENT')
  t.equal((await cluster.client({ rootPath: '/file' }).welcome).failure?.code, 'ENOTDIR')
  t.equal((await cluster.client({ rootPath: `/${'x'.repeat(256)}` }).welcome).failure?.code, 'ENAMETOOLONG')
})

t.test('malformed traffic harms nobody but its sender', async (t) => {
  const cluster = await masterCluster(t)
  const good = cluster.client()
  await good.welcome
  const noId = cluster.client()
  await noId.welcome
  noId.send({ requests: [{ id: 0n, op: { $case: 'statfs', value: {} } }] })
  await noId.closed
  const noOp = cluster.client()
  await noOp.welcome
  noOp.send({ requests: [{ id: 1n, op: undefined }] })
  await cluster.until('a reply', () => noOp.messages.some(({ replies }) => replies.length > 0))
  t.equal(codeOf(noOp.messages.find(({ replies }) => replies.length > 0)!.replies[0]!.result!), 'EPROTO')
  t.equal(codeOf(await good.request({ $case: 'getattr', value: { ino: 1n } })), 'attributesAndLease')
})

t.test('replies that are ready together travel together', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  await client.welcome
  await client.request({ $case: 'getattr', value: { ino: 1n } })
  const before = client.messages.length
  await Promise.all(Array.from({ length: 20 }, (_, i) => createFile(client, `f${i}`)))
  t.ok(client.messages.length - before < 10, `${client.messages.length - before} messages for 20 replies`)
})

t.test('a repeat of a request gets the first answer: running, finished, and after a restart', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  const { sessionId, sessionSecret } = await client.welcome
  const caller = { uid: 0, gid: 0, pid: 1, umask: 0 }
  const op = { $case: 'mkdir', value: { parent: 1n, name: Buffer.from('d'), mode: 0o755, caller } } as const
  const first = expect(await client.request(op, 5n), 'entry')
  t.equal(expect(await client.request(op, 5n), 'entry').attributes!.ino, first.attributes!.ino)
  t.equal(codeOf(await client.request(op, 6n)), 'EEXIST')
  // A second stream of the same session replaces the first one.
  const again = cluster.client({ sessionId, sessionSecret })
  t.equal((await again.welcome).sessionId, sessionId)
  await client.closed
  t.equal(expect(await again.request(op, 5n), 'entry').attributes!.ino, first.attributes!.ino)
  await cluster.restart()
  const third = cluster.client({ sessionId, sessionSecret })
  t.equal((await third.welcome).failure, undefined)
  t.equal(expect(await third.request(op, 5n), 'entry').attributes!.ino, first.attributes!.ino)
  third.send({ answeredThrough: 5n })
  t.equal(codeOf(await third.request(op, 7n)), 'EEXIST', 'a new id is a new request')
})

for (const others of [true, false]) {
  const when = others ? 'while others are waited for' : 'when its result has to be loaded'
  t.test(`what was carried out before a restart is not answered EINTR ${when}`, async (t) => {
    const lost = new LostAnswers()
    const cluster = await masterCluster(t, { faults: lost })
    const client = cluster.client()
    const { sessionId, sessionSecret } = await client.welcome
    if (others) await cluster.client().welcome
    const ino = await createFile(client, 'f')
    lost.isOn = true
    const truncate = { $case: 'setattr', value: setattrSize(ino, 4096n) } as const
    void client.request(truncate, 50n)
    await cluster.until('it is carried out', () => lost.count > 0)
    await cluster.restart()
    lost.isOn = false
    const again = cluster.client({ sessionId, sessionSecret, openFiles: [{ ino }] }, 100n)
    await again.welcome
    const never = { $case: 'setattr', value: setattrSize(ino, 0n) } as const
    again.send({
      requests: [
        { id: 50n, op: truncate },
        { id: 51n, op: never },
      ],
      cancels: [50n, 51n],
    })
    const answers = (): Map<bigint, Result> =>
      new Map(again.messages.flatMap(({ replies }) => replies.map(({ id, result }) => [id, result!])))
    await cluster.until('both are answered', () => answers().size === 2, 1)
    t.equal(expect(answers().get(50n)!, 'attributesAndLease').attributes!.size, 4096n)
    t.equal(codeOf(answers().get(51n)!), 'EINTR', 'a cancel counts for the requests that come with it')
    // The others' time runs out.
    for (let i = 0; i < 4; i++) {
      again.send({ heartbeat: true })
      await cluster.clock.advance(3000)
    }
    const found = expect(await again.request({ $case: 'getattr', value: { ino } }), 'attributesAndLease')
    t.equal(found.attributes!.size, 4096n)
  })
}

t.test('a session is resumed with its secret only, and not after its end', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  const { sessionId, sessionSecret } = await client.welcome
  const thief = await cluster.client({ sessionId, sessionSecret: Buffer.alloc(16) }).welcome
  t.equal(thief.failure?.code, 'ESTALE')
  t.equal(codeOf(await client.request({ $case: 'endSession', value: {} })), 'empty')
  t.equal((await cluster.client({ sessionId, sessionSecret }).welcome).failure?.code, 'ESTALE')
  t.equal((await cluster.status()).sessions.length, 0)
  await cluster.restart()
  t.equal((await cluster.client({ sessionId, sessionSecret }).welcome).failure?.code, 'ESTALE')
})

t.test('seed 47: a session whose record came to the disk after its lease had run out does not begin', async (t) => {
  const cluster = await masterCluster(t)
  cluster.kv.failWrites(new PosixError('ENOSPC'))
  const late = cluster.client()
  await cluster.clock.advance(12_000)
  cluster.kv.failWrites(undefined)
  await cluster.clock.advance(1000)
  t.ok(await late.closed)
  t.same(late.messages, [])
  const next = cluster.client()
  t.equal((await next.welcome).failure, undefined)
  t.equal((await cluster.status()).sessions.length, 1)
})

t.test('seed 40205: a session whose end was not cleared up before a restart does not come back', async (t) => {
  let hold: Promise<void> | undefined
  let release!: () => void
  const kv = memoryKv(async (call) => {
    await nextTurn()
    if (call === 'read') await hold
  })
  const cluster = await masterCluster(t, { kv, servers: 3 })
  const a = cluster.client()
  const b = cluster.client()
  const helloA = await a.welcome
  const helloB = await b.welcome
  const { ino, chunk } = await writeFile(cluster, a, 'f', 5000)
  const lost = expect(await acquire(a, ino, 'write'), 'attributesAndLease').lease!
  // A request of A's waits for the database, and the end of A waits for the request.
  hold = new Promise((resolve) => {
    release = resolve
  })
  void a.request({ $case: 'getattr', value: { ino: 1000n } })
  const given = acquire(b, ino, 'write')
  for (let i = 0; i < 4; i++) {
    b.send({ heartbeat: true })
    await cluster.clock.advance(3000)
  }
  const lease = expect(await given, 'attributesAndLease').lease!
  t.equal(lease.mode, LeaseMode.LEASE_MODE_WRITE)
  const restarted = cluster.restart()
  hold = undefined
  release()
  await restarted
  const again = cluster.client({ sessionId: helloA.sessionId, sessionSecret: helloA.sessionSecret, leases: [lost] })
  t.equal((await again.welcome).failure?.code, 'ESTALE')
  const b2 = cluster.client({ sessionId: helloB.sessionId, sessionSecret: helloB.sessionSecret, leases: [lease] }, 100n)
  await b2.welcome
  t.same(b2.recalls(), [])
  let answer: string | undefined
  void b2.request({ $case: 'getattr', value: { ino } }).then((result) => {
    answer = codeOf(result)
  })
  await cluster.until('an answer, for which nobody waits for A', () => answer !== undefined, 1)
  t.equal(answer, 'attributesAndLease')
  await cluster.until('nothing is left of A', async () => (await cluster.status()).sessions.length === 1)
  t.equal(chunks.decode(kv.peek(Buffer.from(chunks.encodeKey(asChunkId(chunk)), 'latin1'))!).sealed, true)
})

for (const isRecovering of [false, true]) {
  const when = isRecovering ? 'after a restart' : 'while the master is up'
  t.test(`seed 40205: ${when}, what a session held is given to nobody before its end is on disk`, async (t) => {
    const cluster = await masterCluster(t)
    const a = cluster.client()
    const first = cluster.client()
    const { sessionId, sessionSecret } = await first.welcome
    await a.welcome
    const ino = await createFile(a, 'f')
    expect(await acquire(a, ino, 'write'), 'attributesAndLease')
    t.equal(codeOf(await setlk(a, ino, LockType.LOCK_TYPE_WRITE)), 'empty')
    if (isRecovering) await cluster.restart()
    const b = cluster.client({ sessionId, sessionSecret }, 100n)
    await b.welcome
    cluster.kv.failWrites(new PosixError('ENOSPC'))
    const given: string[] = []
    const tell = (result: Result): unknown => given.push(codeOf(result))
    const asked = [
      acquire(b, ino, 'write').then(tell),
      setlk(b, ino, LockType.LOCK_TYPE_WRITE, { wait: true }).then(tell),
    ]
    for (let i = 0; i < 4; i++) {
      b.send({ heartbeat: true })
      await cluster.clock.advance(3000)
    }
    await a.closed
    t.same(given, [])
    cluster.kv.failWrites(undefined)
    await cluster.clock.advance(1000)
    await Promise.all(asked)
    t.same(given.toSorted(), ['attributesAndLease', 'empty'])
  })
}

t.test('heartbeats keep a session; without a message it ends, and its leases, locks and open files go', async (t) => {
  const cluster = await masterCluster(t)
  const holder = cluster.client()
  const { sessionId, sessionSecret } = await holder.welcome
  const ino = await createFile(holder, 'f')
  expect(await acquire(holder, ino, 'write'), 'attributesAndLease')
  t.equal(codeOf(await setlk(holder, ino, LockType.LOCK_TYPE_WRITE)), 'empty')
  const other = cluster.client()
  await other.welcome
  for (let i = 0; i < 10; i++) {
    holder.send({ heartbeat: true })
    other.send({ heartbeat: true })
    await cluster.clock.advance(3000)
  }
  t.equal(holder.messages.filter(({ heartbeat }) => heartbeat).length, 10)
  t.equal((await cluster.status()).sessions.length, 2)
  let granted = false
  const lock = setlk(other, ino, LockType.LOCK_TYPE_WRITE, { wait: true }).then((result) => {
    granted = codeOf(result) === 'empty'
  })
  for (let i = 0; i < 2; i++) {
    other.send({ heartbeat: true })
    await cluster.clock.advance(3000)
  }
  t.equal(granted, false, 'the holder still lives')
  other.send({ heartbeat: true })
  await cluster.clock.advance(3000)
  await lock
  t.equal(granted, true)
  await holder.closed
  t.equal((await cluster.client({ sessionId, sessionSecret }).welcome).failure?.code, 'ESTALE')
})

t.test(
  'an unlinked file lives while a session has it open, across a restart too, and goes with the session',
  async (t) => {
    const cluster = await masterCluster(t)
    const client = cluster.client()
    const { sessionId, sessionSecret } = await client.welcome
    const ino = await createFile(client, 'f')
    await client.request({ $case: 'setattr', value: setattrSize(ino, 4096n) })
    t.equal(codeOf(await client.request({ $case: 'unlink', value: { parent: 1n, name: Buffer.from('f') } })), 'changed')
    t.equal(codeOf(await client.request({ $case: 'getattr', value: { ino } })), 'attributesAndLease')
    await cluster.restart()
    const again = cluster.client({ sessionId, sessionSecret, openFiles: [{ ino }] }, 100n)
    await again.welcome
    await cluster.clock.advance(2000)
    t.equal(codeOf(await again.request({ $case: 'getattr', value: { ino } })), 'attributesAndLease')
    const other = cluster.client()
    await other.welcome
    t.equal(codeOf(await again.request({ $case: 'endSession', value: {} })), 'empty')
    await cluster.clock.advance(100)
    t.equal(codeOf(await other.request({ $case: 'getattr', value: { ino } })), 'ESTALE')
    t.equal((await cluster.status()).orphans, 0n)
  },
)

const setattrSize = (ino: bigint, size: bigint) => ({
  ino,
  size,
  caller: { uid: 0, gid: 0, pid: 1, umask: 0 },
  mode: undefined,
  uid: undefined,
  gid: undefined,
  atime: undefined,
  mtime: undefined,
  atimeNow: false,
  mtimeNow: false,
  ctime: undefined,
  flags: undefined,
  copies: undefined,
  killPrivileges: false,
})

t.test('after a restart nobody works before the former sessions are back or their leases have run out', async (t) => {
  const cluster = await masterCluster(t)
  const a = cluster.client()
  const b = cluster.client()
  const helloA = await a.welcome
  await b.welcome
  const ino = await createFile(a, 'f')
  const lease = expect(await acquire(a, ino, 'write'), 'attributesAndLease').lease!
  await cluster.restart()
  const c = cluster.client()
  await c.welcome
  let answered = false
  const asked = c.request({ $case: 'getattr', value: { ino } }).then((result) => {
    answered = true
    return result
  })
  const a2 = cluster.client(
    { sessionId: helloA.sessionId, sessionSecret: helloA.sessionSecret, leases: [lease], openFiles: [{ ino }] },
    100n,
  )
  await a2.welcome
  for (let i = 0; i < 3; i++) {
    a2.send({ heartbeat: true })
    c.send({ heartbeat: true })
    await cluster.clock.advance(3000)
  }
  t.equal(answered, false, 'b may still come back')
  t.same(a2.recalls(), [], 'nobody was recalled yet')
  a2.send({ heartbeat: true })
  c.send({ heartbeat: true })
  await cluster.clock.advance(2000)
  t.equal(answered, false, 'a holds the write lease')
  const [recall] = a2.recalls()
  t.equal(recall?.ino, ino)
  t.equal(recall?.grant, lease.grant)
  a2.send({ leaseReturns: [{ ino, mode: LeaseMode.LEASE_MODE_READ, grant: lease.grant }] })
  t.equal(codeOf(await asked), 'attributesAndLease')
})

t.test('leases: readers share, a writer recalls them, late returns and streams that break do no harm', async (t) => {
  const cluster = await masterCluster(t)
  const a = cluster.client()
  const b = cluster.client()
  const helloA = await a.welcome
  await b.welcome
  const ino = await createFile(a, 'f', false)
  const read = { ino, segmentFirst: 0n, segmentCount: 1, following: [] }
  const first = expect(await a.request({ $case: 'getExtents', value: read }), 'extents').lease!
  t.equal(first.mode, LeaseMode.LEASE_MODE_READ)
  const second = expect(await a.request({ $case: 'getExtents', value: read }), 'extents').lease!
  t.ok(second.grant > first.grant, 'each grant has a new number')
  expect(await b.request({ $case: 'getExtents', value: read }), 'extents')
  t.same(a.recalls(), [])
  const write = acquire(b, ino, 'write')
  await cluster.until('a recall', () => a.recalls().length > 0)
  t.same(
    a.recalls().map(({ grant, mode }) => [grant, mode]),
    [[second.grant, LeaseMode.LEASE_MODE_NONE]],
  )
  a.send({ leaseReturns: [{ ino, mode: LeaseMode.LEASE_MODE_NONE, grant: first.grant }] })
  await cluster.clock.advance(100)
  t.equal((await cluster.status()).leases, 3n, 'the return of an older grant says nothing')
  // The stream breaks and the return is lost with it; on resuming the client names what it holds: nothing.
  a.abort()
  const a2 = cluster.client({ sessionId: helloA.sessionId, sessionSecret: helloA.sessionSecret }, 50n)
  await a2.welcome
  t.equal(expect(await write, 'attributesAndLease').lease!.mode, LeaseMode.LEASE_MODE_WRITE)
  t.equal((await cluster.status()).leases, 1n)
  t.equal((await cluster.status()).recalls, 1n)
})

t.test('seed 170851: a hello that comes after that of a later attempt drops no lease', async (t) => {
  const cluster = await masterCluster(t)
  const first = cluster.client({ attempt: 1n })
  const { sessionId, sessionSecret } = await first.welcome
  const ino = await createFile(first, 'f', false)
  const { lease } = expect(await acquire(first, ino, 'write'), 'attributesAndLease')
  first.abort()
  const identity = { sessionId, sessionSecret }
  const third = cluster.client({ ...identity, attempt: 3n, leases: [lease!] }, 50n)
  await third.welcome
  const second = cluster.client({ ...identity, attempt: 2n }, 90n)
  t.match((await second.closed)?.message, /has connected again since/)
  t.same(second.messages, [])
  const other = cluster.client()
  await other.welcome
  void acquire(other, ino, 'write')
  await cluster.until('a recall', () => third.recalls().length > 0)
  t.equal(third.recalls()[0]!.grant, lease!.grant)
})

t.test('commit is refused without the write lease, and from a session that has ended', async (t) => {
  const cluster = await masterCluster(t, { servers: 3 })
  const a = cluster.client()
  await a.welcome
  const { ino } = await writeFile(cluster, a, 'f', 5000)
  const inline = {
    ino,
    segments: [],
    size: undefined,
    mtime: undefined,
    ctime: undefined,
    appended: [],
    killPrivileges: false,
    inlineData: undefined,
  }
  const b = cluster.client()
  await b.welcome
  t.equal(codeOf(await b.request({ $case: 'commit', value: inline })), 'ESTALE')
  t.equal(codeOf(await a.request({ $case: 'commit', value: inline })), 'attributesAndLease')
})

t.test('a waiting request is cancelled', async (t) => {
  const cluster = await masterCluster(t)
  const a = cluster.client()
  const b = cluster.client()
  await a.welcome
  await b.welcome
  const ino = await createFile(a, 'f')
  t.equal(codeOf(await setlk(a, ino, LockType.LOCK_TYPE_WRITE)), 'empty')
  t.equal(codeOf(await setlk(b, ino, LockType.LOCK_TYPE_READ)), 'EAGAIN')
  const waiting = b.request(
    {
      $case: 'setlk',
      value: {
        ino,
        owner: 1n,
        kind: LockKind.LOCK_KIND_POSIX,
        lock: { type: LockType.LOCK_TYPE_READ, start: 0n, end: 10n, pid: 1 },
        wait: true,
      },
    },
    77n,
  )
  await cluster.clock.advance(100)
  b.send({ cancels: [77n, 78n] })
  t.equal(codeOf(await waiting), 'EINTR')
  expect(await acquire(a, ino, 'write'), 'attributesAndLease')
  const blocked = b.request({ $case: 'getattr', value: { ino } }, 80n)
  await cluster.clock.advance(100)
  b.send({ cancels: [80n] })
  t.equal(codeOf(await blocked), 'EINTR')
})

t.test('locks: conflicts across sessions, deadlock, getlk, and re-declared after a restart', async (t) => {
  const cluster = await masterCluster(t)
  const a = cluster.client()
  const b = cluster.client()
  const helloA = await a.welcome
  const helloB = await b.welcome
  const ino = await createFile(a, 'f')
  t.equal(codeOf(await setlk(a, ino, LockType.LOCK_TYPE_WRITE, { start: 0n, end: 9n })), 'empty')
  t.equal(codeOf(await setlk(b, ino, LockType.LOCK_TYPE_WRITE, { start: 10n, end: 19n })), 'empty')
  const waits = setlk(a, ino, LockType.LOCK_TYPE_WRITE, { start: 10n, end: 10n, wait: true })
  await cluster.clock.advance(10)
  t.equal(codeOf(await setlk(b, ino, LockType.LOCK_TYPE_READ, { start: 5n, end: 5n, wait: true })), 'EDEADLK')
  t.equal(codeOf(await setlk(b, ino, LockType.LOCK_TYPE_UNLOCK)), 'empty')
  t.equal(codeOf(await waits), 'empty')
  const lock = { type: LockType.LOCK_TYPE_READ, start: 3n, end: 100n, pid: 9 }
  const found = await b.request({
    $case: 'getlk',
    value: { ino, owner: 1n, kind: LockKind.LOCK_KIND_POSIX, lock },
  })
  t.match(expect(found, 'lock'), { type: LockType.LOCK_TYPE_WRITE, start: 0n, end: 10n, pid: 7 })
  await cluster.restart()
  const held = { type: LockType.LOCK_TYPE_WRITE, start: 0n, end: 10n, pid: 7 }
  const a2 = cluster.client(
    {
      sessionId: helloA.sessionId,
      sessionSecret: helloA.sessionSecret,
      locks: [{ ino, owner: 1n, kind: LockKind.LOCK_KIND_POSIX, lock: held }],
    },
    100n,
  )
  const b2 = cluster.client({ sessionId: helloB.sessionId, sessionSecret: helloB.sessionSecret }, 100n)
  await a2.welcome
  await b2.welcome
  t.equal(codeOf(await setlk(b2, ino, LockType.LOCK_TYPE_READ, { start: 10n, end: 10n })), 'EAGAIN')
  t.equal(codeOf(await setlk(b2, ino, LockType.LOCK_TYPE_READ, { start: 11n, end: 11n })), 'empty')
})

t.test("a full master's disk refuses writes, and reads and removals go on", async (t) => {
  let free = 10 ** 9
  const cluster = await masterCluster(t, { space: () => ({ total: 10 ** 10, free }) })
  const client = cluster.client()
  await client.welcome
  await createFile(client, 'f')
  free = 10 ** 6
  await cluster.clock.advance(1100)
  const caller = { uid: 0, gid: 0, pid: 1, umask: 0 }
  const mkdir = { $case: 'mkdir', value: { parent: 1n, name: Buffer.from('d'), mode: 0o755, caller } } as const
  t.equal(codeOf(await client.request(mkdir)), 'ENOSPC')
  t.equal(codeOf(await client.request({ $case: 'lookup', value: { parent: 1n, name: Buffer.from('f') } })), 'entry')
  t.equal(codeOf(await client.request({ $case: 'unlink', value: { parent: 1n, name: Buffer.from('f') } })), 'changed')
  await t.rejects(createFile(client, 'g'), { code: 'ENOSPC' })
  t.equal((await cluster.status()).leases, 2n, 'on the file and the directory; a file that was not made has none')
  free = 10 ** 9
  await cluster.clock.advance(1100)
  t.equal(codeOf(await client.request(mkdir)), 'entry')
})

t.test(
  'a lease that is declared in conflict with another one is recalled over the stream that declared it',
  async (t) => {
    const cluster = await masterCluster(t)
    const holder = cluster.client()
    await holder.welcome
    const ino = await createFile(holder, 'f')
    expect(await acquire(holder, ino, 'write'), 'attributesAndLease')
    const first = cluster.client({ attempt: 1n })
    const { sessionId, sessionSecret } = await first.welcome
    const lease = { ino, mode: LeaseMode.LEASE_MODE_READ, grant: 5n }
    const second = cluster.client({ sessionId, sessionSecret, attempt: 2n, leases: [lease] })
    await second.welcome
    await cluster.clock.advance(100)
    t.same(second.recalls(), [{ ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 5n }])
  },
)

t.test('an entry of a journal that changes mode and size and is refused leaves the access list alone', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  await client.welcome
  const ino = await createFile(client, 'f')
  const entries = ['01000600ffffffff', '0200060001000000', '04000400ffffffff', '10000600ffffffff', '20000400ffffffff']
  const list = Buffer.from(`02000000${entries.join('')}`, 'hex')
  const name = Buffer.from('system.posix_acl_access')
  const set = { ino, name, value: list, flags: 0, caller: undefined, killSgid: false }
  expect(await client.request({ $case: 'setxattr', value: set }), 'changed')
  const commit = {
    ino,
    segments: [],
    size: 4n,
    mtime: undefined,
    ctime: undefined,
    appended: [],
    killPrivileges: false,
    inlineData: Buffer.from('data'),
  }
  expect(await client.request({ $case: 'commit', value: commit }), 'attributesAndLease')
  const value = {
    ino,
    caller: undefined,
    mode: 0o600,
    size: 8192n,
    atime: undefined,
    mtime: undefined,
    atimeNow: false,
    mtimeNow: false,
    ctime: undefined,
    killPrivileges: false,
  }
  const time = { seconds: 1n, nanos: 0 }
  const entry = { op: { $case: 'setattr' as const, value }, time, ino: 0n, replaced: 0n }
  const { failures } = expect(await client.request({ $case: 'journal', value: { entries: [entry] } }), 'journal')
  t.match(failures, [{ index: 0, failure: { code: 'EOPNOTSUPP' } }])
  const kept = expect(await client.request({ $case: 'getxattr', value: { ino, name } }), 'value')
  t.same(Buffer.from(kept), list)
})

t.test('of two sessions that begin at the same time only one gets the last place', async (t) => {
  const kv = memoryKv()
  const record = {
    secret: Buffer.from('s'),
    host: '',
    mountPoint: '',
    pid: 1,
    root: rootIno,
    created: { seconds: 0n, nanos: 0 },
  }
  const changes = Array.from({ length: sessionsMax - 1 }, (_, i) => ({
    type: 'put' as const,
    key: Buffer.from(sessionTable.encodeKey(asSessionId(BigInt(i + 1_000_000))), 'latin1'),
    value: sessionTable.encode(record),
  }))
  // The store makes its format first.
  const cluster = await masterCluster(t, { kv })
  await kv.write(changes, { sync: true })
  await cluster.restart()
  const welcomes = await Promise.all([cluster.client().welcome, cluster.client().welcome])
  t.same(welcomes.map(({ failure }) => failure?.code ?? 'begun').toSorted(), ['EMFILE', 'begun'])
})
