import t from 'tap'
import { DirtyData, slotBytes } from '../../../src/client/dirty-data.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

/** What is held, byte by byte: -1 where nothing is. */
const flatten = (dirty: DirtyData, length: number): Int16Array => {
  const bytes = new Int16Array(length).fill(-1)
  for (const { offset, data } of dirty.parts(0n, length)) bytes.set(data, Number(offset))
  return bytes
}

t.test('random writes and fills equal a model', (t) => {
  const random = seededRandom(11)
  const length = 3 * slotBytes
  for (let round = 0; round < 5; round++) {
    const dirty = new DirtyData()
    const model = new Int16Array(length).fill(-1)
    for (let step = 0; step < 150; step++) {
      const at = random.below(length - 1)
      const size = 1 + random.below(Math.min(length - at, random.below(4) === 0 ? 2 * slotBytes : 9000))
      const data = Buffer.alloc(size, random.below(256))
      const fills = random.below(5) === 0
      const before = dirty.bytes
      if (fills) dirty.fill(BigInt(at), data)
      else t.equal(dirty.write(BigInt(at), data), dirty.bytes - before)
      for (let i = 0; i < size; i++) if (!fills || model[at + i] === -1) model[at + i] = data[i]!
    }
    t.ok(Buffer.from(flatten(dirty, length).buffer).equals(Buffer.from(model.buffer)), `round ${round}`)
    t.equal(dirty.bytes, model.filter((byte) => byte !== -1).length, 'bytes')
    t.equal(dirty.end, BigInt(model.findLastIndex((byte) => byte !== -1) + 1), 'end')
    const pieces = dirty.pieces()
    const held = pieces.reduce((sum, { data }) => sum + data.length, 0)
    t.equal(held, dirty.bytes, 'the pieces are all of it')
    for (const [i, { offset, data }] of pieces.entries()) {
      const next = pieces[i + 1]
      if (next) t.ok(offset + BigInt(data.length) <= next.offset, 'in order, not overlapping')
      if (!data.equals(Buffer.from(model.subarray(Number(offset), Number(offset) + data.length)))) t.fail('a piece')
    }
  }
  t.end()
})

t.test('a stream of small writes becomes whole slots, each one piece', (t) => {
  const dirty = new DirtyData()
  const chunk = Buffer.alloc(10_000, 1)
  for (let at = 0; at < 3 * slotBytes; at += chunk.length) dirty.write(BigInt(at), chunk)
  t.equal(dirty.fullBytes, 3 * slotBytes)
  const taken = dirty.take({ bytesMax: 2 * slotBytes, full: true })
  t.strictSame(
    taken.pieces().map(({ offset, data }) => [offset, data.length]),
    [
      [0n, slotBytes],
      [BigInt(slotBytes), slotBytes],
    ],
  )
  t.equal(dirty.fullBytes, slotBytes, 'the rest stays')
  t.end()
})

t.test('offsets near the end of what a file can be', (t) => {
  const dirty = new DirtyData()
  const at = (1n << 63n) - 1n - 5n
  dirty.write(at, Buffer.from('hello'))
  t.strictSame(dirty.parts(at - 10n, 100), [{ offset: at, data: Buffer.from('hello') }])
  t.end()
})

t.test('what was written is a copy', (t) => {
  const dirty = new DirtyData()
  const data = Buffer.from('abc')
  dirty.write(0n, data)
  data.fill(0)
  t.strictSame(dirty.parts(0n, 3)[0]?.data, Buffer.from('abc'))
  t.end()
})
