/** An open file outlives its last name, also when the master has not been told that it is open: the lease under which it was opened keeps it. */
import t from 'tap'
import type { Test } from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { FileSystem, Handle } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import type { InProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)
/** In the inode, and in chunks. */
const contents = [Buffer.alloc(100, 'small'), Buffer.alloc(300_000, 'large')]

const write = async (fs: FileSystem, text: string, content: Buffer): Promise<Ino> => {
  const { entry, opened } = await fs.create(caller(), fs.root, name(text), 0o644, O_RDWR)
  await fs.write(caller(), opened.handle, 0n, content, noKill)
  await fs.flush(caller(), opened.handle, 1n)
  await fs.release(opened.handle)
  await fs.syncfs(caller())
  return entry.attributes.ino
}

const openNamed = async (fs: FileSystem, text: string): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), fs.root, name(text))
  return (await fs.open(caller(), attributes.ino, 0)).handle
}

/** What nobody has open any more is freed in the end. */
const isFreed = async (t: Test, fs: FileSystem, files: bigint): Promise<void> => {
  for (let i = 0; i < 200 && (await filesOf(fs)) > files; i++) await pause(50)
  t.equal(await filesOf(fs), files, 'freed after the last close')
}

const filesOf = async (fs: FileSystem): Promise<bigint> => {
  return (await fs.statfs(caller())).inodesUsed
}

type Remove = (by: FileSystem, cluster: InProcessCluster) => Promise<void>

const removals: Record<string, Remove> = {
  'by unlink': (by) => by.unlink(caller(), by.root, name('f')),
  'by a rename over it': async (by) => {
    await write(by, 'other', name('x'))
    await by.rename(caller(), { parent: by.root, name: name('other') }, { parent: by.root, name: name('f') }, 0)
    await by.unlink(caller(), by.root, name('f'))
  },
  'by unlink, and the master is restarted': async (by, cluster) => {
    await by.unlink(caller(), by.root, name('f'))
    await by.syncfs(caller())
    await cluster.stopMaster()
    await cluster.startMaster()
  },
}

for (const [how, remove] of Object.entries(removals)) {
  for (const who of ['this client', 'another client'] as const) {
    // In a directory of its own a client carries removals out itself; where several work they are the master's.
    for (const isShared of [false, true]) {
      t.test(`removed ${how} of ${who}, directory ${isShared ? 'shared' : 'its own'}`, async (t) => {
        const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: isShared ? 60_000 : 0 } })
        const a = await cluster.mount()
        const b = await cluster.mount()
        await write(b, 'keeps the directory', name('x'))
        if (isShared) await write(a, 'has it recalled', name('x'))
        else await a.unlink(caller(), a.root, name('keeps the directory'))
        await a.syncfs(caller())
        for (const content of contents) {
          const before = await filesOf(a)
          await write(a, 'f', content)
          const handle = await openNamed(a, 'f')
          await remove(who === 'this client' ? a : b, cluster)
          const read = Buffer.from(await a.read(caller(), handle, 0n, content.length + 1))
          t.ok(read.equals(content), 'its content can be read')
          await a.syncfs(caller())
          t.equal((await a.lookup(caller(), a.root, name('f')).catch((cause: Error) => cause)) instanceof Error, true)
          await a.release(handle)
          await isFreed(t, a, before)
        }
      })
    }
  }
}

t.test('opening a file of which a lease is held asks nobody', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const ino = await write(a, 'f', contents[0]!)
  await cluster.stopMaster()
  const { handle } = await a.open(caller(), ino, 0)
  t.ok(Buffer.from(await a.read(caller(), handle, 0n, 1000)).equals(contents[0]!))
  await a.release(handle)
  await cluster.startMaster()
})

t.test('a lease that is given back says what is open under it', async (t) => {
  const cluster = await startInProcessCluster(t)
  const few = await cluster.mount({ limits: { leasesMax: 4 } })
  const other = await cluster.mount()
  await write(few, 'f', contents[1]!)
  const handle = await openNamed(few, 'f')
  for (let i = 0; i < 20; i++) await write(few, `more${i}`, name('x'))
  await other.unlink(caller(), other.root, name('f'))
  t.ok(Buffer.from(await few.read(caller(), handle, 0n, 1_000_000)).equals(contents[1]!))
  await few.release(handle)
})
