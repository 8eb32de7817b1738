/**
 * A cluster of real processes under writers, for as long as one likes, while somebody kills: every five to fifteen seconds the master, a chunk
 * server, a mount or everything at once ends with SIGKILL and is started again. At the end every file is compared with the manifests
 * through every mount.
 *
 * usage: npm run test:soak -- [--minutes N] [--seed N]      default: 60 minutes; SIGINT and SIGTERM end the writing, then it compares as ever
 *
 * An error that reaches a program counts, unless its own mount was killed. Anything lost ends the run. Exit code 1 when there was either.
 */
import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startCluster } from '../lib/cluster.ts'
import type { Cluster } from '../lib/cluster.ts'
import { seededRandom } from '../lib/seeded-random.ts'

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '60' }, seed: { type: 'string', default: String(process.pid) } },
})

const writers = 4
const mounts = 2
/** A longer one is told when it happens. */
const longStallMs = 5000
const writerScript = resolve('test/soak/writer.py')

const say = (text: string): void => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`)

class Tally {
  readonly ops = new Map<string, number>()
  readonly kills = new Map<string, number>()
  readonly errors: string[] = []
  readonly lost: string[] = []
  excused = 0
  longestStallMs = 0
  longestStall = ''

  count(map: Map<string, number>, key: string, by = 1): void {
    map.set(key, (map.get(key) ?? 0) + by)
  }

  stalled(ms: number, what: string): void {
    if (ms > longStallMs) say(`a stall of ${ms} ms: ${what}`)
    if (ms <= this.longestStallMs) return
    this.longestStallMs = ms
    this.longestStall = what
  }

  summary(minutes: number): string {
    const list = (map: ReadonlyMap<string, number>): string =>
      [...map]
        .toSorted(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, count]) => `${key} ${count}`)
        .join(', ')
    const operations = [...this.ops.values()].reduce((sum, count) => sum + count, 0)
    return [
      `${minutes.toFixed(1)} minutes, ${operations} operations (${list(this.ops)})`,
      `kills: ${list(this.kills)}`,
      `errors ${this.errors.length}, lost ${this.lost.length}, writers that ended with their mount ${this.excused}`,
      `longest stall ${this.longestStallMs} ms (${this.longestStall})`,
    ].join('\n')
  }
}

interface Line {
  ops?: Record<string, number>
  stallMs?: number
  stall?: string
  error?: string
  lost?: string
  checked?: number
}

/** One run of writer.py to its end, or until it is stopped. */
const writer = (
  tally: Tally,
  options: { cluster: Cluster; who: number; mount: number; stop: AbortSignal; only?: 'check' },
): { ended: Promise<string | undefined> } => {
  const { cluster, who, mount, stop, only } = options
  const root = cluster.mounts[mount]!.directory
  const manifests = join(cluster.directory, 'manifests')
  const child = spawn('python3', [writerScript, root, `${who}`, `${writers}`, manifests, ...(only ? [only] : [])], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const onStop = (): void => void child.kill('SIGKILL')
  stop.addEventListener('abort', onStop, { once: true })
  if (stop.aborted) onStop()
  let error: string | undefined
  createInterface({ input: child.stdout }).on('line', (text) => {
    const line = JSON.parse(text) as Line
    for (const [name, count] of Object.entries(line.ops ?? {})) tally.count(tally.ops, name, count)
    if (line.stallMs !== undefined) tally.stalled(line.stallMs, line.stall ?? '')
    if (line.lost !== undefined) {
      tally.lost.push(`writer ${who} on mount ${mount}: ${line.lost}`)
      say(`LOST ${tally.lost.at(-1)}`)
    }
    error = line.error ?? error
  })
  const ended = new Promise<string | undefined>((resolveEnd) => {
    child.once('close', (code, signal) => {
      stop.removeEventListener('abort', onStop)
      const isInOrder = code === 0 || code === 4 || stop.aborted
      resolveEnd(isInOrder ? undefined : (error ?? `it ended with ${signal ?? code}`))
    })
  })
  return { ended }
}

const soak = async (cluster: Cluster, tally: Tally, minutes: number, stop: AbortController): Promise<void> => {
  const random = seededRandom(Number(values.seed))
  /** How often each mount was killed, and its being there again. */
  const deaths = Array.from({ length: mounts }, () => 0)
  const back: Promise<unknown>[] = Array.from({ length: mounts }, () => Promise.resolve())

  const keepWriting = async (who: number): Promise<void> => {
    const mount = who % mounts
    while (!stop.signal.aborted) {
      await back[mount]
      const before = deaths[mount]
      const error = await writer(tally, { cluster, who, mount, stop: stop.signal }).ended
      if (tally.lost.length > 0) stop.abort()
      if (error === undefined) continue
      if (deaths[mount] !== before) tally.excused++
      else {
        tally.errors.push(`writer ${who} on mount ${mount}: ${error}`)
        say(`ERROR ${tally.errors.at(-1)}`)
      }
      await sleep(100)
    }
  }
  const killMount = async (mount: number, downMs: number): Promise<void> => {
    deaths[mount]!++
    const again = async (): Promise<void> => {
      await cluster.mounts[mount]!.kill('SIGKILL')
      await sleep(downMs)
      await cluster.mounts[mount]!.start(60_000)
    }
    back[mount] = again()
    await back[mount]
  }
  const killed = (role: string, downMs: number): void => {
    tally.count(tally.kills, role)
    say(`kill ${role}, down for ${downMs} ms`)
  }
  const inflict = async (): Promise<void> => {
    const choice = random.below(20)
    const downMs = random.below(3) === 0 ? random.below(5000) : random.below(500)
    if (choice < 6) {
      killed('master', downMs)
      await cluster.master.kill('SIGKILL')
      await sleep(downMs)
      await cluster.master.start(60_000)
    } else if (choice < 13) {
      killed('chunk server', downMs)
      const server = cluster.servers[random.below(cluster.servers.length)]!
      await server.kill('SIGKILL')
      await sleep(downMs)
      await server.start(60_000)
    } else if (choice < 18) {
      killed('mount', downMs)
      await killMount(random.below(mounts), downMs)
    } else {
      killed('everything', downMs)
      for (const [mount] of deaths.entries()) deaths[mount]!++
      const again = async (): Promise<void> => {
        await Promise.all(cluster.roles.map((role) => role.kill('SIGKILL')))
        await sleep(downMs)
        await cluster.start()
      }
      const started = again()
      for (const mount of back.keys()) back[mount] = started
      await started
    }
  }
  const endMs = performance.now() + minutes * 60_000
  const keepKilling = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      await sleep(Math.min(5000 + random.below(10_000), endMs - performance.now()), undefined, { signal: stop.signal })
      if (performance.now() >= endMs) return
      await inflict()
    }
  }
  const tell = setInterval(() => say(tally.summary((minutes * 60_000 - (endMs - performance.now())) / 60_000)), 60_000)
  const writing = Promise.all(Array.from({ length: writers }, (_, who) => keepWriting(who)))
  try {
    await keepKilling().catch((caught: unknown) => {
      if (!stop.signal.aborted) throw caught
    })
  } finally {
    stop.abort()
    clearInterval(tell)
    await writing
  }
  if (tally.lost.length > 0) return
  for (let mount = 0; mount < mounts; mount++) {
    for (let who = 0; who < writers; who++) {
      const never = new AbortController().signal
      const error = await writer(tally, { cluster, who, mount, stop: never, only: 'check' }).ended
      if (error !== undefined) tally.errors.push(`the check of writer ${who} on mount ${mount}: ${error}`)
    }
  }
}

const teardowns: (() => Promise<void>)[] = []
const tally = new Tally()
const passed = (): boolean => tally.errors.length + tally.lost.length === 0
const tearDown = async (): Promise<void> => {
  for (const handler of teardowns.splice(0)) await handler()
}
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort())
const minutes = Number(values.minutes)
say(`seed ${values.seed}, ${minutes} minutes`)
try {
  const cluster = await startCluster(
    {
      teardown: (handler) => void teardowns.push(handler),
      passing: passed,
      comment: (...args) => console.log(...args),
    },
    { servers: 4, copies: 3, mounts, masterArgs: ['--repair-delay', '5s'] },
  )
  await mkdir(join(cluster.directory, 'manifests'))
  await soak(cluster, tally, minutes, stop)
} catch (caught) {
  tally.errors.push(caught instanceof Error ? (caught.stack ?? caught.message) : String(caught))
} finally {
  await tearDown()
}
for (const problem of [...tally.errors, ...tally.lost]) console.log(problem)
console.log(tally.summary(minutes))
process.exitCode = passed() ? 0 : 1
