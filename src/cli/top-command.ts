/** `shoal top`: what mounts and chunk servers are doing now. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import type { Activity, StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { json, withAdminOptions, withMaster } from './administration.ts'
import { durationOption } from './duration-option.ts'
import { argument } from './failure.ts'
import { formatBytes, formatCount, parseCount } from './quantity.ts'
import { statusLine, table } from './status-text.ts'

interface TopOptions extends AdminOptions {
  interval: number
  count?: number
}

/** Per second, and mean milliseconds; undefined where nothing was done. */
export interface Rates {
  reads: number
  readBytes: number
  readMs: number | undefined
  writes: number
  writeBytes: number
  writeMs: number | undefined
  others: number
  otherMs: number | undefined
}

/** From two looks that are so far apart. A process that was started again in between counts from its start. */
export const ratesOf = (before: Activity | undefined, after: Activity | undefined, seconds: number): Rates => {
  const since = (name: keyof Activity): number => {
    const now = after?.[name] ?? 0n
    const then = before?.[name] ?? 0n
    return Number(now >= then ? now - then : now)
  }
  const mean = (micros: keyof Activity, count: keyof Activity): number | undefined =>
    since(count) === 0 ? undefined : since(micros) / since(count) / 1000
  return {
    reads: since('reads') / seconds,
    readBytes: since('readBytes') / seconds,
    readMs: mean('readMicros', 'reads'),
    writes: since('writes') / seconds,
    writeBytes: since('writeBytes') / seconds,
    writeMs: mean('writeMicros', 'writes'),
    others: since('others') / seconds,
    otherMs: mean('otherMicros', 'others'),
  }
}

/** What a mount buffers takes microseconds. */
const time = (ms: number | undefined): string => {
  if (ms === undefined) return '-'
  return ms < 0.1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(ms < 10 ? 2 : 0)} ms`
}

interface Look {
  atMs: number
  status: StatusReply
}

const sample = (before: Look, after: Look) => {
  const seconds = (after.atMs - before.atMs) / 1000
  const mountBefore = new Map(before.status.sessions.map((session) => [session.sessionId, session.activity]))
  const serverBefore = new Map(before.status.servers.map((server) => [server.serverId, server.activity]))
  return {
    mounts: after.status.sessions.map(({ sessionId, host, mountPoint, activity }) => ({
      sessionId,
      host,
      mountPoint,
      ...ratesOf(mountBefore.get(sessionId), activity, seconds),
    })),
    servers: after.status.servers.map(({ serverId, label, state, activity }) => ({
      serverId,
      label,
      state,
      ...ratesOf(serverBefore.get(serverId), activity, seconds),
    })),
  }
}

const cells = (rates: Rates): string[] => [
  formatCount(Math.round(rates.reads)),
  formatBytes(rates.readBytes),
  time(rates.readMs),
  formatCount(Math.round(rates.writes)),
  formatBytes(rates.writeBytes),
  time(rates.writeMs),
]

const text = (before: Look, after: Look): string => {
  const { mounts, servers } = sample(before, after)
  const data = ['reads/s', 'bytes/s', 'each', 'writes/s', 'bytes/s', 'each']
  const lines = [
    statusLine(after.status),
    '',
    ...table(
      ['mount', ...data, 'master/s', 'each'],
      mounts.map((mount) => [
        `${mount.host}:${mount.mountPoint}`,
        ...cells(mount),
        formatCount(Math.round(mount.others)),
        time(mount.otherMs),
      ]),
    ),
    '',
    ...table(
      ['server', 'state', ...data],
      servers.map((server) => [
        server.label === '' ? `${server.serverId}` : `${server.serverId} ${server.label}`,
        server.state,
        ...cells(server),
      ]),
    ),
  ]
  return `${lines.join('\n')}\n`
}

export const topCommand = (): Command =>
  withAdminOptions(
    new Command('top')
      .description('show what mounts and chunk servers are doing now')
      .addOption(durationOption('--interval <duration>', 'between two looks', '3s', '100ms'))
      .option(
        '--count <n>',
        'end after so many looks (default: never on a terminal, else 1)',
        argument(parseCount({ min: 1, max: 1_000_000 })),
      ),
  )
    .addHelpText(
      'after',
      `
Mounts and servers tell their figures with their heartbeats, every second or two: shorter intervals show steps. "master/s" are the
mount's requests to the master, "each" is the mean time of one.

Examples:
  shoal top
  shoal top --json --count 10 --interval 5s`,
    )
    .action((options: TopOptions) =>
      withMaster(options, async (call) => {
        const look = async (): Promise<Look> => {
          const status = await call('status', {})
          return { atMs: performance.now(), status }
        }
        const live = process.stdout.isTTY && options.json !== true
        const count = options.count ?? (live ? Infinity : 1)
        let before = await look()
        for (let i = 0; i < count; i++) {
          await sleep(Math.max(100, options.interval))
          const after = await look()
          if (options.json === true)
            process.stdout.write(`${JSON.stringify(JSON.parse(json(sample(before, after))))}\n`)
          else process.stdout.write(`${live ? '\u001b[H\u001b[J' : ''}${text(before, after)}`)
          before = after
        }
      }),
    )
