/**
 * The benchmark: starts a fresh cluster with three copies in a temporary directory, mounts it, runs workloads.mjs in a process of
 * its own and prints its JSON lines, and at the end the memory of each process. It measures; it never fails on a time.
 *
 * usage: npm run bench -- [--scale=S] [--only=seq,par,small,par_small,tree] [--servers=N] [--base=DIR]
 *        npm run bench -- --dir=DIR          the same rows for any directory, without a cluster
 *        npm run bench:empty                 small files on a FUSE server that answers from its memory, then on a cluster, then the ratios: what
 *                                            the kernel and this driver take of the time, and what is left to be gained
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
    empty: { type: 'boolean', default: false },
  },
})

const pathOf = (relative) => fileURLToPath(new URL(relative, import.meta.url))
const shoal = process.env.SHOAL_CLI ?? pathOf('../../dist/src/cli/shoal.js')
const emptyServer = pathOf('../../build/sim/test/lib/memory-mount.js')
const workloads = pathOf('workloads.mjs')
const rows = values.empty ? 'small' : values.only

const exited = (child) => new Promise((resolve) => child.once('exit', (code) => resolve(code ?? 1)))

const print = (row) => process.stdout.write(`${JSON.stringify(row)}\n`)

/** Prints the rows; they are put into `measured`, too. */
const measure = (directory, measured = new Map()) => {
  const args = [workloads, directory, `--scale=${values.scale}`, `--only=${rows}`]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  createInterface({ input: child.stdout }).on('line', (line) => {
    const row = JSON.parse(line)
    measured.set(row.name, row.value)
    print(row)
  })
  return exited(child)
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

const onCluster = async (measured) => {
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
    code = await measure(directory, measured)
    const { pids } = JSON.parse(readFileSync(join(base, 'data', 'up.json'), 'utf8'))
    for (const pid of pids) {
      const used = memory(pid)
      if (used === undefined) continue
      for (const [kind, value] of Object.entries(used)) {
        print({ name: `rss_${kind}_${roleName(pid)}`, value: Math.round(value), unit: 'MiB' })
      }
    }
  } finally {
    cluster.kill('SIGTERM')
    await ended
    rmSync(base, { recursive: true, force: true })
  }
  return code
}

const onEmptyServer = async (measured) => {
  const directory = mkdtempSync(join(values.base, 'shoal-bench-'))
  const env = { ...process.env, VALIDITY_MS: 'Infinity' }
  const server = spawn(process.execPath, [emptyServer, directory], { stdio: ['ignore', 'pipe', 'inherit'], env })
  const ended = exited(server)
  try {
    const mounted = new Promise((resolve) => server.stdout.once('data', () => resolve(true)))
    if ((await Promise.race([mounted, ended])) !== true) return 1
    return await measure(directory, measured)
  } finally {
    server.kill('SIGTERM')
    await ended
    rmSync(directory, { recursive: true, force: true })
  }
}

const besideEmptyServer = async () => {
  const [empty, cluster] = [new Map(), new Map()]
  const code = (await onEmptyServer(empty)) || (await onCluster(cluster))
  for (const [name, value] of cluster) {
    print({ name: `${name}_to_empty`, value: Math.round((value / empty.get(name)) * 100) / 100, unit: 'ratio' })
  }
  return code
}

if (values.dir !== undefined) process.exitCode = await measure(values.dir)
else process.exitCode = await (values.empty ? besideEmptyServer() : onCluster())
