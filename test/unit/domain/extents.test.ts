/** The extent algebra against the simplest model there is: one cell for each 512 bytes of a small segment. */
import t from 'tap'
import {
  allocatedBytes,
  checkExtents,
  cut,
  holes,
  merge,
  overlay,
  segmentOf,
  segmentRanges,
  slice,
  type Extent,
} from '../../../src/domain/extents.ts'
import { segmentBytes } from '../../../src/domain/limits.ts'

const cell = 512
const cells = 128

/** What each cell of the file shows: undefined for a hole, else "chunk:offset". */
const paint = (extents: readonly Extent[]): (string | undefined)[] => {
  const picture: (string | undefined)[] = Array.from({ length: cells }, () => undefined)
  for (const extent of extents) {
    for (let at = 0; at < extent.length; at += cell) {
      picture[(extent.offset + at) / cell] =
        extent.chunkId === 0n ? '0' : `${extent.chunkId}:${extent.chunkOffset + at}`
    }
  }
  return picture
}

/** A small generator with a printed seed, so that a failure can be run again. */
const generator = (seed: number): ((bound: number) => number) => {
  let state = seed
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

t.test('an overwrite in the middle splits the extent', async (t) => {
  const old = [{ offset: 0, length: 12288, chunkId: 1n, chunkOffset: 0 }]
  const added = [{ offset: 4096, length: 100, chunkId: 2n, chunkOffset: 8192 }]
  t.strictSame(overlay(old, added), [
    { offset: 0, length: 4096, chunkId: 1n, chunkOffset: 0 },
    { offset: 4096, length: 100, chunkId: 2n, chunkOffset: 8192 },
    { offset: 4196, length: 8092, chunkId: 1n, chunkOffset: 4196 },
  ])
})

t.test('extents that continue each other in file and chunk become one', async (t) => {
  const parts = [
    { offset: 0, length: 4096, chunkId: 1n, chunkOffset: 4096 },
    { offset: 4096, length: 4096, chunkId: 1n, chunkOffset: 8192 },
    { offset: 8192, length: 4096, chunkId: 1n, chunkOffset: 0 },
    { offset: 12288, length: 4096, chunkId: 0n, chunkOffset: 0 },
    { offset: 16384, length: 4096, chunkId: 0n, chunkOffset: 0 },
  ]
  t.strictSame(merge(parts), [
    { offset: 0, length: 8192, chunkId: 1n, chunkOffset: 4096 },
    { offset: 8192, length: 4096, chunkId: 1n, chunkOffset: 0 },
    { offset: 12288, length: 8192, chunkId: 0n, chunkOffset: 0 },
  ])
})

t.test('random overlays and cuts show what a model of cells shows', async (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const below = generator(seed)
    let extents: Extent[] = []
    const model: (string | undefined)[] = Array.from({ length: cells }, () => undefined)
    for (let step = 0; step < 40; step++) {
      const first = below(cells)
      const count = 1 + below(cells - first)
      const range = { offset: first * cell, length: count * cell }
      if (below(3) === 0) {
        extents = cut(extents, range)
        model.fill(undefined, first, first + count)
      } else {
        const chunkId = BigInt(below(4))
        const chunkOffset = chunkId === 0n ? 0 : below(100) * cell
        extents = overlay(extents, [{ ...range, chunkId, chunkOffset }])
        for (let i = 0; i < count; i++) model[first + i] = chunkId === 0n ? '0' : `${chunkId}:${chunkOffset + i * cell}`
      }
      checkExtents(extents)
      const where = `seed=${seed} step=${step}`
      if (JSON.stringify(paint(extents)) !== JSON.stringify(model)) throw new Error(`${where}: the picture differs`)

      const blocks = new Set(model.flatMap((shown, i) => (shown === undefined ? [] : [Math.floor((i * cell) / 4096)])))
      if (allocatedBytes(extents) !== blocks.size * 4096) throw new Error(`${where}: allocated bytes differ`)

      const window = { offset: below(cells) * cell, length: (1 + below(16)) * cell }
      const seen = slice(extents, window).reduce((sum, part) => sum + part.length, 0)
      const empty = holes(extents, window).reduce((sum, part) => sum + part.length, 0)
      if (seen + empty !== window.length) throw new Error(`${where}: slices and holes do not fill it`)
    }
  }
  t.pass('300 seeds')
})

t.test('what breaks the invariant is refused', async (t) => {
  const sound = { offset: 0, length: 4096, chunkId: 1n, chunkOffset: 0 }
  t.doesNotThrow(() => checkExtents([sound]))
  t.throws(() => checkExtents([{ ...sound, length: 0 }]), RangeError)
  t.throws(() => checkExtents([sound, { ...sound, offset: 4095 }]), RangeError)
  t.throws(() => checkExtents([{ ...sound, offset: segmentBytes - 1 }]), RangeError)
  t.throws(() => checkExtents([{ ...sound, chunkOffset: segmentBytes }]), RangeError)
  t.doesNotThrow(() => checkExtents([{ ...sound, offset: segmentBytes - 4096 }]))
})

t.test('a range of a file is cut at segment boundaries, also far out', async (t) => {
  const far = (1n << 63n) - 10n
  t.same(segmentOf(far), { index: far >> 26n, within: segmentBytes - 10 })
  const start = BigInt(segmentBytes) - 100n
  const parts = [...segmentRanges(start, 300n)]
  t.same(parts, [
    { index: 0n, range: { offset: segmentBytes - 100, length: 100 }, fileOffset: start },
    { index: 1n, range: { offset: 0, length: 200 }, fileOffset: BigInt(segmentBytes) },
  ])
})
