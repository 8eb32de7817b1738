/** The read-ahead cache: what it hands out stays right although its buffers are used again, and it keeps to its bound. */
import t from 'tap'
import { ChunkCache, pieceBytes } from '../../../src/client/chunk-cache.ts'
import { PosixError } from '../../../src/domain/errors.ts'
import { asChunkId } from '../../../src/domain/ids.ts'
import { giveBackBuffer, takeBuffer } from '../../../src/platform/buffer-pool.ts'
import { seededRandom } from '../../lib/seeded-random.ts'

const blockBytes = 4096
const chunk = asChunkId(7n)
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Each block of the chunk holds its number. */
const fetchNumbers = async (_: bigint, offset: number, length: number): Promise<Buffer> => {
  await turn()
  const data = takeBuffer(length)
  for (let at = 0; at < length; at += blockBytes) data.fill((offset + at) / blockBytes, at, at + blockBytes)
  return data
}

const isRight = (data: Buffer, offset: number): boolean =>
  data.every((byte, at) => at % 509 !== 0 || byte === Math.floor((offset + at) / blockBytes) % 256)

t.test('views stay right while entries are dropped and their buffers used again', async (t) => {
  const random = seededRandom(11)
  const cache = new ChunkCache(fetchNumbers, { bytesMax: 2 * pieceBytes })
  let wrong = 0
  const reader = async (): Promise<void> => {
    for (let i = 0; i < 60; i++) {
      const offset = blockBytes * random.below(4000)
      const length = blockBytes * (1 + random.below(300))
      if (random.below(2) === 0) cache.prefetch(chunk, offset, length * 2)
      if (random.below(3) === 0) await turn()
      const keep = random.below(3) > 0 ? { keepTo: offset + length } : {}
      const data = await cache.read(chunk, { offset, length, ...keep })
      await turn()
      if (data.length !== length || !isRight(data, offset)) wrong++
      giveBackBuffer(data)
    }
  }
  await Promise.all(Array.from({ length: 8 }, reader))
  t.equal(wrong, 0)
  t.ok(cache.bytes <= 2 * pieceBytes, `${cache.bytes} bytes are kept`)
})

t.test('what was read to its end is not kept', async (t) => {
  let fetches = 0
  const cache = new ChunkCache(
    (id, offset, length) => {
      fetches++
      return fetchNumbers(id, offset, length)
    },
    { bytesMax: 16 * pieceBytes },
  )
  cache.prefetch(chunk, 0, 2 * pieceBytes)
  for (let offset = 0; offset < pieceBytes; offset += pieceBytes / 4) {
    giveBackBuffer(await cache.read(chunk, { offset, length: pieceBytes / 4, keepTo: pieceBytes }))
  }
  t.equal(fetches, 2, 'each piece is fetched once')
  t.equal(cache.bytes, pieceBytes, 'the one that was not read is there')
})

t.test('a fetch that fails fails its readers, and the next reader fetches again', async (t) => {
  let failing = true
  const cache = new ChunkCache(
    (id, offset, length) =>
      failing ? turn().then(() => Promise.reject(new Error('no replica'))) : fetchNumbers(id, offset, length),
    { bytesMax: 4 * pieceBytes },
  )
  const range = { offset: 0, length: blockBytes, keepTo: pieceBytes }
  const outcomes = await Promise.allSettled([cache.read(chunk, range), cache.read(chunk, range)])
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['rejected', 'rejected'],
  )
  t.equal(cache.bytes, 0)
  failing = false
  t.ok(isRight(await cache.read(chunk, range), 0))
})

t.test('what was fetched along and is damaged does not keep a reader from bytes that are good', async (t) => {
  const damagedFrom = 10 * blockBytes
  const fetches: number[] = []
  const cache = new ChunkCache(
    async (id, offset, length) => {
      fetches.push(length)
      if (offset + length > damagedFrom) throw new PosixError('EIO', 'no replica is good')
      return fetchNumbers(id, offset, length)
    },
    { bytesMax: 16 * pieceBytes },
  )
  const range = { offset: 4 * blockBytes, length: 2 * blockBytes }
  cache.prefetch(chunk, 0, 20 * blockBytes)
  t.ok(isRight(await cache.read(chunk, range), range.offset), 'beside another file that is lost')
  t.ok(
    isRight(await cache.read(chunk, { ...range, keepTo: 20 * blockBytes }), range.offset),
    'before an end that is lost',
  )
  t.same(
    fetches,
    [20, 2, 16, 2].map((blocks) => blocks * blockBytes),
  )
  const lost = { offset: 9 * blockBytes, length: 2 * blockBytes }
  await t.rejects(cache.read(chunk, { ...lost, keepTo: 11 * blockBytes }), { code: 'EIO' })
  t.equal(fetches.length, 5, 'what is damaged itself is not fetched twice')
})
