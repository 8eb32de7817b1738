/** The stored formats: version 1 must be read for ever, and what is none of ours must be told apart. */
import t from 'tap'
import { asChunkId } from '../../../src/domain/ids.ts'
import { ChunkTable } from '../../../src/chunkserver/chunk-table.ts'
import {
  decodeHeader,
  encodeHeader,
  kindDamaged,
  kindNone,
  kindOf,
  kindPunched,
  kindWritten,
  parseChunkFileName,
  tagOf,
  tagSeed,
} from '../../../src/chunkserver/format.ts'
import { decodeIdentity, encodeIdentity } from '../../../src/chunkserver/identity.ts'
import { zeroBlockChecksum } from '../../../src/domain/checksum.ts'

const header = {
  clusterId: '0b6d9f3e',
  chunkId: asChunkId(0x1122_3344_5566_7788n),
  sealed: true,
  length: 0x3000,
  corrupt: false,
}

/** Made by another implementation of the format. */
const goldenHeaderChecksum = 0x84850902
const goldenTable = '0102030471343e7a05060708a1be67d88941f998d220af3e0000000000000000'
const goldenIdentityChecksum = '52841f72'

t.test('the header of version 1', async (t) => {
  const golden = Buffer.alloc(4096)
  Buffer.from('53484f414c43484b01000000010000008877665544332211003000000800000030623664396633650000', 'hex').copy(
    golden,
  )
  golden.writeUInt32LE(goldenHeaderChecksum, 508)
  t.same(decodeHeader(golden), header)
  t.ok(encodeHeader(header).equals(golden))
})
t.test('any flipped bit in what a header says is noticed', async (t) => {
  const good = encodeHeader(header)
  for (let bit = 0; bit < 512 * 8; bit++) {
    const bad = Buffer.from(good)
    bad[bit >> 3]! ^= 1 << (bit & 7)
    if (!('problem' in decodeHeader(bad))) t.fail(`bit ${bit}`)
  }
  t.match(decodeHeader(Buffer.alloc(4096)), { problem: 'damaged' })
  t.match(decodeHeader(good.subarray(0, 4095)), { problem: 'damaged' })
  const reserved = Buffer.from(good)
  reserved[4000] = 1
  t.match(decodeHeader(reserved), { problem: 'damaged' }, 'what is reserved must be zero')
  t.throws(() => encodeHeader({ ...header, clusterId: 'x'.repeat(65) }))
})

t.test('table entries of version 1', async (t) => {
  const id = asChunkId(5n)
  const table = new ChunkTable(id, 4)
  table.setWritten(0, Buffer.from('0102030405060708', 'hex'))
  table.setPunched(2, 3)
  const bytes = table.encode(0, 4)
  t.equal(bytes.toString('hex'), goldenTable)
  const again = new ChunkTable(id, 4)
  again.load(bytes)
  t.equal(again.end(), 3)
  t.ok(again.matches(0, Buffer.from('0102030405060708', 'hex')))
  t.notOk(again.matches(2, again.checksums(2, 3)), 'a hole is not what was written')
  t.equal(again.checksums(2, 3).readUInt32LE(0), zeroBlockChecksum)
})
t.test('an entry that belongs elsewhere is damage', async (t) => {
  const seed = tagSeed(asChunkId(5n))
  for (const kind of [kindWritten, kindPunched]) {
    t.equal(kindOf(seed, 7, tagOf(seed, 7, kind)), kind)
    t.equal(kindOf(seed, 8, tagOf(seed, 7, kind)), kindDamaged)
    t.equal(kindOf(tagSeed(asChunkId(6n)), 7, tagOf(seed, 7, kind)), kindDamaged)
  }
  t.equal(kindOf(seed, 7, 0), kindNone)
  t.equal(kindOf(seed, 7, 0xffff_ffff), kindDamaged)
  for (let block = 0; block < 16_384; block++) if (tagOf(seed, block, kindWritten) === 0) t.fail('a tag of 0')
})

t.test('the identity of version 1', async (t) => {
  const golden = `{
  "magic": "shoal-chunk-store",
  "format": 1,
  "store_id": "00112233445566778899aabbccddeeff",
  "cluster_id": "0b6d9f3e",
  "server_id": 3,
  "checksum": "${goldenIdentityChecksum}"
}
`
  const identity = { storeId: '00112233445566778899aabbccddeeff', clusterId: '0b6d9f3e', serverId: 3 }
  t.same(decodeIdentity(Buffer.from(golden), 'store.json'), identity)
  t.equal(encodeIdentity(identity).toString(), golden)
  t.throws(() => decodeIdentity(Buffer.from('null'), 'store.json'), { name: 'UsageError' })
  t.throws(() => decodeIdentity(Buffer.from('{"magic":"x"}'), 'store.json'), { name: 'UsageError' })
})
t.test('names of chunk files', async (t) => {
  t.equal(parseChunkFileName('00000000000000ff'), 255n)
  for (const name of ['ff', '00000000000000FF', '00000000000000ff.copy', '00000000000000fg', '']) {
    t.equal(parseChunkFileName(name), undefined, name)
  }
})
