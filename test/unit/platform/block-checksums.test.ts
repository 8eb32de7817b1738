import t from 'tap'
import { randomBytes } from 'node:crypto'
import { blockChecksums as portable } from '../../../src/domain/checksum.ts'
import { blockBytes } from '../../../src/domain/limits.ts'
import { blockChecksums, firstCorruptBlock } from '../../../src/platform/block-checksums.ts'

t.test('the same as the portable ones, whatever the length and the alignment', (t) => {
  t.equal(blockChecksums(Buffer.alloc(0)).length, 0)
  const whole = randomBytes(10 * blockBytes + 100)
  for (const blocks of [0, 1, 3, 4, 5, 9]) {
    for (const more of [0, 1, 4095]) {
      for (const start of [0, 1, 7]) {
        const data = whole.subarray(start, start + blocks * blockBytes + more)
        t.strictSame(blockChecksums(data), portable(data), `${blocks} blocks and ${more} bytes from ${start}`)
      }
    }
  }
  t.end()
})

t.test('the block that is damaged is found', (t) => {
  const data = randomBytes(6 * blockBytes)
  const checksums = blockChecksums(data)
  t.equal(firstCorruptBlock(data, checksums), -1)
  t.equal(firstCorruptBlock(data, checksums.subarray(4)), 0, 'too few checksums')
  t.equal(firstCorruptBlock(Buffer.alloc(0), Buffer.alloc(0)), -1)
  data[5 * blockBytes + 17]! ^= 4
  t.equal(firstCorruptBlock(data, checksums), 5 * blockBytes)
  t.end()
})
