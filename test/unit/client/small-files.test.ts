/**
 * Many small files, one after the other: content that was fetched ahead is there without asking, is never old, and what was closed shortly
 * before is everything that it should be, or gone for good.
 */
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import type { Ino } from '../../../src/domain/ids.ts'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDONLY = 0
const O_WRONLY = 1
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)

const contentOf = (i: number, bytes: number): Buffer => Buffer.alloc(bytes, `content of file ${i}, `)

const write = async (fs: FileSystem, directory: Ino, text: string, content: Buffer): Promise<Ino> => {
  const { entry, opened } = await fs.create(caller(), directory, name(text), 0o644, O_WRONLY)
  await fs.write(caller(), opened.handle, 0n, content, noKill)
  await fs.flush(caller(), opened.handle, 1n)
  await fs.release(opened.handle)
  return entry.attributes.ino
}

const read = async (fs: FileSystem, directory: Ino, text: string): Promise<Buffer> => {
  const { attributes } = await fs.lookup(caller(), directory, name(text))
  const { handle } = await fs.open(caller(), attributes.ino, O_RDONLY)
  const content = Buffer.from(await fs.read(caller(), handle, 0n, 65_536))
  await fs.flush(caller(), handle, 1n)
  await fs.release(handle)
  return content
}

const directoryOf = async (fs: FileSystem, text: string): Promise<Ino> => {
  const { ino } = (await fs.mkdir(caller(), fs.root, name(text), 0o755)).attributes
  await fs.mkdir(caller(), ino, name('first'), 0o755)
  return ino
}

/** With attributes, as `ls -l` reads it. */
const listAll = async (fs: FileSystem, directory: Ino): Promise<void> => {
  for (let cookie = 0n; ;) {
    const before = cookie
    await fs.readdir(caller(), directory, cookie, { plus: true }, (entry) => {
      cookie = entry.cookie
      return true
    })
    if (cookie === before) break
  }
}

for (const bytes of [3000, 20_000]) {
  t.test(`files of ${bytes} bytes are fetched ahead`, async (t) => {
    const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000, leaseQuietMs: 0 } })
    const writer = await cluster.mount()
    const directory = await directoryOf(writer, 'd')
    for (let i = 0; i < 60; i++) await write(writer, directory, `f${i}`, contentOf(i, bytes))
    // Its leases go with it, so that others are told of everything at once.
    await writer.close()
    const reader = await cluster.mount()
    await reader.lookup(caller(), reader.root, name('d'))
    await listAll(reader, directory)
    for (let i = 0; i < 8; i++) t.ok((await read(reader, directory, `f${i}`)).equals(contentOf(i, bytes)))
    await reader.syncfs(caller())
    cluster.network.cut('client2', 'master')
    for (let i = 8; i < 24; i++) t.ok((await read(reader, directory, `f${i}`)).equals(contentOf(i, bytes)), `f${i}`)
    cluster.network.heal('client2', 'master')
    for (let i = 24; i < 60; i++) t.ok((await read(reader, directory, `f${i}`)).equals(contentOf(i, bytes)), `f${i}`)
  })

  t.test(`files of ${bytes} bytes whose layout is known are fetched ahead, too`, async (t) => {
    const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000, leaseQuietMs: 0 } })
    const fs = await cluster.mount()
    const directory = await directoryOf(fs, 'd')
    for (let i = 0; i < 60; i++) await write(fs, directory, `f${i}`, contentOf(i, bytes))
    await fs.syncfs(caller())
    for (let i = 0; i < 60; i++) t.ok((await read(fs, directory, `f${i}`)).equals(contentOf(i, bytes)))
    for (let i = 0; i < 8; i++) t.ok((await read(fs, directory, `f${i}`)).equals(contentOf(i, bytes)))
    await pause(100)
    for (const part of ['master', 'server0', 'server1', 'server2']) cluster.network.cut('client1', part)
    for (let i = 8; i < 16; i++) t.ok((await read(fs, directory, `f${i}`)).equals(contentOf(i, bytes)), `f${i}`)
    for (const part of ['master', 'server0', 'server1', 'server2']) cluster.network.heal('client1', part)
    for (let i = 16; i < 60; i++) t.ok((await read(fs, directory, `f${i}`)).equals(contentOf(i, bytes)), `f${i}`)
  })

  t.test(`what was fetched ahead is never old (${bytes} bytes)`, async (t) => {
    const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
    const writer = await cluster.mount()
    const reader = await cluster.mount()
    const directory = await directoryOf(writer, 'd')
    const inos: Ino[] = []
    for (let i = 0; i < 80; i++) inos.push(await write(writer, directory, `f${i}`, contentOf(i, bytes)))
    await writer.syncfs(caller())
    await listAll(reader, directory)
    for (let i = 0; i < 80; i++) {
      t.ok((await read(reader, directory, `f${i}`)).equals(contentOf(i, bytes)), `f${i}`)
      const later = i + 1 + (i % 5)
      if (later >= 80) continue
      // Overwritten, and grown out of its inode or into more blocks.
      const { handle } = await writer.open(caller(), inos[later]!, O_WRONLY)
      const content = contentOf(1000 + later, bytes + 2500)
      await writer.write(caller(), handle, 0n, content, noKill)
      await writer.flush(caller(), handle, 1n)
      await writer.release(handle)
      t.ok((await read(reader, directory, `f${later}`)).equals(content), `f${later} was changed`)
      const again = await writer.open(caller(), inos[later]!, O_WRONLY)
      await writer.setattr(caller(), inos[later]!, { size: 0n }, again.handle)
      await writer.write(caller(), again.handle, 0n, contentOf(later, bytes), noKill)
      await writer.release(again.handle)
    }
  })
}

t.test('files that were just closed are there for everybody, and those removed cost nothing', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const writer = await cluster.mount()
  const other = await cluster.mount()
  const directory = await directoryOf(writer, 'd')
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 20; i++) await write(writer, directory, `f${i}`, contentOf(i, 10_000 + i))
    t.ok((await read(other, directory, 'f19')).equals(contentOf(19, 10_019)), 'at once')
    for (let i = 0; i < 20; i += 2) await writer.unlink(caller(), directory, name(`f${i}`))
    await write(writer, directory, 'over', contentOf(round, 9000))
    await writer.rename(caller(), { parent: directory, name: name('over') }, { parent: directory, name: name('f1') }, 0)
    t.equal(await code(writer.syncfs(caller())), 'none', 'nothing that was not removed is lost')
    t.ok((await read(other, directory, 'f1')).equals(contentOf(round, 9000)))
    for (let i = 3; i < 20; i += 2) t.ok((await read(other, directory, `f${i}`)).equals(contentOf(i, 10_000 + i)))
    for (let i = 1; i < 20; i += 2) await other.unlink(caller(), directory, name(`f${i}`))
  }
  await other.syncfs(caller())
  await writer.syncfs(caller())
  t.equal(writer.figures().dirtyBytes, 0)
})

t.test('a commit that comes after times were set leaves them alone, the time of the change too', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const writer = await cluster.mount()
  const other = await cluster.mount()
  const directory = await directoryOf(writer, 'd')
  for (const bytes of [3000, 20_000]) {
    const ino = await write(writer, directory, `f${bytes}`, contentOf(1, bytes))
    await writer.setattr(caller(), ino, { mtime: { seconds: 1000n, nanos: 7 } })
    const here = (await writer.getattr(caller(), ino)).attributes
    await new Promise((resolve) => setTimeout(resolve, 5))
    const there = (await other.lookup(caller(), directory, name(`f${bytes}`))).attributes
    t.strictSame([there.mtime, there.ctime, there.size], [here.mtime, here.ctime, BigInt(bytes)])
  }
})
