/**
 * Looks into replicas that readers complain of: the server itself reads the chunk and says what is wrong. A complaint alone changes
 * nothing, so that a client with a bad cable cannot condemn good replicas.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId } from '../domain/ids.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkServers } from './chunk-servers.ts'
import type { Repair } from './repair.ts'

const waitingMax = 1000
const runningMax = 2

export interface ReplicaCheckOptions {
  log: Log
  chunks: ChunkMap
  chunkServers: ChunkServers
  repair: Repair
}

export class ReplicaCheck {
  readonly #options: ReplicaCheckOptions
  readonly #waiting = new Map<string, { chunk: ChunkId; server: ServerId }>()
  #running = 0

  constructor(options: ReplicaCheckOptions) {
    this.#options = options
  }

  /** Complaints beyond the bound are dropped; readers complain again. */
  add(chunk: ChunkId, server: ServerId): void {
    const known = this.#options.chunks.get(chunk)?.replicas.find((replica) => replica.server === server)
    if (!known || known.corrupt || this.#waiting.size >= waitingMax) return
    this.#waiting.set(`${chunk}/${server}`, { chunk, server })
    void this.#run()
  }

  async #run(): Promise<void> {
    if (this.#running >= runningMax) return
    this.#running++
    try {
      for (const [key, { chunk, server }] of this.#waiting) {
        this.#waiting.delete(key)
        await this.check(chunk, server)
      }
    } finally {
      this.#running--
    }
  }

  /** Asks the server now, and takes over what it says. "unknown": it did not answer. */
  async check(chunk: ChunkId, server: ServerId): Promise<'good' | 'corrupt' | 'gone' | 'unknown'> {
    const { chunks, chunkServers, repair, log } = this.#options
    try {
      const { length, sealed, corrupt } = await chunkServers.verify(server, chunk)
      if (corrupt.length > 0) {
        log.warn('replica corrupt', { chunk, server })
        repair.note('corrupt replica', chunk, server)
      }
      const known = chunks.get(chunk)?.replicas.find((replica) => replica.server === server)
      // One that is open only grows: what is known to be more has come while the answer was on its way.
      const longest = sealed ? length : Math.max(length, known?.length ?? 0)
      chunks.update(chunk, { server, length: longest, sealed, corrupt: corrupt.length > 0 })
      return corrupt.length > 0 ? 'corrupt' : 'good'
    } catch (caught) {
      if (caught instanceof PosixError && caught.code === 'ENOENT') {
        log.warn('replica lost', { chunk, server })
        repair.note('lost replica', chunk, server)
        chunks.lost(chunk, server)
        return 'gone'
      }
      log.debug('replica not checked', { chunk, server, cause: caught })
      return 'unknown'
    }
  }
}
