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

const readBy = async (fs: FileSystem, handle: Handle): Promise<Buffer> =>
  Buffer.from(await fs.read(caller(), handle, 0n, 1_000_000))

/** Through a handle of its own, which is closed. */
const overwrite = async (fs: FileSystem, handle: Handle, content: Buffer): Promise<void> => {
  await fs.write(caller(), handle, 0n, content, noKill)
  await fs.flush(caller(), handle, 1n)
  await fs.release(handle)
}

const toWrite = async (fs: FileSystem, text: string): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), fs.root, name(text))
  return (await fs.open(caller(), attributes.ino, O_RDWR)).handle
}

/** The first one has the directory to itself, or both share it. */
const twoClients = async (t: Test, isShared: boolean) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: isShared ? 60_000 : 0 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  await write(a, 'keeps the directory', name('x'))
  if (isShared) await write(b, 'has it recalled', name('x'))
  return { cluster, a, b }
}

for (const how of ['by unlink', 'by a rename over it'] as const) {
  for (const isShared of [false, true]) {
    const where = `directory ${isShared ? 'shared' : 'its own'}`
    t.test(
      `what a client wrote before it closed and removed a file ${how} is read where it is open; ${where}`,
      async (t) => {
        const { cluster, a, b } = await twoClients(t, isShared)
        for (const before of contents) {
          const after = Buffer.alloc(before.length + 1, 'after')
          const files = await filesOf(a)
          await write(a, 'f', before)
          await write(a, 'g', name('x'))
          const reading = await openNamed(a, 'f')
          t.ok((await readBy(a, reading)).equals(before))
          await b.unlink(caller(), b.root, name('g'))
          const writing = await toWrite(b, 'f')
          await overwrite(b, writing, after)
          await removals[how]!(b, cluster)
          t.ok((await readBy(a, reading)).equals(after), 'what was written last')
          await a.release(reading)
          await isFreed(t, a, files)
        }
      },
    )

    t.test(`what a client writes to a file that was removed ${how} is read where it is open; ${where}`, async (t) => {
      const { cluster, a, b } = await twoClients(t, isShared)
      for (const before of contents) {
        const after = Buffer.alloc(before.length + 1, 'after')
        const files = await filesOf(a)
        await write(a, 'f', before)
        const reading = await openNamed(a, 'f')
        const writing = await toWrite(b, 'f')
        await removals[how]!(a, cluster)
        t.ok((await readBy(a, reading)).equals(before))
        await overwrite(b, writing, after)
        t.ok((await readBy(a, reading)).equals(after), 'what was written last')
        await a.release(reading)
        await isFreed(t, a, files)
      }
    })
  }
}

t.test('what was made here and nobody else has seen is not written when it is removed', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const { attributes } = await a.mkdir(caller(), a.root, name('own'), 0o755)
  const own = attributes.ino
  // The first new inode makes the client ask for numbers.
  await a.mkdir(caller(), own, name('first'), 0o755)
  await pause(50)
  for (const server of ['server0', 'server1', 'server2']) cluster.network.cut('client1', server)
  const { opened } = await a.create(caller(), own, name('f'), 0o644, O_RDWR)
  await overwrite(a, opened.handle, contents[1]!)
  await a.unlink(caller(), own, name('f'))
  await a.syncfs(caller())
})

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
