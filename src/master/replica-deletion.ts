/**
 * Removes replicas of chunks that exist no more, in batches per server. What could not be removed counts as reported by its server, as
 * unknown: it is tried again until the server says that it is gone, or names it no more when it registers again.
 */
import type { ChunkId, ServerId } from '../domain/ids.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkServers } from './chunk-servers.ts'

const batchMax = 1000
/** Beyond, the rest is left for later. */
const queuedPerServerMax = 200_000
const scanIntervalMs = 1000

export interface ReplicaDeletionOptions {
  clock: Clock
  log: Log
  chunks: ChunkMap
  chunkServers: ChunkServers
  isUp: (server: ServerId) => boolean
  /** A replica of a chunk that is not known is removed so long after it was first reported. */
  unknownDelayMs: number
}

export class ReplicaDeletion {
  readonly #options: ReplicaDeletionOptions
  readonly #queued = new Map<ServerId, Set<ChunkId>>()
  readonly #busy = new Set<ServerId>()
  #scan: Timer

  constructor(options: ReplicaDeletionOptions) {
    this.#options = options
    this.#scan = options.clock.after(scanIntervalMs, () => this.#scanUnknown())
  }

  /** The chunk's record is gone, durably: no replica of it is needed. */
  add(servers: Iterable<ServerId>, chunk: ChunkId): void {
    for (const server of servers) {
      const queue = this.#queued.get(server)
      if (!queue) this.#queued.set(server, new Set([chunk]))
      else if (queue.size < queuedPerServerMax) queue.add(chunk)
      else this.#options.chunks.holdsUnknown(server, chunk)
      // In the same turn more are likely to follow.
      queueMicrotask(() => void this.#run(server))
    }
  }

  close(): void {
    this.#scan.cancel()
  }

  async #run(server: ServerId): Promise<void> {
    const { chunks, chunkServers, isUp, log } = this.#options
    if (this.#busy.has(server)) return
    this.#busy.add(server)
    try {
      for (;;) {
        const queue = this.#queued.get(server)
        if (!queue || queue.size === 0 || !isUp(server)) break
        const batch = [...queue].slice(0, batchMax)
        await chunkServers.delete(server, batch)
        for (const chunk of batch) {
          queue.delete(chunk)
          chunks.lost(chunk, server)
        }
      }
    } catch (cause) {
      log.debug('replicas not removed', { server, cause })
    } finally {
      for (const chunk of this.#queued.get(server) ?? []) chunks.holdsUnknown(server, chunk)
      this.#queued.delete(server)
      this.#busy.delete(server)
    }
  }

  #scanUnknown(): void {
    const { clock, chunks, log, unknownDelayMs } = this.#options
    this.#scan = clock.after(scanIntervalMs, () => this.#scanUnknown())
    for (const { server, chunk } of chunks.unknownSince(clock.nowMs() - unknownDelayMs, batchMax)) {
      // A chunk that has become known since is none of this list's business.
      if (chunks.get(chunk)) chunks.forgetUnknown(chunk, server)
      else {
        log.info('removing a replica of an unknown chunk', { server, chunk })
        this.add([server], chunk)
      }
    }
  }
}
