/**
 * What a client does on its own under write leases, and tells the master later: that it needs nobody for it, that it knows exactly what the
 * master will make of it, that others see it at once, and what becomes of it when replies are lost, the master restarts or the client is
 * cut off.
 */
import t from 'tap'
import type { Test } from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import { compareTimespec } from '../../../src/domain/time.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import type { Attributes, Context, FileSystem, Handle } from '../../../src/client/file-system.ts'
import { code, list } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const O_WRONLY = 1
const O_RDWR = 2
const O_TRUNC = 0o1000
const S_IFREG = 0o100000
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)

/** A new directory in which this client works on its own from now on. */
const ownDirectory = async (t: Test, fs: FileSystem, text = 'own'): Promise<Ino> => {
  const { attributes } = await fs.mkdir(caller(), fs.root, name(text), 0o755)
  // The first new inode makes the client ask for numbers.
  await fs.mkdir(caller(), attributes.ino, name('first'), 0o755)
  await fs.rmdir(caller(), attributes.ino, name('first'))
  await pause(50)
  t.equal(await code(fs.lookup(caller(), attributes.ino, name('first'))), 'ENOENT')
  return attributes.ino
}

const writeFile = async (fs: FileSystem, directory: Ino, text: string, content: string): Promise<Ino> => {
  const { entry, opened } = await fs.create(caller(), directory, name(text), 0o644, O_WRONLY)
  if (content !== '') await fs.write(caller(), opened.handle, 0n, name(content), noKill)
  await fs.flush(caller(), opened.handle, 1n)
  await fs.release(opened.handle)
  return entry.attributes.ino
}

const readFile = async (fs: FileSystem, directory: Ino, text: string): Promise<string> => {
  const { attributes } = await fs.lookup(caller(), directory, name(text))
  const { handle } = await fs.open(caller(), attributes.ino, O_RDWR)
  const data = await fs.read(caller(), handle, 0n, 100_000)
  await fs.release(handle)
  return data.toString()
}

t.test('nobody is needed for it, and it is there afterwards', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  cluster.network.cut('client1', 'master')
  for (let i = 0; i < 20; i++) {
    await a.mkdir(caller(), own, name(`d${i}`), 0o755)
    const file = await writeFile(a, own, `f${i}`, `content ${i}`)
    await a.setattr(caller(), file, { mode: 0o600, mtime: { seconds: 7n, nanos: 8 } })
    await a.symlink(caller(), own, name(`l${i}`), name('target'))
    await a.link(caller(), file, own, name(`h${i}`))
    await a.rename(caller(), { parent: own, name: name(`f${i}`) }, { parent: own, name: name(`g${i}`) }, 0)
    if (i % 2 === 0) await a.rmdir(caller(), own, name(`d${i}`))
    if (i % 2 === 0) await a.unlink(caller(), own, name(`l${i}`))
  }
  cluster.network.heal('client1', 'master')
  const names = await list(b, own)
  t.equal(names.length, 20 * 2 + 10 * 2)
  for (let i = 0; i < 20; i++) {
    t.equal(await readFile(b, own, `g${i}`), `content ${i}`)
    const { attributes } = await b.lookup(caller(), own, name(`h${i}`))
    t.match(attributes, { mode: S_IFREG | 0o600, nlink: 2, mtime: { seconds: 7n, nanos: 8 } })
    t.equal(await code(b.lookup(caller(), own, name(`f${i}`))), 'ENOENT')
    t.equal(await code(b.lookup(caller(), own, name(`d${i}`))), i % 2 === 0 ? 'ENOENT' : 'none')
  }
})

t.test('a file is emptied and written anew, and nobody is needed for it', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  const contents = ['', 'short', 'x'.repeat(4096), 'y'.repeat(50_000)]
  const open = async (text: string, flags: number): Promise<Handle> => {
    const { attributes } = await a.lookup(caller(), own, name(text))
    return (await a.open(caller(), attributes.ino, flags)).handle
  }
  for (const [i, content] of contents.entries()) await writeFile(a, own, `f${i}`, content)
  const kept = await Promise.all(contents.map((_, i) => open(`f${i}`, O_RDWR)))
  await a.syncfs(caller())
  cluster.network.cut('client1', 'master')
  for (const [i, content] of contents.entries()) {
    // What was written and not committed goes, too.
    await a.write(caller(), kept[i]!, BigInt(content.length), name('more'), noKill)
    const handle = await open(`f${i}`, O_WRONLY | O_TRUNC)
    t.equal((await a.read(caller(), kept[i]!, 0n, 100)).length, 0)
    if (i > 0) await a.write(caller(), handle, 0n, name(`new ${i}`), noKill)
    await a.flush(caller(), handle, 1n)
    await a.release(handle)
  }
  cluster.network.heal('client1', 'master')
  for (const [i] of contents.entries()) {
    t.equal(await readFile(b, own, `f${i}`), i > 0 ? `new ${i}` : '')
    t.equal((await b.lookup(caller(), own, name(`f${i}`))).attributes.allocated, i > 0 ? 4096n : 0n)
    await a.release(kept[i]!)
  }
})

const attributesOf = async (fs: FileSystem, ino: Ino): Promise<Attributes | 'gone'> => {
  try {
    return { ...(await fs.getattr(caller(), ino)).attributes }
  } catch {
    return 'gone'
  }
}

t.test('what is known here is exactly what the master makes of it', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  for (const seed of [1, 2, 3]) {
    const random = seededRandom(seed)
    const own = await ownDirectory(t, a, `own${seed}`)
    const pick = <T>(of: readonly T[]): T => of[random.below(of.length)]!
    const user = (): Context => ({
      ...caller(),
      uid: random.below(3),
      gid: random.below(3),
      umask: pick([0, 0o022, 0o077]),
    })
    const directories = [own]
    const inos = new Set<Ino>([own])
    /** Files whose data may still be buffered: its commit counts as one more change, which nobody sees but the cache. */
    const written = new Set<Ino>()
    const place = (): { parent: Ino; name: Buffer } => ({
      parent: pick(directories),
      name: name(pick(['a', 'b', 'c', 'd', 'e'])),
    })
    let done = 0
    for (let step = 0; step < 400; step++) {
      const { parent, name: text } = place()
      const some = pick([...inos])
      const attempts: (() => Promise<unknown>)[] = [
        async () => {
          const { attributes } = await a.mkdir(user(), parent, text, pick([0o755, 0o2770, 0o1777]))
          inos.add(attributes.ino)
          directories.push(attributes.ino)
        },
        async () => inos.add((await a.mknod(user(), parent, text, S_IFREG | pick([0o644, 0o4755]), 0)).attributes.ino),
        async () => inos.add((await a.symlink(user(), parent, text, name('to'))).attributes.ino),
        async () => {
          const { entry, opened } = await a.create(user(), parent, text, 0o666, O_RDWR)
          inos.add(entry.attributes.ino)
          written.add(entry.attributes.ino)
          await a.write(caller(), opened.handle, 0n, Buffer.alloc(random.below(9000)), noKill)
          await a.flush(caller(), opened.handle, 1n)
          if (random.below(2) === 0) await a.unlink(caller(), parent, text)
          await a.release(opened.handle)
        },
        () => a.unlink(caller(), parent, text),
        () => a.rmdir(caller(), parent, text),
        () => a.rename(caller(), { parent, name: text }, place(), pick([0, 0, 1, 2])),
        () => a.link(caller(), some, parent, text),
        () => a.setattr(caller(), some, { mode: pick([0o600, 0o4711, 0o2750]) }),
        () => a.setattr(caller(), some, { uid: random.below(3), gid: random.below(3) }),
        () => a.setattr(caller(), some, { mtime: 'now', atime: { seconds: 5n, nanos: 6 } }),
        () => a.setattr(caller(), some, { size: pick([0n, 0n, BigInt(random.below(6000))]) }),
        () => a.setxattr(caller(), some, name('user.x'), name('v'), { flags: 0, killSgid: false }),
      ]
      if ((await code(pick(attempts)())) === 'none') done++
      if (step % 100 !== 99) continue
      for (const isSynced of [false, true]) {
        if (isSynced) await a.syncfs(caller())
        for (const ino of inos) {
          const here = await attributesOf(a, ino)
          const there = await attributesOf(b, ino)
          // Without a name it is being freed, step by step: everything here is closed.
          if (there === 'gone' || there.nlink === 0) {
            inos.delete(ino)
            continue
          }
          if (here !== 'gone' && !isSynced && written.has(ino)) here.change = there.change
          t.strictSame(here, there, `seed ${seed}, step ${step}`)
        }
      }
    }
    t.ok(done > 100, `${done} operations took effect`)
  }
})

t.test('a file that lost its name lives while it is open, wherever its beginning and end are', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const own = await ownDirectory(t, a)
  for (const wait of [0, 300]) {
    const { opened } = await a.create(caller(), own, name('f'), 0o644, O_RDWR)
    await a.write(caller(), opened.handle, 0n, name('kept'), noKill)
    await pause(wait)
    await a.unlink(caller(), own, name('f'))
    await a.syncfs(caller())
    t.equal((await a.read(caller(), opened.handle, 0n, 10)).toString(), 'kept')
    await a.write(caller(), opened.handle, 4n, Buffer.alloc(10_000, 1), noKill)
    await a.fsync(caller(), opened.handle, false)
    await a.release(opened.handle)
  }
  await a.syncfs(caller())
  await pause(300)
  const before = (await a.statfs(caller())).inodesUsed
  for (let i = 0; i < 50; i++) {
    await writeFile(a, own, 'g', 'x')
    await a.unlink(caller(), own, name('g'))
  }
  await a.syncfs(caller())
  await pause(300)
  t.equal((await a.statfs(caller())).inodesUsed, before, 'nothing is left over')
})

t.test('fsync of a file makes its name durable, fsync of a directory what was done in it', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 600 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  const { opened } = await a.create(caller(), own, name('f'), 0o644, O_RDWR)
  await a.write(caller(), opened.handle, 0n, name('synced'), noKill)
  await a.fsync(caller(), opened.handle, false)
  await a.mkdir(caller(), own, name('d'), 0o755)
  await a.fsyncdir(caller(), own)
  cluster.network.cut('client1', 'master')
  t.same(await list(b, own), ['f', 'd'])
  t.equal(await readFile(b, own, 'f'), 'synced')
  cluster.network.heal('client1', 'master')
})

t.test('replies that are lost, streams that break: each change happens once, in its order', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  const wanted: string[] = []
  for (let i = 0; i < 600; i++) {
    await writeFile(a, own, `t${i}`, `${i}`)
    await a.rename(caller(), { parent: own, name: name(`t${i}`) }, { parent: own, name: name(`f${i}`) }, 0)
    if (i % 3 === 0) await a.unlink(caller(), own, name(`f${i}`))
    else wanted.push(`f${i}`)
    if (i % 40 === 0) cluster.network.loseReplies(cluster.masterAddress, 1)
    if (i % 40 === 20) cluster.network.drop(cluster.masterAddress)
    if (i % 20 === 0) await pause(20)
  }
  t.same((await list(b, own)).toSorted(), wanted.toSorted())
  t.equal(await readFile(b, own, 'f599'), '599')
})

t.test('the master dies and comes back in the middle: nothing is lost, nothing happens twice', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  let running = true
  const restarting = (async () => {
    for (let i = 0; i < 3; i++) {
      await pause(150)
      await cluster.stopMaster()
      await pause(100)
      await cluster.startMaster()
    }
    running = false
  })()
  let count = 0
  for (; running || count < 300; count++) {
    const directory = (await a.mkdir(caller(), own, name(`d${count}`), 0o755)).attributes.ino
    await writeFile(a, directory, 'f', `${count}`)
    await a.rename(caller(), { parent: directory, name: name('f') }, { parent: own, name: name(`f${count}`) }, 0)
    if (count % 10 === 0) await pause(10)
  }
  await restarting
  await a.syncfs(caller())
  const names = new Set(await list(b, own))
  t.equal(names.size, 2 * count)
  for (let i = 0; i < count; i += 37) t.equal(await readFile(b, own, `f${i}`), `${i}`)
})

t.test('a client that is gone leaves a prefix of what it did, and nothing half done', async (t) => {
  for (const seed of [1, 2, 3]) {
    const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 500 } })
    const a = await cluster.mount()
    const b = await cluster.mount()
    const own = await ownDirectory(t, a)
    const random = seededRandom(seed)
    const cutAt = 50 + random.below(600)
    for (let i = 0; i < 700; i++) {
      if (i === cutAt) cluster.network.cut('client1', 'master')
      // After the cut it may have to wait for the master.
      const step = writeFile(a, own, `f${i}`, `content ${i}`)
      if (i < cutAt) await step
      else if ((await Promise.race([code(step), pause(200).then(() => 'late')])) !== 'none') break
      if (random.below(50) === 0) await pause(random.below(40))
    }
    const names = await list(b, own)
    t.comment(`seed ${seed}: ${names.length} files, cut at ${cutAt}`)
    t.same(
      names,
      names.map((_name, i) => `f${i}`),
      'in the order in which they were made, without a gap',
    )
    for (const [i, text] of names.entries()) {
      const content = await readFile(b, own, text)
      const isWhole = content === `content ${i}` || (content === '' && i === names.length - 1)
      if (!isWhole) t.equal(content, `content ${i}`)
    }
    cluster.network.heal('client1', 'master')
    await cluster.close()
  }
})

t.test('cut off: what was not delivered is reported, and never carried out late', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 600 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  await writeFile(a, own, 'kept', 'kept')
  await a.syncfs(caller())
  cluster.network.cut('client1', 'master')
  const { opened } = await a.create(caller(), own, name('lost'), 0o644, O_RDWR)
  await a.write(caller(), opened.handle, 0n, name('in vain'), noKill)
  await a.unlink(caller(), own, name('kept'))
  t.same(await list(b, own), ['kept'], 'the other client waits for the lease only')
  await b.rename(caller(), { parent: own, name: name('kept') }, { parent: own, name: name('renamed') }, 0)
  cluster.network.heal('client1', 'master')
  for (let i = 0; i < 50 && (await code(a.lookup(caller(), own, name('renamed')))) !== 'none'; i++) await pause(100)
  t.same(await list(a, own), ['renamed'], 'it sees what is true')
  t.not(await code(a.fsync(caller(), opened.handle, false)), 'none', 'who has the lost file open is told')
  t.same(await list(b, own), ['renamed'], 'nothing came late')
  await writeFile(a, own, 'after', 'works again')
  t.equal(await readFile(b, own, 'after'), 'works again')
})

t.test('when something was read is no loss when it goes with the session', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 600 } })
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  await writeFile(a, own, 'f', 'content')
  const { attributes } = await a.lookup(caller(), own, name('f'))
  await a.syncfs(caller())
  const file = (await a.open(caller(), attributes.ino, O_RDWR)).handle
  await pause(20)
  await list(a, own)
  await a.read(caller(), file, 0n, 10)
  const read = (await a.getattr(caller(), attributes.ino)).attributes.atime
  t.ok(compareTimespec(read, attributes.atime) > 0)
  cluster.network.cut('client1', 'master')
  const syncing = code(a.syncfs(caller()))
  t.same(await list(b, own), ['f'], 'the session has ended')
  cluster.network.heal('client1', 'master')
  t.equal(await syncing, 'none')
  t.ok(compareTimespec((await a.getattr(caller(), attributes.ino)).attributes.atime, read) < 0, 'it is lost')
  t.equal(await code(a.fsyncdir(caller(), own)), 'none')
  t.equal(await code(a.fsync(caller(), file, false)), 'none')
  await a.release(file)
})

for (const when of ['while it waits', 'before it']) {
  t.test(`fsync of a directory whose changes are lost with the session ${when} says so, once`, async (t) => {
    const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 600 } })
    const a = await cluster.mount()
    const b = await cluster.mount()
    const own = await ownDirectory(t, a)
    const other = await ownDirectory(t, a, 'other')
    await writeFile(a, own, 'tmp', 'new')
    await a.syncfs(caller())
    cluster.network.cut('client1', 'master')
    await a.rename(caller(), { parent: own, name: name('tmp') }, { parent: own, name: name('final') }, 0)
    const waiting = when === 'before it' ? undefined : code(a.fsyncdir(caller(), own))
    const syncing = when === 'before it' ? undefined : code(a.syncfs(caller()))
    t.same(await list(b, own), ['tmp'], 'the session has ended')
    cluster.network.heal('client1', 'master')
    t.same(await list(a, own), ['tmp'], 'and a new one has begun')
    const somebody = (pid: number): Context => caller(undefined, { pid })
    if (when === 'before it') t.equal(await code(a.fsyncdir(somebody(1), own)), 'EIO', 'the first who asks')
    t.equal(await (waiting ?? code(a.fsyncdir(caller(), own))), 'EIO', 'whose change it was')
    t.equal(await code(a.fsyncdir(caller(), own)), 'none', 'once')
    t.equal(await code(a.fsyncdir(somebody(2), own)), 'none', 'others need not be told any more')
    t.equal(await code(a.fsyncdir(caller(), other)), 'none', 'nothing was done in the other directory')
    t.equal(await (syncing ?? code(a.syncfs(caller()))), 'EIO', 'who syncs everything is told as well')
    t.equal(await code(a.syncfs(caller())), 'none', 'once')
    await a.rename(caller(), { parent: own, name: name('tmp') }, { parent: own, name: name('final') }, 0)
    t.equal(await code(a.fsyncdir(caller(), own)), 'none', 'what comes later is stored')
    t.same(await list(b, own), ['final'])
  })
}

t.test('two clients take turns in one directory: each sees what the other did', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const clients = [await cluster.mount(), await cluster.mount()]
  const own = await ownDirectory(t, clients[0]!)
  for (let i = 0; i < 60; i++) {
    const [writer, reader] = i % 2 === 0 ? [clients[0]!, clients[1]!] : [clients[1]!, clients[0]!]
    for (let j = 0; j < 5; j++) await writeFile(writer, own, `f${i}-${j}`, `${i}`)
    t.equal(await readFile(reader, own, `f${i}-4`), `${i}`)
    await reader.unlink(caller(), own, name(`f${i}-0`))
    t.equal(await code(writer.lookup(caller(), own, name(`f${i}-0`))), 'ENOENT')
    t.equal((await list(writer, own)).length, (i + 1) * 4)
  }
})

t.test('many changes at once: what may wait is bounded, and all of it arrives', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const own = await ownDirectory(t, a)
  await Promise.all(
    Array.from({ length: 8 }, async (_, k) => {
      for (let i = 0; i < 1000; i++) await a.mknod(caller(), own, name(`${k}-${i}`), S_IFREG | 0o644, 0)
    }),
  )
  t.equal((await list(b, own)).length, 8000)
})
