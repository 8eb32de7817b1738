/**
 * A whole cluster from one seed: the production code of one master, several chunk servers and several clients, each on a machine of its own
 * with its own clock, network and disk.
 *
 * Each run keeps a recoverable copy by construction: only the last chunk server's machine loses power, its disk or has one with faults; the others
 * are killed and cut off, but what they have written they still have.
 */
import { startChunkServer } from '../../src/chunkserver/chunk-server.ts'
import type { FileSystemLimits } from '../../src/client/client-file-system.ts'
import type { FileSystem } from '../../src/client/file-system.ts'
import { openFileSystem } from '../../src/client/open-file-system.ts'
import { startMaster } from '../../src/master/master.ts'
import type { MasterConfig } from '../../src/master/master.ts'
import type { LogFields } from '../../src/platform/log.ts'
import type { Random } from '../../src/platform/random.ts'
import type { StatusReply } from '../../src/protocol/gen/shoal/v1/admin.pb.ts'
import { AdminDefinition } from '../../src/protocol/gen/shoal/v1/admin.pb.ts'
import { callUnary } from '../../src/protocol/rpc.ts'
import { memoryKv } from '../lib/memory-kv.ts'
import type { MemoryKv } from '../lib/memory-kv.ts'
import { seededRandom } from '../lib/seeded-random.ts'
import { simulatedDisk } from '../lib/simulated-disk.ts'
import type { DiskTime, SimulatedDisk } from '../lib/simulated-disk.ts'
import { SimulatedNetwork } from '../lib/simulated-network.ts'
import { Life, rateSpread, SimulatedTime } from '../lib/simulated-time.ts'
import { FaultTraps } from './fault-traps.ts'
import { SimulatedProcess } from './simulated-process.ts'
import type { Role, Started, Surroundings } from './simulated-process.ts'
import { Trace } from './trace.ts'
import { ResultWatch } from './checkers/result-watch.ts'

const masterAddress = 'master:7000'
export const dataDirectory = '/data'
export const chunkRoot = `${dataDirectory}/chunks`

export interface ClusterOptions {
  seed: number
  servers: number
  clients: number
  config: MasterConfig
  /** Of each client. */
  limits?: Partial<FileSystemLimits>
  print?: (line: string) => void
  /** Time stops with the first violation. */
  stopAtFirst?: boolean
}

/** What became of a client's life. */
export interface ClientEvents {
  /** A life serves. */
  opened(client: SimulatedClient, fileSystem: FileSystem, life: Life): void
  /** What it had buffered is gone: its life ended, or the master ended its session. */
  lostBuffered(client: SimulatedClient, why: 'life' | 'session' | 'data'): void
}

class MasterRole implements Role {
  kv: MemoryKv
  slowMs = 0
  /** Of a record that is not in the master's memory. */
  slowReadMs = 0
  readonly #config: MasterConfig
  readonly #results: ResultWatch
  readonly #random: Random
  #life: Life | undefined

  constructor(config: MasterConfig, around: Surroundings, random: Random) {
    const { time } = around
    this.#config = config
    this.#results = new ResultWatch(around.violation)
    this.#random = random
    const wait = (call: 'read' | 'write'): Promise<void> =>
      call === 'read' && this.slowReadMs === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            const ms = call === 'read' ? this.slowReadMs : 0.1 + random.below(400) / 1000 + this.slowMs
            time.post(this.#life, ms, resolve)
          })
    this.kv = memoryKv(wait)
  }

  async start({ life, clock, random, log, faults, transport }: Started): Promise<{ ended: Promise<unknown> }> {
    this.#life = life
    const master = await startMaster({
      kv: this.#results.watched(this.kv),
      clock,
      random,
      rpc: transport(),
      listenAddress: masterAddress,
      config: this.#config,
      log,
      faults,
    })
    return { ended: master.closed }
  }

  logged(_level: string, event: string, { session }: LogFields): void {
    if (event === 'session ended') this.#results.sessionEnded(session as bigint)
  }

  stopped(): void {
    this.kv.crash(this.#random.below(this.kv.unsyncedBatches + 1))
    this.kv = this.kv.reopen()
  }
}

class ServerRole implements Role {
  disk: SimulatedDisk
  readonly host: string
  slowMs = 0
  /** Its disk has faults, or has lost what was not synced. */
  #isDamaged: boolean
  readonly #violation: (what: string) => void
  readonly #random: Random
  readonly #diskTime: DiskTime
  #life: Life | undefined

  constructor(host: string, options: { unlucky: boolean; around: Surroundings; random: Random }) {
    const { time, violation } = options.around
    const { random } = options
    this.host = host
    this.#isDamaged = options.unlucky
    this.#violation = violation
    const wait = (): Promise<void> =>
      new Promise((resolve) => {
        time.post(this.#life, random.below(200) / 1000 + (this.slowMs > 0 ? random.below(this.slowMs) : 0), resolve)
      })
    const isFree = (call: string): boolean => call === 'mkdir' || call === 'list' || call === 'other' || call === 'stat'
    // Each call is carried out at once or after its time, so that a death may come on either side of it.
    this.#random = random
    this.#diskTime = {
      before: (call) => (isFree(call) || random.below(2) === 0 ? Promise.resolve() : wait()),
      after: (call) => (isFree(call) || random.below(2) === 0 ? Promise.resolve() : wait()),
    }
    this.disk = this.#newDisk()
  }

  /** An empty one; nobody works with the old one any more. */
  replaceDisk(): void {
    this.disk = this.#newDisk()
  }

  async start({ life, clock, random, log, faults, transport }: Started): Promise<{ ended: Promise<unknown> }> {
    this.#life = life
    const both = transport()
    const server = await startChunkServer({
      dataDirectory,
      masterAddress,
      listenAddress: `${this.host}:7100`,
      rack: '',
      host: this.host,
      clock,
      random,
      disk: this.disk,
      rpc: both,
      bulk: both,
      log,
      faults,
    })
    return { ended: server.closed }
  }

  stopped(how: 'kill' | 'power'): void {
    if (how === 'power') {
      this.#isDamaged = true
      this.disk.crash()
    } else this.disk.restart()
  }

  #newDisk(): SimulatedDisk {
    return simulatedDisk({ seed: this.#random.below(2 ** 32), time: this.#diskTime })
  }

  /** A disk without faults gives no reason to complain about what is on it. */
  logged(level: string, event: string): void {
    if (level === 'error' && !this.#isDamaged) this.#violation(`${this.host}: ${event}`)
  }

  /** The header may be lost with the power, or flipped. */
  excuses(event: string): boolean {
    return event === 'a chunk file cannot be read and is set aside' && this.#isDamaged
  }
}

export class SimulatedServer {
  readonly process: SimulatedProcess
  readonly role: ServerRole

  constructor(host: string, around: Surroundings, unlucky: boolean) {
    this.role = new ServerRole(host, { unlucky, around, random: seededRandom(around.random.below(2 ** 32)) })
    this.process = new SimulatedProcess(host, this.role, around)
  }
}

export class SimulatedClient {
  readonly index: number
  readonly host: string
  readonly process: SimulatedProcess
  /** How often the master has ended its session. */
  sessionsLost = 0
  fileSystem: FileSystem | undefined

  constructor(
    index: number,
    around: Surroundings,
    { limits, ...events }: ClientEvents & { limits: Partial<FileSystemLimits> },
  ) {
    this.index = index
    this.host = `client${index}`
    const role: Role = {
      start: async ({ life, clock, random, log, faults, transport }) => {
        const both = transport()
        const fileSystem = await openFileSystem({
          masterAddress,
          host: this.host,
          mountPoint: `/mnt/${this.host}`,
          pid: 1,
          clock,
          random,
          rpc: both,
          bulk: both,
          log,
          faults,
          limits,
        })
        this.fileSystem = fileSystem
        events.opened(this, fileSystem, life)
        return { ended: new Promise(() => undefined) }
      },
      stopped: () => {
        this.fileSystem = undefined
        events.lostBuffered(this, 'life')
      },
      logged: (_level, event, _fields: LogFields) => {
        if (event === 'the session was ended by the master') {
          this.sessionsLost++
          events.lostBuffered(this, 'session')
        } else if (event === 'buffered data of a file is lost') {
          events.lostBuffered(this, 'data')
        }
      },
    }
    this.process = new SimulatedProcess(this.host, role, around)
  }
}

export class SimulatedCluster {
  readonly time = new SimulatedTime()
  readonly trace: Trace
  readonly network: SimulatedNetwork
  readonly traps: FaultTraps
  readonly random: Random
  readonly violations: string[] = []
  readonly #stopAtFirst: boolean
  /** The master may give a client's leases to others so long after it has heard of it, at the earliest. */
  readonly leaseMsMin: number
  readonly master: SimulatedProcess
  readonly masterRole: MasterRole
  readonly servers: SimulatedServer[]
  readonly clients: SimulatedClient[]

  constructor(options: ClusterOptions, events: ClientEvents) {
    this.random = seededRandom(options.seed)
    this.#stopAtFirst = options.stopAtFirst === true
    this.leaseMsMin = (options.config.sessionLeaseMs ?? Infinity) / (1 + rateSpread)
    this.trace = new Trace(() => this.time.nowMs, options.print)
    this.network = new SimulatedNetwork({
      time: this.time,
      random: seededRandom(this.random.below(2 ** 32)),
      delivered: (text) => this.trace.line('net', text),
    })
    this.traps = new FaultTraps(this.time, seededRandom(this.random.below(2 ** 32)))
    const around: Surroundings = {
      time: this.time,
      network: this.network,
      trace: this.trace,
      traps: this.traps,
      random: seededRandom(this.random.below(2 ** 32)),
      violation: (what) => this.violation(what),
    }
    this.masterRole = new MasterRole(options.config, around, seededRandom(this.random.below(2 ** 32)))
    this.master = new SimulatedProcess('master', this.masterRole, around)
    this.servers = Array.from(
      { length: options.servers },
      (_, index) => new SimulatedServer(`server${index}`, around, index === options.servers - 1),
    )
    const { limits = {} } = options
    this.clients = Array.from(
      { length: options.clients },
      (_, index) => new SimulatedClient(index, around, { ...events, limits }),
    )
  }

  get processes(): SimulatedProcess[] {
    return [this.master, ...this.servers.map(({ process }) => process), ...this.clients.map(({ process }) => process)]
  }

  /** The one whose machine and disk may fail. */
  get unluckyServer(): SimulatedServer {
    return this.servers.at(-1)!
  }

  /** True time since which a client's word does not reach the master, or the master's the client. */
  unheardSinceMs(client: SimulatedClient): number | undefined {
    const life = client.process.life
    const isPaused = life !== undefined && life.pausedUntilMs > this.time.nowMs
    const since = Math.min(
      this.network.apartSinceMs(client.host, this.master.name) ?? Infinity,
      isPaused ? life.pausedSinceMs : Infinity,
    )
    return since === Infinity ? undefined : since
  }

  violation(what: string): void {
    this.trace.line('VIOLATION', what)
    if (this.#stopAtFirst) this.time.stop()
    this.violations.push(`at ${(this.time.nowMs / 1000).toFixed(3)} s: ${what}`)
  }

  async start(): Promise<void> {
    await this.master.start()
    await Promise.all(this.servers.map(({ process }) => process.start()))
    await Promise.all(this.clients.map(({ process }) => process.start()))
  }

  /** Every machine loses power at the same moment. */
  blackout(): void {
    for (const process of this.processes) process.end('power')
  }

  /** Undefined: the master does not answer. */
  async status(): Promise<StatusReply | undefined> {
    const life = new Life('admin')
    const transport = this.network.transport('admin', life)
    try {
      return await callUnary(
        transport,
        masterAddress,
        AdminDefinition,
        AdminDefinition.methods.status,
        {},
        {
          deadlineMs: 2000,
        },
      )
    } catch {
      return undefined
    }
  }
}
