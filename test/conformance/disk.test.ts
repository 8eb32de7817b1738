import { execFile, spawn } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { mkdtemp, open, readFile, readdir, readlink, rm, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { isAligned, takeBuffer } from '../../src/platform/buffer-pool.ts'
import { nativeDisk } from '../../src/platform/native-disk.ts'
import { realDisk } from '../../src/platform/real-disk.ts'
import { simulatedDisk } from '../lib/simulated-disk.ts'
import { needs } from '../lib/needs.ts'
import { diskSuite } from './disk-suite.ts'

const run = promisify(execFile)

const directory = async (t: Test): Promise<string> => {
  const path = await mkdtemp(join(tmpdir(), 'shoal-disk-'))
  t.teardown(() => rm(path, { recursive: true, force: true }))
  return path
}

await diskSuite(t, 'real', async (t) => ({ disk: realDisk, directory: await directory(t) }))
await diskSuite(t, 'simulated', async () => {
  const disk = simulatedDisk()
  await disk.mkdir('/data')
  return { disk, directory: '/data' }
})

await t.test('real: the lock is seen by other processes, and held by them until they are killed', async (t) => {
  const path = await directory(t)
  const held = await realDisk.lock(path)
  const attempt = (): Promise<unknown> => run('flock', ['-n', join(path, 'LOCK'), 'true'])
  await t.rejects(attempt(), { code: 1 })
  await held.release()
  await attempt()

  // exec makes the process that holds the lock the one that we kill.
  const child = spawn('sh', ['-c', `exec 9>${join(path, 'LOCK')}; flock 9; echo locked; exec sleep 60`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  await new Promise((resolve) => child.stdout.once('data', resolve))
  await t.rejects(realDisk.lock(path), { code: 'EBUSY' })
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await gone
  const again = await realDisk.lock(path)
  await again.release()
})

await t.test('real: a command that cannot be run for lack of descriptors is a failure, and no more', async (t) => {
  if (!(await needs(t, { programs: ['prlimit'] }))) return
  const path = await directory(t)
  const limit = async (files: string): Promise<string> => {
    const { stdout } = await run('prlimit', ['--pid', String(process.pid), '--nofile', '--output=SOFT', '--noheadings'])
    await run('prlimit', ['--pid', String(process.pid), `--nofile=${files}:`])
    return stdout.trim()
  }
  const before = await limit('200')
  const opened: number[] = []
  try {
    for (;;) opened.push(openSync('/dev/null', 'r'))
  } catch {
    // Room for the lock's own file, and nothing else.
    closeSync(opened.pop()!)
  }
  const locked = await realDisk.lock(path).catch((caught: unknown) => caught)
  for (const descriptor of opened) closeSync(descriptor)
  await limit(before)
  t.match(locked, { name: 'PosixError', message: /flock.*EMFILE/ })
  const held = await realDisk.lock(path)
  await held.release()
})

await t.test('real: files are for their owner alone', async (t) => {
  const path = await directory(t)
  await realDisk.mkdir(join(path, 'made'))
  await realDisk.replaceFile(join(path, 'secret'), Buffer.from('x'))
  t.equal((await stat(join(path, 'made'))).mode & 0o077, 0)
  t.equal((await stat(join(path, 'secret'))).mode & 0o077, 0)
})

await t.test('simulated: what was synced survives power loss, what was not may be lost or torn', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 60; seed++) {
    const disk = simulatedDisk({ seed })
    await disk.mkdir('/data')
    await disk.syncDirectory('/')
    const file = await disk.open('/data/file', { create: true })
    await file.write([Buffer.alloc(8192, 1)], 0)
    await file.sync()
    await disk.syncDirectory('/data')
    await file.write([Buffer.alloc(4096, 2)], 4096)
    await file.write([Buffer.alloc(4096, 3)], 8192)
    disk.crash()
    await t.rejects(file.read(Buffer.alloc(1), 0), { code: 'EIO' }, 'open files are dead')
    const content = await disk.readFile('/data/file')
    if (!content?.subarray(0, 4096).equals(Buffer.alloc(4096, 1))) t.fail(`seed=${seed}: synced bytes were lost`)
    const second = content!.subarray(4096, 8192)
    if (!second.every((byte) => byte === 1 || byte === 2)) t.fail(`seed=${seed}: invented bytes`)
    outcomes.add(
      `${content!.length > 8192 ? 'long' : 'short'} ${second.every((byte) => byte === 2) ? 'new' : second.every((byte) => byte === 1) ? 'old' : 'torn'}`,
    )
  }
  for (const outcome of ['short old', 'short new', 'long old', 'long new', 'long torn', 'short torn']) {
    t.ok(outcomes.has(outcome), outcome)
  }
})

await t.test('simulated: what a sync failed for can be read, and no later sync makes it durable', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 60; seed++) {
    const disk = simulatedDisk({ seed })
    const file = await disk.open('/file', { create: true })
    await disk.syncDirectory('/')
    await file.write([Buffer.alloc(8192, 1)], 0)
    disk.fail({ call: 'sync', code: 'EIO', times: 1 })
    await t.rejects(file.sync(), { code: 'EIO' })
    disk.restart()
    const again = await disk.open('/file')
    await again.write([Buffer.alloc(4096, 2)], 0)
    await again.sync()
    const expected = Buffer.concat([Buffer.alloc(4096, 2), Buffer.alloc(4096, 1)])
    if (!disk.content('/file')!.equals(expected)) t.fail(`seed=${seed}: it cannot be read`)
    disk.crash()
    const content = disk.content('/file')!
    if (!content.subarray(0, 4096).equals(expected.subarray(0, 4096)))
      t.fail(`seed=${seed}: what was written again is lost`)
    outcomes.add(content.length === 4096 ? 'lost' : content.equals(expected) ? 'kept' : 'torn')
  }
  t.same(outcomes, new Set(['lost', 'kept', 'torn']))
})

await t.test('simulated: names need a sync of their directory', async (t) => {
  const outcomes = new Set<boolean>()
  for (let seed = 0; seed < 30; seed++) {
    const disk = simulatedDisk({ seed })
    await disk.mkdir('/data')
    await disk.syncDirectory('/')
    const file = await disk.open('/data/file', { create: true })
    await file.sync()
    disk.crash()
    outcomes.add((await disk.readFile('/data/file')) !== undefined)
  }
  t.same(outcomes, new Set([false, true]), 'lost or kept')
})

await t.test('simulated: a replaced file is the old or the new one, whenever power fails', async (t) => {
  for (let seed = 0; seed < 60; seed++) {
    const disk = simulatedDisk({ seed })
    await disk.mkdir('/data')
    await disk.syncDirectory('/')
    await disk.replaceFile('/data/state', Buffer.alloc(3000, 1))
    const replacing = disk.replaceFile('/data/state', Buffer.alloc(5000, 2)).then(
      () => 'done',
      () => 'failed',
    )
    for (let turns = 0; turns < seed % 6; turns++) await new Promise((resolve) => setImmediate(resolve))
    disk.crash()
    const outcome = await replacing
    const content = await disk.readFile('/data/state')
    const isNew = content?.equals(Buffer.alloc(5000, 2))
    if (!isNew && (outcome === 'done' || !content?.equals(Buffer.alloc(3000, 1)))) t.fail(`seed=${seed}`)
  }
  t.pass('60 seeds')
})

await t.test('simulated: a full disk, faults on demand, flipped bits, a restart', async (t) => {
  const disk = simulatedDisk({ capacityBytes: 16_384 })
  const file = await disk.open('/file', { create: true })
  await file.write([Buffer.alloc(12_288, 1)], 0)
  await t.rejects(file.write([Buffer.alloc(8192, 2)], 12_288), { code: 'ENOSPC' })
  t.equal((await file.stat()).size, 12_288, 'without effect')
  await file.write([Buffer.alloc(4096, 3)], 0)
  await file.punch({ offset: 4096, length: 8192 })
  t.equal((await disk.space('/')).freeBytes, 12_288)

  disk.fail({ call: 'sync', path: /file$/, code: 'EIO', times: 1 })
  await t.rejects(file.sync(), { code: 'EIO' })
  await file.sync()

  disk.flipBit('/file', 5)
  const byte = Buffer.alloc(1)
  await file.read(byte, 5)
  t.equal(byte[0], 2)

  await disk.lock('/')
  disk.restart()
  await t.rejects(file.sync(), { code: 'EIO' })
  await disk.lock('/')
  t.equal((await disk.readFile('/file'))?.length, 12_288, 'the machine went on living')
})

await t.test('a write that failed is told from a sync that failed', async (t) => {
  const data = { buffers: [Buffer.alloc(4096, 1)], position: 0 }
  const full = await realDisk.open('/dev/full')
  await t.rejects(full.writeAndSync([data]), { name: 'PosixError', code: 'ENOSPC' })
  await full.close()
  const unsyncable = await realDisk.open('/dev/zero')
  t.match(await unsyncable.writeAndSync([data]), { name: 'PosixError', code: 'EINVAL' })
  await unsyncable.close()

  const disk = simulatedDisk()
  const file = await disk.open('/file', { create: true })
  disk.fail({ call: 'write', code: 'EIO', times: 1 })
  await t.rejects(file.writeAndSync([data]), { name: 'PosixError', code: 'EIO' })
  t.equal(disk.calls.get('sync') ?? 0, 0)
  disk.fail({ call: 'sync', code: 'EIO', times: 1 })
  t.match(await file.writeAndSync([data]), { name: 'PosixError', code: 'EIO' })
})

/** The flags of each descriptor that this process has of a file. */
const flagsOf = async (path: string): Promise<number[]> => {
  const flags: number[] = []
  for (const fd of await readdir('/proc/self/fd')) {
    const target = await readlink(`/proc/self/fd/${fd}`).catch(() => '')
    if (target !== path) continue
    const info = await readFile(`/proc/self/fdinfo/${fd}`, 'utf8')
    flags.push(Number.parseInt(/^flags:\s*(\d+)/m.exec(info)![1]!, 8))
  }
  return flags
}

await t.test(
  'real: what is large and aligned goes past the page cache, and everything is where it belongs',
  async (t) => {
    const mebibyte = 1024 * 1024
    const path = join(await directory(t), 'file')
    const file = await realDisk.open(path, { create: true })
    const expected = Buffer.alloc(6 * mebibyte)
    const write = async (position: number, ...buffers: Buffer[]): Promise<void> => {
      let at = position
      for (const buffer of buffers) {
        buffer.fill((at / 4096) % 251)
        at += buffer.copy(expected, at)
      }
      await file.write(buffers, position)
    }
    await write(0, Buffer.alloc(mebibyte))
    t.equal((await flagsOf(path)).length, 1, 'memory of unknown alignment')
    await write(mebibyte, takeBuffer(128 * 1024))
    t.equal((await flagsOf(path)).length, 1, 'too little to be worth it')
    await write(mebibyte + 8, takeBuffer(mebibyte))
    t.equal((await flagsOf(path)).length, 1, 'a place that is not aligned')

    const large = takeBuffer(mebibyte + 4096)
    t.equal(isAligned(large.subarray(4096)), nativeDisk !== undefined)
    t.notOk(isAligned(large.subarray(8)))
    await Promise.all([
      write(2 * mebibyte, large.subarray(4096)),
      write(3 * mebibyte, takeBuffer(mebibyte), takeBuffer(300 * 1024), takeBuffer(70_000), Buffer.alloc(1000)),
    ])
    const flags = await flagsOf(path)
    const possible = await open(path, constants.O_RDONLY | constants.O_DIRECT).then(
      (handle) => handle.close().then(() => nativeDisk !== undefined),
      () => false,
    )
    t.equal(
      flags.some((each) => (each & constants.O_DIRECT) !== 0),
      possible,
    )
    await write(2 * mebibyte - 5000, Buffer.alloc(3 * 4096))
    await write(5 * mebibyte, takeBuffer(mebibyte))
    await file.sync()
    const found = Buffer.alloc(expected.length)
    t.equal(await file.read(found, 0), expected.length)
    t.ok(found.equals(expected))
    await file.close()
    t.same(await flagsOf(path), [])
  },
)

await t.test('real: a file system without direct writes takes large ones all the same', async (t) => {
  const path = await mkdtemp('/dev/shm/shoal-disk-')
  t.teardown(() => rm(path, { recursive: true, force: true }))
  const file = await realDisk.open(join(path, 'file'), { create: true })
  const data = takeBuffer(1024 * 1024).fill(5)
  await Promise.all([file.write([data], 0), file.write([data], data.length)])
  await file.write([data], 2 * data.length)
  const found = Buffer.alloc(3 * data.length)
  t.equal(await file.read(found, 0), found.length)
  t.ok(found.every((byte) => byte === 5))
  await file.close()
})

await t.test('real: a write goes to the disk although the process can open no more files', async (t) => {
  const path = join(await directory(t), 'file')
  const file = await realDisk.open(path, { create: true })
  const data = takeBuffer(1024 * 1024).fill(7)
  const setLimit = (soft: number | string): unknown =>
    run('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`])
  const { stdout } = await run('prlimit', ['--pid', String(process.pid), '--nofile', '--noheadings', '--output=SOFT'])
  const others: FileHandle[] = []
  try {
    await setLimit((await readdir('/proc/self/fd')).length + 50)
    for (let full = false; !full;) {
      await open('/dev/null').then(
        (handle) => others.push(handle),
        () => (full = true),
      )
    }
    await file.write([data], 0)
  } finally {
    for (const handle of others) await handle.close()
    await setLimit(stdout.trim())
  }
  await file.write([data], data.length)
  const found = Buffer.alloc(2 * data.length)
  t.equal(await file.read(found, 0), found.length)
  t.ok(found.every((byte) => byte === 7))
  await file.close()
})
