/**
 * What goes wrong in a run: which kinds of faults there are is drawn from the seed, some runs have none, then one comes after another, each
 * for a while. What is broken is mended before a program would have to give up.
 */
import { PosixError } from '../../src/domain/errors.ts'
import { faultPoints } from '../../src/platform/faults.ts'
import type { Random } from '../../src/platform/random.ts'
import type { SimulatedCluster } from './simulated-cluster.ts'
import type { SimulatedProcess } from './simulated-process.ts'

export const faultKinds = [
  'master killed',
  'chunk server killed',
  'chunk server without power',
  'client killed',
  'process paused',
  'one-way cut',
  'cut',
  'host cut off',
  'connections reset',
  'slow link',
  'slow disk',
  'disk error',
  'disk full',
  'disk lost',
  'bit flipped',
  'write misdirected',
  'message damaged',
  'master disk slow',
  'master disk full',
  'master write error',
  'client killed amid slow reads',
  'wall clock stepped',
  'killed at a point',
  'held at points',
] as const

/** Every run with faults has one of these: what a death leaves behind is where most promises are kept or broken. */
const deaths: readonly FaultKind[] = [
  'master killed',
  'chunk server killed',
  'chunk server without power',
  'client killed',
]

export type FaultKind = (typeof faultKinds)[number]

/** How fast one fault follows another. */
export interface Pace {
  /** Between the end of one fault and the next one. */
  gapMsMax: number
  /** A fault lasts no longer than this, most of them much less. */
  spellMsMax: number
  /** One in so many goes on beside the next ones. */
  besideOneIn: number
}

export class Nemesis {
  readonly counts = new Map<FaultKind, number>()
  readonly kinds: readonly FaultKind[]
  readonly #cluster: SimulatedCluster
  readonly #random: Random
  readonly #pace: Pace
  #stopped = false
  #busy: Promise<void> = Promise.resolve()

  constructor(cluster: SimulatedCluster, random: Random, pace: Pace, kinds?: readonly FaultKind[]) {
    this.#cluster = cluster
    this.#random = random
    this.#pace = pace
    const death = deaths[random.below(deaths.length)]
    this.kinds =
      kinds ?? (random.below(12) === 0 ? [] : faultKinds.filter((kind) => kind === death || random.below(2) === 0))
  }

  /** Faults may have cost a client its session or the cluster room: programs may be told errors. */
  get excusesErrors(): boolean {
    return this.kinds.includes('disk full')
  }

  async run(): Promise<void> {
    if (this.kinds.length === 0) return
    while (!this.#stopped) {
      await this.#cluster.time.sleep(this.#random.below(this.#pace.gapMsMax))
      if (this.#stopped) return
      const kind = this.kinds[this.#random.below(this.kinds.length)]!
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1)
      this.#cluster.trace.line('nemesis', kind)
      const fault = this.#inflict(kind)
      if (this.#random.below(this.#pace.besideOneIn) === 0)
        this.#busy = Promise.all([this.#busy, fault]).then(() => undefined)
      else await fault
    }
  }

  /** No new faults; everything is mended and runs again. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#busy
    const { network, processes, unluckyServer, masterRole, servers } = this.#cluster
    network.heal()
    unluckyServer.role.disk.clearFaults()
    unluckyServer.role.disk.setCapacity(2 ** 30)
    for (const { role } of servers) role.slowMs = 0
    masterRole.slowMs = 0
    masterRole.slowReadMs = 0
    masterRole.kv.failWrites(undefined)
    for (const process of processes) if (process.isDown) void process.start()
    await Promise.all(processes.map((process) => process.serves()))
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#random.below(list.length)]!
  }

  /** Mostly short; sometimes longer than leases live. */
  #spellMs(): number {
    const { spellMsMax } = this.#pace
    return this.#random.below(this.#random.below(3) === 0 ? spellMsMax : spellMsMax / 6)
  }

  async #down(process: SimulatedProcess, how: 'kill' | 'power'): Promise<void> {
    if (process.isDown) return
    process.end(how)
    await this.#cluster.time.sleep(this.#spellMs() / 2)
    if (process.isDown) await Promise.race([process.start(), this.#cluster.time.sleep(5000)])
  }

  async #inflict(kind: FaultKind): Promise<void> {
    const { time, network, master, servers, clients, unluckyServer, masterRole, processes } = this.#cluster
    const random = this.#random
    const host = (): string => this.#pick(processes).name
    switch (kind) {
      case 'master killed':
        // Now and then with much on its way to the disk.
        if (random.below(2) === 0) masterRole.slowMs = random.below(100)
        await time.sleep(random.below(200))
        await this.#down(master, 'kill')
        masterRole.slowMs = 0
        return
      case 'chunk server killed':
        return this.#down(this.#pick(servers).process, 'kill')
      case 'chunk server without power':
        return this.#down(unluckyServer.process, 'power')
      case 'client killed':
        return this.#down(this.#pick(clients).process, random.below(2) === 0 ? 'kill' : 'power')
      case 'process paused': {
        const ms = this.#spellMs()
        this.#pick(processes).pause(ms)
        return time.sleep(ms)
      }
      case 'one-way cut':
      case 'cut': {
        const [source, target] = [host(), host()]
        network.cut(source, target)
        if (kind === 'cut') network.cut(target, source)
        await time.sleep(this.#spellMs())
        network.healBetween(source, target)
        network.healBetween(target, source)
        return
      }
      case 'host cut off': {
        const alone = host()
        const others = processes.map(({ name }) => name).filter((name) => name !== alone)
        for (const other of others) {
          network.cut(alone, other)
          network.cut(other, alone)
        }
        await time.sleep(this.#spellMs())
        for (const other of others) {
          network.healBetween(alone, other)
          network.healBetween(other, alone)
        }
        return
      }
      case 'connections reset':
        network.reset(host())
        return
      case 'slow link': {
        const [source, target] = [host(), host()]
        network.slow(source, target, 5 + random.below(300))
        await time.sleep(this.#spellMs())
        network.healBetween(source, target)
        return
      }
      case 'slow disk': {
        const { role } = this.#pick(servers)
        role.slowMs = 10 + random.below(500)
        await time.sleep(this.#spellMs())
        role.slowMs = 0
        return
      }
      case 'disk error': {
        const call = this.#pick(['read', 'write', 'sync', 'open', 'punch'] as const)
        unluckyServer.role.disk.fail({
          call,
          path: /\/[0-9a-f]{16}(\.copy)?$/,
          code: 'EIO',
          times: 1 + random.below(3),
        })
        return
      }
      case 'disk lost': {
        if ((this.counts.get(kind) ?? 0) > 1 || unluckyServer.process.isDown) return
        // Others are out of reach before: what was acknowledged meanwhile must not be here alone.
        const apart = [this.#pick(servers), this.#pick(servers)].filter((server) => server !== unluckyServer)
        const pairs = apart.flatMap(({ role }) => clients.map((client) => [role.host, client.host] as const))
        for (const [server, client] of pairs) network.cut(server, client)
        await time.sleep(random.below(2000))
        unluckyServer.process.end('kill')
        unluckyServer.role.replaceDisk()
        for (const [server, client] of pairs) network.healBetween(server, client)
        await Promise.race([unluckyServer.process.start(), time.sleep(5000)])
        return
      }
      case 'disk full': {
        unluckyServer.role.disk.setCapacity(1)
        await time.sleep(this.#spellMs())
        unluckyServer.role.disk.setCapacity(2 ** 30)
        return
      }
      case 'bit flipped': {
        const { disk } = unluckyServer.role
        const chunkFiles = disk.paths().filter((path) => /\/[0-9a-f]{16}$/.test(path))
        if (chunkFiles.length === 0) return
        const path = this.#pick(chunkFiles)
        const size = disk.content(path)!.length
        // The header, the table, or the data.
        const from = this.#pick([0, 4096, 135_168])
        if (from < size) disk.flipBit(path, from + random.below(size - from))
        return
      }
      case 'write misdirected':
        return unluckyServer.role.disk.misdirect(/\/[0-9a-f]{16}(\.copy)?$/)
      case 'message damaged':
        network.damage(random.below(2) === 0 ? unluckyServer.role.host : this.#pick(clients).host)
        return
      case 'master disk slow':
        masterRole.slowMs = random.below(300)
        // Longer than a session may last, now and then.
        masterRole.slowReadMs = random.below(random.below(2) === 0 ? 30 : 3000)
        await time.sleep(this.#spellMs())
        masterRole.slowMs = 0
        masterRole.slowReadMs = 0
        return
      case 'master disk full': {
        masterRole.kv.failWrites(new PosixError('ENOSPC', 'a simulated fault'))
        await time.sleep(this.#spellMs())
        masterRole.kv.failWrites(undefined)
        return
      }
      case 'master write error':
        // The master ends with it, and its supervisor starts it again on what is there.
        masterRole.kv.breakWrite(random.below(2) === 0)
        return
      case 'client killed amid slow reads': {
        // What it has asked for is still being carried out when its session ends.
        const { leaseMsMin } = this.#cluster
        if (leaseMsMin > this.#pace.spellMsMax / 2) return
        masterRole.slowReadMs = leaseMsMin * 1.2 + 1000
        await time.sleep(300)
        const client = this.#pick(clients).process
        if (!client.isDown) client.end('kill')
        await time.sleep(masterRole.slowReadMs)
        masterRole.slowReadMs = 0
        if (client.isDown) await Promise.race([client.start(), time.sleep(5000)])
        return
      }
      case 'wall clock stepped': {
        const { clock } = this.#pick(processes)
        if (clock !== undefined) clock.wallStepMs += random.below(20_000_000) - 10_000_000
        return
      }
      case 'killed at a point': {
        const { traps } = this.#cluster
        const victim = await traps.victimAt(this.#pick(faultPoints), this.#spellMs())
        if (victim !== undefined) await this.#down(victim, 'kill')
        return
      }
      case 'held at points': {
        const { traps } = this.#cluster
        traps.hold({ oneIn: 1 + random.below(8), msMax: 10 + random.below(500) })
        await time.sleep(this.#spellMs())
        traps.hold(undefined)
      }
    }
  }
}
