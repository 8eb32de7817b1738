/**
 * A cluster of real processes for the mount and fault tests: a master, chunk servers and mounts, each `node dist/src/cli/shoal.js …`
 * on loopback, in a temporary directory.
 *
 *     const cluster = await startCluster(t, { servers: 3, mounts: 1 })
 *     await sh(`cp -a /usr/include ${cluster.mounts[0].directory}`)
 *     await cluster.servers[1].kill('SIGKILL')
 *
 * Its teardown unmounts (umount, umount -l, abort of the FUSE connection), kills every process it started and removes the directory,
 * also when the test failed; then it shows the end of each log. The processes end by themselves when the test process dies.
 * The test process must not touch a mount with synchronous calls: with run() and sh() of sh.ts a hang is a failure, not a stuck test.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Host, Hosts } from './hosts.ts'
import { run } from './sh.ts'

/** The command that is tested; SHOAL_CLI names another build of it. */
export const shoalCli = resolve(process.env['SHOAL_CLI'] ?? 'dist/src/cli/shoal.js')

/** Runs the shoal command to its end. */
export const shoal = (args: readonly string[], options: Parameters<typeof run>[2] = {}): ReturnType<typeof run> =>
  run(process.execPath, [shoalCli, ...args], options)

/** The part of tap's test object that is used here. */
export interface ClusterTest {
  teardown(handler: () => Promise<void>): void
  passing(): boolean
  comment(...args: unknown[]): void
}

export interface ClusterOptions {
  servers?: number
  mounts?: number
  /** Default: as many as there are servers, up to 3. */
  copies?: number
  /** Rack of each server, by its index. */
  racks?: readonly string[]
  /** Added to the command line of the master. */
  masterArgs?: readonly string[]
  serverArgs?: readonly string[]
  mountArgs?: readonly string[]
  /** Environment of every process, such as SHOAL_FUSE_DEVICE. */
  env?: NodeJS.ProcessEnv
  /** Where the master keeps its data, instead of a directory in the cluster's own. */
  masterData?: string
  /** Where chunk server N keeps its data, instead of a directory in the cluster's own. */
  serverData?: (index: number) => string
  /** Each process on a host of its own, instead of loopback. */
  hosts?: Hosts
  /** The build that master, chunk servers and mounts are started from at first. */
  cli?: string
}

/** What `shoal status --json` prints, as far as tests look at it. */
export interface ClusterStatus {
  clusterId: string
  servers: {
    serverId: number
    address: string
    rack: string
    state: string
    usedBytes: number
    capacityBytes: number
    freeBytes: number
    replicas: number
    corruptReplicas: number
  }[]
  chunks: {
    total: number
    open: number
    byValidReplicas: number[]
    underReplicated: number
    overReplicated: number
    lost: number
  }
  repair: {
    queued: number
    running: number
    done: number
    failed: number
    bytesLeft: number
    corruptReplaced: number
    recent: { atMs: number; chunkId: number; serverId: number; what: string }[]
  }
  sessions: { sessionId: number; host: string; mountPoint: string; pid: number; state: string; openFiles: number }[]
  inodes: number
  liveBytes: number
  orphans: number
  punchesPending: number
  copies: number
  copiesMin: number
  rssBytes: number
}

const freePort = (): Promise<number> =>
  new Promise((resolvePort, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => {
        if (address === null || typeof address === 'string') reject(new Error('no port'))
        else resolvePort(address.port)
      })
    })
  })

/** Calls until it gives something, and says at the end what it waited for. */
export const eventually = async <T>(
  what: string,
  probe: () => Promise<T | undefined | false>,
  options: { timeoutMs?: number; everyMs?: number } = {},
): Promise<T> => {
  const timeoutMs = options.timeoutMs ?? 30_000
  const endMs = performance.now() + timeoutMs
  let failure = ''
  for (;;) {
    try {
      const value = await probe()
      if (value !== undefined && value !== false) return value
    } catch (caught) {
      failure = `; the last failure: ${caught instanceof Error ? caught.message : String(caught)}`
    }
    if (performance.now() > endMs) throw new Error(`within ${timeoutMs} ms it did not happen: ${what}${failure}`)
    await sleep(options.everyMs ?? 100)
  }
}

/** One process of the cluster; it can end and be started again, with the same data and address. */
export class Role {
  readonly name: string
  readonly logPath: string
  /** The build that it is started from; may change while it does not run, as in an upgrade. */
  cli = shoalCli
  readonly #args: readonly string[]
  readonly #env: NodeJS.ProcessEnv
  /** Undefined: this machine itself. */
  readonly host: Host | undefined
  #child: ChildProcess | undefined
  #ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }> | undefined

  constructor(name: string, args: readonly string[], logPath: string, env: NodeJS.ProcessEnv, host?: Host) {
    this.name = name
    this.#args = args
    this.logPath = logPath
    this.#env = env
    this.host = host
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Resolves with the address that it printed; rejects with the reason that it gave. */
  async start(timeoutMs = 30_000): Promise<string> {
    if (this.#child !== undefined) throw new Error(`${this.name} runs already`)
    const log = openSync(this.logPath, 'a')
    const [program, ...args] = [...(this.host?.enter ?? []), process.execPath, this.cli, ...this.#args]
    const child = spawn(program!, args, {
      // The pipe ends when the test process dies, and the child with it.
      stdio: ['pipe', 'pipe', log],
      detached: true,
      env: { ...process.env, SHOAL_CONFIG: '/dev/null', ...this.#env, SHOAL_SUPERVISED: '1' },
    })
    closeSync(log)
    this.#child = child
    child.stdin?.on('error', () => undefined)
    this.#ended = new Promise((resolveEnd) => {
      child.once('error', () => resolveEnd({ code: -1, signal: null }))
      child.once('exit', (code, signal) => {
        if (this.#child === child) this.#child = undefined
        resolveEnd({ code, signal })
      })
    })
    let said = ''
    const ready = new Promise<string>((resolveReady, reject) => {
      child.stdout?.on('data', (bytes: Buffer) => {
        said += bytes.toString('utf8')
        const match = /^ready (.*)$/m.exec(said)
        if (match?.[1] !== undefined) resolveReady(match[1])
      })
      child.stdout?.on('close', () => {
        reject(new Error(`${this.name} did not start: ${/^failed (.*)$/m.exec(said)?.[1] ?? 'it did not say why'}`))
      })
    })
    ready.catch(() => undefined)
    const late = sleep(timeoutMs, undefined, { ref: false }).then(() => {
      throw new Error(`${this.name} was not ready within ${timeoutMs} ms`)
    })
    late.catch(() => undefined)
    return Promise.race([ready, late])
  }

  /** Sends the signal; with SIGKILL and SIGTERM it waits for the end. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const ended = this.#ended
    this.#child?.kill(signal)
    if (this.#child !== undefined && (signal === 'SIGKILL' || signal === 'SIGTERM')) await ended
  }

  /** How it ended; waits for that. */
  async ended(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    return (await this.#ended) ?? { code: null, signal: null }
  }

  async restart(signal: NodeJS.Signals = 'SIGKILL'): Promise<string> {
    await this.kill(signal)
    return this.start()
  }

  async log(): Promise<string> {
    return readFile(this.logPath, 'utf8').catch(() => '')
  }

  async rssBytes(): Promise<number> {
    const status = await readFile(`/proc/${this.pid ?? 0}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) * 1024
  }
}

/** The device of what is mounted at this path, without touching it. */
const fuseConnection = async (directory: string): Promise<string | undefined> => {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')
  const line = lines.findLast((candidate) => candidate.split(' ')[4] === directory)
  return line?.split(' ')[2]?.split(':')[1]
}

/** Leaves nothing mounted there, whatever state the mount is in. */
export const forceUnmount = async (directory: string): Promise<void> => {
  for (let tries = 0; tries < 3; tries += 1) {
    const connection = await fuseConnection(directory)
    if (connection === undefined) return
    const gentle = tries === 0
    if (!gentle) await writeFile(`/sys/fs/fuse/connections/${connection}/abort`, '1').catch(() => undefined)
    await run('umount', gentle ? [directory] : ['-l', directory], { timeoutMs: 10_000 }).catch(() => undefined)
  }
}

export class MountRole extends Role {
  readonly directory: string

  constructor(
    name: string,
    directory: string,
    args: readonly string[],
    logPath: string,
    env: NodeJS.ProcessEnv,
    host?: Host,
  ) {
    super(name, args, logPath, env, host)
    this.directory = directory
  }

  /** After a kill the kernel still has the dead mount. */
  override async start(timeoutMs?: number): Promise<string> {
    await forceUnmount(this.directory)
    return super.start(timeoutMs)
  }
}

export class Cluster {
  readonly directory: string
  readonly masterAddress: string
  readonly master: Role
  readonly servers: Role[] = []
  readonly mounts: MountRole[] = []
  readonly #options: ClusterOptions

  constructor(directory: string, masterPort: number, copies: number, options: ClusterOptions, host: Host | undefined) {
    this.directory = directory
    this.#options = options
    this.masterAddress = `${host?.address ?? '127.0.0.1'}:${masterPort}`
    this.master = new Role(
      'master',
      [
        'master',
        '--exit-with-parent=3000',
        `--data=${options.masterData ?? join(directory, 'master')}`,
        `--listen=${this.masterAddress}`,
        `--copies=${copies}`,
        ...(options.masterArgs ?? []),
      ],
      join(directory, 'master.log'),
      options.env ?? {},
      host,
    )
    this.master.cli = options.cli ?? shoalCli
  }

  get roles(): Role[] {
    return [...this.mounts, ...this.servers, this.master]
  }

  /** The mount of a test that has one. */
  get mount(): MountRole {
    const [mount] = this.mounts
    if (mount === undefined) throw new Error('this cluster has no mount')
    return mount
  }

  /** Where chunk server N keeps its data. */
  serverData(index: number): string {
    return this.#options.serverData?.(index) ?? join(this.directory, `chunkserver-${index}`)
  }

  async addServer(cli = this.#options.cli ?? shoalCli): Promise<Role> {
    const index = this.servers.length
    const rack = this.#options.racks?.[index]
    const host = await this.#options.hosts?.add()
    const role = new Role(
      `chunkserver-${index}`,
      [
        'chunkserver',
        '--exit-with-parent=2000',
        `--data=${this.serverData(index)}`,
        `--listen=${host?.address ?? '127.0.0.1'}:${await freePort()}`,
        `--master=${this.masterAddress}`,
        ...(rack === undefined ? [] : ['--rack', rack]),
        ...(this.#options.serverArgs ?? []),
      ],
      join(this.directory, `chunkserver-${index}.log`),
      this.#options.env ?? {},
      host,
    )
    role.cli = cli
    this.servers.push(role)
    await role.start()
    return role
  }

  async addMount(args: readonly string[] = [], cli = this.#options.cli ?? shoalCli): Promise<MountRole> {
    const index = this.mounts.length
    const directory = join(this.directory, `mnt-${index}`)
    await mkdir(directory, { recursive: true })
    const role = new MountRole(
      `mount-${index}`,
      directory,
      [
        'mount',
        '--foreground',
        '--exit-with-parent=0',
        ...(this.#options.mountArgs ?? []),
        ...args,
        this.masterAddress,
        directory,
      ],
      join(this.directory, `mount-${index}.log`),
      this.#options.env ?? {},
      await this.#options.hosts?.add(),
    )
    role.cli = cli
    this.mounts.push(role)
    await role.start()
    return role
  }

  async status(): Promise<ClusterStatus> {
    const command = [...(this.#options.hosts?.enter ?? []), process.execPath, shoalCli]
    const ran = await run(command[0]!, [...command.slice(1), 'status', '--json', this.masterAddress])
    if (ran.code !== 0) throw new Error(ran.stderr)
    return JSON.parse(ran.stdout) as ClusterStatus
  }

  /** Until so many chunk servers are up, and every chunk has all its copies and nothing is being repaired. */
  async healthy(options: { servers?: number; timeoutMs?: number } = {}): Promise<ClusterStatus> {
    const servers = options.servers ?? this.servers.length
    return eventually(
      `${servers} chunk servers up and every chunk with all its copies`,
      async () => {
        const status = await this.status()
        const up = status.servers.filter((server) => server.state === 'up').length
        const { chunks, repair } = status
        const whole = chunks.underReplicated === 0 && chunks.lost === 0 && repair.queued + repair.running === 0
        return up >= servers && whole && status
      },
      { timeoutMs: options.timeoutMs ?? 60_000, everyMs: 250 },
    )
  }

  async serversUp(count = this.servers.length): Promise<void> {
    await eventually(`${count} chunk servers up`, async () => {
      const status = await this.status()
      return status.servers.filter((server) => server.state === 'up').length >= count
    })
  }

  /** In good order: what was written is on disk afterwards. */
  async stop(): Promise<void> {
    for (const mount of this.mounts) await mount.kill('SIGTERM')
    await Promise.all(this.servers.map((server) => server.kill('SIGTERM')))
    await this.master.kill('SIGTERM')
  }

  /** Starts everything that does not run, as after a power cut. */
  async start(): Promise<void> {
    if (this.master.pid === undefined) await this.master.start()
    await Promise.all(this.servers.filter((server) => server.pid === undefined).map((server) => server.start()))
    await this.serversUp()
    for (const mount of this.mounts) if (mount.pid === undefined) await mount.start()
  }

  /** Leaves nothing: no mount, no process. */
  async destroy(): Promise<void> {
    // A stopped process does not take part in unmounting.
    for (const role of this.roles) await role.kill('SIGCONT')
    for (const mount of this.mounts) await forceUnmount(mount.directory)
    for (const mount of this.mounts) {
      // The process ends by itself when it was unmounted; it may not hold the test up for long.
      await Promise.race([mount.ended(), sleep(3000)])
      await mount.kill('SIGKILL')
      await forceUnmount(mount.directory)
    }
    await Promise.all([...this.servers, this.master].map((role) => role.kill('SIGKILL')))
  }
}

export const startCluster = async (t: ClusterTest, options: ClusterOptions = {}): Promise<Cluster> => {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-test-'))
  const servers = options.servers ?? 3
  const copies = options.copies ?? Math.min(3, servers)
  const cluster = new Cluster(directory, await freePort(), copies, options, await options.hosts?.add())
  t.teardown(async () => {
    try {
      await cluster.destroy()
      if (!t.passing()) {
        for (const role of cluster.roles)
          t.comment(`end of the log of ${role.name}:\n${(await role.log()).slice(-4000)}`)
      }
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })
  await cluster.master.start()
  for (let index = 0; index < servers; index += 1) await cluster.addServer()
  if (servers > 0) await cluster.serversUp()
  for (let index = 0; index < (options.mounts ?? 1); index += 1) await cluster.addMount()
  return cluster
}
