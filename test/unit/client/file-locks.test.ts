/** Locks of one client: waits that last, callers that go away while the master is away, and what a killed process leaves. */
import t from 'tap'
import type { FileSystem, LockRequest } from '../../../src/client/file-system.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const lock = (owner: bigint, type: 'read' | 'write' | 'unlock' = 'write'): LockRequest => ({
  owner,
  kind: 'posix',
  lock: { type, start: 0n, end: 99n, pid: 1 },
})

const create = async (fs: FileSystem, name: string): Promise<{ ino: Ino; handle: bigint }> => {
  const { entry, opened } = await fs.create(caller(), fs.root, Buffer.from(name), 0o644, 2)
  return { ino: asIno(entry.attributes.ino), handle: opened.handle }
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
  // The timers of the client alone do not keep a process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  const cluster = await startInProcessCluster(t, { servers: 0, config: { sessionLeaseMs: 20_000 } })
  const fs = await cluster.mount()
  const { ino } = await create(fs, 'locked')
  const stop = new AbortController()
  // Sent, and the answer is lost.
  const given = fs.setlk(caller(stop.signal), ino, lock(1n), { wait: false })
  await new Promise((resolve) => setImmediate(resolve))
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
