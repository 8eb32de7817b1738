/**
 * `shoal up`: a whole cluster on this machine, each role a process of its own on loopback, mounted on a directory. Everything it
 * makes is in DATA (and the mount point); its next start finds all files again.
 *
 * The roles hold the other end of a pipe of ours, so they end even when this process is killed. They stop in the order mount, chunk
 * servers, master, so that what the mount has buffered still finds its way to disk.
 *
 * Invariant: one `up` per data directory, held by a lock on it.
 */
import { mkdir, readdir, realpath } from 'node:fs/promises'
import { join, resolve, sep } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { PosixError, UsageError } from '../domain/errors.ts'
import { grpcTransport } from '../platform/grpc-transport.ts'
import { realDisk } from '../platform/real-disk.ts'
import type { Transport } from '../platform/transport.ts'
import { defaultMasterPort } from './address.ts'
import { argument } from './failure.ts'
import { isShoal, mountedAt } from '../../mount/mount-table.ts'
import { mountPointPath } from './mount-point.ts'
import { freePorts, isFree } from './ports.ts'
import { parseCapacity, parseCount } from './quantity.ts'
import { isRoleAlive, servingProcess } from './serving-process.ts'
import { fetchStatus } from '../main/master-status.ts'
import { statusLine } from './status-text.ts'
import { SupervisedRole, type SupervisedRoleOptions } from './supervised-role.ts'
import { TerminalLine } from './terminal-line.ts'
import { abortConnection, umount } from './unmount.ts'
import { readUpState, writeUpState, type UpState } from './up-state.ts'

interface UpCommandOptions {
  data: string
  copies: number
  servers: number
  port?: number
  capacity?: number
}

/** How long each role outlives this process when it is killed: the mount goes first, and needs the others meanwhile. */
const exitDelayMs = { mount: 0, chunkServer: 4000, master: 5000 }
const mountStopMsMax = 70_000
const roleStopMsMax = 15_000
const serversUpMsMax = 30_000

const makeDirectory = async (path: string, what: string): Promise<void> => {
  try {
    await mkdir(path, { recursive: true })
  } catch (caught) {
    throw new UsageError(`cannot make the ${what} ${path}: ${(caught as Error).message}`)
  }
}

const lockData = async (data: string): Promise<{ release(): Promise<void> }> => {
  try {
    return await realDisk.lock(data)
  } catch (caught) {
    if (caught instanceof PosixError && caught.code === 'EBUSY') {
      throw new UsageError(`another "shoal up" runs on ${data}; stop it first, or choose another directory with --data`)
    }
    if (caught instanceof PosixError) throw new UsageError(`cannot use the data directory ${data}: ${caught.message}`)
    throw caught
  }
}

/** What each role of `up` has on its command line, and no other. */
const exitWithParent = '--exit-with-parent'

/** Ends what a killed `up` left behind, in the order of a stop. */
export const endLeftovers = async (pids: readonly number[]): Promise<void> => {
  for (const role of ['mount', 'chunkserver', 'master']) {
    const alive: number[] = []
    for (const pid of pids) if (await isRoleAlive(pid, role, exitWithParent)) alive.push(pid)
    for (const pid of alive) {
      try {
        process.kill(pid, 'SIGTERM')
      } catch {
        // It ended by itself meanwhile.
      }
    }
    for (const pid of alive) {
      for (let waitedMs = 0; await isRoleAlive(pid, role, exitWithParent); waitedMs += 100) {
        if (waitedMs > 20_000)
          throw new UsageError(`process ${pid} (${role}) of an earlier start does not end: end it first`)
        await sleep(100)
      }
    }
  }
}

/** Unmounts what nobody serves any more; refuses what somebody does. */
const clearMountPoint = async (directory: string): Promise<void> => {
  for (let entry = mountedAt(directory); entry !== undefined; entry = mountedAt(directory)) {
    if (!isShoal(entry)) throw new UsageError(`${directory} is a mount point already (${entry.type}, ${entry.source})`)
    const pid = await servingProcess(directory)
    if (pid !== undefined) throw new UsageError(`Shoal is mounted at ${directory} already, by process ${pid}`)
    const complaint = await umount(directory, { lazy: true })
    if (complaint !== undefined)
      throw new UsageError(`${directory} is the mount of a process that is gone: ${complaint}`)
  }
}

const prepareMountPoint = async (directory: string): Promise<void> => {
  await clearMountPoint(directory)
  await makeDirectory(directory, 'mount point')
  let names: string[]
  try {
    names = await readdir(directory)
  } catch (caught) {
    throw new UsageError(`cannot use ${directory} as the mount point: ${(caught as Error).message}`)
  }
  if (names.length > 0) {
    throw new UsageError(`${directory} is not empty: choose an empty or a new directory, what is in it would be hidden`)
  }
}

/** Resolves at the first signal; `forced` is aborted at one that comes at least a second later. */
const stopSignals = (): { asked: Promise<void>; forced: AbortSignal } => {
  const force = new AbortController()
  const asked = new Promise<void>((resolve) => {
    let firstMs: number | undefined
    const onSignal = (): void => {
      // npm passes on the signal that the terminal sent to us as well: two within a second are one.
      if (firstMs === undefined) firstMs = performance.now()
      else if (performance.now() - firstMs > 1000) force.abort()
      resolve()
    }
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
  })
  return { asked, forced: force.signal }
}

class LocalCluster {
  readonly #directory: string
  readonly #data: string
  readonly #options: UpCommandOptions
  readonly #state: UpState
  readonly #rpc: Transport
  readonly #terminal: TerminalLine
  readonly #master: SupervisedRole
  readonly #servers: SupervisedRole[]
  readonly #mount: SupervisedRole
  /** The mount was unmounted from outside. */
  readonly unmounted: Promise<void>
  #saving: Promise<void> = Promise.resolve()

  constructor(
    places: { directory: string; data: string },
    options: UpCommandOptions,
    wiring: { state: UpState; rpc: Transport; terminal: TerminalLine },
  ) {
    this.#directory = places.directory
    this.#data = places.data
    this.#options = options
    this.#state = wiring.state
    this.#rpc = wiring.rpc
    this.#terminal = wiring.terminal
    const { masterPort, serverPorts } = wiring.state
    this.#master = this.#role('master', 'master', exitDelayMs.master, [
      `--data=${join(this.#data, 'master')}`,
      `--listen=127.0.0.1:${masterPort}`,
      `--copies=${options.copies}`,
    ])
    this.#servers = serverPorts.map((port, index) =>
      this.#role(`chunk server ${index + 1}`, 'chunkserver', exitDelayMs.chunkServer, [
        `--data=${join(this.#data, `chunkserver-${index + 1}`)}`,
        `--listen=127.0.0.1:${port}`,
        `--master=${this.masterAddress}`,
        ...(options.capacity === undefined ? [] : [`--capacity=${options.capacity}`]),
      ]),
    )
    const finished = new AbortController()
    this.unmounted = new Promise((resolve) => finished.signal.addEventListener('abort', () => resolve()))
    this.#mount = this.#role(
      'mount',
      'mount',
      exitDelayMs.mount,
      ['--foreground', this.masterAddress, this.#directory],
      {
        prepare: () => clearMountPoint(this.#directory),
        finished: () => finished.abort(),
      },
    )
  }

  get masterAddress(): string {
    return `127.0.0.1:${this.#state.masterPort}`
  }

  async start(): Promise<void> {
    this.#terminal.show('starting the master …')
    await this.#master.start()
    this.#terminal.show('starting the chunk servers …')
    await Promise.all(this.#servers.map((server) => server.start()))
    await this.#serversUp()
    this.#terminal.show('mounting …')
    await this.#mount.start()
  }

  /** Mount, chunk servers, master, each after the one before has ended. */
  async stop(forced: AbortSignal): Promise<void> {
    const onForced = (): void => {
      for (const role of [this.#mount, ...this.#servers, this.#master]) role.kill()
    }
    if (forced.aborted) onForced()
    else forced.addEventListener('abort', onForced, { once: true })

    this.#terminal.show('unmounting …')
    await this.#mount.stop(mountStopMsMax)
    const entry = mountedAt(this.#directory)
    if (entry !== undefined && isShoal(entry)) {
      // Its process is gone, so nobody would ever answer those who wait in it.
      await abortConnection(entry)
      await umount(this.#directory, { lazy: true })
    }
    this.#terminal.show('stopping the chunk servers …')
    await Promise.all(this.#servers.map((server) => server.stop(roleStopMsMax)))
    this.#terminal.show('stopping the master …')
    await this.#master.stop(roleStopMsMax)
    await this.#saving
    await writeUpState(this.#data, { ...this.#state, pids: [] })
    this.#terminal.clear()
  }

  /** Keeps the last line of the terminal up to date until the signal. */
  async watch(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        this.#terminal.show(statusLine(await fetchStatus(this.#rpc, this.masterAddress, 5000)))
      } catch (caught) {
        if (!(caught instanceof UsageError)) throw caught
        this.#terminal.show('the master is away')
      }
      await sleep(1000, undefined, { signal }).catch(() => undefined)
    }
  }

  async #serversUp(): Promise<void> {
    const wanted = this.#options.servers
    const endMs = performance.now() + serversUpMsMax
    let up = 0
    while (performance.now() < endMs) {
      const status = await fetchStatus(this.#rpc, this.masterAddress, 5000)
      up = status.servers.filter((server) => server.state === 'up').length
      if (up >= wanted) return
      await sleep(100)
    }
    throw new UsageError(
      `${up} of ${wanted} chunk servers found the master; see the logs in ${join(this.#data, 'logs')}`,
    )
  }

  #role(
    name: string,
    command: string,
    delayMs: number,
    args: readonly string[],
    more: Pick<SupervisedRoleOptions, 'prepare' | 'finished'> = {},
  ): SupervisedRole {
    return new SupervisedRole({
      name,
      args: [command, exitWithParent, `${delayMs}`, ...args],
      logPath: join(this.#data, 'logs', `${name.replace(/ (\d+)$/, '-$1').replace(' ', '')}.log`),
      note: (text) => this.#terminal.say(text),
      changed: () => this.#savePids(),
      ...more,
    })
  }

  #savePids(): void {
    this.#saving = this.#saving.then(async () => {
      const pids = [this.#mount, ...this.#servers, this.#master].flatMap((role) => role.pid ?? [])
      await writeUpState(this.#data, { ...this.#state, pids })
    })
    // A full disk costs the next start its list of leftovers, nothing else.
    this.#saving = this.#saving.catch(() => undefined)
  }
}

const up = async (directoryText: string, options: UpCommandOptions): Promise<void> => {
  const { asked, forced } = stopSignals()
  const terminal = new TerminalLine(process.stdout)
  await makeDirectory(resolve(options.data), 'data directory')
  const data = await realpath(options.data)
  const directory = await mountPointPath(directoryText)
  if (data === directory || data.startsWith(directory + sep)) {
    throw new UsageError(
      `the data directory ${data} would be hidden under the mount point ${directory}: choose another one with --data`,
    )
  }
  const lock = await lockData(data)
  const rpc = grpcTransport()
  try {
    const before = await readUpState(data)
    await endLeftovers(before?.pids ?? [])
    await prepareMountPoint(directory)
    await makeDirectory(join(data, 'logs'), 'log directory')
    if (options.port !== undefined && !(await isFree(options.port))) {
      throw new UsageError(`port ${options.port} on 127.0.0.1 is in use by another program`)
    }
    const wishes = Array.from({ length: options.servers }, (_, index) => before?.serverPorts[index])
    const [masterPort, ...serverPorts] = await freePorts([
      options.port ?? before?.masterPort ?? defaultMasterPort,
      ...wishes,
    ])
    if (masterPort === undefined) throw new Error('no port was found')
    const state: UpState = { masterPort, serverPorts, pids: [] }
    await writeUpState(data, state)

    const cluster = new LocalCluster({ directory, data }, options, { state, rpc, terminal })
    const watching = new AbortController()
    try {
      const started = await Promise.race([cluster.start().then(() => true), asked.then(() => false)])
      if (started) {
        terminal.say(
          `Shoal is mounted at ${directory}: ${options.servers} chunk servers, ${options.copies} copies, ` +
            `master at 127.0.0.1:${masterPort}, data and logs in ${data}. Stop it with Ctrl-C or: kill ${process.pid}`,
        )
        const watch = terminal.live ? cluster.watch(watching.signal) : Promise.resolve()
        await Promise.race([asked, cluster.unmounted.then(() => terminal.say(`${directory} was unmounted; stopping`))])
        watching.abort()
        await watch
      }
    } finally {
      watching.abort()
      await cluster.stop(forced)
    }
    if (terminal.live) terminal.say('Shoal is stopped; the next start has all files again.')
  } finally {
    await rpc.close()
    await lock.release()
  }
}

export const upCommand = (): Command =>
  new Command('up')
    .description('run a whole cluster on this machine and mount it (needs root)')
    .argument('[dir]', 'where to mount; made if missing', './mnt')
    .option('--data <dir>', 'where everything is kept', './.shoal')
    .option('--copies <n>', 'copies of each chunk', argument(parseCount({ min: 1, max: 16 })), 3)
    .option('--servers <n>', 'chunk servers', argument(parseCount({ min: 1, max: 64 })), 3)
    .option(
      '--port <n>',
      "the master's port (default: 9320 or, where that is taken, a free one; remembered)",
      argument(parseCount({ min: 1, max: 65_535 })),
    )
    .option('--capacity <bytes>', 'limit of each chunk server, such as 10GiB', argument(parseCapacity))
    .addHelpText(
      'after',
      `
Examples:
  shoal up
  shoal up /mnt/shoal --data /srv/shoal
  shoal up --copies 2 --capacity 10GiB

Ctrl-C unmounts and stops everything. A role that ends by itself is started again; its log is in DATA/logs.`,
    )
    .action((directory: string, options: UpCommandOptions, command: Command) => {
      const { copies, servers } = options
      if (copies > servers)
        command.error(`error: ${copies} copies need at least ${copies} chunk servers, not ${servers}`)
      return up(directory, options)
    })
