/** A counting mount (counting-mount.ts) of a cluster, driven by a test. */
import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { forceUnmount } from './cluster.ts'
import type { Cluster } from './cluster.ts'

const program = fileURLToPath(new URL('counting-mount.ts', import.meta.url))
/** Of tap's loaders the one for TypeScript. */
const loader = process.execArgv.filter((argument) => argument.includes('@tapjs/typescript'))

interface Teardown {
  teardown(work: () => Promise<void>): unknown
}

export interface CountedMount {
  readonly directory: string
  readonly pid: number
  /** Operations since the mount began; FORGETs are not among them. */
  counts(): Promise<Record<string, number>>
  /** How many operations something took, by their names. */
  during(work: () => Promise<unknown>): Promise<Record<string, number>>
}

export const countedMount = async (t: Teardown, cluster: Cluster): Promise<CountedMount> => {
  const directory = join(cluster.directory, 'counted')
  await mkdir(directory)
  const child = spawn(process.execPath, [...loader, program, cluster.masterAddress, directory], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  t.teardown(async () => {
    child.kill('SIGCONT')
    child.stdin.end()
    await Promise.race([exited, sleep(5000)])
    await forceUnmount(directory)
    child.kill('SIGKILL')
    await exited
  })
  const waiting: ((line: string) => void)[] = []
  createInterface(child.stdout).on('line', (line) => waiting.shift()?.(line))
  const nextLine = (): Promise<string> =>
    Promise.race([
      new Promise<string>((resolve) => waiting.push(resolve)),
      exited.then(() => Promise.reject(new Error('the counting mount has ended'))),
    ])
  await nextLine()
  const counts = async (): Promise<Record<string, number>> => {
    const line = nextLine()
    child.stdin.write('\n')
    const { forget: _forget, ...others } = JSON.parse(await line) as Record<string, number>
    return others
  }
  return {
    directory,
    pid: child.pid ?? 0,
    counts,
    during: async (work) => {
      const before = await counts()
      await work()
      const after = await counts()
      return Object.fromEntries(
        Object.entries(after)
          .map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
          .filter(([, count]) => count > 0),
      )
    },
  }
}
