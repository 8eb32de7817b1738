import t from 'tap'
import { asChunkId, asIno, asServerId, asSessionId } from '../../../src/domain/ids.ts'
import {
  copiesJobs,
  allTables,
  chunks,
  counters,
  dentries,
  formats,
  inodes,
  listingBounds,
  listings,
  orphans,
  pendingFrees,
  references,
  results,
  segmentBounds,
  segments,
  servers,
  sessions,
  tableBounds,
  xattrBounds,
  xattrs,
} from '../../../src/master/keys.ts'
import type { Inode, Table } from '../../../src/master/keys.ts'
import { RecordReader, RecordWriter } from '../../../src/master/record.ts'

const time = { seconds: -1n, nanos: 999_999_999 }
const inode: Inode = {
  mode: 0o100644,
  nlink: 1,
  uid: 1000,
  gid: 0xffff_fffe,
  rdev: 0,
  size: (1n << 63n) - 1n,
  allocated: 4096n,
  atime: { seconds: 1_700_000_000n, nanos: 5 },
  mtime: time,
  ctime: { seconds: 1n << 40n, nanos: 0 },
  btime: { seconds: 0n, nanos: 1 },
  flags: 0x10,
  copies: 3,
  change: 300n,
  xattrs: 2,
  parent: asIno(0n),
  entries: 0,
  nextCookie: 0n,
  content: Buffer.from('hi'),
}

/** Key and value of one record of each table in hex: what releases wrote must decode for ever. */
const golden = <K, V>(table: Table<K, V>, key: K, value: V, hex: { key: string; value: string }): void => {
  void t.test(table.name, async (t) => {
    const encodedKey = table.encodeKey(key)
    t.equal(Buffer.from(encodedKey, 'latin1').toString('hex'), hex.key, 'key')
    t.strictSame(table.decodeKey(encodedKey), key, 'key comes back')
    t.equal(table.encode(value).toString('hex'), hex.value, 'value')
    t.strictSame(table.decode(Buffer.from(hex.value, 'hex')), value, 'value comes back')
    t.ok(encodedKey.startsWith(table.prefix), 'prefix')
    t.ok(table.weigh(value) > 0, 'weight')
    if (table.name !== 'format') {
      t.throws(() => table.decode(Buffer.from(`ff${hex.value.slice(2)}`, 'hex')), /version 255/, 'a newer version')
    }
    t.throws(() => table.decode(Buffer.from(hex.value.slice(0, -2), 'hex')), RangeError, 'a truncated record')
    t.throws(() => table.decode(Buffer.alloc(0)), RangeError, 'an empty record')
  })
}

golden(formats, undefined, { number: 1, clusterId: 'ab' }, { key: '46', value: '0101026162' })
golden(counters, 'nextIno', 1n << 60n, { key: '636e657874496e6f', value: '01808080808080808010' })
golden(inodes, asIno(258n), inode, {
  key: '690000000000000102',
  value:
    '01a4830201e807feffffff0f00ffffffffffffffff7f802080c49fd50c0501ff93ebdc038080808080400000011003ac020200000001026869',
})
golden(
  dentries,
  { parent: asIno(1n), name: Buffer.from('a\xff', 'latin1') },
  { ino: asIno(7n), type: 0o100000, cookie: 3n },
  { key: '64000000000000000161ff', value: '010780800203' },
)
golden(
  listings,
  { parent: asIno(1n), cookie: 3n },
  { name: Buffer.from('a'), ino: asIno(7n), type: 0o40000 },
  { key: '6c00000000000000010000000000000003', value: '01016107808001' },
)
golden(xattrs, { ino: asIno(1n), name: Buffer.from('user.a') }, Buffer.from('v'), {
  key: '780000000000000001757365722e61',
  value: '010176',
})
golden(
  segments,
  { ino: asIno(1n), index: (1n << 37n) - 1n },
  [
    { offset: 0, length: 4096, chunkId: 9n, chunkOffset: 8192 },
    { offset: 8192, length: 1, chunkId: 0n, chunkOffset: 0 },
  ],
  { key: '6500000000000000010000001fffffffff', value: '010200802009804080200100' },
)
golden(
  chunks,
  asChunkId(5n),
  {
    copies: 3,
    committedBytes: 8192,
    sealed: true,
    liveBlocks: 2,
    referenceIntervals: 1,
    owner: asSessionId(0n),
    created: { seconds: 10n, nanos: 0 },
  },
  { key: '6b0000000000000005', value: '01038040010201001400' },
)
golden(
  references,
  { chunk: asChunkId(5n), block: 16383 },
  { blocks: 2, count: 3 },
  { key: '72000000000000000500003fff', value: '010203' },
)
golden(pendingFrees, { chunk: asChunkId(5n), block: 1 }, 16383, {
  key: '66000000000000000500000001',
  value: '01ff7f',
})
golden(
  orphans,
  asIno(9n),
  { since: { seconds: 1n, nanos: 2 }, linkable: true },
  { key: '6f0000000000000009', value: '02020201' },
)
t.test('an orphan of version 1 has had a name', async (t) => {
  t.strictSame(orphans.decode(Buffer.from('010202', 'hex')), { since: { seconds: 1n, nanos: 2 }, linkable: false })
})
golden(
  sessions,
  asSessionId(4n),
  {
    secret: Buffer.from([1, 2]),
    host: 'h',
    mountPoint: '/m',
    pid: 7,
    root: asIno(1n),
    created: { seconds: 0n, nanos: 0 },
  },
  { key: '730000000000000004', value: '010201020168022f6d07010000' },
)
golden(results, { session: asSessionId(4n), request: 1n << 63n }, Buffer.from([8]), {
  key: '7100000000000000048000000000000000',
  value: '010108',
})
golden(
  servers,
  asServerId(0xffff_ffff),
  { storeId: 's', rack: '', host: 'h', label: '', rackGiven: '', draining: false, removed: false },
  { key: '76ffffffff', value: '010173000168' },
)
golden(
  servers,
  asServerId(3),
  { storeId: 's', rack: '', host: 'h', label: 'old', rackGiven: 'b', draining: true, removed: false },
  { key: '7600000003', value: '020173000168036f6c6401620100' },
)
golden(copiesJobs, 2n, { ino: asIno(5n), copies: 2 }, { key: '700000000000000002', value: '010502' })

void t.test('each table has a prefix of its own, and its bounds hold all of it', async (t) => {
  t.equal(new Set(allTables.map(({ prefix }) => prefix)).size, allTables.length)
  const { gte, lt } = tableBounds(inodes)
  for (const ino of [0n, 1n, (1n << 64n) - 1n]) {
    const key = inodes.encodeKey(asIno(ino))
    t.ok(key >= gte && key < lt)
  }
})

void t.test('bounds end where the next inode begins, also after 0xff', async (t) => {
  const ino = asIno(0xffn)
  const next = asIno(0x100n)
  t.ok(segments.encodeKey({ ino, index: (1n << 64n) - 1n }) < segmentBounds(ino).lt)
  t.ok(segments.encodeKey({ ino: next, index: 0n }) >= segmentBounds(ino).lt)
  t.ok(xattrs.encodeKey({ ino, name: Buffer.alloc(255, 0xff) }) < xattrBounds(ino).lt)
  t.ok(xattrs.encodeKey({ ino: next, name: Buffer.from('a') }) >= xattrBounds(ino).lt)
  const after = listingBounds(ino, 3n)
  t.ok(listings.encodeKey({ parent: ino, cookie: 3n }) < after.gte)
  t.ok(listings.encodeKey({ parent: ino, cookie: 4n }) >= after.gte)
})

void t.test('a format record of any later version still tells its number', async (t) => {
  t.strictSame(formats.decode(Buffer.from([9, 2, 1, 0x61, 1, 2, 3])), { number: 2, clusterId: 'a' })
})

void t.test('numbers at the limits come back', async (t) => {
  const numbers = [0, 1, 127, 128, 16383, 16384, 2 ** 32, Number.MAX_SAFE_INTEGER]
  const bigints = [0n, 127n, (1n << 49n) - 1n, 1n << 49n, 1n << 53n, (1n << 64n) - 1n]
  const signed = [0n, -1n, 1n, -(1n << 63n), (1n << 63n) - 1n]
  const writer = new RecordWriter().start(1)
  for (const value of numbers) writer.number(value)
  for (const value of bigints) writer.bigint(value)
  for (const value of signed) writer.signed(value)
  writer.bytes(Buffer.alloc(5000, 7)).boolean(true)
  const reader = new RecordReader(writer.finish(), 1)
  for (const value of numbers) t.equal(reader.number(), value)
  for (const value of bigints) t.equal(reader.bigint(), value)
  for (const value of signed) t.equal(reader.signed(), value)
  t.equal(reader.bytes().length, 5000)
  t.equal(reader.boolean(), true)
  t.throws(() => reader.number(), RangeError)
})
