/**
 * Namespace operations: rules one by one, and random ones against a tree in memory that knows names, types, links and sizes.
 */
import t from 'tap'
import { PosixError } from '../../../src/domain/errors.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, isDirectory } from '../../../src/domain/mode.ts'
import { LeaseMode } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { Attributes } from '../../../src/protocol/gen/shoal/v1/types.pb.ts'
import { counters, dentries, inodes, listings, orphans, tableBounds, xattrs } from '../../../src/master/keys.ts'
import { forgetResults, forgetSession } from '../../../src/master/ops/index.ts'
import { Reaper } from '../../../src/master/reaper.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { manualClock } from '../../lib/manual-clock.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import {
  fakeCluster,
  newChunk,
  openStore,
  requester,
  seededRandom,
  sessionOne,
  sessionTwo,
} from '../../lib/master-store.ts'
import type { Requester } from '../../lib/master-store.ts'

const root = 1n
const bytes = (text: string): Buffer => Buffer.from(text)
const caller = { uid: 1000, gid: 100, pid: 1, umask: 0o022 }
const noChange = {
  caller,
  atime: undefined,
  mtime: undefined,
  ctime: undefined,
  atimeNow: false,
  mtimeNow: false,
  killPrivileges: false,
}

const setup = async () => {
  const kv = memoryKv()
  const clock = manualClock()
  const store = await openStore(kv, { clock })
  const cluster = fakeCluster()
  const requests = requester(store, cluster.context(sessionOne))
  return { kv, clock, store, cluster, requests, ...shorthand(requests) }
}

const shorthand = (requests: Requester) => {
  const attributes = (entry: { attributes: Attributes | undefined }): Attributes => entry.attributes!
  return {
    mknod: async (parent: bigint, name: string, mode = S_IFREG | 0o666, open = false) =>
      attributes(await requests.call('mknod', 'entry', { parent, name: bytes(name), mode, rdev: 0, caller, open })),
    mkdir: async (parent: bigint, name: string, mode = 0o777) =>
      attributes(await requests.call('mkdir', 'entry', { parent, name: bytes(name), mode, caller })),
    symlink: async (parent: bigint, name: string, target: string) =>
      attributes(await requests.call('symlink', 'entry', { parent, name: bytes(name), target: bytes(target), caller })),
    link: async (ino: bigint, parent: bigint, name: string) =>
      attributes(await requests.call('link', 'entry', { ino, parent, name: bytes(name) })),
    unlink: (parent: bigint, name: string) => requests.call('unlink', 'changed', { parent, name: bytes(name) }),
    rmdir: (parent: bigint, name: string) => requests.call('rmdir', 'changed', { parent, name: bytes(name) }),
    rename: (parent: bigint, name: string, newParent: bigint, newName: string, flags = 0) =>
      requests.call('rename', 'changed', { parent, name: bytes(name), newParent, newName: bytes(newName), flags }),
    lookup: async (parent: bigint, name: string) => {
      const entry = await requests.call('lookup', 'entry', { parent, name: bytes(name) })
      if (entry.attributes === undefined) throw new PosixError('ENOENT')
      return entry.attributes
    },
    stat: async (ino: bigint) => attributes(await requests.call('getattr', 'attributesAndLease', { ino })),
    list: async (ino: bigint, cookie = 0n, entriesMax = 4096) =>
      (await requests.call('readdir', 'readdir', { ino, cookie, entriesMax, plus: false })).entries.map(({ name }) =>
        String(name),
      ),
  }
}

void t.test('names are 1 to 255 bytes without slash and NUL', async (t) => {
  const { mknod, lookup, requests } = await setup()
  await mknod(root, 'x'.repeat(255))
  t.equal((await lookup(root, 'x'.repeat(255))).nlink, 1)
  for (const operation of [() => mknod(root, 'x'.repeat(256)), () => lookup(root, 'x'.repeat(256))]) {
    await t.rejects(operation(), { code: 'ENAMETOOLONG' })
  }
  for (const name of ['a/b', 'a\0b']) await t.rejects(mknod(root, name), { code: 'EINVAL' })
  await t.rejects(mknod(root, ''), { code: 'ENOENT' })
  for (const name of ['.', '..']) await t.rejects(mknod(root, name), { code: 'EEXIST' })
  const strange = Buffer.from([0xff, 0xfe, 0x01, 0x20])
  const entry = await requests.call('mkdir', 'entry', { parent: root, name: strange, mode: 0o777, caller })
  const found = await requests.call('lookup', 'entry', { parent: root, name: strange })
  t.equal(found.attributes!.ino, entry.attributes!.ino)
})

void t.test('a malformed request is a failure and changes nothing', async (t) => {
  const { requests, kv } = await setup()
  const before = kv.entries().length
  t.match(await requests.send({ $case: 'endSession', value: {} }), { value: { code: 'EPROTO' } })
  t.match(await requests.send({ $case: 'getattr', value: { ino: (1n << 64n) - 1n } }), { value: { code: 'ESTALE' } })
  t.match(await requests.send({ $case: 'readdir', value: { ino: 1n, cookie: 0n, entriesMax: 4097, plus: false } }), {
    value: { code: 'EINVAL' },
  })
  t.match(
    await requests.send({
      $case: 'setattr',
      value: { ...noChange, ino: 1n, atime: { seconds: 0n, nanos: 1_000_000_000 } },
    }),
    { value: { code: 'EINVAL' } },
  )
  t.match(await requests.send({ $case: 'setattr', value: { ...noChange, ino: 1n, copies: 17 } }), {
    value: { code: 'EINVAL' },
  })
  t.equal(kv.entries().length, before)
})

void t.test('modes, owners and times of what is made', async (t) => {
  const { clock, mknod, mkdir, symlink, stat, requests } = await setup()
  await clock.advance(5000)
  const directory = await mkdir(root, 'd', 0o2777)
  t.match(directory, { mode: S_IFDIR | 0o2755, uid: 1000, gid: 100, nlink: 2, size: 0n })
  t.equal((await stat(root)).nlink, 3)
  t.equal((await stat(root)).mtime!.seconds, 1_700_000_005n)
  await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: directory.ino, gid: 7 })
  t.match(
    await mkdir(directory.ino, 'sub'),
    { mode: S_IFDIR | 0o2755, gid: 7 },
    'a setgid directory hands its group on',
  )
  t.match(await mknod(directory.ino, 'f'), { mode: S_IFREG | 0o644, gid: 7 })
  t.match(await mknod(root, 'fifo', S_IFIFO | 0o600), { mode: S_IFIFO | 0o600 })
  await t.rejects(mknod(root, 'no', S_IFDIR | 0o755), { code: 'EINVAL' })
  t.match(await symlink(root, 'l', 'target'), { mode: S_IFLNK | 0o777, size: 6n })
  await t.rejects(symlink(root, 'long', 'x'.repeat(4096)), { code: 'ENAMETOOLONG' })
  await symlink(root, 'longest', 'x'.repeat(4095))
  await t.rejects(symlink(root, 'empty', ''), { code: 'ENOENT' })
})

void t.test('setuid and setgid go when the owner changes or a stranger writes', async (t) => {
  const { mknod, mkdir, requests } = await setup()
  const file = await mknod(root, 'f')
  const set = (changes: object) =>
    requests
      .call('setattr', 'attributesAndLease', { ...noChange, ino: file.ino, ...changes })
      .then((reply) => reply.attributes!.mode & 0o7777)
  t.equal(await set({ mode: 0o6755 }), 0o6755)
  t.equal(await set({ uid: 5 }), 0o755)
  t.equal(await set({ mode: 0o6745 }), 0o6745)
  t.equal(await set({ killPrivileges: true, size: 0n }), 0o2745, 'setgid stays where the group may not execute')
  const directory = await mkdir(root, 'd', 0o755)
  const reply = await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: directory.ino, mode: 0o2755 })
  t.equal(reply.attributes!.mode & 0o7777, 0o2755)
  const chowned = await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: directory.ino, gid: 3 })
  t.equal(chowned.attributes!.mode & 0o7777, 0o2755, 'directories keep theirs')
})

void t.test('links', async (t) => {
  const { store, mknod, mkdir, link, unlink, stat, lookup } = await setup()
  const file = await mknod(root, 'a')
  const directory = await mkdir(root, 'd')
  t.equal((await link(file.ino, directory.ino, 'b')).nlink, 2)
  await t.rejects(link(directory.ino, root, 'no'), { code: 'EPERM' })
  await t.rejects(link(file.ino, root, 'a'), { code: 'EEXIST' })
  await unlink(root, 'a')
  t.equal((await stat(file.ino)).nlink, 1)
  t.equal((await lookup(directory.ino, 'b')).ino, file.ino)
  await store.execute((tx) => {
    const inode = tx.get(inodes, asIno(file.ino))!
    tx.put(inodes, asIno(file.ino), { ...inode, nlink: 64_999 })
  })
  t.equal((await link(file.ino, root, 'last')).nlink, 65_000)
  await t.rejects(link(file.ino, root, 'one too many'), { code: 'EMLINK' })
})

void t.test('removing', async (t) => {
  const { mknod, mkdir, unlink, rmdir, stat } = await setup()
  const directory = await mkdir(root, 'd')
  await mknod(directory.ino, 'f')
  await t.rejects(unlink(root, 'd'), { code: 'EISDIR' })
  await t.rejects(rmdir(root, 'd'), { code: 'ENOTEMPTY' })
  await t.rejects(rmdir(directory.ino, 'f'), { code: 'ENOTDIR' })
  await t.rejects(unlink(directory.ino, 'g'), { code: 'ENOENT' })
  await t.rejects(rmdir(directory.ino, '.'), { code: 'EINVAL' })
  await t.rejects(rmdir(directory.ino, '..'), { code: 'ENOTEMPTY' })
  await unlink(directory.ino, 'f')
  await rmdir(root, 'd')
  t.equal((await stat(root)).nlink, 2)
  await t.rejects(stat(directory.ino), { code: 'ESTALE' })
  await t.rejects(mknod(directory.ino, 'f'), { code: 'ESTALE' })
})

void t.test('a removed directory that is open is empty and takes nothing', async (t) => {
  const { requests, mkdir, rmdir, mknod, stat, list } = await setup()
  const directory = await mkdir(root, 'd')
  await requests.call('open', 'attributesAndLease', { ino: directory.ino })
  await rmdir(root, 'd')
  t.equal((await stat(directory.ino)).nlink, 0)
  t.strictSame(await list(directory.ino), [])
  await t.rejects(mknod(directory.ino, 'f'), { code: 'ENOENT' })
})

void t.test('rename', async (t) => {
  const { mknod, mkdir, link, rename, lookup, stat, list } = await setup()
  const a = await mkdir(root, 'a')
  const b = await mkdir(root, 'b')
  const sub = await mkdir(a.ino, 'sub')
  const deep = await mkdir(sub.ino, 'deep')
  const file = await mknod(root, 'f')
  await rename(a.ino, 'sub', b.ino, 'moved')
  t.match([(await stat(a.ino)).nlink, (await stat(b.ino)).nlink], [2, 3])
  t.equal((await lookup(sub.ino, '..')).ino, b.ino)
  await t.rejects(rename(root, 'b', deep.ino, 'x'), { code: 'EINVAL' }, 'into a descendant')
  await t.rejects(rename(root, 'b', b.ino, 'x'), { code: 'EINVAL' }, 'into itself')
  await t.rejects(rename(sub.ino, 'deep', root, 'b'), { code: 'ENOTEMPTY' }, 'over an ancestor')
  await t.rejects(rename(sub.ino, 'deep', root, 'b', 2), { code: 'EINVAL' }, 'exchange with an ancestor')
  await t.rejects(rename(root, 'f', root, 'a'), { code: 'EISDIR' })
  await t.rejects(rename(root, 'a', root, 'f'), { code: 'ENOTDIR' })
  await t.rejects(rename(root, 'none', root, 'x'), { code: 'ENOENT' })
  await t.rejects(rename(root, 'f', root, 'a', 1), { code: 'EEXIST' })
  await t.rejects(rename(root, 'f', root, 'none', 2), { code: 'ENOENT' })
  for (const flags of [3, 4, 8]) await t.rejects(rename(root, 'f', root, 'g', flags), { code: 'EINVAL' })
  await t.rejects(rename(root, '.', root, 'g'), { code: 'EBUSY' })
  await link(file.ino, root, 'same')
  await rename(root, 'f', root, 'same')
  t.equal((await stat(file.ino)).nlink, 2, 'two names of one inode: nothing happens')
  await rename(root, 'f', root, 'f')
  await rename(root, 'f', b.ino, 'moved', 2)
  t.equal((await lookup(root, 'f')).ino, sub.ino)
  t.equal((await lookup(b.ino, 'moved')).ino, file.ino)
  t.equal((await lookup(sub.ino, '..')).ino, root)
  t.match([(await stat(root)).nlink, (await stat(b.ino)).nlink], [5, 2])
  await rename(root, 'f', root, 'a')
  t.equal((await stat(root)).nlink, 4, 'over an empty directory')
  await t.rejects(stat(a.ino), { code: 'ESTALE' })
  t.strictSame((await list(root)).toSorted(), ['a', 'b', 'same'])
})

void t.test('a listing sees what is there all the time exactly once', async (t) => {
  const { mknod, unlink, rename, requests } = await setup()
  for (let i = 0; i < 10; i++) await mknod(root, `stays${i}`)
  const seen: string[] = []
  let cookie = 0n
  for (let page = 0; ; page++) {
    const reply = await requests.call('readdir', 'readdir', { ino: root, cookie, entriesMax: 3, plus: true })
    for (const { name, attributes, ino } of reply.entries) {
      seen.push(String(name))
      t.equal(attributes?.ino, ino)
    }
    if (reply.end) break
    cookie = reply.entries.at(-1)!.cookie
    await mknod(root, `comes${page}`)
    // Replacing a name keeps its place, on either side of where the listing is.
    await mknod(root, 'temporary')
    await rename(root, 'temporary', root, 'stays0')
    await mknod(root, 'temporary')
    await rename(root, 'temporary', root, 'stays9')
    if (page > 0) await unlink(root, `comes${page - 1}`)
  }
  for (let i = 0; i < 10; i++) t.equal(seen.filter((name) => name === `stays${i}`).length, 1, `stays${i}`)
})

void t.test('a listing with attributes does not wait for a writer, stat does', async (t) => {
  const { cluster, mknod, requests, stat } = await setup()
  const file = await mknod(root, 'f')
  const ino = asIno(file.ino)
  cluster.leases.set(ino, new Map([[sessionTwo, 'write']]))
  let recalls = 0
  cluster.recall = async (recalled) => {
    recalls++
    cluster.leases.delete(recalled)
  }
  const reply = await requests.call('readdir', 'readdir', { ino: root, cookie: 0n, entriesMax: 10, plus: true })
  t.equal(reply.entries[0]!.attributes, undefined)
  t.equal(recalls, 0)
  t.equal((await stat(file.ino)).ino, file.ino)
  t.equal(recalls, 1)
})

void t.test('who removes one name after the other gets what it needs for those that follow', async (t) => {
  const { cluster, mknod, mkdir, unlink, requests } = await setup()
  const directory = (await mkdir(root, 'd')).ino as Ino
  const inos: Ino[] = []
  for (let i = 0; i < 50; i++) inos.push((await mknod(directory, `f${i}`)).ino as Ino)
  const from = async (name: string, entriesMax: number) => {
    const value = { ino: directory, cookie: 0n, entriesMax, plus: true, removeFrom: bytes(name) }
    const { entries } = await requests.call('readdir', 'readdir', value)
    t.ok(
      entries.every(
        ({ attributes, ino, lease }) => attributes?.ino === ino && lease?.mode === LeaseMode.LEASE_MODE_WRITE,
      ),
    )
    return entries.map((entry) => String(entry.name))
  }
  for (const ino of inos) cluster.leases.set(ino, new Map([[sessionOne, 'write']]))
  cluster.leases.set(directory, new Map([[sessionOne, 'read']]))
  t.same(await from('f7', 3), [], 'names are removed under the write lease of the directory')
  cluster.leases.set(directory, new Map([[sessionOne, 'write']]))
  t.same(await from('f7', 3), ['f7', 'f8', 'f9'])
  t.same(await from('f48', 512), ['f48', 'f49'])
  t.same(await from('none', 3), [])
  cluster.leases.set(inos[8]!, new Map([[sessionTwo, 'write']]))
  t.same(await from('f7', 3), ['f7', 'f9'], 'what others hold is left out')
  for (let i = 10; i < 30; i++) await unlink(directory, `f${i}`)
  t.same(await from('f9', 4), ['f9'], 'it does not look far')
  t.same(await from('f9', 6), ['f9', 'f30', 'f31', 'f32'])
})

void t.test('unlinked and open: it lives until the last session closes it', async (t) => {
  const { store, cluster, mknod, unlink, stat, requests } = await setup()
  const other = requester(store, cluster.context(sessionTwo))
  const reaper = new Reaper({
    store,
    opens: cluster.context(sessionOne).opens,
    chunks: cluster.context(sessionOne).chunks,
    log: silentLog,
  })
  const file = await mknod(root, 'f', S_IFREG | 0o600, true)
  await other.call('open', 'attributesAndLease', { ino: file.ino })
  await unlink(root, 'f')
  t.equal((await stat(file.ino)).nlink, 0)
  await requests.call('close', 'empty', { ino: file.ino })
  t.strictSame(cluster.reaped, [])
  reaper.kick(asIno(file.ino))
  await reaper.idle()
  t.equal((await stat(file.ino)).nlink, 0, 'a kick too early does no harm')
  await other.call('close', 'empty', { ino: file.ino })
  t.strictSame(cluster.reaped, [file.ino])
  await t.rejects(requests.call('open', 'attributesAndLease', { ino: file.ino }), { code: 'ESTALE' })
  t.equal(await store.execute((tx) => tx.get(counters, 'orphans')), 1n)
  reaper.kick(asIno(file.ino))
  await reaper.idle()
  await t.rejects(stat(file.ino), { code: 'ESTALE' })
  t.equal(await store.execute((tx) => tx.get(counters, 'orphans')), 0n)
})

void t.test('after a restart the reaper finds what was left, and spares what was opened again', async (t) => {
  const { kv, store, cluster, mknod, unlink, requests } = await setup()
  const context = cluster.context(sessionOne)
  const chunk = await newChunk(store, sessionOne)
  const files: bigint[] = []
  for (const [i, name] of ['gone', 'kept'].entries()) {
    const file = await mknod(root, name, S_IFREG | 0o600, true)
    context.leases.grant(sessionOne, asIno(file.ino), 'write')
    await requests.call('commit', 'attributesAndLease', {
      ino: file.ino,
      size: 4096n * 10n,
      segments: [{ index: 0n, extents: [{ offset: 0, length: 40_960, chunkId: chunk, chunkOffset: 40_960 * i }] }],
      mtime: undefined,
      ctime: undefined,
      appended: [],
      killPrivileges: false,
    })
    await requests.call('setxattr', 'changed', {
      ino: file.ino,
      name: bytes('user.a'),
      value: bytes('v'),
      flags: 0,
      caller,
      killSgid: false,
    })
    await unlink(root, name)
    files.push(file.ino)
  }
  await store.close()
  const again = await openStore(kv.reopen())
  cluster.opens.delete(asIno(files[0]!))
  const reaper = new Reaper({ store: again, opens: context.opens, chunks: context.chunks, log: silentLog })
  await reaper.start()
  const state = await again.execute((tx) => ({
    gone: tx.get(inodes, asIno(files[0]!)),
    kept: tx.get(inodes, asIno(files[1]!)),
    orphans: tx.range(orphans, tableBounds(orphans), 10).length,
    xattrs: tx.range(xattrs, tableBounds(xattrs), 10).length,
    live: tx.get(counters, 'liveBytes'),
    inodes: tx.get(counters, 'inodes'),
  }))
  t.equal(state.gone, undefined)
  t.equal(state.kept?.nlink, 0)
  t.match(state, { orphans: 1, xattrs: 1, live: 40_960n, inodes: 2n })
  t.strictSame(cluster.freed, [chunk])
})

void t.test('a repeated request gets the first answer, also after a restart', async (t) => {
  const { kv, store, cluster, requests, unlink } = await setup()
  const op = {
    $case: 'mknod',
    value: { parent: root, name: bytes('f'), mode: S_IFREG | 0o644, rdev: 0, caller, open: true },
  } as const
  const first = await requests.send(op, 50n)
  t.equal(first.$case, 'entry')
  t.strictSame(await requests.send(op, 50n), first)
  const [together, twice] = await Promise.all([
    requests.send({ ...op, value: { ...op.value, name: bytes('g') } }, 51n),
    requests.send({ ...op, value: { ...op.value, name: bytes('g') } }, 51n),
  ])
  t.strictSame(twice, together, 'also at the same time')
  await unlink(root, 'f')
  await store.close()
  cluster.opens.clear()
  const again = await openStore(kv.reopen())
  const resumed = requester(again, cluster.context(sessionOne), { firstId: 100n })
  t.strictSame(await resumed.send(op, 50n), first)
  t.ok(first.$case === 'entry' && cluster.opens.has(asIno(first.value.attributes!.ino)), 'and it is open again')
  const stranger = requester(again, cluster.context(sessionTwo))
  t.equal((await stranger.send(op, 50n)).$case, 'entry', "another session's request 50 is another request")
  t.match(await resumed.send(op, 52n), { $case: 'failure', value: { code: 'EEXIST' } })
  t.match(await resumed.send(op, 52n), { $case: 'failure', value: { code: 'EEXIST' } })
  forgetResults(again, sessionOne, 51n)
  await resumed.call('mkdir', 'entry', { parent: root, name: bytes('d'), mode: 0o755, caller })
  const stored = (): string[] =>
    kv
      .reopen()
      .entries()
      .filter(({ key }) => key[0] === 0x71)
      .map(({ key }) => `${key[8]}/${key.readBigUInt64BE(9)}`)
  t.notOk(stored().includes('1/50') || stored().includes('1/51'), 'forgotten with the next change')
  t.ok(stored().includes('1/100'))
  await forgetSession(again, sessionOne)
  t.strictSame(stored(), ['2/50'])
})

void t.test('inline files: truncate, commit and what needs extents first', async (t) => {
  const { cluster, mknod, requests, stat, store } = await setup()
  const { ino } = await mknod(root, 'f')
  const commit = (changes: object) =>
    requests.call('commit', 'attributesAndLease', {
      ino,
      segments: [],
      mtime: undefined,
      ctime: undefined,
      appended: [],
      killPrivileges: false,
      ...changes,
    })
  await t.rejects(commit({ inlineData: bytes('hello'), size: 5n }), { code: 'ESTALE' }, 'without the write lease')
  cluster.context(sessionOne).leases.grant(sessionOne, asIno(ino), 'write')
  await commit({ inlineData: bytes('hello'), size: 5n })
  t.match(await stat(ino), { size: 5n, allocated: 4096n })
  await t.rejects(commit({ inlineData: bytes('hell'), size: 5n }), { code: 'EINVAL' })
  await t.rejects(commit({ inlineData: Buffer.alloc(4097), size: 4097n }), { code: 'EINVAL' })
  await t.rejects(commit({ size: 6n }), { code: 'EINVAL' })
  const truncate = (size: bigint) => requests.call('setattr', 'attributesAndLease', { ...noChange, ino, size })
  const content = async () =>
    String(
      (await requests.call('getExtents', 'extents', { ino, segmentFirst: 0n, segmentCount: 1, following: [] }))
        .inlineData,
    )
  await truncate(2n)
  await truncate(4n)
  t.equal(await content(), 'he\0\0')
  await t.rejects(truncate(4097n), { code: 'EOPNOTSUPP' })
  await t.rejects(truncate(1n << 63n), { code: 'EFBIG' })
  await requests.call('fallocate', 'attributesAndLease', { ino, mode: 3, offset: 1n, length: 10n })
  t.equal(await content(), 'h\0\0\0')
  await t.rejects(requests.call('fallocate', 'attributesAndLease', { ino, mode: 0, offset: 0n, length: 5000n }), {
    code: 'EOPNOTSUPP',
  })
  const other = await mknod(root, 'copy')
  t.match(
    await requests.call('copyFileRange', 'copyFileRange', {
      source: ino,
      sourceOffset: 0n,
      target: other.ino,
      targetOffset: 3n,
      length: 100n,
    }),
    { copied: 4n },
  )
  t.match(await stat(other.ino), { size: 7n, allocated: 4096n })
  const chunk = await newChunk(store, sessionOne)
  const extent = { offset: 0, length: 3, chunkId: chunk as bigint, chunkOffset: 0 }
  await t.rejects(
    commit({ segments: [{ index: 0n, extents: [extent] }], size: 8n }),
    { code: 'EINVAL' },
    'would lose inline data',
  )
  await commit({ segments: [{ index: 0n, extents: [{ ...extent, length: 8 }] }], size: 8n })
  t.match(await stat(ino), { size: 8n, allocated: 4096n })
  t.equal(await content(), 'undefined')
  await truncate(1n << 40n)
  t.equal((await stat(ino)).allocated, 4096n)
  await truncate(1n << 20n)
  await commit({ inlineData: Buffer.alloc(0) }).catch(() => undefined)
  t.match(await stat(ino), { size: 1n << 20n }, 'inline data that is not the whole content is refused')
})

void t.test('commit refuses what would break the accounts', async (t) => {
  const { cluster, mknod, requests, store } = await setup()
  const { ino } = await mknod(root, 'f')
  cluster.context(sessionOne).leases.grant(sessionOne, asIno(ino), 'write')
  const chunk: bigint = await newChunk(store, sessionOne)
  const strangers: bigint = await newChunk(store, sessionTwo)
  const commit = (extents: object[], size = 1n << 20n, index = 0n) =>
    requests.send({
      $case: 'commit',
      value: {
        ino,
        segments: [{ index, extents: extents as never }],
        size,
        mtime: undefined,
        ctime: undefined,
        appended: [],
        killPrivileges: false,
      },
    })
  const extent = { offset: 0, length: 4096, chunkId: chunk, chunkOffset: 0 }
  const code = async (...args: Parameters<typeof commit>) => {
    const result = await commit(...args)
    return result.$case === 'failure' ? result.value.code : result.$case
  }
  t.equal(await code([{ ...extent, chunkOffset: 512 }]), 'EINVAL', 'not at a block')
  t.equal(await code([extent, { ...extent, offset: 4096 }]), 'EINVAL', 'a block twice')
  t.equal(await code([extent, { ...extent, offset: 100 }]), 'EINVAL', 'overlapping')
  t.equal(await code([extent], 4095n), 'EINVAL', 'beyond the size')
  t.equal(await code([{ ...extent, chunkId: 0n }]), 'EINVAL', 'no chunk')
  t.equal(await code([{ ...extent, chunkId: 99n }]), 'EROFS', 'an unknown chunk')
  t.equal(await code([{ ...extent, chunkId: strangers }]), 'EROFS', "another session's chunk")
  t.equal(await code([{ ...extent, chunkOffset: 64 * 1024 * 1024 }]), 'EINVAL', 'beyond the end of a chunk')
  t.equal(await code([extent], 1n << 63n), 'EFBIG')
  t.equal(await code([extent], 1n << 20n, 1n << 37n), 'EINVAL', 'no such segment')
  t.equal(await code([]), 'EINVAL', 'no extents')
  t.equal(await store.execute((tx) => tx.get(counters, 'liveBytes')), undefined)
  t.equal(await code([extent]), 'attributesAndLease')
})

void t.test('an operation waits until others gave up what stands in its way', async (t) => {
  const { cluster, mknod, requests } = await setup()
  const { ino } = await mknod(root, 'f')
  let release = (): void => undefined
  cluster.leases.set(asIno(ino), new Map([[sessionTwo, 'write']]))
  const recalled = new Promise<void>((resolve) => (release = resolve))
  cluster.recall = () => recalled
  let done = false
  const chmod = requests
    .call('setattr', 'attributesAndLease', { ...noChange, ino, mode: 0o600 })
    .then(() => (done = true))
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(done, false)
  cluster.leases.delete(asIno(ino))
  release()
  await chmod
  const reply = await requests.call('getExtents', 'extents', { ino, segmentFirst: 0n, segmentCount: 1, following: [] })
  t.equal(reply.lease?.ino, ino)
  t.equal(cluster.leases.get(asIno(ino))?.get(sessionOne), 'read')
})

void t.test('xattrs and access control lists', async (t) => {
  const { mknod, mkdir, requests, stat } = await setup()
  const { ino } = await mknod(root, 'f')
  const set = (name: string, value: Buffer, flags = 0, on = ino) =>
    requests.call('setxattr', 'changed', { ino: on, name: bytes(name), value, flags, caller, killSgid: false })
  const get = (name: string, on = ino) => requests.call('getxattr', 'value', { ino: on, name: bytes(name) })
  await t.rejects(get('user.a'), { code: 'ENODATA' })
  await t.rejects(set('user.a', bytes('1'), 2), { code: 'ENODATA' })
  await set('user.a', bytes('1'), 1)
  await t.rejects(set('user.a', bytes('1'), 1), { code: 'EEXIST' })
  await set('user.a', Buffer.alloc(65_536, 7), 2)
  t.equal((await get('user.a')).length, 65_536)
  await t.rejects(set('user.a', Buffer.alloc(65_537)), { code: 'E2BIG' })
  await t.rejects(set('x'.repeat(256), bytes('')), { code: 'ERANGE' })
  await set('user.b', bytes(''))
  t.strictSame((await requests.call('listxattr', 'names', { ino })).names.map(String), ['user.a', 'user.b'])
  await requests.call('removexattr', 'changed', { ino, name: bytes('user.a') })
  await t.rejects(requests.call('removexattr', 'changed', { ino, name: bytes('user.a') }), { code: 'ENODATA' })
  // u::rw-, u:5:rwx, g::r--, m::rwx, o::---
  const acl = Buffer.from(
    '0200000001000600ffffffff020007000500000004000400ffffffff10000700ffffffff20000000ffffffff',
    'hex',
  )
  await set('system.posix_acl_access', acl)
  t.equal((await stat(ino)).mode & 0o777, 0o670)
  await requests.call('setattr', 'attributesAndLease', { ...noChange, ino, mode: 0o604 })
  t.equal((await get('system.posix_acl_access')).readUInt16LE(4 + 3 * 8 + 2), 0, 'chmod sets the mask')
  await t.rejects(set('system.posix_acl_access', bytes('nonsense!')), { code: 'EINVAL' })
  const directory = (await mkdir(root, 'd')).ino
  await set('system.posix_acl_default', acl, 0, directory)
  const inherited = await mknod(directory, 'f', S_IFREG | 0o666)
  t.equal(inherited.mode & 0o777, 0o660, 'the list limits the mode, not the umask')
  t.equal((await get('system.posix_acl_access', inherited.ino)).readUInt16LE(4 + 3 * 8 + 2), 6)
  const subdirectory = await mkdir(directory, 'sub')
  t.strictSame(await get('system.posix_acl_default', subdirectory.ino), acl)
  // u::rw-, g::r--, o::r--: the mode says it all.
  await set('system.posix_acl_access', Buffer.from('0200000001000600ffffffff04000400ffffffff20000400ffffffff', 'hex'))
  t.equal((await stat(ino)).mode & 0o777, 0o644)
  await t.rejects(get('system.posix_acl_access'), { code: 'ENODATA' })
})

interface Node {
  ino: Ino
  type: number
  nlink: number
  parent: Node | undefined
  children: Map<string, Node>
}

for (const seed of [1, 2, 3]) {
  void t.test(`random namespace operations against a tree in memory, seed ${seed}`, async (t) => {
    const random = seededRandom(seed)
    const kv = memoryKv()
    const cluster = fakeCluster()
    let store = await openStore(kv, { cacheEntriesMax: seed === 1 ? 1 : 1000 })
    let ops = shorthand(requester(store, cluster.context(sessionOne)))
    const node = (ino: bigint, type: number, parent: Node | undefined): Node => ({
      ino: asIno(ino),
      type,
      nlink: isDirectory(type) ? 2 : 1,
      parent,
      children: new Map(),
    })
    const top = node(1n, S_IFDIR, undefined)
    const directories = (): Node[] => {
      const found = [top]
      for (const at of found) for (const child of at.children.values()) if (child.type === S_IFDIR) found.push(child)
      return found
    }
    const isAbove = (above: Node, from: Node): boolean => {
      for (let at: Node | undefined = from; at !== undefined; at = at.parent) if (at === above) return true
      return false
    }
    const names = ['a', 'b', 'c', 'd']
    const attach = (parent: Node, name: string, child: Node): void => {
      parent.children.set(name, child)
      if (child.type !== S_IFDIR) return
      child.parent = parent
      parent.nlink++
    }
    const detach = (parent: Node, name: string): void => {
      if (parent.children.get(name)?.type === S_IFDIR) parent.nlink--
      parent.children.delete(name)
    }
    /** What rename(2) says, or undefined for success. */
    const renameError = (from: Node, name: string, to: Node, newName: string, flags: number): string | undefined => {
      const moved = from.children.get(name)
      const replaced = to.children.get(newName)
      if (!moved) return 'ENOENT'
      if (flags === 2 && !replaced) return 'ENOENT'
      if (flags === 1 && replaced) return 'EEXIST'
      if (moved.type === S_IFDIR && isAbove(moved, to)) return 'EINVAL'
      if (replaced?.type === S_IFDIR && isAbove(replaced, from) && replaced !== moved)
        return flags === 2 ? 'EINVAL' : 'ENOTEMPTY'
      if (!replaced || replaced === moved || flags === 2) return undefined
      if (replaced.type === S_IFDIR && moved.type !== S_IFDIR) return 'EISDIR'
      if (replaced.type !== S_IFDIR && moved.type === S_IFDIR) return 'ENOTDIR'
      return replaced.children.size > 0 ? 'ENOTEMPTY' : undefined
    }
    const attempt = async <T>(
      expected: string | undefined,
      what: string,
      call: () => Promise<T>,
    ): Promise<T | undefined> => {
      try {
        const result = await call()
        t.equal(undefined, expected, what)
        return result
      } catch (caught) {
        t.equal((caught as { code?: string }).code, expected, what)
        return undefined
      }
    }
    for (let step = 0; step < 400 && t.passing(); step++) {
      const parent = random.pick(directories())
      const name = random.pick(names)
      const there = parent.children.get(name)
      const what = `step ${step} in ${parent.ino} ${name}`
      switch (random.below(7)) {
        case 0: {
          const made = await attempt(there ? 'EEXIST' : undefined, `${what} mknod`, () => ops.mknod(parent.ino, name))
          if (made) attach(parent, name, node(made.ino, S_IFREG, undefined))
          break
        }
        case 1:
        case 2: {
          const made = await attempt(there ? 'EEXIST' : undefined, `${what} mkdir`, () => ops.mkdir(parent.ino, name))
          if (made) attach(parent, name, node(made.ino, S_IFDIR, parent))
          break
        }
        case 3: {
          const expected = there === undefined ? 'ENOENT' : there.type === S_IFDIR ? 'EISDIR' : undefined
          if (await attempt(expected, `${what} unlink`, () => ops.unlink(parent.ino, name))) {
            there!.nlink--
            detach(parent, name)
          }
          break
        }
        case 4: {
          const expected =
            there === undefined
              ? 'ENOENT'
              : there.type !== S_IFDIR
                ? 'ENOTDIR'
                : there.children.size > 0
                  ? 'ENOTEMPTY'
                  : undefined
          if (await attempt(expected, `${what} rmdir`, () => ops.rmdir(parent.ino, name))) detach(parent, name)
          break
        }
        case 5: {
          const other = random.pick(directories())
          const source = random.pick([...other.children.values(), other])
          const expected = there ? 'EEXIST' : source.type === S_IFDIR ? 'EPERM' : undefined
          const made = await attempt(expected, `${what} link`, () => ops.link(source.ino, parent.ino, name))
          if (made) {
            source.nlink++
            attach(parent, name, source)
          }
          break
        }
        default: {
          const to = random.pick(directories())
          const newName = random.pick(names)
          const flags = random.pick([0, 0, 0, 1, 2])
          const expected = renameError(parent, name, to, newName, flags)
          const replaced = to.children.get(newName)
          const done = await attempt(expected, `${what} rename to ${to.ino} ${newName} (${flags})`, () =>
            ops.rename(parent.ino, name, to.ino, newName, flags),
          )
          if (done === undefined || replaced === there) break
          detach(parent, name)
          if (replaced) detach(to, newName)
          attach(to, newName, there!)
          if (replaced && flags === 2) attach(parent, name, replaced)
          else if (replaced) replaced.nlink--
        }
      }
      if (step % 100 === 99) {
        await store.close()
        store = await openStore(kv.reopen(), { cacheEntriesMax: seed === 1 ? 1 : 1000 })
        ops = shorthand(requester(store, cluster.context(sessionOne), { firstId: BigInt(step) * 1000n }))
      }
      if (step % 20 !== 19) continue
      const seen = new Set<Ino>()
      for (const directory of directories()) {
        t.strictSame(
          (await ops.list(directory.ino)).toSorted(),
          [...directory.children.keys()].toSorted(),
          `${what}: names`,
        )
        for (const [childName, child] of directory.children) {
          const found = await ops.lookup(directory.ino, childName)
          t.match(found, { ino: child.ino, nlink: child.nlink }, `${what}: ${childName}`)
          seen.add(child.ino)
        }
        t.equal((await ops.stat(directory.ino)).nlink, directory.nlink, `${what}: links of ${directory.ino}`)
        t.equal((await ops.lookup(directory.ino, '..')).ino, (directory.parent ?? top).ino)
      }
      const state = await store.execute((tx) => ({
        inodes: tx.range(inodes, tableBounds(inodes), 1000).length,
        counted: tx.get(counters, 'inodes'),
        dentries: tx.range(dentries, tableBounds(dentries), 1000).length,
        listings: tx.range(listings, tableBounds(listings), 1000).length,
      }))
      t.equal(state.inodes, seen.size + 1, `${what}: nothing is left behind`)
      t.equal(state.counted, BigInt(seen.size + 1))
      t.equal(state.dentries, state.listings)
    }
  })
}

t.test(
  'leases: what reads brings them, what changes takes them from others and tells what has become of everything',
  async (t) => {
    const { cluster, store, requests, mkdir, mknod } = await setup()
    const directory = await mkdir(root, 'd')
    const file = await mknod(directory.ino, 'f')
    const other = requester(store, cluster.context(sessionTwo))
    const read = LeaseMode.LEASE_MODE_READ
    const lookUp = (who: Requester, name: string) =>
      who.call('lookup', 'entry', { parent: directory.ino, name: bytes(name) })
    const held = (): string[] =>
      [...cluster.leases]
        .filter(([, holders]) => (holders.get(sessionTwo) ?? 'none') !== 'none')
        .map(([ino]) => (ino === directory.ino ? 'd' : ino === file.ino ? 'f' : ino === root ? 'root' : 'other'))
        .toSorted()
    const look = async (): Promise<void> => {
      await lookUp(other, 'f')
      await other.call('getattr', 'attributesAndLease', { ino: file.ino })
    }

    const found = await lookUp(other, 'f')
    t.match([found.lease?.mode, found.parentLease?.mode], [read, read])
    const none = await lookUp(other, 'none')
    t.equal(none.attributes, undefined)
    t.equal(none.parentLease?.mode, read, 'also on where a name is not')
    const listed = await other.call('readdir', 'readdir', { ino: directory.ino, cookie: 0n, entriesMax: 9, plus: true })
    t.match([listed.lease?.mode, listed.entries[0]?.lease?.mode], [read, read])
    t.strictSame(held(), ['d', 'f'])

    const place = { parent: directory.ino, name: bytes('x') }
    const made = await requests.call('mknod', 'entry', {
      ...place,
      mode: S_IFREG | 0o666,
      rdev: 0,
      caller,
      open: false,
    })
    t.strictSame(held(), ['f'], 'a name is made: nobody else knows the directory')
    t.equal(made.lease?.mode, read, 'on the new inode')
    t.match(made.changed, [{ attributes: { ino: directory.ino } }])
    await look()
    const linked = await requests.call('link', 'entry', { ino: file.ino, parent: directory.ino, name: bytes('g') })
    t.strictSame(held(), [])
    t.equal(linked.attributes?.nlink, 2)
    await look()
    const unlinked = await requests.call('unlink', 'changed', { parent: directory.ino, name: bytes('g') })
    t.strictSame(held(), [])
    t.match(unlinked.inodes, [{ attributes: { ino: directory.ino } }, { attributes: { ino: file.ino, nlink: 1 } }])
    await look()
    const renamed = await requests.call('rename', 'changed', {
      parent: directory.ino,
      name: bytes('x'),
      newParent: root,
      newName: bytes('y'),
      flags: 0,
    })
    t.strictSame(held(), ['f'])
    t.match(
      renamed.inodes.map(({ attributes }) => attributes?.ino),
      [directory.ino, root, made.attributes!.ino],
    )
    await look()
    await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: file.ino, mode: 0o600 })
    t.strictSame(held(), ['d'], 'the directory has not changed')
    await look()
    const extended = await requests.call('setxattr', 'changed', {
      ino: file.ino,
      name: bytes('user.a'),
      value: bytes('v'),
      flags: 0,
      caller,
      killSgid: false,
    })
    t.strictSame(held(), ['d'])
    t.match(extended.inodes, [{ attributes: { hasXattrs: true } }])
    await look()
    const gone = await requests.call('unlink', 'changed', { parent: directory.ino, name: bytes('f') })
    t.match(gone.inodes[1]?.attributes, { ino: file.ino, nlink: 0 }, 'also of what is gone')
    await other.call('getattr', 'attributesAndLease', { ino: directory.ino })
    await requests.call('rmdir', 'changed', { parent: root, name: bytes('d') })
    t.strictSame(held(), [])
  },
)
