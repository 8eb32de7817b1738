/**
 * Real clusters of this and of the previous commit's program, mixed in every way that an upgrade can bring, while programs write, read,
 * rename and fsync in mounts of both. (test/unit/mixed-versions has what builds alike cannot show: other versions of the protocol.)
 */
import t, { type Test } from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from '../lib/agent.ts'
import { eventually, shoalCli, startCluster, type Cluster, type MountRole, type Role } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { previousBuild } from '../lib/previous-build.ts'

const contentOf = (name: string): string => `${name} `.repeat(3000)

/** Writes files through one mount and reads them through another, until it is told to end. */
class Program {
  readonly names: string[] = []
  #ends = false
  readonly #ended: Promise<void>

  constructor(agent: Agent, writer: MountRole, reader: MountRole, tag: string) {
    const work = async (): Promise<void> => {
      while (!this.#ends) {
        const name = `${tag}-${this.names.length}`
        const [written, given, seen] = [
          `${writer.directory}/${name}.new`,
          `${writer.directory}/${name}`,
          `${reader.directory}/${name}`,
        ]
        await agent.must(
          ['create', written, contentOf(name)],
          ['hold', name, written, 2],
          ['fsync', name],
          ['let_go', name],
          ['rename', written, given],
        )
        this.names.push(name)
        const [text] = await agent.must(['read', seen])
        if (text !== contentOf(name)) throw new Error(`${seen} has other content`)
        await sleep(100)
      }
    }
    this.#ended = work()
    this.#ended.catch(() => undefined)
  }

  async end(): Promise<void> {
    this.#ends = true
    await this.#ended
  }
}

/** Two programs, each writing where the other reads. */
const programs = (t: Test, [one, two]: [MountRole, MountRole], tag: string): { end(): Promise<string[]> } => {
  const running = [new Program(new Agent(t), one, two, `${tag}-a`), new Program(new Agent(t), two, one, `${tag}-b`)]
  return {
    end: async () => {
      for (const program of running) await program.end()
      return running.flatMap(({ names }) => names)
    },
  }
}

/** Every file, read through this mount. */
const allWhole = async (agent: Agent, mount: MountRole, names: readonly string[]): Promise<boolean> => {
  const texts = await agent.must(...names.map((name) => ['read', `${mount.directory}/${name}`] as const))
  return names.every((name, index) => texts[index] === contentOf(name))
}

/**
 * Starts it again from another build. It is done when every chunk has two copies: sooner than the guide says, which waits for all three, so
 * that chunks which are being written have replicas on servers of both builds.
 */
const changeBuild = async (cluster: Cluster, role: Role, cli = shoalCli): Promise<void> => {
  await role.kill('SIGTERM')
  role.cli = cli
  await role.start()
  await eventually(
    'every chunk has two copies',
    async () => {
      const { servers, chunks } = await cluster.status()
      const [none = 0, one = 0] = chunks.byValidReplicas
      return servers.every(({ state }) => state === 'up') && none + one === 0
    },
    { everyMs: 500 },
  )
}

t.test('clusters of this and the previous commit', { timeout: 180_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['git', 'python3', 'tar'] }))) return
  const previous = await previousBuild(t)
  if ('why' in previous) {
    t.pass('skipped', { skip: previous.why })
    return
  }
  const { cli } = previous
  t.comment(`the previous commit is ${previous.commit}`)

  await t.test('an old cluster is upgraded while programs run', async (t) => {
    const cluster = await startCluster(t, { mounts: 2, cli })
    const [one, two] = cluster.mounts as [MountRole, MountRole]
    const agent = new Agent(t)
    const during = programs(t, [one, two], 'during')
    await changeBuild(cluster, cluster.master)
    for (const server of cluster.servers) await changeBuild(cluster, server)
    const third = await cluster.addMount([], shoalCli)
    const names = await during.end()
    t.ok(names.length > 10, `${names.length} files were written by old mounts`)
    t.ok(await allWhole(agent, third, names), 'the new mount reads all that they have')

    const mixed = programs(t, [two, third], 'mixed')
    await sleep(1000)
    await changeBuild(cluster, one)
    names.push(...(await mixed.end()))
    await changeBuild(cluster, two)
    for (const mount of cluster.mounts) t.ok(await allWhole(agent, mount, names), `${mount.name} reads all of them`)
    await cluster.stop()
    await cluster.start()
    t.ok(await allWhole(agent, one, names), 'and after a restart of everything')
  })

  await t.test('an old master with new chunk servers and mounts of both', async (t) => {
    const cluster = await startCluster(t, { servers: 0, mounts: 0, copies: 3, cli })
    for (let index = 0; index < 3; index += 1) await cluster.addServer(index === 0 ? cli : shoalCli)
    await cluster.serversUp()
    const old = await cluster.addMount()
    const fresh = await cluster.addMount([], shoalCli)
    const running = programs(t, [old, fresh], 'files')
    await sleep(1000)
    // What no upgrade does: a new chunk server goes back.
    await changeBuild(cluster, cluster.servers[2]!, cli)
    const names = await running.end()
    t.ok(names.length > 10, `${names.length} files were written`)
    const agent = new Agent(t)
    for (const mount of [old, fresh]) t.ok(await allWhole(agent, mount, names), `${mount.name} reads all of them`)
  })
})
