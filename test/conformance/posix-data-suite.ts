/**
 * What POSIX and Linux say of the data, locks and listings of a file system, as a suite that runs on any directory: on a local one it shows
 * that the checks themselves are right. A process of its own makes the system calls (test/lib/posix-data.py).
 */
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { run } from '../lib/sh.ts'

const program = fileURLToPath(new URL('../lib/posix-data.py', import.meta.url))
const checksMin = 23

export const posixDataSuite = async (t: Test, directory: string): Promise<void> => {
  const { stdout, stderr } = await run('python3', [program, directory], { timeoutMs: 120_000 })
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
  for (const line of lines) {
    const { name, wrong } = JSON.parse(line) as { name: string; wrong?: string }
    if (wrong === undefined) t.pass(name)
    else t.fail(`${name}: ${wrong}`)
  }
  t.ok(lines.length >= checksMin, `it got to the end: ${lines.length} checks ${stderr.slice(-1000)}`)
}
