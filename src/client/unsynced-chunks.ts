/**
 * Chunks with bytes that were appended and not yet brought to disk: what an fsync still has to sync. A sync covers what was in the chunk
 * when the sync was asked for.
 */
import type { ChunkId } from '../domain/ids.ts'

interface Mark {
  sequence: number
  sinceMs: number
}

export class UnsyncedChunks {
  #sequence = 0
  readonly #marks = new Map<ChunkId, Mark>()

  /** Something without sync was acknowledged. */
  add(chunkId: ChunkId, nowMs: number): void {
    this.#marks.set(chunkId, { sequence: ++this.#sequence, sinceMs: this.#marks.get(chunkId)?.sinceMs ?? nowMs })
  }

  has(chunkId: ChunkId): boolean {
    return this.#marks.has(chunkId)
  }

  get count(): number {
    return this.#marks.size
  }

  all(): ChunkId[] {
    return [...this.#marks.keys()]
  }

  olderThan(ms: number): ChunkId[] {
    return [...this.#marks].filter(([, { sinceMs }]) => sinceMs <= ms).map(([chunkId]) => chunkId)
  }

  /** Call before a sync is sent; the function it gives says that the sync succeeded for a chunk. */
  begin(): (chunkId: ChunkId) => void {
    const upTo = this.#sequence
    return (chunkId) => {
      const mark = this.#marks.get(chunkId)
      if (mark !== undefined && mark.sequence <= upTo) this.#marks.delete(chunkId)
    }
  }
}
