/** Who puts a file in place that it has just written never finds anything else there, also when its client is gone the next moment. */
import t from 'tap'
import type { Test } from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { FileSystem, Handle } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import type { InProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const RENAME_EXCHANGE = 2
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)
/** More than what lives in an inode, and in more than one batch. */
const sizes = [100, 9000, 6_000_000]

/** Written and closed, as programs do. */
const write = async (fs: FileSystem, parent: Ino, text: string, content: Buffer): Promise<Ino> => {
  const { entry, opened } = await fs.create(caller(), parent, name(text), 0o644, O_RDWR)
  await fs.write(caller(), opened.handle, 0n, content, noKill)
  await fs.flush(caller(), opened.handle, 1n)
  await fs.release(opened.handle)
  return entry.attributes.ino
}

const read = async (fs: FileSystem, parent: Ino, text: string): Promise<Buffer> => {
  const { attributes } = await fs.lookup(caller(), parent, name(text))
  const { handle } = await fs.open(caller(), attributes.ino, 0)
  const parts: Buffer[] = []
  for (let offset = 0n; ; offset += 1_000_000n) {
    const part = await fs.read(caller(), handle, offset, 1_000_000)
    if (part.length === 0) break
    parts.push(Buffer.from(part))
  }
  await fs.release(handle)
  return Buffer.concat(parts)
}

const kinds = ['renamed', 'replaced', 'exchanged', 'linked'] as const

const puts = async (t: Test, kind: (typeof kinds)[number], isShared: boolean): Promise<void> => {
  // In a directory of its own the client answers for the names itself; of one that is fought for it does not even know them.
  const cluster = await startInProcessCluster(t, {
    config: { sessionLeaseMs: 500, leaseQuietMs: isShared ? 60_000 : 0 },
  })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { attributes } = await a.mkdir(caller(), a.root, name('d'), 0o755)
  const directory = attributes.ino
  const place = (text: string): { parent: Ino; name: Buffer } => ({ parent: directory, name: name(text) })
  await write(a, directory, 'first', name('x'))
  await pause(50)
  if (isShared) await write(b, directory, 'other', name('x'))
  for (const size of sizes) {
    const old = Buffer.alloc(size, 'old')
    if (kind === 'replaced' || kind === 'exchanged') await write(a, directory, `f${size}`, old)
    await a.syncfs(caller())
    const ino = await write(a, directory, 'tmp', Buffer.alloc(size, 'new'))
    if (kind === 'linked') {
      await a.link(caller(), ino, directory, name(`f${size}`))
      await a.unlink(caller(), directory, name('tmp'))
    } else if (kind === 'exchanged') {
      await a.rename(caller(), place(`f${size}`), place('tmp'), RENAME_EXCHANGE)
      if (size !== sizes.at(-1)) await a.unlink(caller(), directory, name('tmp'))
    } else await a.rename(caller(), place('tmp'), place(`f${size}`), 0)
  }
  cluster.network.cut('client1', 'master')
  for (const size of sizes) {
    // The last name may not have been told to the master yet.
    const found = await read(b, directory, `f${size}`).catch(() => undefined)
    const is = ['new', 'old'].find((text) => found?.equals(Buffer.alloc(size, text)))
    if (size !== sizes.at(-1)) t.equal(is, 'new', `${size} bytes`)
    else t.ok(found === undefined || is !== undefined, `${size} bytes: ${is ?? found?.length ?? 'not there'}`)
  }
  cluster.network.heal('client1', 'master')
  await cluster.close()
}

for (const kind of kinds) {
  t.test(`${kind} in a directory of its own`, (t) => puts(t, kind, false))
  t.test(`${kind} in a directory that is fought for`, (t) => puts(t, kind, true))
}

const leaseMs = 1500
/** It lives in the inode, so what is written is in the journal when the file is closed. */
const small = Buffer.alloc(3000, 'new')

interface Shared {
  cluster: InProcessCluster
  a: FileSystem
  b: FileSystem
  directory: Ino
  place(text: string): { parent: Ino; name: Buffer }
}

/** A directory in which names are the master's, with "target", whose content is "old", and an empty file that the first client has to itself. */
const shared = async (t: Test): Promise<Shared> => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: leaseMs, leaseQuietMs: 60_000 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { attributes } = await a.mkdir(caller(), a.root, name('d'), 0o755)
  const directory = attributes.ino
  await write(a, directory, 'target', name('old'))
  await write(b, directory, 'other', name('x'))
  await write(a, directory, 'tmp', Buffer.alloc(0))
  await a.syncfs(caller())
  return { cluster, a, b, directory, place: (text) => ({ parent: directory, name: name(text) }) }
}

const open = async (fs: FileSystem, directory: Ino, text: string): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), directory, name(text))
  return (await fs.open(caller(), attributes.ino, O_RDWR)).handle
}

/** Its leases count for a while yet, and its requests wait. */
const cutOff = ({ network, masterAddress }: InProcessCluster): void => {
  network.cut('client1', 'master')
  network.drop(masterAddress)
}

/** Both wait to be sent until the session has ended; how each ends. */
const renameAndRemove = async (
  cluster: InProcessCluster,
  fs: FileSystem,
  place: Shared['place'],
): Promise<string[]> => {
  const { parent, name } = place('other')
  const outcomes = [
    code(fs.rename(caller(), place('tmp'), place('target'), 0)),
    code(fs.unlink(caller(), parent, name)),
  ]
  await pause(2 * leaseMs)
  cluster.network.heal('client1', 'master')
  return Promise.all(outcomes)
}

const overwrite = async (fs: FileSystem, handle: Handle): Promise<void> => {
  await fs.write(caller(), handle, 0n, small, noKill)
  await fs.flush(caller(), handle, 1n)
  await fs.release(handle)
}

t.test('renamed and removed while what was written before is lost with the session', async (t) => {
  const { cluster, a, b, directory, place } = await shared(t)
  const handle = await open(a, directory, 'tmp')
  cutOff(cluster)
  await overwrite(a, handle)
  t.strictSame(await renameAndRemove(cluster, a, place), ['EIO', 'EIO'])
  t.equal((await read(b, directory, 'target')).toString(), 'old')
  t.equal((await read(b, directory, 'other')).toString(), 'x')
  await cluster.close()
})

t.test('renamed and removed while a session ends and nothing is lost with it', async (t) => {
  const { cluster, a, b, directory, place } = await shared(t)
  cutOff(cluster)
  t.strictSame(await renameAndRemove(cluster, a, place), ['none', 'none'])
  t.equal((await read(b, directory, 'target')).toString(), '')
  t.equal(await code(b.lookup(caller(), directory, name('other'))), 'ENOENT')
  await cluster.close()
})

t.test('what a lost session has taken from a file that was closed is told to who relies on it next', async (t) => {
  const { cluster, a, b, directory, place } = await shared(t)
  const handles = [await open(a, directory, 'tmp'), await open(a, directory, 'target')]
  cutOff(cluster)
  for (const handle of handles) await overwrite(a, handle)
  await pause(2 * leaseMs)
  cluster.network.heal('client1', 'master')
  // Who asks the master waits for the new session.
  const handle = await open(a, directory, 'target')
  const { attributes } = await a.lookup(caller(), directory, name('target'))
  const reader = await a.open(caller(), attributes.ino, 0)
  t.equal(await code(a.flush(caller(), reader.handle, 1n)), 'none', 'who only reads it is not told')
  t.equal(await code(a.rename(caller(), place('tmp'), place('target'), 0)), 'EIO', 'it is not put in place')
  t.equal(await code(a.fsync(caller(), handle, false)), 'EIO', 'it is not on disk')
  t.equal(await code(a.fsync(caller(), handle, false)), 'none', 'once')
  t.equal((await read(b, directory, 'target')).toString(), 'old')
  await cluster.close()
})
