/**
 * Runs one role (master, chunk server, mount) in the foreground until it is told to stop.
 *
 * Whoever started the process reads its standard output: "ready ADDRESS" when the role can be used, or, with SHOAL_SUPERVISED=1,
 * "failed SENTENCE" when it ends because of a failure. SIGTERM, SIGINT and SIGHUP end the role in good order with exit code 0.
 *
 * With --exit-with-parent the role also ends when its standard input ends: the parent holds the other end of that pipe, so it
 * ends however the parent dies. The delay lets the mount write out and unmount before what it needs goes away.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import type { Command } from 'commander'
import { Option } from 'commander'
import { UsageError } from '../domain/errors.ts'
import type { Log, LogLevel } from '../platform/log.ts'
import { stderrLog } from '../platform/log.ts'
import type { Running } from '../main/running.ts'
import { argument, exitFailure, exitOk, report, sentenceOf } from './failure.ts'
import { isLoopback, parseMetricsAddress, splitAddress } from './address.ts'
import { notifyReady } from './notify-ready.ts'
import { parseCount } from './quantity.ts'

export interface ServeOptions {
  logLevel: LogLevel
  /** host:port for Prometheus. */
  metrics?: string
  /** Milliseconds between the parent's end and ours. */
  exitWithParent?: number
}

/** Adds the options that each role takes. */
export const withServeOptions = (command: Command): Command =>
  command
    .addOption(
      new Option('--log-level <level>', 'what to log on standard error')
        .choices(['debug', 'info', 'warn', 'error', 'silent'])
        .default('info'),
    )
    .addOption(
      new Option(
        '--metrics <[host:]port>',
        'give metrics to Prometheus at http://HOST:PORT/metrics (host: 127.0.0.1)',
      ).argParser(argument(parseMetricsAddress)),
    )
    .addOption(
      new Option('--exit-with-parent <ms>', 'end this long after standard input has ended')
        .argParser(argument(parseCount({ min: 0, max: 600_000 })))
        .hideHelp(),
    )

/** How long a role may take to end in good order before the process ends anyway. */
const closeMsMax = 60_000

/**
 * V8 lets a heap grow to about four times what lives in it before it collects. What lives in a role is bounded; the process should be, too:
 * as much again. (Half as much again costs a sixth more processor time where many files are made.)
 */
const heapGrowthPercent = 100

const stopRequested = (options: ServeOptions): Promise<string> =>
  new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => resolve(signal))
    if (options.exitWithParent === undefined) return
    const delayMs = options.exitWithParent
    let ended = false
    const onEnd = (): void => {
      if (ended) return
      ended = true
      setTimeout(() => resolve('the parent process ended'), delayMs)
    }
    process.stdin.on('end', onEnd).on('close', onEnd).on('error', onEnd).resume()
  })

/** Says once that an address is open to the network: nothing authenticates the peers yet. */
export const warnIfOpen = (listen: string, log: Log): void => {
  const { host } = splitAddress(listen, { anyPort: true })
  if (!isLoopback(host))
    log.warn('listens beyond loopback: whoever reaches this address can read and change all data', { listen })
}

/** Never returns: the process ends with the role. */
export const serve = async (
  role: string,
  options: ServeOptions,
  start: (log: Log) => Promise<Running>,
): Promise<never> => {
  setFlagsFromString(`--heap-growing-percent=${heapGrowthPercent}`)
  const log = stderrLog(options.logLevel, role)
  const fail = (caught: unknown): never => {
    if (!(caught instanceof UsageError)) log.error('ends because of a failure', { cause: caught })
    if (process.env['SHOAL_SUPERVISED'] === '1') process.stdout.write(`failed ${sentenceOf(caught)}\n`)
    process.exit(report(caught) === exitOk ? exitOk : exitFailure)
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)

  const stop = stopRequested(options)
  try {
    const starting = start(log)
    const first = await Promise.race([starting, stop])
    if (typeof first === 'string') {
      log.info('stops while it is starting', { why: first })
      await Promise.race([starting.then((running) => running.close()), sleep(closeMsMax)])
      process.exit(exitOk)
    }
    process.stdout.write(`ready ${first.address}\n`)
    notifyReady(log)
    const why = await Promise.race([stop, first.closed.then(() => undefined)])
    if (why !== undefined) {
      log.info('stops', { why })
      const closing = first.close().then(() => true)
      if ((await Promise.race([closing, sleep(closeMsMax)])) !== true) {
        throw new Error(`the ${role} did not end within ${closeMsMax / 1000} seconds`)
      }
    }
  } catch (caught) {
    fail(caught)
  }
  process.exit(exitOk)
}
