/** Layouts, byte for byte, as include/uapi/linux/fuse.h has them; written out by hand from there, not with the code under test. */
import { constants } from 'node:os'
import t from 'tap'
import { errnoNumber } from '../../../mount/errno.ts'
import { negotiate } from '../../../mount/negotiate.ts'
import * as protocol from '../../../mount/protocol.ts'
import type { Attributes } from '../../../src/client/file-system.ts'
import { asIno } from '../../../src/domain/ids.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const header = '00000000 00000000 0000000000000000 0000000000000000 00000000 00000000 00000000 00000000'
const message = (body: string): protocol.Message => protocol.messageOf(hex(header + body))
const encoded = (encode: (view: DataView) => number): string => {
  // Not zeros, so that a byte that is not written is seen.
  const bytes = Buffer.alloc(512, 0xee)
  return bytes.subarray(0, encode(new DataView(bytes.buffer, bytes.byteOffset, bytes.length))).toString('hex')
}
const packed = (text: string): string => text.replaceAll(/\s/g, '')

const attributes: Attributes = {
  ino: asIno(0x0102030405060708n),
  mode: 0o100644,
  nlink: 3,
  uid: 1000,
  gid: 1001,
  rdev: 0x1011_0302,
  size: 0x1_0000_0001n,
  allocated: 513n,
  atime: { seconds: -1n, nanos: 500_000_000 },
  mtime: { seconds: 0x7_0000_0002n, nanos: 2 },
  ctime: { seconds: 3n, nanos: 999_999_999 },
  btime: { seconds: 4n, nanos: 5 },
  flags: 0,
  copies: 3,
  change: 9n,
}
const attributesHex = `0807060504030201 0100000001000000 0200000000000000
  ffffffffffffffff 0200000007000000 0300000000000000 0065cd1d 02000000 ffc99a3b
  a4810000 03000000 e8030000 e9030000 02031110 00100000 00000000`

t.test('headers', (t) => {
  const request = hex('28000000 03000000 0600000001000000 0b00000000000080 e8030000 e9030000 39300000 0000 0000')
  t.strictSame(protocol.decodeInHeader(protocol.messageOf(request)), {
    length: 40,
    opcode: 3,
    unique: 0x1_0000_0006,
    nodeId: 0x800000000000000bn,
    uid: 1000,
    gid: 1001,
    pid: 12345,
  })
  t.throws(() => protocol.decodeInHeader(protocol.messageOf(request.subarray(0, 39))), protocol.MalformedRequest)
  t.equal(
    encoded((view) => protocol.encodeOutHeader(view, { length: 16, errno: 2, unique: 0x1_0000_0006 })),
    packed('10000000 feffffff 0600000001000000'),
  )
  t.end()
})

t.test('INIT', (t) => {
  const kernel = protocol.decodeInit(message(`07000000 2d000000 00000200 fbffff73 03000000 ${'00000000'.repeat(11)}`))
  t.strictSame(kernel, { major: 7, minor: 45, readAheadBytesMax: 131072, flags: 0x3_73ff_fffbn })
  const result = negotiate(kernel)
  if (result.kind !== 'agreed') throw new Error('refused')
  t.equal(
    encoded((view) => protocol.encodeInit(view, 0, result.init)),
    packed(
      `07000000 2d000000 00000200 7bf4f470 4000 3000 00001000 01000000 0001 0000 00000000 ${'00000000'.repeat(7)}`,
    ),
  )
  const { flags } = result.init
  t.equal(flags & protocol.initFlag.WRITEBACK_CACHE, 0n, 'the kernel never owns size and mtime')
  t.not(flags & protocol.initFlag.POSIX_ACL, 0n)
  t.equal(negotiate({ ...kernel, flags: 0n }).kind, 'agreed', 'nothing is demanded that the kernel does not offer')
  t.equal(negotiate({ ...kernel, major: 8 }).kind, 'retry')
  t.equal(negotiate({ ...kernel, minor: 30 }).kind, 'refused')
  t.equal(negotiate({ ...kernel, minor: 31 }).kind, 'agreed')
  t.match(negotiate({ ...kernel, minor: 99 }), { kind: 'agreed', init: { minor: 45 } })
  t.end()
})

t.test('entries, attributes and the times they hold', (t) => {
  t.equal(
    encoded((view) => protocol.encodeAttributes(view, 0, attributes)),
    packed(attributesHex),
  )
  const entry = { attributes, validity: { entryMs: 1500, attributesMs: Infinity } }
  t.equal(
    encoded((view) => protocol.encodeEntry(view, 0, 11n, entry)),
    packed(`0b00000000000000 0000000000000000 0100000000000000 ffffff7f00000000 0065cd1d 00000000 ${attributesHex}`),
  )
  t.equal(
    encoded((view) => protocol.encodeAttr(view, 0, { attributes, validity: { entryMs: 0, attributesMs: 0.5 } })),
    packed(`0000000000000000 20a10700 00000000 ${attributesHex}`),
  )
  t.equal(
    encoded((view) => protocol.encodeStatx(view, 0, { attributes, validity: { entryMs: 0, attributesMs: 0 } })),
    packed(`0000000000000000 00000000 00000000 0000000000000000 0000000000000000
      ff0f0000 00100000 0000000000000000 03000000 e8030000 e9030000 a481 0000
      0807060504030201 0100000001000000 0200000000000000 0000000000000000
      ffffffffffffffff 0065cd1d 00000000  0400000000000000 05000000 00000000
      0300000000000000 ffc99a3b 00000000  0200000007000000 02000000 00000000
      03010000 02010100 00000000 00000000 ${'0000000000000000'.repeat(14)}`),
  )
  t.end()
})

t.test('requests', (t) => {
  const { changes, handle } = protocol.decodeSetattr(
    message(`ff0d0000 00000000 0500000000000000 0004000000000000 0000000000000000
      0100000000000000 feffffffffffffff 0300000000000000 0a000000 0b000000 0c000000
      ed090000 00000000 e8030000 e9030000 00000000`),
  )
  t.equal(handle, 5n)
  t.strictSame(changes, {
    size: 1024n,
    atime: 'now',
    mtime: 'now',
    ctime: { seconds: 3n, nanos: 12 },
    mode: 0o4755,
    uid: 1000,
    gid: 1001,
    killPrivileges: true,
  })
  t.strictSame(
    protocol.decodeSetattr(
      message(`20000000 00000000 ${'0000000000000000'.repeat(4)} feffffffffffffff 0000000000000000
      00000000 0b000000 00000000 ${'00000000'.repeat(5)}`),
    ),
    { changes: { mtime: { seconds: -2n, nanos: 11 } }, handle: undefined },
  )
  t.strictSame(protocol.decodeRename2(message('0c00000000000000 02000000 00000000 6100 626300')), {
    targetNodeId: 12n,
    flags: 2,
    source: Buffer.from('a'),
    target: Buffer.from('bc'),
  })
  t.strictSame(
    protocol.decodeLock(
      message(`0700000000000000 efbeadde00000080 6400000000000000 ffffffffffffff7f
        01000000 39300000 01000000 00000000`),
    ),
    {
      handle: 7n,
      owner: 0x80000000deadbeefn,
      lock: { start: 100n, end: (1n << 63n) - 1n, type: 'write', pid: 12345 },
      kind: 'flock',
    },
  )
  t.strictSame(protocol.decodeSetxattr(message('02000000 01000000 01000000 00000000 7500 6869'), true), {
    name: Buffer.from('u'),
    value: Buffer.from('hi'),
    flags: 1,
    killSgid: true,
  })
  t.strictSame(
    protocol.decodeCopyFileRange(
      message(`0100000000000000 0200000000000000 0300000000000000 0400000000000000
        0500000000000000 0600000000000000 0000000000000000`),
    ),
    { source: { handle: 1n, offset: 2n }, target: { handle: 4n, offset: 5n }, length: 6n },
  )
  t.throws(() => protocol.decodeName(message('616263'), 40), protocol.MalformedRequest)
  // The NUL that a longer, earlier request has left in the buffer is not this request's.
  t.throws(() => protocol.decodeName({ ...message('61626300'), length: 43 }, 40), protocol.MalformedRequest)
  t.end()
})

t.test('directory records', (t) => {
  const listing = protocol.messageOf(Buffer.alloc(64, 0xee))
  const dirent = { name: Buffer.from('abc'), ino: asIno(5n), type: 0o040000, cookie: 3n, entry: undefined }
  t.equal(protocol.encodeDirent(listing, 0, dirent, false), 32)
  t.equal(
    listing.bytes.subarray(0, 32).toString('hex'),
    packed('0500000000000000 0300000000000000 03000000 04000000 616263 0000000000'),
  )
  t.equal(protocol.encodeDirent(listing, 32, { ...dirent, name: Buffer.from('12345678') }, false), 64)
  t.equal(protocol.encodeDirent(listing, 40, dirent, false), undefined, 'one byte too many')
  t.equal(listing.bytes[63], 0x38, 'nothing was written')
  t.equal(protocol.encodeDirent(listing, 0, dirent, true), undefined)
  t.end()
})

t.test('notifications', (t) => {
  const inode = (offset: bigint, length: bigint): string =>
    protocol.dataInvalidation(9n, { offset, length }).toString('hex')
  const start = '28000000 02000000 0000000000000000 0900000000000000'
  t.equal(inode(4096n, 10n), packed(`${start} 0010000000000000 0a00000000000000`))
  t.equal(inode(4096n, -1n), packed(`${start} 0010000000000000 0000000000000000`), 'to the end')
  t.equal(
    protocol.attributesInvalidation(9n).toString('hex'),
    packed(`${start} ffffffffffffffff 0000000000000000`),
    'attributes alone',
  )
  t.equal(protocol.epochIncrement().toString('hex'), packed('10000000 08000000 0000000000000000'))
  t.end()
})

t.test('errno numbers are those of this machine', (t) => {
  const system = constants.errno as Record<string, number>
  for (const [name, number] of Object.entries(errnoNumber)) {
    // Node does not list every one.
    if (system[name] !== undefined) t.equal(number, system[name], name)
  }
  t.end()
})
