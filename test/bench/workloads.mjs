/**
 * The workloads of the benchmark, on any directory. Runs in a process of its own with synchronous calls, as ordinary programs do.
 * Each row is one JSON line {name, value, unit}: work done divided by wall time, the final fsync or close included; higher is better.
 *
 * usage: node workloads.mjs DIR [--scale=S] [--only=seq,par,small,par_small,tree] [--cold=COMMAND]
 * COMMAND runs before each cold measurement; by default the kernel's caches are dropped (as root).
 */
import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const MiB = 1 << 20

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    scale: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    cold: { type: 'string', default: 'sync; echo 3 > /proc/sys/vm/drop_caches' },
    // One of four writers of small files; started by this program itself.
    creator: { type: 'boolean', default: false },
  },
})
const [base] = positionals
if (base === undefined) throw new Error('usage: workloads.mjs DIR')
const scale = Number(values.scale)
const only = new Set(values.only.split(',').filter((name) => name !== ''))

const wants = (name) => only.size === 0 || only.has(name)
const scaled = (count) => Math.max(1, Math.round(count * scale))
const report = (name, value, unit) => {
  process.stdout.write(`${JSON.stringify({ name, value: Math.round(value * 100) / 100, unit })}\n`)
}
const cold = () => {
  execFileSync('sh', ['-c', values.cold], { stdio: 'ignore' })
}
const seconds = (work) => {
  const start = performance.now()
  work()
  return (performance.now() - start) / 1000
}
const secondsAsync = async (work) => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

/** The same bytes and places in every run: a small generator (mulberry32) with a fixed seed. */
const generator = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
  return (mixed ^ (mixed >>> 14)) >>> 0
}
const block = Buffer.alloc(MiB)
const next = generator(7)
for (let offset = 0; offset < MiB; offset += 4) block.writeUInt32LE(next(), offset)
const small = block.subarray(0, 4096)

const writeFile = (path, data, flags, sync = false) => {
  const file = fs.openSync(path, flags)
  fs.writeSync(file, data)
  if (sync) fs.fsyncSync(file)
  fs.closeSync(file)
}

const readThrough = (path) => {
  const file = fs.openSync(path, 'r')
  const buffer = Buffer.allocUnsafe(MiB)
  let total = 0
  for (let count = fs.readSync(file, buffer); count > 0; count = fs.readSync(file, buffer)) {
    if (count === MiB && total % MiB === 0 && !buffer.equals(block)) throw new Error(`${path}: wrong data at ${total}`)
    total += count
  }
  fs.closeSync(file)
  return total
}

const sequential = (root) => {
  const path = join(root, 'big')
  const blocks = scaled(768)
  const size = blocks * MiB
  const written = seconds(() => {
    const file = fs.openSync(path, 'wx')
    for (let index = 0; index < blocks; index += 1) fs.writeSync(file, block)
    fs.fsyncSync(file)
    fs.closeSync(file)
  })
  report('seq_write', blocks / written, 'MiB/s')
  cold()
  const coldRead = seconds(() => {
    if (readThrough(path) !== size) throw new Error('seq_read_cold: wrong size')
  })
  report('seq_read_cold', blocks / coldRead, 'MiB/s')
  report('seq_read_warm', blocks / seconds(() => readThrough(path)), 'MiB/s')

  cold()
  const random = generator(1)
  const place = () => (random() % (size / 4096)) * 4096
  const reads = scaled(3000)
  const reader = fs.openSync(path, 'r')
  const page = Buffer.allocUnsafe(4096)
  const readTime = seconds(() => {
    for (let index = 0; index < reads; index += 1) {
      const position = place()
      fs.readSync(reader, page, 0, 4096, position)
      if (page.readUInt32LE(0) !== block.readUInt32LE(position % MiB))
        throw new Error(`rand_read: wrong data at ${position}`)
    }
  })
  fs.closeSync(reader)
  report('rand_read_4k_cold', reads / readTime, 'IOPS')

  const writes = scaled(1000)
  const writer = fs.openSync(path, 'r+')
  const writeTime = seconds(() => {
    for (let index = 0; index < writes; index += 1) {
      fs.writeSync(writer, small, 0, 4096, place())
      fs.fsyncSync(writer)
    }
  })
  fs.closeSync(writer)
  report('rand_write_4k_fsync', writes / writeTime, 'IOPS')
  fs.unlinkSync(path)
}

const smallFiles = (root) => {
  const count = scaled(3000)
  const directory = join(root, 'small')
  const name = (prefix, index) => join(directory, `${prefix}${`${index}`.padStart(6, '0')}`)
  const each = (work) =>
    seconds(() => {
      for (let index = 0; index < count; index += 1) work(index)
    })
  fs.mkdirSync(directory)
  report('create_4k', count / each((index) => writeFile(name('f', index), small, 'wx')), 'files/s')
  report('stat_warm', count / each((index) => fs.statSync(name('f', index))), 'ops/s')
  cold()
  const listing = seconds(() => {
    const names = fs.readdirSync(directory)
    if (names.length !== count) throw new Error(`ls_l_cold: ${names.length} of ${count} entries`)
    for (const entry of names) fs.lstatSync(join(directory, entry))
  })
  report('ls_l_cold', count / listing, 'entries/s')
  cold()
  const reading = each((index) => {
    if (!fs.readFileSync(name('f', index)).equals(small)) throw new Error('read_4k_cold: wrong data')
  })
  report('read_4k_cold', count / reading, 'files/s')
  report('rename', count / each((index) => fs.renameSync(name('f', index), name('g', index))), 'ops/s')
  report('unlink', count / each((index) => fs.unlinkSync(name('g', index))), 'ops/s')
  fs.rmdirSync(directory)

  const directories = Math.max(1, Math.floor(count / 2))
  const making = seconds(() => {
    for (let index = 0; index < directories; index += 1) fs.mkdirSync(join(root, `d${index}`))
  })
  report('mkdir', directories / making, 'ops/s')
  for (let index = 0; index < directories; index += 1) fs.rmdirSync(join(root, `d${index}`))

  const synced = Math.max(50, Math.floor(count / 10))
  const syncing = seconds(() => {
    for (let index = 0; index < synced; index += 1) writeFile(join(root, `s${index}`), small, 'wx', true)
  })
  report('create_4k_fsync', synced / syncing, 'files/s')
  for (let index = 0; index < synced; index += 1) fs.unlinkSync(join(root, `s${index}`))
}

const creator = (directory) => {
  fs.mkdirSync(directory)
  for (let index = 0; index < scaled(1500); index += 1) writeFile(join(directory, `f${index}`), small, 'wx')
}

const parallelSmallFiles = async (root) => {
  const files = 4 * scaled(1500)
  const directories = [0, 1, 2, 3].map((index) => join(root, `ps${index}`))
  const time = await secondsAsync(() =>
    Promise.all(
      directories.map(
        (directory) =>
          new Promise((resolve, reject) => {
            const args = [fileURLToPath(import.meta.url), directory, '--creator', `--scale=${scale}`]
            spawn(process.execPath, args, { stdio: 'inherit' })
              .once('error', reject)
              .once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`a writer ended with ${code}`))))
          }),
      ),
    ),
  )
  report('par4_create_4k', files / time, 'files/s')
  report('rm_rf', files / seconds(() => execFileSync('rm', ['-rf', ...directories])), 'files/s')
}

/** A tree like that of a source distribution: many small files of different sizes in nested directories, out of an archive. */
const tree = (root) => {
  const scratch = fs.mkdtempSync(join(tmpdir(), 'shoal-bench-tree-'))
  const random = generator(3)
  let entries = 0
  try {
    for (let outer = 0; outer < scaled(40); outer += 1) {
      for (let inner = 0; inner < 3; inner += 1) {
        const directory = join(scratch, 'tree', `d${outer}`, `e${inner}`)
        fs.mkdirSync(directory, { recursive: true })
        entries += inner === 0 ? 2 : 1
        for (let index = 0; index < 8; index += 1) {
          // Most are small and some large, as in a source tree.
          const size = random() % 10 === 0 ? 20_000 + (random() % 60_000) : random() % 8000
          fs.writeFileSync(join(directory, `file-${index}.h`), block.subarray(0, size))
          entries += 1
        }
      }
    }
    const archive = join(scratch, 'tree.tar')
    execFileSync('tar', ['cf', archive, '-C', scratch, 'tree'])
    report('untar', entries / seconds(() => execFileSync('tar', ['xf', archive, '-C', root])), 'entries/s')
    cold()
    const grep = seconds(() =>
      execFileSync('sh', ['-c', 'grep -rc NODE_MODULE "$1" || true', 'sh', join(root, 'tree')]),
    )
    report('grep_r_cold', entries / grep, 'entries/s')
    execFileSync('diff', ['-r', join(scratch, 'tree'), join(root, 'tree')])
    report('rm_tree', entries / seconds(() => execFileSync('rm', ['-rf', join(root, 'tree')])), 'entries/s')
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true })
  }
}

const parallelWrite = async (root) => {
  const blocks = scaled(192)
  const paths = [0, 1, 2, 3].map((index) => join(root, `p${index}`))
  const writer = async (path) => {
    const file = await fs.promises.open(path, 'wx')
    for (let index = 0; index < blocks; index += 1) await file.write(block)
    await file.sync()
    await file.close()
  }
  const time = await secondsAsync(() => Promise.all(paths.map(writer)))
  report('par4_write', (4 * blocks) / time, 'MiB/s')
  for (const path of paths) fs.unlinkSync(path)
}

if (values.creator) {
  creator(base)
} else {
  const root = join(base, `bench-${process.pid}`)
  fs.mkdirSync(root)
  try {
    if (wants('seq')) sequential(root)
    if (wants('par')) await parallelWrite(root)
    if (wants('small')) smallFiles(root)
    if (wants('par_small')) await parallelSmallFiles(root)
    if (wants('tree')) tree(root)
  } finally {
    fs.rmSync(root, { recursive: true, force: true })
  }
}
