/**
 * The benchmark: starts a fresh cluster with three copies in a temporary directory, mounts it, runs workloads.mjs in a process of
 * its own and prints its JSON lines, and at the end the memory of each process. It measures; it never fails on a time.
 *
 * usage: npm run bench -- [--scale=S] [--only=seq,par,small,par_small,tree] [--servers=N] [--base=DIR]
 *        npm run bench -- --dir=DIR          the same rows for any directory, without a cluster
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    scale: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    servers: { type: 'string', default: '3' },
    base: { type: 'string', default: tmpdir() },
    dir: { type: 'string' },
  },
})

const shoal = process.env.SHOAL_CLI ?? fileURLToPath(new URL('../../dist/src/cli/shoal.js', import.meta.url))
const workloads = fileURLToPath(new URL('workloads.mjs', import.meta.url))

const exited = (child) => new Promise((resolve) => child.once('exit', (code) => resolve(code ?? 1)))

const measure = (directory) => {
  const args = [workloads, directory, `--scale=${values.scale}`, `--only=${values.only}`]
  return exited(spawn(process.execPath, args, { stdio: 'inherit' }))
}

const memory = (pid) => {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const kib = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1])
    return { now: kib('VmRSS') / 1024, peak: kib('VmHWM') / 1024 }
  } catch {
    return undefined
  }
}

const roleName = (pid) => {
  const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  const role = words.find((word) => ['master', 'chunkserver', 'mount'].includes(word)) ?? 'other'
  const data = words.find((word) => word.startsWith('--data='))
  return role === 'chunkserver' ? `chunkserver_${/(\d+)$/.exec(data ?? '')?.[1] ?? pid}` : role
}

const onCluster = async () => {
  const base = mkdtempSync(join(values.base, 'shoal-bench-'))
  const directory = join(base, 'mnt')
  mkdirSync(directory)
  const args = [shoal, 'up', directory, `--data=${join(base, 'data')}`, `--servers=${values.servers}`, `--copies=3`]
  const cluster = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  const ended = exited(cluster)
  // Ctrl-C here stops the cluster in order, and with it the workload.
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => cluster.kill('SIGTERM'))
  let code = 1
  try {
    const lines = createInterface({ input: cluster.stdout })
    const mounted = new Promise((resolve) => {
      lines.on('line', (line) => {
        process.stderr.write(`${line}\n`)
        if (line.startsWith('Shoal is mounted')) resolve(true)
      })
    })
    if ((await Promise.race([mounted, ended])) !== true) return 1
    code = await measure(directory)
    const { pids } = JSON.parse(readFileSync(join(base, 'data', 'up.json'), 'utf8'))
    for (const pid of pids) {
      const used = memory(pid)
      if (used === undefined) continue
      for (const [kind, value] of Object.entries(used)) {
        const name = `rss_${kind}_${roleName(pid)}`
        process.stdout.write(`${JSON.stringify({ name, value: Math.round(value), unit: 'MiB' })}\n`)
      }
    }
  } finally {
    cluster.kill('SIGTERM')
    await ended
    rmSync(base, { recursive: true, force: true })
  }
  return code
}

process.exitCode = values.dir === undefined ? await onCluster() : await measure(values.dir)
