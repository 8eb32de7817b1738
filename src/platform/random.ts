/** Randomness, as all logic sees it: through a constructor, so that a simulation can bring its own. */
import { randomBytes, randomInt } from 'node:crypto'

export interface Random {
  bytes(count: number): Buffer
  /** 0 <= result < bound, uniform; bound is 1 .. 2^48 - 1. */
  below(bound: number): number
}

export const realRandom: Random = {
  bytes: (count) => randomBytes(count),
  below: (bound) => randomInt(bound),
}
