/** What clients promise when messages are lost, sessions end, parts are cut off and several clients work on one file. */
import t from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { Ino } from '../../../src/domain/ids.ts'
import type { FileSystem, Handle } from '../../../src/client/file-system.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const O_RDWR = 2
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)

const create = async (fs: FileSystem, file: string): Promise<{ handle: Handle; ino: Ino }> => {
  const { entry, opened } = await fs.create(caller(), fs.root, name(file), 0o644, O_RDWR)
  return { handle: opened.handle, ino: entry.attributes.ino }
}

const openByName = async (fs: FileSystem, file: string): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), fs.root, name(file))
  return (await fs.open(caller(), attributes.ino, O_RDWR)).handle
}

t.test('lost replies: each change happens once', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const { handle } = await create(fs, 'file')
  for (let i = 0; i < 8; i++) {
    cluster.network.loseReplies(cluster.masterAddress, 1)
    t.equal(await code(fs.mkdir(caller(), fs.root, name(`dir${i}`), 0o755)), 'none', 'no EEXIST by its own repetition')
    cluster.network.loseReplies(cluster.masterAddress, 1)
    t.equal(await code(fs.rmdir(caller(), fs.root, name(`dir${i}`))), 'none', 'no ENOENT by its own repetition')
    await fs.write(caller(), handle, BigInt(i * 6000), Buffer.alloc(6000, i + 1), noKill)
    cluster.network.loseReplies(cluster.masterAddress, 1)
    t.equal(await code(fs.fsync(caller(), handle, false)), 'none', 'a commit that is repeated')
  }
  const data = await fs.read(caller(), handle, 0n, 100_000)
  t.equal(data.length, 48_000)
  for (let i = 0; i < 8; i++) t.equal(data[i * 6000 + 5999], i + 1)
})

t.test('streams that break all the time', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const { handle } = await create(fs, 'file')
  const stop = new AbortController()
  const breaking = (async () => {
    while (!stop.signal.aborted) {
      await pause(30)
      cluster.network.drop(cluster.masterAddress)
    }
  })()
  const wanted = Buffer.alloc(40 * 5000)
  for (let i = 0; i < 40; i++) {
    const data = Buffer.alloc(5000, i + 1)
    data.copy(wanted, i * 5000)
    await fs.write(caller(), handle, BigInt(i * 5000), data, noKill)
    if (i % 5 === 0) await fs.fsync(caller(), handle, false)
    await fs.mkdir(caller(), fs.root, name(`d${i}`), 0o755)
  }
  stop.abort()
  await breaking
  await fs.fsync(caller(), handle, false)
  t.ok((await fs.read(caller(), handle, 0n, 300_000)).equals(wanted))
})

t.test('a session that ends: others go on, what was buffered is reported once, work goes on', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 1000 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'file')
  await a.write(caller(), handle, 0n, name('durable'), noKill)
  await a.fsync(caller(), handle, false)
  const kept = await create(a, 'unlinked')
  await a.unlink(caller(), a.root, name('unlinked'))
  await a.write(caller(), handle, 0n, name('in vain'), noKill)
  cluster.network.cut('client1', 'master')
  const other = await openByName(b, 'file')
  t.equal((await b.read(caller(), other, 0n, 100)).toString(), 'durable', 'the other client waits for the lease only')
  await b.write(caller(), other, 0n, name('changed'), noKill)
  await b.fsync(caller(), other, false)
  const stale = a.read(caller(), handle, 0n, 100)
  await pause(100)
  cluster.network.heal('client1', 'master')
  t.equal((await stale).toString(), 'changed', 'no old data after the lease ran out')
  t.equal(await code(a.fsync(caller(), handle, false)), 'EIO', 'what was lost is reported')
  t.equal(await code(a.fsync(caller(), handle, false)), 'none', 'once')
  await a.write(caller(), handle, 0n, name('again'), noKill)
  await a.fsync(caller(), handle, false)
  t.equal((await b.read(caller(), other, 0n, 100)).toString(), 'agained')
  t.equal((await a.getattr(caller(), ino)).attributes.size, 7n)
  t.equal(await code(a.read(caller(), kept.handle, 0n, 10)), 'ESTALE', 'an unlinked file went with the session')
  await a.release(kept.handle)
})

t.test('locks that end with the session: whoever relies on them is told', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 500 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'counter')
  const lock = { owner: 1n, kind: 'posix', lock: { type: 'write', start: 0n, end: 99n, pid: 1 } } as const
  await a.write(caller(), handle, 0n, name('1'), noKill)
  await a.fsync(caller(), handle, false)
  const idle = await openByName(a, 'counter')
  await a.setlk(caller(), ino, lock, { wait: true })
  cluster.network.cut('client1', 'master')
  await b.setlk(caller(), ino, { ...lock, owner: 2n }, { wait: true })
  const other = await openByName(b, 'counter')
  await b.write(caller(), other, 0n, name('2'), noKill)
  await b.fsync(caller(), other, false)
  await pause(600)
  // One that waits for the master when the session ends, and what comes later.
  const late = code(a.write(caller(), handle, 0n, name('x'), noKill))
  await pause(50)
  cluster.network.heal('client1', 'master')
  t.equal(await late, 'EIO', 'a write that waited')
  t.equal(await code(a.write(caller(), handle, 0n, name('x'), noKill)), 'EIO', 'a write')
  t.equal(await code(a.read(caller(), idle, 0n, 10)), 'EIO', 'a read, of any descriptor')
  t.equal((await b.read(caller(), other, 0n, 10)).toString(), '2', 'nothing was overwritten')
  await b.setlk(caller(), ino, { ...lock, owner: 2n, lock: { ...lock.lock, type: 'unlock' } }, { wait: true })
  const again = await openByName(a, 'counter')
  await a.setlk(caller(), ino, lock, { wait: true })
  t.equal((await a.read(caller(), again, 0n, 10)).toString(), '2', 'one that is opened again works')
  t.equal(await code(a.flush(caller(), handle, 1n)), 'EIO')
  await b.setlk(caller(), ino, { ...lock, owner: 2n }, { wait: false })
  t.pass('closing any descriptor drops the locks all the same')
})

t.test('what waits for the master when locks end with the session does not happen without them', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 500 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'log')
  await a.write(caller(), handle, 0n, Buffer.alloc(8192, 1), noKill)
  await a.fsync(caller(), handle, false)
  await create(a, 'new')
  const lock = { owner: 1n, kind: 'posix', lock: { type: 'write', start: 0n, end: 99n, pid: 1 } } as const
  await a.setlk(caller(), ino, lock, { wait: true })
  await a.fsync(caller(), handle, false)
  cluster.network.cut('client1', 'master')
  // So that what waits is not sent.
  cluster.network.drop(cluster.masterAddress)
  await b.setlk(caller(), ino, { ...lock, owner: 2n }, { wait: true })
  const other = await openByName(b, 'log')
  await b.write(caller(), other, 0n, Buffer.alloc(8192, 2), noKill)
  await b.fsync(caller(), other, false)
  await pause(600)
  const waiting = [
    code(a.rename(caller(), { parent: a.root, name: name('new') }, { parent: a.root, name: name('current') }, 0)),
    code(a.fallocate(caller(), handle, 3, 0n, 4096n)),
    code(a.setattr(caller(), ino, { size: 0n }, handle)),
  ]
  await pause(50)
  cluster.network.heal('client1', 'master')
  t.strictSame(await Promise.all(waiting), ['EIO', 'EIO', 'EIO'])
  t.equal(await code(a.setattr(caller(), ino, { size: 0n }, handle)), 'EIO', 'ftruncate(2) later')
  t.strictSame(await b.read(caller(), other, 0n, 8192), Buffer.alloc(8192, 2), 'nothing was taken away')
  t.equal(await code(b.lookup(caller(), b.root, name('current'))), 'ENOENT', 'nothing was put in place')
})

t.test('random work of three clients on one file equals a model', async (t) => {
  const seed = Number(process.env['TEST_SEED'] ?? 7)
  t.comment(`TEST_SEED=${seed}`)
  const random = seededRandom(seed)
  const cluster = await startInProcessCluster(t)
  const clients = [await cluster.mount(), await cluster.mount(), await cluster.mount()]
  const { ino, handle } = await create(clients[0]!, 'file')
  const handles = [handle, await openByName(clients[1]!, 'file'), await openByName(clients[2]!, 'file')]
  const limit = 300_000
  let model = Buffer.alloc(0)
  const grow = (size: number): void => {
    if (size > model.length) model = Buffer.concat([model, Buffer.alloc(size - model.length)])
  }
  for (let step = 0; step < 250; step++) {
    const who = random.below(3)
    const fs = clients[who]!
    const at = random.below(random.below(4) === 0 ? 6000 : limit)
    const length = 1 + random.below(random.below(3) === 0 ? 50_000 : 3000)
    const what = random.below(12)
    const label = `step ${step}: client ${who}`
    if (what < 5) {
      const data = Buffer.from(random.bytes(1).toString('hex').repeat(length).slice(0, length))
      await fs.write(caller(), handles[who]!, BigInt(at), data, noKill)
      grow(at + length)
      data.copy(model, at)
    } else if (what < 9) {
      const found = await fs.read(caller(), handles[who]!, BigInt(at), length)
      if (!found.equals(model.subarray(at, at + length))) {
        t.fail(`${label} reads ${length} at ${at}, size ${model.length}`)
        break
      }
    } else if (what === 9) {
      const size = random.below(3) === 0 ? random.below(5000) : at
      await fs.setattr(caller(), ino, { size: BigInt(size) })
      grow(size)
      model = Buffer.from(model.subarray(0, size))
    } else if (what === 10) {
      const { attributes } = await fs.getattr(caller(), ino)
      if (attributes.size !== BigInt(model.length)) {
        t.fail(`${label} sees a size of ${attributes.size} instead of ${model.length}`)
        break
      }
    } else if (random.below(2) === 0) await fs.fsync(caller(), handles[who]!, false)
    else {
      await fs.fallocate(caller(), handles[who]!, 3, BigInt(at), BigInt(length))
      model.fill(0, Math.min(at, model.length), Math.min(at + length, model.length))
    }
  }
  for (const [who, fs] of clients.entries()) {
    t.ok((await fs.read(caller(), handles[who]!, 0n, limit * 2)).equals(model), `client ${who} agrees in the end`)
  }
})

t.test(
  'an interrupted operation ends, and so does one on a full buffer while every chunk server is away',
  async (t) => {
    const cluster = await startInProcessCluster(t)
    const fs = await cluster.mount({ limits: { dirtyBytesMax: 64 * 1024 } })
    const { handle } = await create(fs, 'file')
    for (const index of [0, 1, 2]) await cluster.stopServer(index)
    await fs.write(caller(), handle, 0n, Buffer.alloc(64 * 1024, 1), noKill)
    const giveUp = new AbortController()
    const blocked = code(fs.write(caller(giveUp.signal), handle, 65_536n, Buffer.alloc(64 * 1024, 2), noKill))
    await pause(200)
    giveUp.abort()
    t.equal(await blocked, 'EINTR')
    const fsyncing = new AbortController()
    const syncing = code(fs.fsync(caller(fsyncing.signal), handle, false))
    await pause(50)
    fsyncing.abort()
    t.equal(await syncing, 'EINTR')
    for (const index of [0, 1, 2]) await cluster.startServer(index)
    t.equal(await code(fs.fsync(caller(), handle, false)), 'none', 'the data was kept and is stored now')
    t.ok((await fs.read(caller(), handle, 0n, 65_536)).equals(Buffer.alloc(65_536, 1)))
  },
)
