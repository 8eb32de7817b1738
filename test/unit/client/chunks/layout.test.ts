import t from 'tap'
import { joinPlaced, placedParts, takeLayout } from '../../../../src/client/chunks/layout.ts'
import type { Part } from '../../../../src/client/chunks/layout.ts'
import { asChunkId } from '../../../../src/domain/ids.ts'
import { blockBytes, transferBytesMax } from '../../../../src/domain/limits.ts'

const parts = (...lengths: number[]): Part[] =>
  lengths.map((length, piece) => ({ piece, pieceOffset: 0, data: Buffer.alloc(length, piece + 1) }))

t.test('small pieces share a message, each at a block boundary, with zeros between them', async (t) => {
  const queue = parts(10, 4096, 5000, 1)
  const layout = takeLayout(queue, transferBytesMax)
  t.equal(queue.length, 0)
  t.same(
    layout.parts.map(({ at }) => at),
    [0, 4096, 8192, 16_384],
  )
  t.equal(layout.data.length, 16_385, 'the last one is not filled up')
  t.ok(layout.data.subarray(10, 4096).equals(Buffer.alloc(4086)), 'zeros after the first')
  t.ok(layout.data.subarray(8192, 13_192).equals(Buffer.alloc(5000, 3)))
  t.ok(layout.data.subarray(13_192, 16_384).equals(Buffer.alloc(3192)))
})

t.test('a large piece is sent as views of 1 MiB', async (t) => {
  const queue = parts(2 * transferBytesMax + 7)
  const original = queue[0]!.data
  const lengths: number[] = []
  while (queue.length > 0) {
    const { data } = takeLayout(queue, 64 * transferBytesMax)
    t.equal(data.buffer, original.buffer, 'no copy')
    lengths.push(data.length)
  }
  t.same(lengths, [transferBytesMax, transferBytesMax, 7])
})

t.test('a piece is cut at a block boundary where the room ends', async (t) => {
  const queue = parts(100, 10_000)
  const layout = takeLayout(queue, 3 * blockBytes)
  t.same(
    layout.parts.map(({ part, at }) => [part.piece, part.pieceOffset, part.data.length, at]),
    [
      [0, 0, 100, 0],
      [1, 0, 2 * blockBytes, blockBytes],
    ],
  )
  t.match(queue, [{ piece: 1, pieceOffset: 2 * blockBytes }])
  t.equal(queue[0]!.data.length, 10_000 - 2 * blockBytes)
  t.throws(() => takeLayout(queue, 0), /broken invariant/)
  t.throws(() => takeLayout(queue, 5000), /broken invariant/)
  t.throws(() => takeLayout([], blockBytes), /broken invariant/)
})

t.test(
  'every byte of every piece is placed exactly once, and places that continue each other become one',
  async (t) => {
    const lengths = [1, 4095, 4096, 4097, 300_000, 262_144, 262_145, 3 * transferBytesMax, 12]
    for (const room of [blockBytes, 5 * blockBytes, transferBytesMax, 64 * transferBytesMax]) {
      const queue = parts(...lengths)
      const placed = []
      let offset = 0
      while (queue.length > 0) {
        const layout = takeLayout(queue, room)
        t.ok(layout.data.length <= Math.min(room, transferBytesMax))
        placed.push(...placedParts(layout, asChunkId(9n), offset))
        offset += Math.ceil(layout.data.length / blockBytes) * blockBytes
      }
      const joined = joinPlaced(placed.toReversed())
      t.same(
        joined.map(({ piece, pieceOffset, length }) => [piece, pieceOffset, length]),
        lengths.map((length, piece) => [piece, 0, length]),
      )
      t.ok(joined.every(({ chunkOffset }) => chunkOffset % blockBytes === 0))
    }
  },
)
