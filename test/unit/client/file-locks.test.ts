/** Locks of one client: waits that last, callers that go away while the master is away, and what a killed process leaves. */
import t from 'tap'
import type { Test } from 'tap'
import type { FileSystem, LockRequest } from '../../../src/client/file-system.ts'
import { HeldLocks } from '../../../src/client/held-locks.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { lockEndMax } from '../../../src/domain/range-locks.ts'
import { LockType } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import type { InProcessCluster } from '../../lib/in-process-cluster.ts'

const lock = (owner: bigint, type: 'read' | 'write' | 'unlock' = 'write'): LockRequest => ({
  owner,
  kind: 'posix',
  lock: { type, start: 0n, end: 99n, pid: 1 },
})

const names: Record<number, string> = { [LockType.LOCK_TYPE_READ]: 'read', [LockType.LOCK_TYPE_WRITE]: 'write' }

const create = async (fs: FileSystem, name: string): Promise<{ ino: Ino; handle: bigint }> => {
  const { entry, opened } = await fs.create(caller(), fs.root, Buffer.from(name), 0o644, 2)
  return { ino: asIno(entry.attributes.ino), handle: opened.handle }
}

const flock = (owner: bigint, type: 'read' | 'write'): LockRequest => ({
  owner,
  kind: 'flock',
  lock: { type, start: 0n, end: lockEndMax, pid: 1 },
})

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

const part = (request: LockRequest, start: bigint, end: bigint): LockRequest => ({
  ...request,
  lock: { ...request.lock, start, end },
})

/** The request is sent, it or its answer is lost with the stream, and its caller has gone before there is a new one. */
const loseCaller = async (
  t: Test,
  cluster: InProcessCluster,
  ask: (signal: AbortSignal) => Promise<void>,
  lost: Promise<void>,
): Promise<void> => {
  const stop = new AbortController()
  const asked = ask(stop.signal)
  await lost
  cluster.network.drop(cluster.masterAddress)
  await turn()
  stop.abort()
  await t.rejects(asked, { code: 'EINTR' })
}

/** What was asked for before has been answered, and what was asked for then, too. */
const answered = async (fs: FileSystem, ino: Ino): Promise<void> => {
  for (let i = 0; i < 2; i++) await fs.getlk(caller(), ino, lock(77n))
}

/** The timers of the client alone do not keep a process alive. */
const stayAlive = (t: Test): void => {
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
}

const holderOf = async (fs: FileSystem, ino: Ino): Promise<string> =>
  (await fs.getlk(caller(), ino, lock(77n))).type === 'unlock' ? 'nobody' : 'somebody'

t.test('a wait for a lock does not make the master keep the results of everything after it', async (t) => {
  const cluster = await startInProcessCluster(t, { servers: 0 })
  const [a, b] = [await cluster.mount(), await cluster.mount()]
  const { ino } = await create(a, 'locked')
  await a.setlk(caller(), ino, lock(1n), { wait: false })
  await b.lookup(caller(), b.root, Buffer.from('locked'))
  const waits = b.setlk(caller(), ino, lock(2n), { wait: true })
  for (let i = 0; i < 100; i++) await b.mkdir(caller(), b.root, Buffer.from(`d${i}`), 0o755)
  const results = cluster.kv.entries().filter(({ key }) => key[0] === 'q'.charCodeAt(0)).length
  t.ok(results < 20, `${results} results are kept`)
  await a.setlk(caller(), ino, lock(1n, 'unlock'), { wait: false })
  await waits
  t.equal(await holderOf(a, ino), 'somebody')
})

t.test('closing frees locks although the caller was interrupted', async (t) => {
  const cluster = await startInProcessCluster(t, { servers: 0 })
  const fs = await cluster.mount()
  const { ino, handle } = await create(fs, 'locked')
  await fs.setlk(caller(), ino, lock(1n), { wait: false })
  // So are all requests of a process that was killed.
  await fs.flush(caller(AbortSignal.abort()), handle, 1n)
  t.equal(await holderOf(fs, ino), 'nobody')
})

t.test('a caller that goes while the master is away gets no lock afterwards, and its next one stays', async (t) => {
  stayAlive(t)
  const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
  const fs = await cluster.mount()
  const { ino } = await create(fs, 'locked')
  const stop = new AbortController()
  // Sent, and the answer is lost.
  const given = fs.setlk(caller(stop.signal), ino, lock(1n), { wait: false })
  await turn()
  await cluster.stopMaster()
  stop.abort()
  await t.rejects(given, { code: 'EINTR' })
  const again = fs.setlk(caller(), ino, lock(1n, 'read'), { wait: false })
  await cluster.startMaster()
  await again
  t.equal(await holderOf(fs, ino), 'somebody', 'the lock that was asked for again')
  await fs.setlk(caller(), ino, lock(1n, 'unlock'), { wait: false })
  t.equal(await holderOf(fs, ino), 'nobody')
})

t.test(
  'seed 42307: an unlock whose answer was lost with the master takes no lock of others after its restart',
  async (t) => {
    stayAlive(t)
    const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
    const [a, b, c] = [await cluster.mount(), await cluster.mount(), await cluster.mount()]
    const { ino } = await create(a, 'locked')
    for (const fs of [b, c]) await fs.lookup(caller(), fs.root, Buffer.from('locked'))
    await a.setlk(caller(), ino, lock(1n), { wait: false })
    // The master is gone when b has got the lock, and a knows nothing.
    const given = b.setlk(caller(), ino, lock(2n), { wait: true }).then(() => cluster.network.cut('client1', 'master'))
    const unlocking = a.setlk(caller(), ino, lock(1n, 'unlock'), { wait: false })
    await given
    const isKnown = await Promise.race([
      unlocking.then(() => true),
      new Promise((resolve) => setImmediate(resolve, false)),
    ])
    t.equal(isKnown, false)
    await cluster.stopMaster()
    // a is the first one to come back.
    cluster.network.heal('client1', 'master')
    cluster.network.cut('client2', 'master')
    await cluster.startMaster()
    await new Promise((resolve) => setTimeout(resolve, 300))
    cluster.network.heal('client2', 'master')
    await unlocking
    await t.rejects(c.setlk(caller(), ino, lock(3n), { wait: false }), { code: 'EAGAIN' })
    await b.setlk(caller(), ino, lock(2n, 'unlock'), { wait: false })
    await c.setlk(caller(), ino, lock(3n), { wait: false })
  },
)

t.test('seed 42307: what a request may give up is not declared from the moment when it is sent', async (t) => {
  const declared = (kind: LockRequest['kind'], ...asked: LockRequest['lock'][]): string => {
    const held = new HeldLocks()
    held.apply(asIno(5n), { ...lock(1n), kind })
    held.apply(asIno(5n), { ...lock(2n), kind: kind === 'posix' ? 'flock' : 'posix' })
    for (const each of asked) held.asking(asIno(5n), { owner: 1n, kind, lock: each })
    const own = held.all().filter(({ owner }) => owner === 1n)
    return own.map((each) => `${names[each.lock!.type]} ${each.lock!.start}-${each.lock!.end}`).join(', ')
  }
  const part = { start: 50n, end: 149n, pid: 1 }
  t.equal(declared('posix', { type: 'unlock', ...part }), 'write 0-49')
  t.equal(
    declared('posix', { type: 'read', ...part }),
    'write 0-49, read 50-99',
    'a weaker lock, and no more than there was',
  )
  t.equal(declared('posix', { type: 'write', ...part }), 'write 0-99')
  t.equal(declared('flock', { type: 'write', start: 0n, end: 99n, pid: 1 }), '', 'a conversion may lose it')
})

t.test('a flock(2) lock ends with its file after a conversion that was never sent', async (t) => {
  stayAlive(t)
  const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
  const [a, b] = [await cluster.mount(), await cluster.mount()]
  const { ino, handle } = await create(a, 'locked')
  await b.lookup(caller(), b.root, Buffer.from('locked'))
  await a.setlk(caller(), ino, flock(1n, 'read'), { wait: false })
  const stop = new AbortController()
  cluster.network.drop(cluster.masterAddress)
  await turn()
  const converted = a.setlk(caller(stop.signal), ino, flock(1n, 'write'), { wait: true })
  stop.abort()
  await t.rejects(converted, { code: 'EINTR' })
  await a.release(handle, 1n)
  await b.setlk(caller(), ino, flock(2n, 'write'), { wait: false })
})

t.test('a flock(2) lock ends with its file after a conversion that the master never came to', async (t) => {
  stayAlive(t)
  const cluster = await startInProcessCluster(t, { servers: 0 })
  const [a, b, c] = [await cluster.mount(), await cluster.mount(), await cluster.mount()]
  const { ino, handle } = await create(a, 'locked')
  await b.lookup(caller(), b.root, Buffer.from('locked'))
  await a.setlk(caller(), ino, flock(1n, 'read'), { wait: false })
  // The master waits for c before it does anything.
  cluster.network.cut('client3', 'master')
  await cluster.stopMaster()
  await turn()
  await cluster.startMaster()
  while (a.figures().masterAway) await turn()
  const stop = new AbortController()
  const converted = a.setlk(caller(stop.signal), ino, flock(1n, 'write'), { wait: true })
  await turn()
  stop.abort()
  await t.rejects(converted, { code: 'EINTR' })
  await a.release(handle, 1n)
  await b.setlk(caller(), ino, flock(2n, 'write'), { wait: false })
  await c.close()
})

t.test('what was granted too late leaves a record lock as it was', async (t) => {
  stayAlive(t)
  const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
  const [a, b] = [await cluster.mount(), await cluster.mount()]
  const { ino } = await create(a, 'locked')
  await b.lookup(caller(), b.root, Buffer.from('locked'))
  await a.setlk(caller(), ino, part(lock(1n, 'read'), 20n, 59n), { wait: false })
  const upgrade = (signal: AbortSignal): Promise<void> => a.setlk(caller(signal), ino, lock(1n), { wait: true })
  await loseCaller(t, cluster, upgrade, Promise.resolve())
  await answered(a, ino)
  for (const [start, end] of [
    [20n, 20n],
    [59n, 59n],
  ] as const) {
    const write = b.setlk(caller(), ino, part(lock(2n), start, end), { wait: false })
    await t.rejects(write, { code: 'EAGAIN' }, `the read lock at ${start}`)
  }
  await b.setlk(caller(), ino, part(lock(2n), 0n, 19n), { wait: false })
  await b.setlk(caller(), ino, part(lock(2n), 60n, 99n), { wait: false })
  await b.setlk(caller(), ino, part(lock(2n, 'read'), 20n, 59n), { wait: false })
})

t.test('what was granted too late takes no write lock', async (t) => {
  stayAlive(t)
  const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
  const [a, b] = [await cluster.mount(), await cluster.mount()]
  const { ino, handle } = await create(a, 'locked')
  await b.lookup(caller(), b.root, Buffer.from('locked'))
  await a.setlk(caller(), ino, lock(1n), { wait: false })
  const downgrade = (signal: AbortSignal): Promise<void> =>
    a.setlk(caller(signal), ino, lock(1n, 'read'), { wait: false })
  await loseCaller(t, cluster, downgrade, Promise.resolve())
  await answered(a, ino)
  await t.rejects(b.setlk(caller(), ino, lock(2n, 'read'), { wait: false }), { code: 'EAGAIN' })

  // Now b gets its lock before a can have its own one back.
  const given = b.setlk(caller(), ino, lock(2n, 'read'), { wait: true })
  await loseCaller(t, cluster, downgrade, given)
  await answered(a, ino)
  await t.rejects(a.fsync(caller(), handle, false), { code: 'EIO' }, 'whoever relies on the write lock is told')
})

t.test('a read lock that was refused leaves the write lock declared', async (t) => {
  const held = new HeldLocks()
  const declared = (): string =>
    held
      .all()
      .map((each) => names[each.lock!.type])
      .join()
  held.apply(asIno(5n), lock(1n))
  const refused = lock(1n, 'read')
  held.asking(asIno(5n), refused)
  held.refused(refused, { sent: true })
  t.equal(declared(), 'write')
  held.asking(asIno(5n), refused)
  t.equal(held.isInDoubt(refused), false)
  t.equal(declared(), 'read')
  t.equal(held.isInDoubt(refused), true, 'the master may have started anew and know of no more')
})

t.test(
  'a wait for a read lock over a write lock that is interrupted after a reconnection leaves the write lock',
  async (t) => {
    stayAlive(t)
    const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
    const [a, b, c] = [await cluster.mount(), await cluster.mount(), await cluster.mount()]
    const { ino } = await create(a, 'locked')
    for (const fs of [b, c]) await fs.lookup(caller(), fs.root, Buffer.from('locked'))
    await a.setlk(caller(), ino, part(lock(1n), 0n, 49n), { wait: false })
    await b.setlk(caller(), ino, part(lock(2n), 50n, 99n), { wait: false })
    const interrupted = async (restart: () => Promise<void>): Promise<void> => {
      const stop = new AbortController()
      const asked = a.setlk(caller(stop.signal), ino, lock(1n, 'read'), { wait: true })
      await answered(a, ino)
      await restart()
      await answered(a, ino)
      stop.abort()
      await t.rejects(asked, { code: 'EINTR' })
      await answered(a, ino)
    }
    const keepsWriteLock = (what: string): Promise<unknown> =>
      t.rejects(c.setlk(caller(), ino, part(lock(3n, 'read'), 0n, 9n), { wait: false }), { code: 'EAGAIN' }, what)
    const restart = async (): Promise<void> => {
      await cluster.stopMaster()
      await cluster.startMaster()
    }
    await interrupted(async () => cluster.network.drop(cluster.masterAddress))
    await keepsWriteLock('at the master that had it all the time')
    await restart()
    await keepsWriteLock('at one that was told')
    await interrupted(restart)
    await keepsWriteLock('at one that was not told of it at first')
  },
)
