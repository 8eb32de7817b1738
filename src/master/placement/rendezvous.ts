/**
 * Rendezvous hashing: the ranking of the servers is a function of the chunk and the servers alone. The same cluster always makes the
 * same choice, and a server that comes or goes changes only the choices that it is part of. It does not look at free space.
 */
import type { ChunkId, ServerId } from '../../domain/ids.ts'
import type { Placement } from './placement.ts'
import { spread } from './placement.ts'

const mask = (1n << 64n) - 1n

/** SplitMix64's finalizer: each input bit changes half of the output bits. */
const mix = (value: bigint): bigint => {
  let z = (value + 0x9e3779b97f4a7c15n) & mask
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
  return z ^ (z >> 31n)
}

const scoreOf = (chunkId: ChunkId, serverId: ServerId): bigint => mix(mix(chunkId) ^ BigInt(serverId))

export const rendezvousPlacement = (): Placement => ({
  choose: (request) => {
    const scored = request.servers.map((server) => ({ server, score: scoreOf(request.chunkId, server.id) }))
    scored.sort((a, b) => (a.score > b.score ? -1 : a.score < b.score ? 1 : a.server.id - b.server.id))
    return spread(
      scored.map(({ server }) => server),
      request,
    )
  },
})
