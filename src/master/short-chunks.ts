/**
 * Open chunks that have fewer valid replicas than they should, though a server is there that could take one: they were placed while it
 * was away, or their writer left it out. Only a sealed chunk is copied (repair.ts), so their writers are asked to go on in other ones.
 *
 * A chunk is asked for when it has been short for `shortMsFirst`, which is longer than a writer leaves out a server that has failed. A
 * writer whose chunks stay short, as when it alone cannot reach a server, is asked less and less often.
 */
import type { ChunkId, SessionId } from '../domain/ids.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import { placementFreeBytesMin } from './chunk-allocation.ts'
import type { ChunkEntry, ChunkMap } from './chunk-map.ts'
import { isValid } from './chunk-map.ts'
import type { Repair } from './repair.ts'
import type { ServerTable } from './servers.ts'

export interface ShortChunksOptions {
  clock: Clock
  chunks: ChunkMap
  servers: ServerTable
  repair: Repair
  /** What is being appended to this chunk is to go on in another one. */
  askToSeal: (entry: ChunkEntry) => void
}

const tickMs = 2500
export const shortMsFirst = 10_000
const shortMsMax = 320_000

export class ShortChunks {
  readonly #options: ShortChunksOptions
  /** Since when a chunk has been short, or when its writer was last asked. */
  readonly #sinceMs = new Map<ChunkId, number>()
  /** How long the next short chunk of a writer is left alone, if it was asked before. */
  readonly #patienceMs = new Map<SessionId, number>()
  #timer: Timer

  constructor(options: ShortChunksOptions) {
    this.#options = options
    this.#timer = options.clock.after(tickMs, () => this.#tick())
  }

  close(): void {
    this.#timer.cancel()
  }

  #tick(): void {
    const { clock, chunks, repair, askToSeal } = this.#options
    this.#timer = clock.after(tickMs, () => this.#tick())
    // Before, it is not known who has what.
    if (!repair.ready()) return
    const now = clock.nowMs()
    const short = new Set<ChunkId>()
    const owners = new Set<SessionId>()
    for (const entry of chunks.openChunks()) {
      owners.add(entry.owner)
      if (entry.length === 0) continue
      if (entry.staying >= entry.copies) {
        this.#patienceMs.delete(entry.owner)
        continue
      }
      if (!this.#canGrow(entry)) continue
      short.add(entry.id)
      const sinceMs = this.#sinceMs.get(entry.id)
      if (sinceMs === undefined) this.#sinceMs.set(entry.id, now)
      const patienceMs = this.#patienceMs.get(entry.owner) ?? shortMsFirst
      if (sinceMs === undefined || now - sinceMs < patienceMs) continue
      askToSeal(entry)
      this.#sinceMs.set(entry.id, now)
      this.#patienceMs.set(entry.owner, Math.min(2 * patienceMs, shortMsMax))
    }
    for (const id of this.#sinceMs.keys()) if (!short.has(id)) this.#sinceMs.delete(id)
    for (const owner of this.#patienceMs.keys()) if (!owners.has(owner)) this.#patienceMs.delete(owner)
  }

  /** Some server without a valid replica can take one. */
  #canGrow(entry: ChunkEntry): boolean {
    return this.#options.servers
      .staying()
      .some(
        ({ id, freeBytes }) =>
          freeBytes >= placementFreeBytesMin &&
          !entry.replicas.some((replica) => replica.server === id && isValid(entry, replica)),
      )
  }
}
