/**
 * In which order to ask the replicas of a chunk. First those that are not suspect; then the nearest: same machine, same rack; then
 * the less busy; and among equals always the same one for a chunk, so that each server's page cache and read-ahead see whole chunks
 * instead of every third piece of all of them.
 */
import type { ChunkId } from '../../domain/ids.ts'
import type { ServerAddress } from './ports.ts'

/** This many outstanding reads make a server busier than another. */
const outstandingPerStep = 8

export interface ReplicaSituation {
  suspect: boolean
  outstanding: number
}

export interface Place {
  host: string
  /** Empty: not known. */
  rack: string
}

export const orderReplicas = (
  servers: readonly ServerAddress[],
  options: { chunkId: ChunkId; place: Place; situation(server: ServerAddress): ReplicaSituation },
): ServerAddress[] => {
  if (servers.length < 2) return [...servers]
  const ranked = servers.map((server) => {
    const { suspect, outstanding } = options.situation(server)
    return {
      server,
      suspect: suspect ? 1 : 0,
      distance: distanceTo(server, options.place),
      busy: Math.floor(outstanding / outstandingPerStep),
      draw: draw(options.chunkId, server.serverId),
    }
  })
  ranked.sort((a, b) => a.suspect - b.suspect || a.distance - b.distance || a.busy - b.busy || a.draw - b.draw)
  return ranked.map(({ server }) => server)
}

const distanceTo = (server: ServerAddress, place: Place): number => {
  if (server.host !== '' && server.host === place.host) return 0
  return server.rack !== '' && server.rack === place.rack ? 1 : 2
}

/** A number that looks random but is the same each time (rendezvous hashing). */
const draw = (chunkId: ChunkId, serverId: number): number => {
  let mixed = Math.imul(Number(chunkId & 0xffff_ffffn) ^ Math.imul(serverId, 0x9e37_79b1), 0x85eb_ca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}
