/**
 * One run: a cluster from a seed, programs on its clients, faults for a while, then a quiet period and all checks.
 */
import { seededRandom } from '../lib/seeded-random.ts'
import { keptProblems, replicaProblems, storeProblems } from './checkers/store-check.ts'
import { syncedCheck } from './checkers/synced-data.ts'
import type { Synced } from './checkers/synced-data.ts'
import { LifeEnded, Mount } from './mount.ts'
import type { Workload } from './mount.ts'
import { Nemesis } from './nemesis.ts'
import type { FaultKind, Pace } from './nemesis.ts'
import { chunkRoot, SimulatedCluster } from './simulated-cluster.ts'
import { AppendLog } from './workloads/append-log.ts'
import { Churn } from './workloads/churn.ts'
import { Counters } from './workloads/counters.ts'
import { Durability } from './workloads/durability.ts'
import { Glances } from './workloads/glances.ts'
import { Names } from './workloads/names.ts'
import { Registers } from './workloads/registers.ts'
import { RenameRing } from './workloads/rename-ring.ts'

export interface SeedOptions {
  seed: number
  /** Simulated ms with faults; default: what the seed says. */
  durationMs?: number
  servers?: number
  clients?: number
  kinds?: readonly FaultKind[]
  print?: (line: string) => void
  /** Ends the run with the first violation. */
  stopAtFirst?: boolean
}

export interface SeedResult {
  seed: number
  violations: readonly string[]
  simulatedMs: number
  events: number
  lines: number
  digest: string
  steps: number
  faults: ReadonlyMap<FaultKind, number>
  /** Not of the simulation: what it took. */
  processorMs: number
}

const setUpLimitMs = 120_000
/** After the last fault: repair, reclaim, unknown replicas. */
const quietLimitMs = 180_000
const checkLimitMs = 300_000

/** The leases and delays that a run draws from, and its faults: as many in a short run as in a long one. */
interface Length {
  durationMs: number
  sessionLeaseMs: readonly number[]
  repairDelayMs: readonly number[]
  pace: Pace
}

/** What a run costs is its length, so most are short. */
const short: Length = {
  durationMs: 8_000,
  sessionLeaseMs: [1000, 2000, 4000],
  repairDelayMs: [300, 1000, 3000],
  pace: { gapMsMax: 500, spellMsMax: 6_000, besideOneIn: 2 },
}
const long: Length = {
  durationMs: 30_000,
  sessionLeaseMs: [2000, 5000, 10_000],
  repairDelayMs: [500, 3000, 10_000],
  pace: { gapMsMax: 3200, spellMsMax: 15_000, besideOneIn: 4 },
}
const lengthOf = (seed: number): Length => (seed % 20 === 19 ? long : short)

const processorMs = (before: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}

/** These may take a copy away for good that was on a disk. */
const copyLosers: readonly FaultKind[] = ['disk lost', 'bit flipped', 'write misdirected']

export const runSeed = async (options: SeedOptions): Promise<SeedResult> => {
  const { seed, servers = 4, clients = 3 } = options
  const before = process.cpuUsage()
  const length = lengthOf(seed)
  const choices = seededRandom(seed ^ 0x5eed)
  // In every fourth run everything loses power at the same moment, and only what was synced counts.
  const blackout = seed % 4 === 2
  const durationMs = options.durationMs ?? (blackout ? 1 + choices.below(length.durationMs) : length.durationMs)
  const unsafe = (synced: Synced): string | undefined => checkSynced(synced)
  const registers = new Registers({ files: 3 })
  const workloads: Workload[] = blackout
    ? ['a', 'b', 'c'].map((prefix) => new Durability({ prefix, tiny: choices.below(3) === 0, unsafe }))
    : [
        registers,
        new Glances(registers),
        new AppendLog(),
        new Counters(),
        new RenameRing(),
        new Names(),
        new Churn({ unsafe }),
      ]
  const mounts = new Map<number, Mount>()
  const interruptsOneIn = choices.below(2) === 0 ? 0 : 60
  let isRunning = false
  let steps = 0
  const cluster: SimulatedCluster = new SimulatedCluster(
    {
      seed,
      servers,
      clients,
      config: {
        sessionLeaseMs: length.sessionLeaseMs[choices.below(3)]!,
        repairDelayMs: length.repairDelayMs[choices.below(3)]!,
        leaseQuietMs: [0, 100, 1000][choices.below(3)]!,
        inlineBytesMax: [0, 512, 4096][choices.below(3)]!,
        cacheEntriesMax: [100, 50_000][choices.below(2)]!,
        unknownReplicaDelayMs: 5000,
      },
      // Chunks that end by their size, in every third run.
      limits: choices.below(3) === 0 ? { chunkBytesMax: 4096 * (1 + choices.below(40)) } : {},
      ...(options.print && { print: options.print }),
      stopAtFirst: options.stopAtFirst === true,
    },
    {
      opened: (client, fileSystem, life) => {
        const random = seededRandom(choices.below(2 ** 32))
        const isErrorExcused = (): boolean => nemesis.excusesErrors
        const mount = new Mount({
          cluster,
          client,
          fileSystem,
          life,
          random,
          isErrorExcused,
          interruptsOneIn: () => (isRunning ? interruptsOneIn : 0),
        })
        mounts.set(client.index, mount)
        if (isRunning) for (const workload of workloads) launch(workload, mount)
      },
      lostBuffered: (client) => {
        for (const workload of workloads) workload.lost(client)
      },
    },
  )
  const nemesis = new Nemesis(cluster, seededRandom(choices.below(2 ** 32)), length.pace, options.kinds)
  // What a disk has lost for good may be one of the copies that counted.
  const losesCopies = nemesis.kinds.some((kind) => copyLosers.includes(kind))
  const checkSynced = syncedCheck({
    kv: () => cluster.masterRole.kv,
    disks: () => cluster.servers.map(({ role }) => role.disk),
    chunkRoot,
    copies: losesCopies ? 1 : 2,
  })
  const running = new Set<Promise<void>>()
  const launch = (workload: Workload, mount: Mount): void => {
    const run = async (): Promise<void> => {
      while (isRunning && mount.life.alive) {
        try {
          steps++
          await workload.step(mount)
        } catch (caught) {
          if (caught instanceof LifeEnded) return
          if (!(caught instanceof Error) || caught.name !== 'PosixError') {
            cluster.violation(`${workload.name}: ${caught instanceof Error ? caught.stack : String(caught)}`)
            return
          }
          await cluster.time.sleep(100)
        }
      }
    }
    const settled: Promise<void> = run().finally(() => running.delete(settled))
    running.add(settled)
  }
  const finish = (): SeedResult => ({
    seed,
    violations: cluster.violations,
    simulatedMs: cluster.time.nowMs,
    events: cluster.time.count,
    lines: cluster.trace.lines,
    digest: cluster.trace.digest(),
    steps,
    faults: nemesis.counts,
    processorMs: processorMs(before),
  })
  const onRejection = (cause: unknown): void => {
    cluster.violation(`a promise that nobody waits for failed: ${cause instanceof Error ? cause.stack : String(cause)}`)
  }
  process.on('unhandledRejection', onRejection)
  try {
    await cluster.time.until(cluster.start(), setUpLimitMs)
    const setUp = async (): Promise<void> => {
      for (const workload of workloads) await workload.setUp(mounts.get(0)!)
      await mounts.get(0)!.call('syncfs', (fs, context) => fs.syncfs(context))
    }
    await cluster.time.until(setUp(), setUpLimitMs)
    isRunning = true
    for (const mount of mounts.values()) for (const workload of workloads) launch(workload, mount)
    const faults = nemesis.run()
    await cluster.time.until(cluster.time.sleep(durationMs), durationMs + 1)
    if (blackout) {
      // Before anything is mended: while programs run.
      isRunning = false
      if (choices.below(2) === 0) {
        cluster.masterRole.slowMs = 200
        await cluster.time.until(cluster.time.sleep(choices.below(400)), 1000)
      }
      cluster.blackout()
    }
    await cluster.time.until(Promise.all([faults, nemesis.stop()]), quietLimitMs)
    isRunning = false
    await cluster.time.until(Promise.all(running), quietLimitMs)
    // Sessions that were lost, and programs' own checks.
    await cluster.time.until(cluster.time.sleep(1000), 2000)
    const check = async (): Promise<void> => {
      const present = [...mounts.values()].filter(({ life }) => life.alive)
      for (const workload of workloads) {
        try {
          for (const problem of await workload.check(present)) cluster.violation(`${workload.name}: ${problem}`)
        } catch (caught) {
          cluster.violation(
            `${workload.name} could not be checked: ${caught instanceof Error ? caught.stack : String(caught)}`,
          )
        }
      }
      for (const mount of present) await mount.call('close', (fs) => fs.close(), { interruptible: false })
    }
    await cluster.time.until(check(), checkLimitMs)
    await cluster.time.until(quiet(cluster, { calmMs: 15_000, blackout }), quietLimitMs)
    if (blackout) {
      // What was not synced may have left chunks shorter than they were said to be; that is for good.
      const disks = cluster.servers.map(({ role }) => role.disk)
      const problems = losesCopies ? [] : keptProblems(cluster.masterRole.kv.entries(), disks, chunkRoot)
      for (const problem of problems) cluster.violation(problem)
      return finish()
    }
    // What is on the disks is what their servers find there when they start.
    for (const { process } of cluster.servers) {
      process.end('kill')
      void process.start()
    }
    await cluster.time.until(quiet(cluster, { calmMs: 3_000, blackout }), quietLimitMs)
    const entries = cluster.masterRole.kv.entries()
    const disks = cluster.servers.map(({ role }) => ({ name: role.host, disk: role.disk }))
    const flips =
      nemesis.counts.has('bit flipped') || nemesis.counts.has('write misdirected')
        ? cluster.unluckyServer.role.host
        : undefined
    for (const problem of storeProblems(entries, disks.length)) cluster.violation(problem)
    for (const problem of replicaProblems(entries, disks, flips)) cluster.violation(problem)
  } catch (caught) {
    cluster.violation(caught instanceof Error ? (caught.stack ?? caught.message) : String(caught))
  } finally {
    process.off('unhandledRejection', onRejection)
  }
  return finish()
}

/** Waits until the master says that nothing is left to do, for a while without a break. After a blackout nothing may be left of some chunks. */
const quiet = async (
  cluster: SimulatedCluster,
  { calmMs, blackout }: { calmMs: number; blackout: boolean },
): Promise<void> => {
  const endMs = cluster.time.nowMs + quietLimitMs - 10_000
  let last = ''
  for (let since = cluster.time.nowMs; cluster.time.nowMs - since < calmMs;) {
    await cluster.time.sleep(1000)
    const status = await cluster.status()
    const open =
      status === undefined
        ? undefined
        : { ...status.chunks, punches: status.punchesPending, sessions: status.sessions.length }
    const isDone =
      status?.chunks !== undefined &&
      status.chunks.underReplicated === status.chunks.lost &&
      status.chunks.overReplicated === 0n &&
      (status.chunks.lost === 0n || blackout) &&
      status.chunks.open === 0n &&
      (status.punchesPending === 0n || status.chunks.lost > 0n) &&
      status.orphans === 0n &&
      status.sessions.length === 0
    last =
      open === undefined
        ? 'no answer'
        : Object.entries(open)
            .map(([key, value]) => `${key} ${String(value)}`)
            .join(', ')
    if (!isDone) since = cluster.time.nowMs
    if (cluster.time.nowMs > endMs) {
      cluster.violation(`the cluster does not come to rest: ${last}`)
      return
    }
  }
}
