/** Clients that keep less to themselves than they could: what they have done is there at once, and nobody has to wait for them. */
import t from 'tap'
import type { Test } from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)
const big = Buffer.alloc(9000, 'b')

const work = async (fs: FileSystem): Promise<void> => {
  const { attributes } = await fs.mkdir(caller(), fs.root, name('d'), 0o755)
  const directory = attributes.ino
  for (const [text, data] of [
    ['small', name('content')],
    ['big', big],
  ] as const) {
    const { entry, opened } = await fs.create(caller(), directory, name('tmp'), 0o644, O_RDWR)
    await fs.write(caller(), opened.handle, 0n, data.subarray(0, 5), noKill)
    await fs.write(caller(), opened.handle, 5n, data.subarray(5), { ...noKill, append: true })
    await fs.setattr(caller(), entry.attributes.ino, { mode: 0o600 })
    await fs.rename(caller(), { parent: directory, name: name('tmp') }, { parent: directory, name: name(text) }, 0)
  }
}

const isThere = async (t: Test, fs: FileSystem): Promise<void> => {
  const { attributes } = await fs.lookup(caller(), fs.root, name('d'))
  for (const [text, data] of [
    ['small', name('content')],
    ['big', big],
  ] as const) {
    const entry = await fs.lookup(caller(), attributes.ino, name(text))
    t.equal(entry.attributes.mode & 0o777, 0o600)
    const { handle } = await fs.open(caller(), entry.attributes.ino, O_RDWR)
    t.ok((await fs.read(caller(), handle, 0n, 100_000)).equals(data), text)
    await fs.release(handle)
  }
}

t.test('without write-behind nothing is lost with the client', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 600 } })
  const a = await cluster.mount({ caching: { leases: true, writeBehind: false } })
  const b = await cluster.mount()
  await work(a)
  t.equal(a.figures().dirtyBytes, 0)
  cluster.network.cut('client1', 'master')
  for (let i = 0; i < 3; i++) cluster.network.cut('client1', `server${i}`)
  await isThere(t, b)
  cluster.network.heal('client1', 'master')
  for (let i = 0; i < 3; i++) cluster.network.heal('client1', `server${i}`)
})

t.test('without leases nobody waits for a client that is away, and it has nothing that could be old', async (t) => {
  const sessionLeaseMs = 60_000
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs } })
  const a = await cluster.mount({ caching: { leases: false, writeBehind: true } })
  const b = await cluster.mount()
  await work(a)
  t.equal(a.figures().dirtyBytes, 0)
  await isThere(t, a)
  for (let i = 0; i < 100 && a.figures().leases > 0; i++) await pause(10)
  t.equal(a.figures().leases, 0)
  // What was given back has arrived when the answer to something later has.
  await a.statfs(caller())
  cluster.network.cut('client1', 'master')
  const beganMs = performance.now()
  await isThere(t, b)
  const { attributes } = await b.lookup(caller(), b.root, name('d'))
  await b.unlink(caller(), attributes.ino, name('big'))
  t.ok(performance.now() - beganMs < sessionLeaseMs / 2, 'it is not waited for')
  cluster.network.heal('client1', 'master')
  await t.rejects(a.lookup(caller(), attributes.ino, name('big')), { code: 'ENOENT' })
})
