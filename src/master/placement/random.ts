/** Every server has the same chance. For comparison, and for clusters of equal machines. */
import type { Random } from '../../platform/random.ts'
import type { Placement } from './placement.ts'
import { spread } from './placement.ts'

export const randomPlacement = (random: Random): Placement => ({
  choose: (request) => {
    const shuffled = [...request.servers]
    for (let i = shuffled.length - 1; i > 0; i--) {
      const j = random.below(i + 1)
      const swapped = shuffled[i]!
      shuffled[i] = shuffled[j]!
      shuffled[j] = swapped
    }
    return spread(shuffled, request)
  },
})
