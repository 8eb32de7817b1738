/** Random numbers that repeat: the same seed gives the same sequence. */
import type { Random } from '../../src/platform/random.ts'

/** mulberry32: 32 bits of state, good enough to choose faults with. */
export const seededRandom = (seed: number): Random => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  return {
    bytes: (count) => Buffer.from(Array.from({ length: count }, () => next() & 0xff)),
    below: (bound) => Math.floor(((next() * 0x20_0000 + (next() >>> 11)) / 2 ** 53) * bound),
  }
}
