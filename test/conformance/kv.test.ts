import { execFile, fork, spawn } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, readdir, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import type { PosixError } from '../../src/domain/errors.ts'
import type { KvChange } from '../../src/platform/kv-engine.ts'
import { openRocksDb } from '../../src/platform/rocksdb-engine.ts'
import { memoryKv, type MemoryKv } from '../lib/memory-kv.ts'
import { needs } from '../lib/needs.ts'
import { kvSuite } from './kv-suite.ts'

const run = promisify(execFile)

const directory = async (t: Test): Promise<string> => {
  const path = await mkdtemp(join(tmpdir(), 'shoal-kv-'))
  t.teardown(() => rm(path, { recursive: true, force: true }))
  return path
}

const all = { gte: Buffer.from([0]), lt: Buffer.from([0xff]), limit: 1_000_000 }
const put = (name: string, value: string): KvChange => ({
  type: 'put',
  key: Buffer.from(name),
  value: Buffer.from(value),
})

await kvSuite(t, 'RocksDB', async (t) => {
  const path = await directory(t)
  return {
    engine: await openRocksDb(path),
    reopen: async (engine) => {
      await engine.close()
      return openRocksDb(path)
    },
  }
})

await kvSuite(t, 'memory', async () => ({
  engine: memoryKv(),
  reopen: async (engine) => (engine as MemoryKv).reopen(),
}))

await t.test('RocksDB: a directory that cannot be used is a UsageError of one sentence', async (t) => {
  const path = await directory(t)
  const fails = (wrong: string, message: RegExp): Promise<unknown> =>
    t.rejects(openRocksDb(wrong), { name: 'UsageError', message }, wrong)

  const used = join(path, 'used')
  const engine = await openRocksDb(used)
  await fails(used, /used is in use by another Shoal master$/)
  await engine.write([put('a', '1')], { sync: true })
  await engine.close()

  await writeFile(join(path, 'file'), 'x')
  await fails(join(path, 'file'), /it is not a directory$/)
  await fails(join(path, 'file', 'below'), /not a directory$/)

  const damaged = join(path, 'damaged')
  await (await openRocksDb(damaged)).close()
  await writeFile(join(damaged, 'CURRENT'), 'nonsense\n')
  await fails(damaged, /may be damaged: /)

  const again = await openRocksDb(used)
  t.equal(String(await again.get(Buffer.from('a'))), '1', 'the refusals harmed nothing')
  await again.close()
})

await t.test('RocksDB: a missing directory is made with its parents', async (t) => {
  const path = join(await directory(t), 'a', 'b')
  const engine = await openRocksDb(path)
  await engine.close()
  t.ok((await readdir(path)).includes('CURRENT'))
})

await t.test('RocksDB: another process has the directory, and gives it up by being killed', async (t) => {
  const path = await directory(t)
  const program = join(path, 'holder.mjs')
  const data = join(path, 'data')
  await mkdir(data)
  // The binding alone, so that the child needs no loader for TypeScript.
  await writeFile(
    program,
    `import { createRequire } from 'node:module'
     const level = createRequire(${JSON.stringify(`${process.cwd()}/package.json`)})('level-rocksdb')
     const options = { keyEncoding: 'binary', valueEncoding: 'binary' }
     level(${JSON.stringify(data)}, options, async (error, db) => {
       for (let i = 0; ; i++) {
         await db.batch([{ type: 'put', key: Buffer.from('n'), value: Buffer.from(String(i)) }], { sync: true })
         process.send(i)
       }
     })`,
  )
  const child = fork(program, { execArgv: [] })
  t.teardown(() => child.kill('SIGKILL'))
  let last = -1
  const gone = new Promise((resolve) => child.once('exit', resolve))
  await new Promise<void>((resolve) => {
    child.on('message', (count) => {
      last = Number(count)
      if (last === 20) resolve()
    })
  })
  await t.rejects(openRocksDb(data), { name: 'UsageError', message: /in use by another Shoal master/ })
  child.kill('SIGKILL')
  await gone
  const engine = await openRocksDb(data)
  t.ok(Number(await engine.get(Buffer.from('n'))) >= last, 'what was acknowledged is there')
  await engine.close()
})

/** A copy of a directory as a crash leaves it: 100 synced batches of 1 KB, all in the log. */
const crashedDirectory = async (t: Test): Promise<{ path: string; log: string }> => {
  const path = await directory(t)
  const live = join(path, 'live')
  const engine = await openRocksDb(live)
  for (let i = 0; i < 100; i++) {
    // Values that differ, so that no piece of the log is like another.
    await engine.write([put(`k${String(i).padStart(3, '0')}`, `${i} `.repeat(300))], { sync: true })
  }
  const copy = join(path, 'copy')
  await cp(live, copy, { recursive: true })
  await engine.close()
  const log = (await readdir(copy)).find((name) => name.endsWith('.log'))!
  return { path: copy, log: join(copy, log) }
}

await t.test('RocksDB: a log that is torn at its end opens with everything before', async (t) => {
  const { path, log } = await crashedDirectory(t)
  const { size } = await stat(log)
  await truncate(log, size - 100)
  const engine = await openRocksDb(path)
  const entries = await engine.range(all)
  t.equal(entries.length, 99)
  await engine.close()
})

await t.test('RocksDB: garbage at the end of the log is a torn end too', async (t) => {
  const { path, log } = await crashedDirectory(t)
  const content = await readFile(log)
  content.fill(0xa5, content.length - 500)
  await writeFile(log, Buffer.concat([content, Buffer.alloc(40_000)]))
  const engine = await openRocksDb(path)
  t.equal((await engine.range(all)).length, 99)
  await engine.close()
})

await t.test('RocksDB: a flipped bit anywhere in the log is found, or nothing is missing', async (t) => {
  const { path, log } = await crashedDirectory(t)
  const content = await readFile(log)
  let refused = 0
  // Around every boundary that there is: headers, payloads, the ends of blocks.
  for (let at = 0; at < content.length; at += 1543) {
    const changed = Buffer.from(content)
    changed[at]! ^= 4
    const trial = `${path}-${at}`
    await cp(path, trial, { recursive: true })
    await writeFile(join(trial, log.slice(path.length + 1)), changed)
    try {
      const engine = await openRocksDb(trial)
      const count = (await engine.range(all)).length
      await engine.close()
      // In the last batch it cannot be told from a torn end.
      if (count < 99) t.fail(`byte ${at}: ${100 - count} batches are missing without a word`)
    } catch (error) {
      refused += 1
      if (refused === 1) {
        t.match(error, { name: 'UsageError', message: /is damaged: its log \d+\.log .* at byte \d+; restore/ })
      }
    }
    await rm(trial, { recursive: true })
  }
  t.ok(refused > 30, `${refused} were refused`)
})

await t.test('RocksDB: a disk that fills up refuses writes without effect', async (t) => {
  if (!(await needs(t, { root: true, programs: ['mount', 'umount'] }))) return
  const path = await directory(t)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=200m', 'tmpfs', path])
  t.teardown(() => run('umount', [path]))
  const data = join(path, 'data')
  const engine = await openRocksDb(data)
  await engine.write([put('before', '1')], { sync: true })
  const ballast = join(path, 'ballast')
  await run('fallocate', ['-l', String(185 * 1024 * 1024), ballast])
  await new Promise((resolve) => setTimeout(resolve, 600))
  await t.rejects(engine.write([put('during', '1')], { sync: true }), { name: 'PosixError', code: 'ENOSPC' })
  t.equal(await engine.get(Buffer.from('during')), undefined)
  t.equal(String(await engine.get(Buffer.from('before'))), '1', 'reading goes on')
  await rm(ballast)
  await new Promise((resolve) => setTimeout(resolve, 600))
  await engine.write([put('after', '1')], { sync: true })
  await engine.close()
  const again = await openRocksDb(data)
  t.same((await again.range(all)).map(({ key }) => String(key)).toSorted(), ['after', 'before'])
  await again.close()
})

await t.test('RocksDB: after a write that failed nothing is written until it is opened again', async (t) => {
  if (!(await needs(t, { root: true, programs: ['mount', 'umount'] }))) return
  const path = await directory(t)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=100m', 'tmpfs', path])
  t.teardown(() => run('umount', [path]))
  const data = join(path, 'data')
  const engine = await openRocksDb(data)
  await engine.write([put('before', '1')], { sync: true })
  const ballast = join(path, 'ballast')
  // Behind the engine's back: between its look at the free space and the write. Sooner or later one is hit.
  const fill = `const fs = require('fs'), block = Buffer.alloc(1e6), file = fs.openSync(${JSON.stringify(ballast)}, 'w')
    for (;;) try { fs.writeSync(file, block) } catch { fs.ftruncateSync(file); fs.writeSync(file, block, 0, 1, 0) }`
  const filler = spawn(process.execPath, ['-e', fill], { stdio: 'ignore' })
  const filled = new Promise((resolve) => filler.once('close', resolve))
  const large = 'x'.repeat(10_000_000)
  let code = 'none'
  for (let tries = 0; tries < 1000 && code !== 'EIO'; tries++) {
    code = await engine.write([put('during', large)], { sync: true }).then(
      () => 'none',
      (cause: PosixError) => cause.code,
    )
  }
  filler.kill('SIGKILL')
  await filled
  await rm(ballast, { force: true })
  t.equal(code, 'EIO', 'a write failed')
  await t.rejects(engine.write([put('after', '1')], { sync: true }), { name: 'PosixError', code: 'EIO' })
  t.equal(String(await engine.get(Buffer.from('before'))), '1', 'reading goes on')
  await engine.close()
  const again = await openRocksDb(data)
  t.equal(String(await again.get(Buffer.from('before'))), '1')
  t.equal(await again.get(Buffer.from('after')), undefined)
  await again.write([put('after', '1')], { sync: true })
  await again.close()
})

await t.test('RocksDB: a directory that went away fails writes until it is opened again', async (t) => {
  const path = await directory(t)
  const data = join(path, 'data')
  const engine = await openRocksDb(data)
  await engine.write([put('before', '1')], { sync: true })
  await rename(data, join(path, 'elsewhere'))
  await t.rejects(engine.write([put('during', '1')], { sync: true }), { name: 'PosixError', code: 'EIO' })
  await rename(join(path, 'elsewhere'), data)
  await t.rejects(engine.write([put('after', '1')], { sync: true }), { name: 'PosixError', code: 'EIO' })
  await engine.close()
  const again = await openRocksDb(data)
  t.same(
    (await again.range(all)).map(({ key }) => String(key)),
    ['before'],
  )
  await again.close()
})

await t.test('memory: a crash loses what was not synced', async (t) => {
  const engine = memoryKv()
  await engine.write([put('a', '1'), put('b', '1')], { sync: true })
  await engine.write([put('a', '2'), { type: 'del', key: Buffer.from('b') }, put('c', '1')], { sync: false })
  engine.crash()
  await t.rejects(engine.range(all))
  const again = engine.reopen()
  t.same(
    again.entries().map(({ key, value }) => `${String(key)}=${String(value)}`),
    ['a=1', 'b=1'],
  )
})
