/**
 * Runs a program with a timeout, without blocking: a test that waits for a program in a mount must leave its own event loop free.
 * Its whole process group is killed at the timeout, so nothing that it started stays behind.
 */
import { spawn } from 'node:child_process'

export interface Ran {
  stdout: string
  stderr: string
  /** 128 + the signal's place is not used: a program that was killed has code -1 and its signal. */
  code: number
  signal: NodeJS.Signals | undefined
}

export interface RunOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  input?: string | Buffer
  /** After this a program counts as hanging; default 180 s, which a busy machine may need for a copy of some thousand files. */
  timeoutMs?: number
}

/** Ends with whatever exit code; rejects only when the program cannot be started or does not end in time. */
export const run = (program: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Ran> =>
  new Promise((resolve, reject) => {
    const timeoutMs = options.timeoutMs ?? 180_000
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    const out: Buffer[] = []
    const err: Buffer[] = []
    child.stdout.on('data', (bytes: Buffer) => out.push(bytes))
    child.stderr.on('data', (bytes: Buffer) => err.push(bytes))
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
    const timer = setTimeout(() => {
      const { pid } = child
      if (pid !== undefined) {
        try {
          process.kill(-pid, 'SIGKILL')
        } catch {
          // It ended at this very moment.
        }
      }
      const tail = Buffer.concat(err).toString('utf8').slice(-2000)
      reject(new Error(`${program} ${args.join(' ')} did not end within ${timeoutMs} ms; it said: ${tail}`))
    }, timeoutMs)
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      resolve({
        stdout: Buffer.concat(out).toString('utf8'),
        stderr: Buffer.concat(err).toString('utf8'),
        code: code ?? -1,
        signal: signal ?? undefined,
      })
    })
  })

/** The standard output of a program that has to succeed; otherwise it rejects with all that it said. */
export const check = async (
  program: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<string> => {
  const ran = await run(program, args, options)
  if (ran.code !== 0) {
    const how = ran.signal === undefined ? `exit code ${ran.code}` : ran.signal
    const said = `${ran.stdout.slice(-2000)}${ran.stderr.slice(-2000)}`
    throw new Error(`${program} ${args.join(' ')} ended with ${how}: ${said}`)
  }
  return ran.stdout
}

/** A bash script that has to succeed; it stops at the first failing command. */
export const sh = (script: string, options: RunOptions = {}): Promise<string> =>
  check('bash', ['-euo', 'pipefail', '-c', script], options)
