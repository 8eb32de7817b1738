/** The file system as a whole: real master, chunk servers and clients in one process. */
import t from 'tap'
import type { Test } from 'tap'
import type { FileSystem, Handle } from '../../../src/client/file-system.ts'
import { code } from '../../lib/answers.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const O_APPEND = 0o2000
const O_TRUNC = 0o1000
const O_EXCL = 0o200
const noKill = { killPrivileges: false }

const create = async (fs: FileSystem, name: string, flags = O_RDWR): Promise<{ handle: Handle; ino: bigint }> => {
  const { entry, opened } = await fs.create(caller(), fs.root, Buffer.from(name), 0o644, flags)
  return { handle: opened.handle, ino: entry.attributes.ino }
}

const openByName = async (fs: FileSystem, name: string, flags = O_RDWR): Promise<Handle> => {
  const { attributes } = await fs.lookup(caller(), fs.root, Buffer.from(name))
  return (await fs.open(caller(), attributes.ino, flags)).handle
}

const readAll = async (fs: FileSystem, handle: Handle): Promise<Buffer> => {
  const parts: Buffer[] = []
  for (let offset = 0; ;) {
    const part = await fs.read(caller(), handle, BigInt(offset), 256 * 1024)
    if (part.length === 0) return Buffer.concat(parts)
    parts.push(part)
    offset += part.length
  }
}

/** Bytes that differ from place to place. */
const pattern = (length: number, seed = 1): Buffer => {
  const data = Buffer.alloc(length)
  for (let i = 0; i + 4 <= length; i += 4) data.writeUInt32LE((i * 2654435761 + seed * 40503) >>> 0, i)
  return data
}

const same = (t: Test, found: Buffer, wanted: Buffer, message: string): void => {
  t.equal(found.length, wanted.length, `${message}: length`)
  t.ok(found.equals(wanted), message)
}

t.test('small files, inline and beyond', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'small')
  await a.write(caller(), handle, 0n, Buffer.from('hello'), noKill)
  same(t, await readAll(a, handle), Buffer.from('hello'), 'own buffered data')
  t.equal((await a.getattr(caller(), ino as never)).attributes.size, 5n, 'size of buffered data')
  const other = await openByName(b, 'small')
  same(t, await readAll(b, other), Buffer.from('hello'), 'another client sees what was written')
  t.equal((await b.getattr(caller(), ino as never)).attributes.size, 5n)

  await b.write(caller(), other, 3n, pattern(10_000), noKill)
  const wanted = Buffer.concat([Buffer.from('hel'), pattern(10_000)])
  same(t, await readAll(a, handle), wanted, 'an inline file that became large')
  await a.fsync(caller(), handle, false)
  await b.fsync(caller(), other, false)
  same(t, await readAll(b, other), wanted, 'after fsync')
  t.equal(await code(create(a, 'small', O_RDWR | O_EXCL)), 'EEXIST')
  const truncated = await create(a, 'small', O_RDWR | O_TRUNC)
  t.equal((await readAll(b, other)).length, 0, 'O_TRUNC at create')
  for (const [fs, open] of [
    [a, handle],
    [b, other],
    [a, truncated.handle],
  ] as const) {
    await fs.flush(caller(), open, 1n)
    await fs.release(open)
  }
})

t.test('a large file: written in a stream, read by another client, overwritten at random', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount({ limits: { dirtyBytesMax: 8 * 1024 * 1024 } })
  const b = await cluster.mount({ limits: { cacheBytesMax: 8 * 1024 * 1024 } })
  const size = 70 * 1024 * 1024 + 12_345
  const wanted = pattern(size)
  const { handle } = await create(a, 'large')
  for (let at = 0; at < size; at += 128 * 1024) {
    await a.write(caller(), handle, BigInt(at), wanted.subarray(at, at + 128 * 1024), noKill)
  }
  const other = await openByName(b, 'large')
  same(t, await readAll(b, other), wanted, 'sequential read elsewhere')
  for (let i = 0; i < 60; i++) {
    const at = (i * 7_654_321) % (size - 20_000)
    const data = pattern(1 + ((i * 977) % 20_000), i + 2)
    data.copy(wanted, at)
    await a.write(caller(), handle, BigInt(at), data, noKill)
    if (i % 4 === 0) {
      const from = (i * 1_234_567) % size
      same(
        t,
        await a.read(caller(), handle, BigInt(from), 100_000),
        wanted.subarray(from, from + 100_000),
        'own read among writes',
      )
    }
  }
  await a.fsync(caller(), handle, false)
  same(t, await readAll(b, other), wanted, 'after overwrites')
  await a.release(handle)
  await b.release(other)
})

t.test('O_APPEND of two clients loses nothing and tears nothing', async (t) => {
  const cluster = await startInProcessCluster(t)
  const clients = [await cluster.mount(), await cluster.mount()]
  const { handle } = await create(clients[0]!, 'log', O_RDWR | O_APPEND)
  const handles = [handle, await openByName(clients[1]!, 'log', O_RDWR | O_APPEND)]
  const line = (client: number, i: number): string => `client ${client} line ${String(i).padStart(4, '0')}\n`
  await Promise.all(
    clients.map(async (fs, client) => {
      for (let i = 0; i < 60; i++) {
        await fs.write(caller(), handles[client]!, 0n, Buffer.from(line(client, i)), { ...noKill, append: true })
        if (i % 13 === 0) await fs.fsync(caller(), handles[client]!, true)
      }
    }),
  )
  const lines = (await readAll(clients[1]!, handles[1]!)).toString().split('\n')
  t.equal(lines.pop(), '')
  t.equal(lines.length, 120, 'each line is there once')
  for (const client of [0, 1]) {
    const own = lines.filter((text) => text.startsWith(`client ${client}`))
    t.strictSame(
      own,
      Array.from({ length: 60 }, (_, i) => line(client, i).trimEnd()),
      'in the order of its writer',
    )
  }
})

t.test('truncate, holes, fallocate, lseek, copy_file_range', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const { handle, ino } = await create(fs, 'sparse')
  await fs.write(caller(), handle, 0n, Buffer.from('start'), noKill)
  await fs.setattr(caller(), ino as never, { size: 1_000_000n })
  const wanted = Buffer.alloc(1_000_000)
  wanted.write('start')
  same(t, await readAll(fs, handle), wanted, 'an inline file extended beyond inline')
  await fs.write(caller(), handle, 500_000n, Buffer.from('middle'), noKill)
  wanted.write('middle', 500_000)
  t.equal(await fs.lseek(caller(), handle, 100_000n, 3), 500_000n, 'SEEK_DATA')
  t.equal(await fs.lseek(caller(), handle, 500_000n, 4), 500_006n, 'SEEK_HOLE')
  await fs.setattr(caller(), ino as never, { size: 500_003n })
  await fs.setattr(caller(), ino as never, { size: 600_000n })
  const cut = Buffer.concat([wanted.subarray(0, 500_003), Buffer.alloc(600_000 - 500_003)])
  same(t, await readAll(fs, handle), cut, 'what was cut off reads as zeros')
  await fs.fallocate(caller(), handle, 3, 0n, 3n)
  cut.fill(0, 0, 3)
  same(t, await readAll(fs, handle), cut, 'punched')

  const copy = await create(fs, 'copy')
  t.equal(
    await fs.copyFileRange(caller(), { handle, offset: 0n }, { handle: copy.handle, offset: 4096n }, 600_000n),
    600_000n,
  )
  same(t, await readAll(fs, copy.handle), Buffer.concat([Buffer.alloc(4096), cut]), 'copied')
  const tiny = await create(fs, 'tiny')
  await fs.write(caller(), tiny.handle, 0n, Buffer.from('tiny'), noKill)
  t.equal(await fs.copyFileRange(caller(), { handle: tiny.handle, offset: 0n }, { handle, offset: 10n }, 100n), 4n)
  cut.write('tiny', 10)
  same(t, await readAll(fs, handle), cut, 'an inline source into a file with extents')
})

t.test('fallocate and copy_file_range by an ordinary user clear set-id bits, as write(2) does', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const user = { ...caller(), uid: 1000, gid: 1000 }
  const { handle, ino } = await create(fs, 'program')
  const source = await create(fs, 'source')
  for (const file of [handle, source.handle]) await fs.write(caller(), file, 0n, pattern(8192), noKill)
  const modeAfter = async (what: (who: typeof user) => Promise<unknown>, who = user): Promise<number> => {
    await fs.setattr(caller(), ino as never, { mode: 0o6777 })
    await what(who)
    return (await fs.getattr(caller(), ino as never)).attributes.mode & 0o7777
  }
  const allocate = (who: typeof user) => fs.fallocate(who, handle, 0, 0n, 4096n)
  const punch = (who: typeof user) => fs.fallocate(who, handle, 3, 0n, 4096n)
  const copy = (who: typeof user) =>
    fs.copyFileRange(who, { handle: source.handle, offset: 0n }, { handle, offset: 0n }, 4096n)
  for (const what of [allocate, punch, copy]) {
    t.equal(await modeAfter(what), 0o777)
    t.equal(await modeAfter(what, { ...caller() }), 0o6777, 'not by root')
  }
})

t.test('a listing ends although a name is made for each that it tells', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const made = Array.from({ length: 600 }, (_, i) => `file-${i}`)
  for (const name of made) await create(fs, name)
  const names: string[] = []
  let cookie = 0n
  for (let told = true; told && names.length < 1500;) {
    told = false
    await fs.readdir(caller(), fs.root, cookie, { plus: false }, (entry) => {
      if (told) return false
      told = true
      cookie = entry.cookie
      names.push(entry.name.toString())
      return true
    })
    await create(fs, `new-${names.length}`)
  }
  t.strictSame(names, ['.', '..', ...made])
})

t.test('times that were set explicitly survive what was buffered', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const other = await cluster.mount()
  const { handle, ino } = await create(fs, 'file')
  const before = (await fs.getattr(caller(), ino as never)).attributes
  await fs.write(caller(), handle, 0n, pattern(20_000), noKill)
  const written = (await fs.getattr(caller(), ino as never)).attributes
  t.ok(written.mtime.seconds > before.mtime.seconds || written.mtime.nanos !== before.mtime.nanos, 'a write sets mtime')
  const mtime = { seconds: 1_000_000_000n, nanos: 5 }
  await fs.setattr(caller(), ino as never, { mtime })
  t.strictSame((await fs.getattr(caller(), ino as never)).attributes.mtime, mtime)
  await fs.flush(caller(), handle, 1n)
  await fs.release(handle)
  t.strictSame((await other.getattr(caller(), ino as never)).attributes.mtime, mtime, 'also elsewhere')
  t.equal((await other.getattr(caller(), ino as never)).attributes.size, 20_000n)
})

t.test('namespace, directories, xattrs, statfs', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const name = (text: string): Buffer => Buffer.from(text)
  const { attributes: dir } = await fs.mkdir(caller(), fs.root, name('dir'), 0o755)
  for (let i = 0; i < 700; i++) await fs.mknod(caller(), dir.ino, name(`f${i}`), 0o100644, 0)
  const seen: string[] = []
  let cookie = 0n
  for (let before = -1; before < seen.length;) {
    before = seen.length
    let room = 100
    await fs.readdir(caller(), dir.ino, cookie, { plus: true }, (entry) => {
      if (room-- === 0) return false
      seen.push(entry.name.toString())
      cookie = entry.cookie
      return true
    })
  }
  t.strictSame(seen, ['.', '..', ...Array.from({ length: 700 }, (_, i) => `f${i}`)], 'each entry once, in order')

  const { handle: file, ino } = await create(fs, 'file')
  await fs.write(caller(), file, 0n, name('content'), noKill)
  await fs.link(caller(), ino as never, dir.ino, name('second'))
  t.equal((await fs.getattr(caller(), ino as never)).attributes.nlink, 2, 'link count under a lease')
  await fs.rename(caller(), { parent: fs.root, name: name('file') }, { parent: dir.ino, name: name('f0') }, 0)
  await fs.unlink(caller(), dir.ino, name('second'))
  await fs.unlink(caller(), dir.ino, name('f0'))
  t.equal((await fs.getattr(caller(), ino as never)).attributes.nlink, 0, 'unlinked but open')
  same(t, await readAll(fs, file), name('content'), 'still readable')
  await fs.setxattr(caller(), dir.ino, name('user.x'), name('y'), { flags: 0, killSgid: false })
  t.strictSame(await fs.getxattr(caller(), dir.ino, name('user.x')), name('y'))
  t.equal(await code(fs.getxattr(caller(), dir.ino, name('user.none'))), 'ENODATA')
  t.equal(await code(fs.lookup(caller(), fs.root, name('none'))), 'ENOENT')
  t.ok((await fs.statfs(caller())).bytesTotal > 0n)
})

t.test('locks across clients: blocked, interrupted, dropped at close', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'file')
  const lock = (type: 'read' | 'write' | 'unlock') => ({ type, start: 0n, end: 99n, pid: 1 })
  const request = (owner: bigint, type: 'read' | 'write' | 'unlock') =>
    ({ owner, kind: 'posix', lock: lock(type) }) as const
  await a.setlk(caller(), ino as never, request(1n, 'write'), { wait: false })
  t.equal(await code(b.setlk(caller(), ino as never, request(1n, 'read'), { wait: false })), 'EAGAIN')
  t.equal((await b.getlk(caller(), ino as never, request(1n, 'read'))).type, 'write')
  const giveUp = new AbortController()
  const interruptedWait = code(b.setlk(caller(giveUp.signal), ino as never, request(1n, 'write'), { wait: true }))
  giveUp.abort()
  t.equal(await interruptedWait, 'EINTR')
  const waiting = b.setlk(caller(), ino as never, request(2n, 'write'), { wait: true })
  await a.flush(caller(), handle, 1n)
  await waiting
  t.pass('the lock was dropped by the close of its owner and given to the waiter')
  t.equal(await code(a.setlk(caller(), ino as never, request(1n, 'read'), { wait: false })), 'EAGAIN')
})

t.test('a chunk server dies under a stream of writes', async (t) => {
  const cluster = await startInProcessCluster(t, { servers: 4 })
  const fs = await cluster.mount()
  const { handle } = await create(fs, 'file')
  const size = 24 * 1024 * 1024
  const wanted = pattern(size)
  for (let at = 0; at < size; at += 512 * 1024) {
    await fs.write(caller(), handle, BigInt(at), wanted.subarray(at, at + 512 * 1024), noKill)
    if (at === 8 * 1024 * 1024) await cluster.stopServer(0)
  }
  await fs.fsync(caller(), handle, false)
  same(t, await readAll(fs, handle), wanted, 'everything is there')
  const other = await cluster.mount()
  same(t, await readAll(other, await openByName(other, 'file')), wanted, 'also for others')
})

t.test('the master restarts: files, data and locks stay, operations wait', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const { handle, ino } = await create(a, 'file')
  await a.write(caller(), handle, 0n, pattern(100_000), noKill)
  await a.fsync(caller(), handle, false)
  await a.write(caller(), handle, 100_000n, pattern(50_000, 2), noKill)
  const lock = { owner: 7n, kind: 'flock', lock: { type: 'write', start: 0n, end: 9n, pid: 1 } } as const
  await a.setlk(caller(), ino as never, lock, { wait: false })
  await cluster.stopMaster()
  const made = a.mkdir(caller(), a.root, Buffer.from('meanwhile'), 0o755)
  await new Promise((resolve) => {
    setTimeout(resolve, 300)
  })
  await cluster.startMaster()
  await made
  await a.fsync(caller(), handle, false)
  const wanted = Buffer.concat([pattern(100_000), pattern(50_000, 2)])
  same(t, await readAll(b, await openByName(b, 'file')), wanted, 'what was buffered during the restart')
  t.equal(
    await code(b.setlk(caller(), ino as never, { ...lock, owner: 8n }, { wait: false })),
    'EAGAIN',
    'lock is held',
  )
})
