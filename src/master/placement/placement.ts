/**
 * Which servers get the replicas of a chunk. A policy ranks the servers; `spread` then takes them in that order, so that every policy
 * keeps the same promises.
 *
 * Invariant: the chosen servers are distinct, none is excluded, and where racks are known and the servers that can take a replica
 * are in two or more, the replicas are on two racks at least.
 */
import type { ChunkId, ServerId } from '../../domain/ids.ts'

/** A server that can take a replica, with what a choice may look at. */
export interface PlacementServer {
  id: ServerId
  /** Empty: not known. */
  rack: string
  freeBytes: number
  /** Appends and reads in progress, and chunks that were placed there and are still open. */
  load: number
}

export interface PlacementRequest {
  copies: number
  servers: readonly PlacementServer[]
  excluded: ReadonlySet<ServerId>
  chunkId: ChunkId
  /** Racks of replicas that exist already and stay; a choice for one more replica looks at them. */
  racksTaken?: readonly string[]
}

export interface Placement {
  /** As many servers as asked for, or as there are. */
  choose(request: PlacementRequest): PlacementServer[]
}

/** Takes servers in the order of their rank; the second replica (or the last chance for it) goes to another rack. */
export const spread = (ranked: readonly PlacementServer[], request: PlacementRequest): PlacementServer[] => {
  const left = ranked.filter((server) => !request.excluded.has(server.id))
  const chosen: PlacementServer[] = []
  const racks = new Set((request.racksTaken ?? []).filter((rack) => rack !== ''))
  const takeFirst = (fits: (server: PlacementServer) => boolean): boolean => {
    const at = left.findIndex(fits)
    if (at < 0) return false
    const [server] = left.splice(at, 1)
    chosen.push(server!)
    if (server!.rack !== '') racks.add(server!.rack)
    return true
  }
  while (chosen.length < request.copies) {
    const elsewhere = (server: PlacementServer): boolean => server.rack !== '' && !racks.has(server.rack)
    const known = (server: PlacementServer): boolean => server.rack !== ''
    // With one rack taken the next replica goes to another one; with none taken a known rack comes first, when there are racks at all.
    if (racks.size === 1 && takeFirst(elsewhere)) continue
    const last = request.copies - chosen.length <= 2
    if (racks.size === 0 && last && request.copies > 1 && takeFirst(known)) continue
    if (!takeFirst(() => true)) break
  }
  return chosen
}
