/**
 * One name after the other is removed by a client that has made none of them: that it needs the master once for many, that nobody sees anything
 * old meanwhile, and what is left when it dies.
 */
import t from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { Ino } from '../../../src/domain/ids.ts'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { code, list } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_WRONLY = 1
const O_RDWR = 2
const immutable = 0x10
const noKill = { killPrivileges: false }
const name = (text: string): Buffer => Buffer.from(text)

const makeDirectory = async (fs: FileSystem, text: string): Promise<Ino> =>
  (await fs.mkdir(caller(), fs.root, name(text), 0o755)).attributes.ino

/** Files f0, f1, … with their names as content. */
const makeFiles = async (fs: FileSystem, directory: Ino, count: number): Promise<Ino[]> => {
  const inos: Ino[] = []
  for (let i = 0; i < count; i++) {
    const { entry, opened } = await fs.create(caller(), directory, name(`f${i}`), 0o644, O_WRONLY)
    await fs.write(caller(), opened.handle, 0n, name(`f${i}`), noKill)
    await fs.flush(caller(), opened.handle, 1n)
    await fs.release(opened.handle)
    inos.push(entry.attributes.ino)
  }
  return inos
}

/** As a kernel does it: looks the name up, removes it, and forgets what it led to. */
const remove = async (fs: FileSystem, directory: Ino, text: string): Promise<void> => {
  const { attributes } = await fs.lookup(caller(), directory, name(text))
  await fs.unlink(caller(), directory, name(text))
  fs.forget(attributes.ino, 1n)
}

t.test('hundreds are removed without the master, though their maker holds leases on all of them', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000, leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  const remover = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  await makeFiles(maker, directory, 400)
  await remover.lookup(caller(), remover.root, name('d'))
  for (let i = 0; i < 200; i++) await remove(remover, directory, `f${i}`)
  // What the last question had to recall has been given back by now, or will be before the next one is answered.
  await remover.syncfs(caller())
  let alone = 0
  cluster.network.cut('client2', 'master')
  for (let i = 200; i < 400; i++) {
    const step = remove(remover, directory, `f${i}`)
    if ((await Promise.race([code(step), pause(100).then(() => 'late')])) === 'late') {
      cluster.network.heal('client2', 'master')
      await step
    } else if (alone === i - 200) alone++
  }
  cluster.network.heal('client2', 'master')
  t.comment(`${alone} without the master`)
  t.ok(alone >= 40, 'at least the rest of the entries that were brought last')
  t.same(await list(maker, directory), [])
  t.equal(await code(maker.lookup(caller(), directory, name('f399'))), 'ENOENT')
})

t.test('nobody sees anything old', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const other = await cluster.mount()
  const remover = await cluster.mount()
  const directory = await makeDirectory(other, 'd')
  const elsewhere = await makeDirectory(other, 'e')
  const inos = await makeFiles(other, directory, 60)
  // Of each three files one has another name elsewhere, one is open and has something new in it.
  const handles = new Map<number, bigint>()
  for (const [i, ino] of inos.entries()) {
    if (i % 3 === 0) await other.link(caller(), ino, elsewhere, name(`h${i}`))
    if (i % 3 !== 1) continue
    const { handle } = await other.open(caller(), ino, O_RDWR)
    handles.set(i, handle)
    await other.write(caller(), handle, 0n, name('F'), noKill)
  }
  await remover.lookup(caller(), remover.root, name('d'))
  for (const [i, ino] of inos.entries()) {
    const before = (await other.getattr(caller(), ino)).attributes
    await remove(remover, directory, `f${i}`)
    t.equal(await code(other.lookup(caller(), directory, name(`f${i}`))), 'ENOENT')
    if (i % 3 === 0) {
      const { attributes } = await other.getattr(caller(), ino)
      t.match(attributes, { nlink: 1, size: before.size })
      t.not(attributes.change, before.change)
      t.ok(
        attributes.ctime.seconds > before.ctime.seconds || attributes.ctime.nanos !== before.ctime.nanos,
        'the time of the change is new',
      )
      t.equal((await other.lookup(caller(), elsewhere, name(`h${i}`))).attributes.ino, ino)
    } else if (i % 3 === 1) {
      const handle = handles.get(i)!
      t.equal((await other.getattr(caller(), ino)).attributes.nlink, 0)
      t.equal((await other.read(caller(), handle, 0n, 100)).toString(), `F${i}`, 'it lives while it is open')
    }
  }
  for (const [i, handle] of handles) {
    await other.write(caller(), handle, 1n, name('still there'), noKill)
    t.equal((await other.read(caller(), handle, 0n, 12)).toString(), 'Fstill there')
    await other.flush(caller(), handle, 1n)
    await other.release(handle)
    t.not(await code(other.getattr(caller(), inos[i]!).then(({ attributes }) => attributes.nlink === 0)), 'EIO')
  }
  await remover.rmdir(caller(), remover.root, name('d'))
  t.equal(await code(other.lookup(caller(), other.root, name('d'))), 'ENOENT')
  t.equal((await list(other, elsewhere)).length, 20)
})

t.test('removed where it has two names: the other name is there, in this directory or another one', async (t) => {
  const cluster = await startInProcessCluster(t)
  const maker = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  const elsewhere = await makeDirectory(maker, 'e')
  const inos = await makeFiles(maker, directory, 60)
  for (const [i, ino] of inos.entries())
    await maker.link(caller(), ino, i % 2 === 0 ? elsewhere : directory, name(`h${i}`))
  await maker.close()
  const remover = await cluster.mount()
  for (const root of ['d', 'e']) await remover.lookup(caller(), remover.root, name(root))
  for (let i = 0; i < 60; i++) await remove(remover, directory, `f${i}`)
  for (const [i, ino] of inos.entries()) {
    const { attributes } = await remover.lookup(caller(), i % 2 === 0 ? elsewhere : directory, name(`h${i}`))
    t.match(attributes, { ino, nlink: 1 })
  }
  for (let i = 0; i < 60; i++) await remove(remover, i % 2 === 0 ? elsewhere : directory, `h${i}`)
  const fresh = await cluster.mount()
  t.same([...(await list(fresh, directory)), ...(await list(fresh, elsewhere))], [])
  await remover.syncfs(caller())
  t.equal((await remover.statfs(caller())).inodesUsed, 3n)
})

t.test('what may not be removed is refused, among others that may', async (t) => {
  const cluster = await startInProcessCluster(t)
  const maker = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  const inos = await makeFiles(maker, directory, 100)
  await maker.mkdir(caller(), directory, name('sub'), 0o755)
  for (const i of [30, 77]) await maker.setattr(caller(), inos[i]!, { flags: immutable })
  await maker.close()
  const remover = await cluster.mount()
  await remover.lookup(caller(), remover.root, name('d'))
  for (let i = 0; i < 100; i++)
    t.equal(await code(remove(remover, directory, `f${i}`)), i === 30 || i === 77 ? 'EPERM' : 'none')
  t.equal(await code(remove(remover, directory, 'f5')), 'ENOENT')
  t.equal(await code(remove(remover, directory, 'sub')), 'EISDIR')
  t.equal(await code(remover.rmdir(caller(), directory, name('f30'))), 'ENOTDIR')
  t.equal(await code(remover.rmdir(caller(), remover.root, name('d'))), 'ENOTEMPTY')
  t.same((await list(remover, directory)).toSorted(), ['f30', 'f77', 'sub'])
})

t.test('two remove the same names at the same time: each name is removed once', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  await makeFiles(maker, directory, 150)
  await maker.close()
  const removers = [await cluster.mount(), await cluster.mount()]
  const removed = new Map<string, number>()
  await Promise.all(
    removers.map(async (fs) => {
      await fs.lookup(caller(), fs.root, name('d'))
      for (let i = 0; i < 150; i++) {
        const came = await code(fs.unlink(caller(), directory, name(`f${i}`)))
        if (came === 'none') removed.set(`f${i}`, (removed.get(`f${i}`) ?? 0) + 1)
        else t.equal(came, 'ENOENT')
      }
    }),
  )
  t.equal(removed.size, 150)
  t.ok([...removed.values()].every((times) => times === 1))
  for (const fs of removers) t.same(await list(fs, directory), [])
})

t.test('in any order, and with few leases: nothing is left, and no more is held', async (t) => {
  const cluster = await startInProcessCluster(t)
  const maker = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  await makeFiles(maker, directory, 500)
  await maker.close()
  const remover = await cluster.mount({ limits: { leasesMax: 100, namesMax: 150 } })
  await remover.lookup(caller(), remover.root, name('d'))
  t.equal((await list(remover, directory)).length, 500)
  let most = 0
  for (let i = 0; i < 500; i++) {
    // Forwards, backwards and criss-cross.
    const next = i < 200 ? i : i < 350 ? 549 - i : 350 + (((i - 350) * 7) % 150)
    await remove(remover, directory, `f${next}`)
    most = Math.max(most, remover.figures().leases)
  }
  t.comment(`at most ${most} leases`)
  t.ok(most <= 100 + 2 * 512, 'what is brought at once goes beyond the limit only until older ones are given back')
  t.same(await list(remover, directory), [])
})

t.test('a remover that dies leaves what comes after the last one that it removed', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 500 } })
  const maker = await cluster.mount()
  const directory = await makeDirectory(maker, 'd')
  await makeFiles(maker, directory, 500)
  const remover = await cluster.mount()
  await remover.lookup(caller(), remover.root, name('d'))
  for (let i = 0; i < 300; i++) await remove(remover, directory, `f${i}`)
  cluster.network.cut('client2', 'master')
  const left = await list(maker, directory)
  const first = 500 - left.length
  t.comment(`${first} of 300 removals arrived`)
  t.ok(first >= 85 && first <= 300)
  t.same(
    left,
    Array.from({ length: left.length }, (_, i) => `f${first + i}`),
    'a prefix is gone, and nothing else',
  )
  for (const text of left.slice(0, 20)) {
    const { attributes } = await maker.lookup(caller(), directory, name(text))
    t.equal(attributes.nlink, 1)
    const { handle } = await maker.open(caller(), attributes.ino, O_RDWR)
    t.equal((await maker.read(caller(), handle, 0n, 100)).toString(), text)
    await maker.release(handle)
  }
  cluster.network.heal('client2', 'master')
})
