/** The driver fuse-native without libfuse: what fits into its numbers, and paths to inodes. */
import t from 'tap'
import { modificationTimeOf } from '../../../mount/fuse-native/binding.ts'
import { bytesOf, Paths } from '../../../mount/fuse-native/paths.ts'
import { encodeStat, encodeStatfs, signedOf, timespecOf } from '../../../mount/fuse-native/stat.ts'
import type { Attributes } from '../../../src/client/file-system.ts'
import { PosixError } from '../../../src/domain/errors.ts'
import { asIno } from '../../../src/domain/ids.ts'
import { callerOf } from '../../../mount/caller.ts'
import { memoryFileSystem } from '../../lib/memory-file-system.ts'

const caller = callerOf({ uid: 0, gid: 0, pid: 1 })

const attributes: Attributes = {
  ino: asIno(0xffff_ffffn),
  mode: 0o100644,
  nlink: 2,
  uid: 3,
  gid: 4,
  rdev: 5,
  size: (1n << 62n) + 7n,
  allocated: 1n << 42n,
  atime: { seconds: -1n, nanos: 999_999_999 },
  mtime: { seconds: 4_102_444_800n, nanos: 123_999_999 },
  ctime: { seconds: 0n, nanos: 999_999 },
  btime: { seconds: 0n, nanos: 0 },
  flags: 0,
  copies: 1,
  change: 1n,
}

t.test('attributes', (t) => {
  const words = encodeStat(attributes)
  const long = (at: number): bigint => signedOf(words[at] ?? 0, words[at + 1] ?? 0)
  t.strictSame([...words.subarray(0, 3)], [0o100644, 3, 4])
  t.equal(long(3), (1n << 62n) + 7n)
  t.strictSame([...words.subarray(6, 9)], [2, 0xffff_ffff, 5])
  t.equal(long(10), 1n << 33n)
  t.equal(long(12), 0n, 'before 1970')
  t.equal(long(14), 4_102_444_800_123n)
  t.equal(long(16), 0n)
  t.throws(() => encodeStat({ ...attributes, ino: asIno(1n << 32n) }), { code: 'EOVERFLOW' })
  t.end()
})

t.test('times that are set', (t) => {
  t.strictSame(timespecOf(-1n), { seconds: -1n, nanos: 999_000_000 })
  t.strictSame(timespecOf(-1000n), { seconds: -1n, nanos: 0 })
  t.strictSame(timespecOf(1001n), { seconds: 1n, nanos: 1_000_000 })
  const locals = Buffer.alloc(200)
  locals.writeBigInt64LE(-5n, 104)
  locals.writeBigInt64LE(7n, 112)
  t.equal(modificationTimeOf(locals, -5n), 7n)
  t.equal(modificationTimeOf(locals, 5n), undefined, 'memory that is not as it should be')
  t.end()
})

t.test('statistics of a cluster with more blocks and inodes than fit', (t) => {
  const [block = 0, , blocks = 0, free = 0, , inodes = 0, inodesFree = 0] = encodeStatfs({
    bytesTotal: 1n << 62n,
    bytesFree: 1n << 61n,
    inodesUsed: 10n,
    inodesFree: 1n << 40n,
    nameBytesMax: 255,
    blockBytes: 4096,
  })
  t.ok(blocks * block > 2 ** 62 * 0.999)
  t.equal(free * 2, blocks)
  t.equal(inodes - inodesFree, 10)
  t.end()
})

t.test('names', (t) => {
  t.strictSame(bytesOf('grüß 🐟'), Buffer.from('grüß 🐟'))
  t.throws(() => bytesOf(Buffer.from([0x61, 0xff]).toString()), { code: 'EINVAL' }, 'which bytes it was is lost')
  t.end()
})

t.test('paths give back each reference, also when they lead nowhere', async (t) => {
  const fs = memoryFileSystem()
  const paths = new Paths(fs)
  const make = async (path: string): Promise<void> =>
    paths.forget(await paths.in(caller, path, (parent, name) => fs.mkdir(caller, parent, name, 0o755)))
  await make('/a')
  await make('/a/b')
  const ino = await paths.at(caller, '/a/b', (ino) => Promise.resolve(ino))
  t.equal(await paths.at(caller, '/a/b', (_ino, found) => Promise.resolve(found?.ino)), ino)
  t.equal(await paths.at(caller, '/', (root) => Promise.resolve(root)), fs.root)
  await t.rejects(
    paths.at(caller, '/a/none/c', () => Promise.resolve()),
    { code: 'ENOENT' },
  )
  await t.rejects(
    paths.at(caller, '/a/b', () => Promise.reject(new PosixError('EIO'))),
    { code: 'EIO' },
  )
  await t.rejects(
    paths.in(caller, '/', () => Promise.resolve()),
    { code: 'EBUSY' },
  )
  t.strictSame(fs.counts(), { inodes: 3, opens: 0, references: 0n })
})
