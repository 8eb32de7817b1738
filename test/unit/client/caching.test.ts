/**
 * Names and attributes under leases: several clients, each behind the model of a kernel that believes all that it is told, change one
 * namespace in turns; what any of them sees at any moment equals a model of the namespace.
 */
import t from 'tap'
import type { Test } from 'tap'
import { setTimeout as pause } from 'node:timers/promises'
import type { Ino } from '../../../src/domain/ids.ts'
import type { FileSystem } from '../../../src/client/file-system.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import type { InProcessCluster } from '../../lib/in-process-cluster.ts'
import { KernelModel } from '../../lib/kernel-model.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const O_RDWR = 2
const S_IFREG = 0o100000
const name = (text: string): Buffer => Buffer.from(text)

interface Node {
  mode: number
  nlink: number
  size: bigint
  xattrs: Set<string>
}

/** What random clients do, and what the namespace is to look like. */
const scramble = async (
  t: Test,
  kernels: readonly KernelModel[],
  options: { seed: number; steps: number; trouble?: (step: number) => void },
): Promise<void> => {
  t.comment(`seed ${options.seed}`)
  const random = seededRandom(options.seed)
  const first = kernels[0]!
  const root = first.fileSystem.root
  const directories: Ino[] = [root]
  for (const text of ['d1', 'd2']) {
    directories.push(await first.make(root, text, () => first.fileSystem.mkdir(caller(), root, name(text), 0o755)))
  }
  const entries = new Map<string, Ino>()
  const nodes = new Map<Ino, Node>()
  const names = ['a', 'b', 'c', 'd']
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!
  const keyOf = (parent: Ino, text: string): string => `${parent}/${text}`
  let wrong = 0
  const compare = (found: unknown, wanted: unknown, what: string): void => {
    const text = (value: unknown): string =>
      JSON.stringify(value, (_key, part: unknown) => (typeof part === 'bigint' ? String(part) : part)) ?? 'undefined'
    if (text(found) === text(wanted)) return
    wrong++
    if (wrong < 5) t.equal(text(found), text(wanted), what)
  }

  for (let step = 0; step < options.steps; step++) {
    options.trouble?.(step)
    const who = random.below(kernels.length)
    const kernel = kernels[who]!
    const fs = kernel.fileSystem
    const parent = pick(directories)
    const text = pick(names)
    const key = keyOf(parent, text)
    const ino = entries.get(key)
    const node = ino === undefined ? undefined : nodes.get(ino)!
    const what = random.below(30)
    const label = `step ${step}, client ${who}, ${what}`
    if (what === 0) {
      const made = kernel.make(parent, text, () => fs.mknod(caller(), parent, name(text), S_IFREG | 0o644, 0))
      if (ino !== undefined) compare(await code(made), 'EEXIST', label)
      else {
        const fresh = await made
        entries.set(key, fresh)
        nodes.set(fresh, { mode: S_IFREG | 0o644, nlink: 1, size: 0n, xattrs: new Set() })
      }
    } else if (what === 1) {
      const result = await code(kernel.remove(parent, text, () => fs.unlink(caller(), parent, name(text))))
      compare(result, ino === undefined ? 'ENOENT' : 'none', label)
      if (node !== undefined) {
        node.nlink--
        entries.delete(key)
      }
    } else if (what === 2 || what === 3) {
      const target = { parent: pick(directories), name: pick(names) }
      const targetKey = keyOf(target.parent, target.name)
      const other = entries.get(targetKey)
      const exchange = what === 3
      const result = await code(kernel.rename({ parent, name: text }, target, exchange))
      const misses = ino === undefined || (exchange && other === undefined)
      compare(result, misses ? 'ENOENT' : 'none', label)
      if (!misses && other !== ino) {
        if (exchange) entries.set(key, other!)
        else {
          entries.delete(key)
          if (other !== undefined) nodes.get(other)!.nlink--
        }
        entries.set(targetKey, ino)
      }
    } else if (what === 4 && node !== undefined) {
      const target = { parent: pick(directories), name: pick(names) }
      const targetKey = keyOf(target.parent, target.name)
      const made = kernel.make(target.parent, target.name, () =>
        fs.link(caller(), ino!, target.parent, name(target.name)),
      )
      const taken = entries.has(targetKey)
      compare(await code(made), taken ? 'EEXIST' : 'none', label)
      if (!taken) {
        entries.set(targetKey, ino!)
        node.nlink++
      }
    } else if (what === 5 && node !== undefined) {
      node.mode = S_IFREG | random.below(0o1000)
      await kernel.setattr(ino!, { mode: node.mode & 0o7777 })
    } else if (what === 6 && node !== undefined) {
      node.size = BigInt(random.below(10_000))
      await kernel.setattr(ino!, { size: node.size })
    } else if (what === 7 && node !== undefined) {
      const data = Buffer.alloc(1 + random.below(6000), 1)
      const { handle } = await fs.open(caller(), ino!, O_RDWR)
      await fs.write(caller(), handle, 0n, data, { killPrivileges: false })
      if (random.below(2) === 0) await fs.fsync(caller(), handle, false)
      await fs.release(handle)
      kernel.changed(ino!)
      if (BigInt(data.length) > node.size) node.size = BigInt(data.length)
    } else if (what === 8 && node !== undefined) {
      const attribute = pick(['user.a', 'user.b'])
      const set = !node.xattrs.has(attribute)
      if (set) await fs.setxattr(caller(), ino!, name(attribute), name('v'), { flags: 0, killSgid: false })
      else await fs.removexattr(caller(), ino!, name(attribute))
      kernel.changed(ino!)
      if (set) node.xattrs.add(attribute)
      else node.xattrs.delete(attribute)
    } else if (what === 9) {
      const wanted = [...entries.keys()]
        .filter((other) => other.startsWith(`${parent}/`))
        .map((other) => other.split('/')[1])
      const found = await kernel.list(parent)
      compare(
        found.filter((other) => names.includes(other)),
        wanted.toSorted((x, y) => (x! < y! ? -1 : 1)),
        label,
      )
    } else if (what === 10 && node !== undefined) {
      const found = (await fs.listxattr(caller(), ino!)).map(String)
      compare(found, [...node.xattrs].toSorted(), label)
    } else {
      const looked = await kernel.look(parent, text)
      const wanted = node && { ino, mode: node.mode, nlink: node.nlink, size: node.size }
      compare(looked, wanted, label)
    }
  }
  t.equal(wrong, 0, 'nobody ever saw anything old')
}

const kernelsOf = async (cluster: InProcessCluster, count: number): Promise<KernelModel[]> => {
  const kernels: KernelModel[] = []
  for (let i = 0; i < count; i++) kernels.push(new KernelModel(await cluster.mount(), caller))
  return kernels
}

const seed = Number(process.env['TEST_SEED'] ?? 11)

t.test('random work of three clients equals a model, one step after the other', async (t) => {
  // Without a pause every name is cached again at once.
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const kernels = await kernelsOf(cluster, 3)
  await scramble(t, kernels, { seed, steps: 6000 })
  const hits = kernels.reduce((sum, kernel) => sum + kernel.hits, 0)
  const asked = kernels.reduce((sum, kernel) => sum + kernel.asked, 0)
  t.comment(`${hits} looks answered from the cache, ${asked} asked`)
  t.ok(hits > asked, 'most looks ask nobody')
})

t.test('the same while replies are lost and streams break', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const kernels = await kernelsOf(cluster, 3)
  await scramble(t, kernels, {
    seed: seed + 1,
    steps: 1500,
    trouble: (step) => {
      if (step % 23 === 0) cluster.network.loseReplies(cluster.masterAddress, 1)
      if (step % 61 === 0) cluster.network.drop(cluster.masterAddress)
    },
  })
})

t.test('the same with few leases and names, so that they go back all the time', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const limits = { leasesMax: 5, namesMax: 4 }
  const kernels: KernelModel[] = []
  for (let i = 0; i < 2; i++) kernels.push(new KernelModel(await cluster.mount({ limits }), caller))
  await scramble(t, kernels, { seed: seed + 2, steps: 2000 })
})

const refuse = async (fs: FileSystem, text: string): Promise<void> => {
  await fs.mknod(caller(), fs.root, name(text), S_IFREG | 0o644, 0)
}

t.test('a client that is cut off: its kernel stops believing before others may change anything', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { sessionLeaseMs: 1000, leaseQuietMs: 0 } })
  const [a, b] = (await kernelsOf(cluster, 2)) as [KernelModel, KernelModel]
  const { root } = a.fileSystem
  await refuse(b.fileSystem, 'f')
  for (let i = 0; i < 2; i++) await a.look(root, 'f')
  await a.look(root, 'none')
  const before = a.asked
  await a.look(root, 'f')
  t.equal(a.asked, before, 'cached')
  cluster.network.cut('client1', 'master')
  const changing = (async () => {
    await b.remove(root, 'f', () => b.fileSystem.unlink(caller(), root, name('f')))
    await refuse(b.fileSystem, 'none')
  })()
  let changed = false
  void changing.then(() => (changed = true))
  const late = (async () => {
    // Whatever it says before the others have got their turn is right.
    while (!changed) {
      const found = await Promise.race([a.look(root, 'f'), changing.then(() => 'changed' as const)])
      if (found === 'changed') return
      if (found === undefined && !changed) t.fail('it knows what it cannot know')
      await pause(20)
    }
  })()
  await changing
  await late
  const looks = Promise.all([a.look(root, 'f'), a.look(root, 'none')])
  t.equal(await Promise.race([looks, pause(300, 'waits')]), 'waits', 'it answers nothing from its caches')
  cluster.network.heal('client1', 'master')
  const [f, none] = await looks
  t.equal(f, undefined)
  t.ok(none)
})

t.test('a name that is moved to where its mover has no lease is not believed there', async (t) => {
  // Long enough that nothing is offered again during this test.
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 60_000 } })
  const [a, b] = (await kernelsOf(cluster, 2)) as [KernelModel, KernelModel]
  const { root } = a.fileSystem
  const mkdir = (text: string): Promise<Ino> =>
    a.make(root, text, () => a.fileSystem.mkdir(caller(), root, name(text), 0o755))
  const [from, to] = [await mkdir('from'), await mkdir('to')]
  await a.make(from, 'x', () => a.fileSystem.mknod(caller(), from, name('x'), S_IFREG | 0o644, 0))
  t.ok(await a.look(from, 'x'))
  await b.make(to, 'other', () => b.fileSystem.mknod(caller(), to, name('other'), S_IFREG | 0o644, 0))
  await a.rename({ parent: from, name: 'x' }, { parent: to, name: 'x' }, false)
  t.ok(await b.look(to, 'x'))
  await b.remove(to, 'x', () => b.fileSystem.unlink(caller(), to, name('x')))
  t.equal(await a.look(to, 'x'), undefined)
})

t.test('an interrupted change is seen when it took effect', async (t) => {
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs: 0 } })
  const [kernel] = (await kernelsOf(cluster, 1)) as [KernelModel]
  const fs = kernel.fileSystem
  for (let i = 0; i < 30; i++) {
    const text = `n${i}`
    t.equal(await kernel.look(fs.root, text), undefined)
    const stop = new AbortController()
    const making = code(fs.mkdir(caller(stop.signal), fs.root, name(text), 0o755))
    if (i % 3 === 0) await Promise.resolve()
    if (i % 3 === 1) await pause(0)
    stop.abort()
    const made = await making
    // What was answered without waiting for the outcome is settled after a round trip.
    await fs.statfs(caller())
    const found = await fs.lookup(caller(), fs.root, name(text)).then(
      () => 'there',
      () => 'not there',
    )
    if (made === 'none') t.equal(found, 'there')
    const fresh = await (await cluster.mount()).lookup(caller(), fs.root, name(text)).then(
      () => 'there',
      () => 'not there',
    )
    t.equal(found, fresh, `after ${made}, as somebody else sees it`)
  }
})
