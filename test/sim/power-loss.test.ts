/** What is left when every machine loses power at once: cases that seeds have found. */
import t from 'tap'
import type { Test } from 'tap'
import { seededRandom } from '../lib/seeded-random.ts'
import { Mount, openFlags } from './mount.ts'
import { SimulatedCluster } from './simulated-cluster.ts'

const limitMs = 100_000

/** Runs the first part, ends the power everywhere, starts everything again and runs the second part; both on the client that is asked for. */
const throughBlackout = async (
  t: Test,
  before: (mount: (client: number) => Mount, cluster: SimulatedCluster) => Promise<void>,
  after: (mount: (client: number) => Mount) => Promise<Buffer>,
  expected: Buffer,
): Promise<void> => {
  // What survives of what was not synced is drawn from the seed.
  for (let seed = 1; seed <= 4; seed++) {
    const mounts = new Map<number, Mount>()
    const cluster: SimulatedCluster = new SimulatedCluster(
      { seed, servers: 3, clients: 2, config: { sessionLeaseMs: 2000, inlineBytesMax: 2000 } },
      {
        opened: (client, fileSystem, life) => {
          const excuses = { isErrorExcused: () => false, interruptsOneIn: () => 0 }
          const random = seededRandom(seed)
          mounts.set(client.index, new Mount({ cluster, client, fileSystem, life, random, ...excuses }))
        },
        lostBuffered: () => undefined,
      },
    )
    const mount = (client: number): Mount => mounts.get(client)!
    await cluster.time.until(cluster.start(), limitMs)
    await cluster.time.until(before(mount, cluster), limitMs)
    cluster.blackout()
    cluster.network.heal()
    await cluster.time.until(Promise.all(cluster.processes.map((process) => process.start())), limitMs)
    const read = await cluster.time.until(after(mount), limitMs)
    t.ok(read.equals(expected), `seed ${seed}`)
    t.same(cluster.violations, [])
  }
}

/** A look at a file from another client brings what is buffered to the chunk servers, but not to their disks. */
const look = async (mount: Mount, path: string, offset: number): Promise<void> => {
  await mount.read(await mount.open(await mount.walk(path), openFlags.readWrite), offset, 10)
}

const readBack = async (mount: Mount, path: string, bytes: number): Promise<Buffer> =>
  mount.read(await mount.open(await mount.walk(path), openFlags.readWrite), 0, bytes)

t.test('synced data is readable although its chunk has lost an end that was not synced', async (t) => {
  const content = Buffer.alloc(12_000, 'synced ')
  await throughBlackout(
    t,
    async (mount) => {
      const first = await mount(0).create(mount(0).root, 'synced', openFlags.readWrite)
      await mount(0).write(first.handle, 0, content)
      await mount(0).fsync(first.handle)
      const second = await mount(0).create(mount(0).root, 'not-synced', openFlags.readWrite)
      await mount(0).write(second.handle, 0, Buffer.alloc(100_000, 'lost '))
      await look(mount(1), 'not-synced', 0)
    },
    (mount) => readBack(mount(1), 'synced', content.length),
    content,
  )
})

t.test('synced data stays where it is when more is appended to its last block', async (t) => {
  const content = Buffer.alloc(6000, 'synced ')
  await throughBlackout(
    t,
    async (mount) => {
      const { handle } = await mount(0).create(mount(0).root, 'file', openFlags.readWrite)
      await mount(0).write(handle, 0, content)
      await mount(0).fsync(handle)
      await mount(0).write(handle, content.length, Buffer.alloc(6000, 'lost '))
      await look(mount(1), 'file', content.length)
    },
    (mount) => readBack(mount(1), 'file', content.length),
    content,
  )
})

t.test('content that was inline is on disk before it moves to a chunk', async (t) => {
  const content = Buffer.alloc(2000, 'synced ')
  await throughBlackout(
    t,
    async (mount) => {
      const { handle } = await mount(0).create(mount(0).root, 'file', openFlags.readWrite)
      await mount(0).write(handle, 0, content)
      await mount(0).fsync(handle)
      await mount(0).write(handle, 8192, Buffer.alloc(6000, 'lost '))
      await look(mount(1), 'file', 8192)
    },
    (mount) => readBack(mount(1), 'file', content.length),
    content,
  )
})

/** Long enough that what is buffered is with the chunk servers and the master, and short enough that nobody has synced it. */
const sentMs = 2500

for (const [what, content] of [
  ['its last block', Buffer.alloc(6000, 'synced ')],
  ['an end that was inline', Buffer.alloc(500, 'synced ')],
] as const) {
  t.test(`seed 61878: synced data stays when ${what} is appended to again and again`, async (t) => {
    await throughBlackout(
      t,
      async (mount, { time }) => {
        const { handle } = await mount(0).create(mount(0).root, 'file', openFlags.readWrite)
        await mount(0).write(handle, 0, content)
        await mount(0).fsync(handle)
        let at = content.length
        for (const bytes of content.length < 4096 ? [2000, 100, 100] : [100, 100, 100]) {
          await mount(0).write(handle, at, Buffer.alloc(bytes, 'lost '))
          await time.sleep(sentMs)
          at += bytes
        }
      },
      (mount) => readBack(mount(1), 'file', content.length),
      content,
    )
  })
}

t.test('seed 20: a copy that shares data that is not synced is synced with it', async (t) => {
  const content = Buffer.alloc(12_000, 'synced ')
  await throughBlackout(
    t,
    async (mount) => {
      const source = await mount(0).create(mount(0).root, 'source', openFlags.readWrite)
      const target = await mount(0).create(mount(0).root, 'target', openFlags.readWrite)
      await mount(0).write(source.handle, 0, content)
      const [from, to] = [source, target].map(({ handle }) => ({ handle, offset: 0n }))
      await mount(0).call('copy', (fs, context) => fs.copyFileRange(context, from!, to!, BigInt(content.length)))
      await mount(0).fsync(target.handle)
    },
    (mount) => readBack(mount(1), 'target', content.length),
    content,
  )
})

t.test('what was committed in a session that was lost is brought to disk by an fsync in the next one', async (t) => {
  const content = Buffer.alloc(12_000, 'synced ')
  await throughBlackout(
    t,
    async (mount, { network, servers, time }) => {
      const { handle } = await mount(0).create(mount(0).root, 'file', openFlags.readWrite)
      await mount(0).write(handle, 0, content)
      await look(mount(1), 'file', 0)
      // The master ends the session, and its seals do not reach the chunk servers for now.
      network.cut(mount(0).name, 'master')
      for (const { role } of servers) network.cut('master', role.host)
      const cutMs = time.nowMs
      while (mount(0).client.sessionsLost === 0) {
        await time.sleep(10)
        if (time.nowMs - cutMs > 4000) network.healBetween(mount(0).name, 'master')
      }
      await mount(0).fsync(handle)
    },
    (mount) => readBack(mount(1), 'file', content.length),
    content,
  )
})
