/** Runs the programs that mount and unmount, as children: this process must not touch the mount itself. */
import { spawn } from 'node:child_process'

export interface Ended {
  /** null: killed by a signal. */
  code: number | null
  stderr: string
}

/** Runs a program to its end; the descriptor becomes number 3 of it. */
export const run = (
  program: string,
  args: readonly string[],
  options: { fd?: number; timeoutMs?: number; env?: NodeJS.ProcessEnv } = {},
): Promise<Ended> =>
  new Promise((done) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'ignore', 'pipe', ...(options.fd === undefined ? [] : [options.fd])],
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      ...(options.timeoutMs === undefined ? {} : { timeout: options.timeoutMs, killSignal: 'SIGKILL' }),
    })
    let stderr = ''
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    child.on('error', (error) => done({ code: 127, stderr: error.message }))
    child.on('close', (code) => done({ code, stderr: stderr.trim() }))
  })
