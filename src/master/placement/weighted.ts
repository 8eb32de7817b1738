/**
 * The default: a random choice in which a server's chance grows with its free space and shrinks with its load, so that disks fill
 * evenly and a new empty server is not stormed.
 */
import type { Random } from '../../platform/random.ts'
import type { Placement, PlacementServer } from './placement.ts'
import { spread } from './placement.ts'

const randomResolution = 2 ** 32

export const weightedPlacement = (random: Random): Placement => ({
  choose: (request) => {
    // Sampling without replacement by exponential keys (Efraimidis and Spirakis): the smallest -ln(u)/weight wins.
    const keyed = request.servers.map((server) => {
      const unit = (random.below(randomResolution) + 1) / (randomResolution + 1)
      return { server, key: -Math.log(unit) / weightOf(server) }
    })
    keyed.sort((a, b) => a.key - b.key)
    return spread(
      keyed.map(({ server }) => server),
      request,
    )
  },
})

const weightOf = (server: PlacementServer): number => Math.max(1, server.freeBytes) / (1 + server.load)
