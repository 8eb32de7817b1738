/** The placement policies by name, as the command line knows them. */
import { UsageError } from '../../domain/errors.ts'
import type { Random } from '../../platform/random.ts'
import type { Placement } from './placement.ts'
import { randomPlacement } from './random.ts'
import { rendezvousPlacement } from './rendezvous.ts'
import { weightedPlacement } from './weighted.ts'

export const placementNames = ['weighted', 'random', 'rendezvous'] as const
export type PlacementName = (typeof placementNames)[number]

/** UsageError for a name that is none. */
export const placementNamed = (name: string, random: Random): Placement => {
  switch (name) {
    case 'weighted':
      return weightedPlacement(random)
    case 'random':
      return randomPlacement(random)
    case 'rendezvous':
      return rendezvousPlacement()
    default:
      throw new UsageError(`"${name}" is not a placement policy; choose one of ${placementNames.join(', ')}.`)
  }
}
