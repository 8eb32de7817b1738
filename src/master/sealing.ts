/**
 * Ends chunks: an open chunk whose session appends no more, is gone, or lost a replica is sealed at its committed length. The record
 * decides; the replicas are told afterwards, again and again until each has it (see repair.ts).
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId, SessionId } from '../domain/ids.ts'
import { asSessionId } from '../domain/ids.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkMap } from './chunk-map.ts'
import { chunks as chunkTable } from './keys.ts'
import type { Store, Tx } from './store.ts'

export interface SealingOptions {
  store: Store
  chunks: ChunkMap
  log: Log
  /** The record of an empty chunk is gone; these servers may hold a replica. */
  removed: (servers: readonly ServerId[], chunk: ChunkId) => void
  /** The chunk takes no more data; `dead` when nothing in it is live either. */
  sealed: (chunk: ChunkId, dead: boolean) => void
}

export class Sealing {
  readonly #options: SealingOptions

  constructor(options: SealingOptions) {
    this.#options = options
  }

  /**
   * Seals a chunk at its committed length; one with nothing committed ceases to exist. Sealing again is fine.
   * ESTALE when the chunk is another session's.
   */
  seal(chunk: ChunkId, owner?: SessionId): Promise<void> {
    return this.#options.store.execute((tx) => this.#seal(tx, chunk, owner), { mayUseReserve: true })
  }

  /** Seals what a session left open. */
  async sealAllOf(session: SessionId): Promise<void> {
    const open: ChunkId[] = []
    for (const entry of this.#options.chunks.openChunks()) if (entry.owner === session) open.push(entry.id)
    await Promise.all(open.map((chunk) => this.seal(chunk)))
  }

  #seal(tx: Tx, chunk: ChunkId, owner: SessionId | undefined): void {
    const { chunks, removed, sealed, log } = this.#options
    const record = tx.get(chunkTable, chunk)
    if (!record || record.sealed) return
    if (owner !== undefined && record.owner !== owner) {
      throw new PosixError('ESTALE', `chunk ${chunk} belongs to another session`)
    }
    if (record.committedBytes === 0) {
      let holders: ServerId[] = []
      tx.delete(chunkTable, chunk)
      tx.onApply(() => {
        holders = chunks.removed(chunk)
      })
      tx.afterCommit(() => removed(holders, chunk))
      return
    }
    tx.put(chunkTable, chunk, { ...record, sealed: true, owner: asSessionId(0n) })
    tx.onApply(() => chunks.sealed(chunk, record.committedBytes))
    tx.afterCommit(() => {
      log.debug('chunk sealed', { chunk, length: record.committedBytes })
      sealed(chunk, record.liveBlocks === 0)
    })
  }
}
