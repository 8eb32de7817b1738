/** Where chunks were seen last; a bounded cache, because the reader asks the master again when what it says is wrong. */
import type { ChunkId } from '../domain/ids.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'

const locationsMax = 20_000

export class Locations {
  readonly #locations = new Map<ChunkId, readonly ServerAddress[]>()

  get(chunkId: ChunkId): readonly ServerAddress[] | undefined {
    const servers = this.#locations.get(chunkId)
    if (servers === undefined) return undefined
    this.#locations.delete(chunkId)
    this.#locations.set(chunkId, servers)
    return servers
  }

  set(chunkId: ChunkId, servers: readonly ServerAddress[]): void {
    this.#locations.delete(chunkId)
    if (servers.length === 0) return
    this.#locations.set(chunkId, servers)
    if (this.#locations.size <= locationsMax) return
    for (const oldest of this.#locations.keys()) {
      this.#locations.delete(oldest)
      return
    }
  }
}
