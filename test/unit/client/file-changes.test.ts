/** Truncation, fallocate and copy_file_range beside what else is going on in the same file. */
import t from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { FileSystem, Handle } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const O_APPEND = 0o2000
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)

const create = async (fs: FileSystem, text: string, content: Buffer): Promise<{ handle: Handle; ino: Ino }> => {
  const { entry, opened } = await fs.create(caller(), fs.root, name(text), 0o644, O_RDWR)
  await fs.write(caller(), opened.handle, 0n, content, noKill)
  await fs.fsync(caller(), opened.handle, false)
  return { handle: opened.handle, ino: entry.attributes.ino }
}

const openByName = async (fs: FileSystem, text: string, flags = O_RDWR): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), fs.root, name(text))
  return (await fs.open(caller(), attributes.ino, flags)).handle
}

t.test('who appends after a truncate or fallocate that was given up appends to the size that it leaves', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 20_000 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const changes = {
    truncated: {
      size: 10,
      change: (ino: Ino, _: Handle, signal: AbortSignal) => a.setattr(caller(signal), ino, { size: 10n }),
    },
    extended: {
      size: 20_000,
      change: (_: Ino, handle: Handle, signal: AbortSignal) => a.fallocate(caller(signal), handle, 0, 0n, 20_000n),
    },
  }
  for (const [text, { size, change }] of Object.entries(changes)) {
    const { handle, ino } = await create(a, text, Buffer.alloc(9000, 'o'))
    const log = await openByName(a, text, O_RDWR | O_APPEND)
    const giveUp = new AbortController()
    // It is carried out, and nobody learns it before the master can be reached again.
    const lost = new Promise<void>((resolve) => cluster.network.loseReplies(cluster.masterAddress, 1, resolve))
    const changing = code(change(ino, handle, giveUp.signal))
    await lost
    cluster.network.cut('client1', 'master')
    cluster.network.drop(cluster.masterAddress)
    giveUp.abort()
    t.equal(await changing, 'EINTR')
    const appending = a.write(caller(), log, 9000n, name('new'), { ...noKill, append: true })
    await pause(20)
    cluster.network.heal('client1', 'master')
    cluster.network.drop(cluster.masterAddress)
    await appending
    const wanted = Buffer.alloc(size + 3)
    wanted.fill('o', 0, Math.min(size, 9000)).write('new', size)
    const found = await b.read(caller(), await openByName(b, text), 0n, 100_000)
    t.equal(found.length, wanted.length, text)
    t.ok(found.equals(wanted), text)
  }
})

t.test('a file that is emptied while it is being read keeps nothing of what it was', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  for (const size of [100, 50_000]) {
    const { ino } = await create(a, `f${size}`, Buffer.alloc(size, 'o'))
    const handle = await openByName(a, `f${size}`)
    await pause(50)
    const reading = a.read(caller(), handle, 0n, 100_000)
    await a.setattr(caller(), ino, { size: 0n }, handle)
    await reading
    await a.write(caller(), handle, 10n, name('new'), noKill)
    const wanted = Buffer.concat([Buffer.alloc(10), name('new')])
    t.same(await a.read(caller(), handle, 0n, 100), wanted, 'as it is buffered')
    await a.fsync(caller(), handle, false)
    t.same(await a.read(caller(), handle, 0n, 100), wanted, 'here')
    t.same(await b.read(caller(), await openByName(b, `f${size}`), 0n, 100), wanted, 'elsewhere')
  }
})

t.test(
  'a file that lives in its inode, and no room for it elsewhere: who needs that is told, and nothing is lost',
  async (t) => {
    const cluster = await startInProcessCluster(t, { servers: 1 })
    const fs = await cluster.mount()
    const { handle, ino } = await create(fs, 'file', name('content'))
    t.equal(await code(fs.fallocate(caller(), handle, 0, 0n, 20_000n)), 'ENOSPC')
    t.equal(await code(fs.setattr(caller(), ino, { size: 20_000n }, handle)), 'ENOSPC')
    t.equal(await code(fs.fsync(caller(), handle, false)), 'none')
    t.equal((await fs.read(caller(), handle, 0n, 100)).toString(), 'content')
  },
)
