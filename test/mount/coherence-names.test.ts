/**
 * Two mounts, both with their kernel's caches full: what one has changed, the other sees at its first look, COHERENCE_ROUNDS times. Each kind of change in a
 * directory of its own, because a directory that is fought for is not cached for a moment.
 */
import t from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from '../lib/agent.ts'
import type { Came, Step } from '../lib/agent.ts'
import { startCluster } from '../lib/cluster.ts'
import { countedMount } from '../lib/counted.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

const rounds = Number(process.env['COHERENCE_ROUNDS'] ?? 200)
/** Longer than the master offers no lease after a recall. */
const quietMs = 120

interface Kind {
  name: string
  /** In a fresh directory, by whoever changes it. */
  prepare?: readonly Step[]
  /** What the other mount looks at. */
  looks: readonly Step[]
  change: readonly Step[]
  /** Not to be cached by the kernel: these ask every time. */
  asks?: boolean
}

/** d: the directory of the round. */
const kinds: readonly Kind[] = [
  { name: 'create', looks: [['stat', 'd/f']], change: [['create', 'd/f', 'x']] },
  { name: 'create, listed', looks: [['list', 'd']], change: [['create', 'd/f']] },
  {
    name: 'create, listed, with the same time',
    prepare: [['utime', 'd', 1e9]],
    looks: [['list', 'd']],
    change: [
      ['create', 'd/f'],
      ['utime', 'd', 1e9],
    ],
  },
  {
    name: 'create, listed again by who has it open',
    looks: [['list_again', 'd']],
    change: [['create', 'd/f']],
  },
  { name: 'unlink', prepare: [['create', 'd/f']], looks: [['stat', 'd/f']], change: [['unlink', 'd/f']] },
  {
    name: 'unlink, listed',
    prepare: [['create', 'd/f']],
    looks: [['list', 'd']],
    change: [['unlink', 'd/f']],
  },
  {
    name: 'rename over',
    prepare: [
      ['create', 'd/f', 'old'],
      ['create', 'd/g', 'newer'],
    ],
    looks: [
      ['stat', 'd/f'],
      ['stat', 'd/g'],
    ],
    change: [['rename', 'd/g', 'd/f']],
  },
  {
    name: 'rename over, read',
    prepare: [
      ['create', 'd/f', 'old'],
      ['create', 'd/g', 'newer'],
    ],
    looks: [['read', 'd/f']],
    change: [['rename', 'd/g', 'd/f']],
    asks: true,
  },
  {
    name: 'rename of a directory',
    prepare: [
      ['mkdir', 'd/s'],
      ['create', 'd/s/f'],
    ],
    looks: [
      ['stat', 'd/s/f'],
      ['stat', 'd/r/f'],
    ],
    change: [['rename', 'd/s', 'd/r']],
  },
  {
    name: 'rename over, after a listing',
    prepare: [
      ['create', 'd/f', 'old'],
      ['create', 'd/g', 'newer'],
    ],
    looks: [
      ['list_and_stat', 'd'],
      ['stat', 'd/f'],
    ],
    change: [['rename', 'd/g', 'd/f']],
  },
  { name: 'mkdir', looks: [['stat', 'd/s']], change: [['mkdir', 'd/s']] },
  { name: 'mkdir, link count', looks: [['stat', 'd']], change: [['mkdir', 'd/s']] },
  { name: 'rmdir', prepare: [['mkdir', 'd/s']], looks: [['stat', 'd/s']], change: [['rmdir', 'd/s']] },
  { name: 'chmod', prepare: [['create', 'd/f']], looks: [['stat', 'd/f']], change: [['chmod', 'd/f', 0o600]] },
  { name: 'chmod of a directory', looks: [['stat', 'd']], change: [['chmod', 'd', 0o700]] },
  { name: 'chown', prepare: [['create', 'd/f']], looks: [['stat', 'd/f']], change: [['chown', 'd/f', 7, 8]] },
  { name: 'utimes', prepare: [['create', 'd/f']], looks: [['stat', 'd/f']], change: [['utime', 'd/f', 1e9]] },
  {
    name: 'truncate',
    prepare: [['create', 'd/f', 'content']],
    looks: [['stat', 'd/f']],
    change: [['truncate', 'd/f', 3]],
  },
  {
    name: 'truncate, read',
    prepare: [['create', 'd/f', 'content']],
    looks: [['read', 'd/f']],
    change: [['truncate', 'd/f', 3]],
    asks: true,
  },
  { name: 'append', prepare: [['create', 'd/f', 'a']], looks: [['stat', 'd/f']], change: [['append', 'd/f', 'b']] },
  {
    name: 'append, read',
    prepare: [['create', 'd/f', 'a']],
    looks: [['read', 'd/f']],
    change: [['append', 'd/f', 'b']],
    asks: true,
  },
  {
    name: 'overwrite',
    prepare: [['create', 'd/f', 'aaaa']],
    looks: [
      ['read', 'd/f'],
      ['stat', 'd/f'],
    ],
    change: [['write', 'd/f', 'bbbbbb']],
    asks: true,
  },
  {
    name: 'overwrite of what is mapped',
    prepare: [['create', 'd/f', 'aaaa']],
    looks: [['map_read', 'd/f', 4]],
    change: [['write', 'd/f', 'bbbb']],
    asks: true,
  },
  {
    name: 'mapped, msync',
    prepare: [['create', 'd/f', 'aaaa']],
    looks: [['map_read', 'd/f', 4]],
    change: [['map_write', 'd/f', 'bbbb']],
    asks: true,
  },
  {
    name: 'msync, read',
    prepare: [['create', 'd/f', 'aaaa']],
    looks: [['read', 'd/f']],
    change: [['map_write', 'd/f', 'bbbb']],
    asks: true,
  },
  {
    name: 'overwrite with the same size and time',
    prepare: [
      ['create', 'd/f', 'aaaa'],
      ['utime', 'd/f', 1e9],
    ],
    looks: [['read', 'd/f']],
    change: [
      ['write', 'd/f', 'bbbb'],
      ['utime', 'd/f', 1e9],
    ],
    asks: true,
  },
  {
    name: 'link count',
    prepare: [['create', 'd/f']],
    looks: [
      ['stat', 'd/f'],
      ['exists', 'd/g'],
    ],
    change: [['link', 'd/f', 'd/g']],
  },
  {
    name: 'link count down',
    prepare: [
      ['create', 'd/f'],
      ['link', 'd/f', 'd/g'],
    ],
    looks: [['stat', 'd/f']],
    change: [['unlink', 'd/g']],
  },
  {
    name: 'symlink replaced',
    prepare: [['symlink', 'one', 'd/l']],
    looks: [['readlink', 'd/l']],
    change: [
      ['symlink', 'two', 'd/m'],
      ['rename', 'd/m', 'd/l'],
    ],
    asks: true,
  },
  {
    name: 'xattr',
    prepare: [['create', 'd/f']],
    looks: [
      ['getxattr', 'd/f', 'user.a'],
      ['listxattr', 'd/f'],
    ],
    change: [['setxattr', 'd/f', 'user.a', 'v']],
    asks: true,
  },
  {
    name: 'xattr removed',
    prepare: [
      ['create', 'd/f'],
      ['setxattr', 'd/f', 'user.a', 'v'],
    ],
    looks: [
      ['getxattr', 'd/f', 'user.a'],
      ['listxattr', 'd/f'],
    ],
    change: [['removexattr', 'd/f', 'user.a']],
    asks: true,
  },
]

/** Paths below "d" as one mount sees them. */
const at = (steps: readonly Step[], directory: string): Step[] =>
  steps.map(([name, ...args]) => [
    name,
    ...args.map((arg) => (typeof arg === 'string' && /^d(\/|$)/.test(arg) ? directory + arg.slice(1) : arg)),
  ])

t.test('what one mount has changed, the other sees at its first look', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 1 })
  const counted = await countedMount(t, cluster)
  const sides = [
    { root: cluster.mount.directory, agent: new Agent(t) },
    { root: counted.directory, agent: new Agent(t) },
  ] as const
  const stale = new Map<string, number>()
  const unchanged = new Map<string, number>()
  let primed = 0
  let asked = 0
  for (let round = 0; round < rounds; round++) {
    const [writer, reader] = round % 2 === 0 ? sides : ([sides[1], sides[0]] as const)
    const directory = (root: string, index: number): string => `${root}/r${round}k${index}`
    for (const [index, kind] of kinds.entries()) {
      const path = directory(writer.root, index)
      await writer.agent.must(['mkdir', path], ...at(kind.prepare ?? [], path))
    }
    await sleep(quietMs)
    const before: Came[][] = []
    const looksOf = (kind: Kind, index: number): Step[] => at(kind.looks, directory(reader.root, index))
    // The first looks may have to wait for what the writer has buffered; then nothing may be asked any more.
    for (let look = 0; look < 3; look++) {
      const look3 = async (): Promise<void> => {
        for (const [index, kind] of kinds.entries()) {
          if (look < 2 || kind.asks !== true) before[index] = await reader.agent.all(looksOf(kind, index))
        }
      }
      if (look < 2 || reader !== sides[1]) await look3()
      else {
        primed++
        const counts = await counted.during(look3)
        asked += Object.values(counts).reduce((sum, count) => sum + count, 0)
      }
    }
    for (const [index, kind] of kinds.entries()) {
      const path = directory(writer.root, index)
      await writer.agent.must(...at(kind.change, path))
      const after = JSON.stringify(await reader.agent.all(looksOf(kind, index)))
      const truth = JSON.stringify(await writer.agent.all(at(kind.looks, path)))
      if (after !== truth) {
        stale.set(kind.name, (stale.get(kind.name) ?? 0) + 1)
        t.comment(`round ${round}, ${kind.name}: ${after} where ${truth} is true`)
      }
      if (truth === JSON.stringify(before[index])) unchanged.set(kind.name, (unchanged.get(kind.name) ?? 0) + 1)
    }
    for (const { agent } of sides) await agent.must(['unmap_all'])
    await sh(`rm -rf ${writer.root}/r${round}k*`)
  }
  t.strictSame([...stale], [], 'nothing stale')
  t.strictSame([...unchanged], [], 'each change can be seen')
  const looks = kinds.filter(({ asks }) => asks !== true).length
  t.comment(`${asked} requests for ${primed * looks} looks at what is cached`)
  t.ok(asked < primed * looks * 0.2, 'the looks before were answered by the kernel alone')
})

t.test('a listing that was read without a lease is not told again, whatever the times say', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 1 })
  const reader = await cluster.addMount(['-o', 'noleases'])
  const [here, there] = [new Agent(t), new Agent(t)]
  const writtenTo = `${cluster.mount.directory}/d`
  const readFrom = `${reader.directory}/d`
  const oldTime: Step = ['utime', writtenTo, 1e9]
  await here.must(
    ['mkdir', writtenTo],
    ...['a', 'b', 'c'].map((name): Step => ['create', `${writtenTo}/${name}`]),
    oldTime,
  )
  const stale: string[] = []
  for (let round = 0; round < Math.min(rounds, 200); round++) {
    const before = await there.all([
      ['list', readFrom],
      ['list_again', readFrom],
    ])
    await here.must(['create', `${writtenTo}/f${round}`], oldTime)
    const after = await there.all([
      ['list_again', readFrom],
      ['list', readFrom],
    ])
    for (const came of after) {
      const names = JSON.stringify(came)
      if (!names.includes(`"f${round}"`)) stale.push(`round ${round}: ${names} after ${JSON.stringify(before)}`)
    }
    if (round % 3 === 0) await here.must(['unlink', `${writtenTo}/f${round}`], oldTime)
  }
  t.strictSame(stale, [])
})
