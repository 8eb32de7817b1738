/**
 * A role of Shoal as a child process of this one: `node shoal.js ROLE …`, with its log in a file and its first word ("ready
 * ADDRESS" or "failed SENTENCE", see serve.ts) on a pipe.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { UsageError } from '../domain/errors.ts'

export interface Ended {
  code: number | undefined
  signal: NodeJS.Signals | undefined
}

export interface Child {
  readonly pid: number
  /** The address that it printed; rejects with its sentence when it ended before. */
  readonly ready: Promise<string>
  /** Never rejects. */
  readonly ended: Promise<Ended>
  kill(signal: NodeJS.Signals): void
  /** Lets it go on alone when this process ends. Only for a child without `holdStdin`. */
  release(): void
}

export interface ChildOptions {
  args: readonly string[]
  /** Appended to; without it what the role logs is lost. */
  logPath?: string
  /** The child reads its standard input from a pipe of ours, which ends when this process does. */
  holdStdin: boolean
}

export const describeEnd = ({ code, signal }: Ended): string =>
  signal === undefined ? `with exit code ${code ?? '?'}` : `by ${signal}`

export const startChild = (options: ChildOptions): Child => {
  const logFd = options.logPath === undefined ? undefined : openSync(options.logPath, 'a', 0o640)
  const script = process.argv[1]
  if (script === undefined) throw new Error('there is no script to start')
  let child: ChildProcess
  try {
    child = spawn(process.execPath, [...process.execArgv, script, ...options.args], {
      // A session of its own, so that Ctrl-C in the terminal reaches this process alone and it can stop the others in order.
      detached: true,
      stdio: [options.holdStdin ? 'pipe' : 'ignore', 'pipe', logFd ?? 'ignore'],
      // Its settings are on its command line; the configuration of the machine was for this process.
      env: { ...process.env, SHOAL_SUPERVISED: '1', SHOAL_CONFIG: '/dev/null' },
    })
  } finally {
    if (logFd !== undefined) closeSync(logFd)
  }

  const ended = new Promise<Ended>((resolve) => {
    child.once('error', () => resolve({ code: undefined, signal: undefined }))
    child.once('exit', (code, signal) => resolve({ code: code ?? undefined, signal: signal ?? undefined }))
  })
  // Without a listener a broken pipe would end this process; what happened is seen in `ended`.
  child.stdin?.on('error', () => undefined)
  const ready = new Promise<string>((resolve, reject) => {
    child.once('error', (error) => reject(new UsageError(`cannot start ${process.execPath}: ${error.message}`)))
    if (child.stdout === null) return
    let failure: string | undefined
    const lines = createInterface({ input: child.stdout })
    lines.on('line', (line) => {
      if (line.startsWith('ready ')) resolve(line.slice('ready '.length))
      if (line.startsWith('failed ')) failure = line.slice('failed '.length)
    })
    lines.on('close', () => {
      void ended.then((end) => reject(new UsageError(failure ?? `it ended ${describeEnd(end)} without saying why`)))
    })
  })
  // Whoever waits only for the end must not be punished for a failed start.
  ready.catch(() => undefined)

  return {
    pid: child.pid ?? 0,
    ready,
    ended,
    kill: (signal) => {
      child.kill(signal)
    },
    release: () => {
      child.stdout?.destroy()
      child.unref()
    },
  }
}
