/**
 * Listings that a client tells from what it knows under its leases: the same, with the same cookies, as the master would tell them, and none
 * at all once somebody else has changed the directory.
 */
import t from 'tap'
import type { Ino } from '../../../src/domain/ids.ts'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { code, list } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const O_WRONLY = 1
const name = (text: string): Buffer => Buffer.from(text)

interface Shown {
  name: string
  ino: bigint
  type: number
  cookie: bigint
}

/** As a kernel reads it: a few entries at a time. */
const listing = async (fs: FileSystem, directory: Ino, plus: boolean, atOnce = 7): Promise<Shown[]> => {
  const shown: Shown[] = []
  for (let cookie = 0n; ;) {
    let taken = 0
    await fs.readdir(caller(), directory, cookie, { plus }, (entry) => {
      if (taken === atOnce) return false
      taken++
      cookie = entry.cookie
      shown.push({ name: entry.name.toString(), ino: entry.ino, type: entry.type, cookie })
      return true
    })
    if (taken === 0) break
  }
  return shown
}

const make = async (fs: FileSystem, directory: Ino, text: string): Promise<Ino> => {
  const { entry, opened } = await fs.create(caller(), directory, name(text), 0o644, O_WRONLY)
  await fs.release(opened.handle)
  return entry.attributes.ino
}

/** Some hundred changes of names in one directory and another one beside it. */
const shuffle = async (fs: FileSystem, directory: Ino, beside: Ino, seed: number): Promise<void> => {
  const random = seededRandom(seed)
  const pick = (): Buffer => name(`n${random.below(24)}`)
  for (let step = 0; step < 300; step++) {
    const [from, to] = [pick(), pick()]
    switch (random.below(6)) {
      case 0:
        await code(fs.mkdir(caller(), directory, from, 0o755))
        break
      case 1:
        await code(fs.unlink(caller(), directory, from))
        break
      case 2:
        await code(fs.rename(caller(), { parent: directory, name: from }, { parent: directory, name: to }, 0))
        break
      case 3:
        await code(fs.rename(caller(), { parent: beside, name: from }, { parent: directory, name: to }, 0))
        break
      case 4:
        await code(
          fs.lookup(caller(), directory, from).then((entry) => fs.link(caller(), entry.attributes.ino, directory, to)),
        )
        break
      default:
        await code(make(fs, random.below(3) === 0 ? beside : directory, from.toString()))
    }
  }
}

t.test('what was made here has the cookies that the master gives', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  const other = await cluster.mount()
  for (const seed of [1, 2, 3, 4]) {
    const { ino } = (await maker.mkdir(caller(), maker.root, name(`d${seed}`), 0o755)).attributes
    const beside = (await maker.mkdir(caller(), maker.root, name(`b${seed}`), 0o755)).attributes.ino
    await shuffle(maker, ino, beside, seed)
    const here = await listing(maker, ino, false)
    const plus = await listing(maker, ino, true)
    const there = await listing(other, ino, false)
    t.ok(here.length > 4)
    t.strictSame(here, there, `seed ${seed}`)
    t.strictSame(plus, there)
    // The other client has read it all: it knows it now, and what it adds.
    await make(other, ino, 'added')
    t.strictSame(await listing(other, ino, false), await listing(maker, ino, true), 'continued by somebody else')
  }
})

t.test('no master is needed to list what is known', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 10_000, leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  // The first change of a directory is the master's, and brings its write lease; the first of all brings numbers for new inodes, too.
  const top = (await maker.mkdir(caller(), maker.root, name('top'), 0o755)).attributes.ino
  await maker.mkdir(caller(), top, name('first'), 0o755)
  await maker.syncfs(caller())
  const { ino } = (await maker.mkdir(caller(), top, name('d'), 0o755)).attributes
  for (let i = 0; i < 40; i++) await make(maker, ino, `f${i}`)
  await maker.syncfs(caller())
  cluster.network.cut('client1', 'master')
  const alone = await listing(maker, ino, true)
  t.equal(await code(maker.lookup(caller(), ino, name('none'))), 'ENOENT')
  cluster.network.heal('client1', 'master')
  t.equal(alone.length, 42)

  const reader = await cluster.mount()
  await reader.lookup(caller(), top, name('d'))
  // Without attributes: the maker may still change those.
  const first = await listing(reader, ino, false)
  cluster.network.cut('client2', 'master')
  t.strictSame(await listing(reader, ino, false), first, 'a second time')
  t.equal(await code(reader.lookup(caller(), ino, name('none'))), 'ENOENT', 'a name that was not in the listing')
  cluster.network.heal('client2', 'master')
})

t.test('what another client changes is seen at the next look, and a listing under way goes on', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  const other = await cluster.mount()
  const { ino } = (await maker.mkdir(caller(), maker.root, name('d'), 0o755)).attributes
  for (let i = 0; i < 20; i++) await make(maker, ino, `f${i}`)
  const begun: string[] = []
  let cookie = 0n
  await maker.readdir(caller(), ino, 0n, { plus: true }, (entry) => {
    if (begun.length === 12) return false
    begun.push(entry.name.toString())
    cookie = entry.cookie
    return true
  })
  await other.unlink(caller(), ino, name('f0'))
  await other.unlink(caller(), ino, name('f15'))
  await make(other, ino, 'new')
  for (;;) {
    const before = begun.length
    await maker.readdir(caller(), ino, cookie, { plus: true }, (entry) => {
      begun.push(entry.name.toString())
      cookie = entry.cookie
      return true
    })
    if (begun.length === before) break
  }
  // Of what comes and goes meanwhile POSIX leaves it open.
  const stayed = begun.filter((one) => one !== 'f15' && one !== 'new')
  const expected = Array.from({ length: 20 }, (_, i) => `f${i}`).filter((one) => one !== 'f15')
  t.strictSame(stayed, ['.', '..', ...expected], 'each that was there when it was read, once')
  t.strictSame((await list(maker, ino)).length, 19)
})

t.test('a directory that was moved tells its new parent', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const mount = await cluster.mount()
  const other = await cluster.mount()
  const [a, b] = [
    (await mount.mkdir(caller(), mount.root, name('a'), 0o755)).attributes.ino,
    (await mount.mkdir(caller(), mount.root, name('b'), 0o755)).attributes.ino,
  ]
  const { ino } = (await mount.mkdir(caller(), a, name('d'), 0o755)).attributes
  const parentOf = async (fs: FileSystem): Promise<bigint | undefined> =>
    (await listing(fs, ino, false)).find((entry) => entry.name === '..')?.ino
  t.equal(await parentOf(mount), a)
  await mount.rename(caller(), { parent: a, name: name('d') }, { parent: b, name: name('d') }, 0)
  t.equal(await parentOf(mount), b)
  t.equal(await parentOf(other), b)
  await other.rename(caller(), { parent: b, name: name('d') }, { parent: a, name: name('d') }, 0)
  t.equal(await parentOf(mount), a, 'moved by somebody else')
})

t.test('what may be kept was told under a lease that counts', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const maker = await cluster.mount()
  const other = await cluster.mount()
  const strict = await cluster.mount({ accessTimes: { directories: 'always', others: 'relative' } })
  const { ino } = (await maker.mkdir(caller(), maker.root, name('d'), 0o755)).attributes
  for (let i = 0; i < 20; i++) await make(maker, ino, `f${i}`)
  await maker.syncfs(caller())
  const listen = (fs: FileSystem, forgetListing: (directory: Ino) => void): void =>
    fs.onInvalidate({
      canForgetNames: true,
      forgetNames: () => undefined,
      forgetAttributes: () => undefined,
      forgetListing: (directory) => {
        forgetListing(directory)
        return undefined
      },
      dropData: () => Promise.resolve(),
    })
  let takenBack = 0
  const uncached = await cluster.mount({ caching: { leases: false, writeBehind: false } })
  for (const fs of [maker, strict, uncached]) listen(fs, () => undefined)
  listen(other, (directory) => void (directory === ino && takenBack++))
  /** Whether all of it may be kept. */
  const read = async (fs: FileSystem, plus: boolean): Promise<boolean> => {
    let mayKeep = true
    for (let cookie = 0n, told = -1; told !== 0;) {
      told = 0
      const part = await fs.readdir(caller(), ino, cookie, { plus }, (entry) => {
        if (told === 7) return false
        told++
        ;({ cookie } = entry)
        return true
      })
      mayKeep &&= part
    }
    return mayKeep
  }
  t.equal(await read(maker, true), true, 'from what is known')
  t.equal(await read(other, false), true, 'from the master')
  t.equal(await read(strict, false), false, 'each reading is to be noted')
  t.equal(await read(uncached, false), false, 'without leases')
  t.equal(takenBack, 0)
  await make(maker, ino, 'new')
  t.equal(takenBack, 1, 'before the change')
  t.equal(await read(other, false), true, 'under another lease')
  await make(maker, ino, 'newer')
  t.equal(takenBack, 2)
  await make(maker, ino, 'newest')
  t.equal(takenBack, 2, 'nothing was told meanwhile')
})
