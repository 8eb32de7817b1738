/**
 * A check of every byte of every sealed replica, now, on an administrator's word. (Each chunk server also does this by itself, slowly,
 * over days.) The servers read and compare; what they find is repaired as any damage is.
 *
 * Invariant: one chunk at a time on each server, at most `bytesPerSecond` there.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId } from '../domain/ids.ts'
import { asServerId } from '../domain/ids.ts'
import type { Clock } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { ScrubStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ReplicaCheck } from './replica-check.ts'
import type { ServerTable } from './servers.ts'

const bytesPerSecond = 128 * 1024 * 1024

export interface ScrubOptions {
  clock: Clock
  log: Log
  chunks: ChunkMap
  servers: ServerTable
  replicaCheck: ReplicaCheck
}

interface Totals {
  replicas: number
  bytes: number
  replicasDone: number
  bytesDone: number
  corrupt: number
  unread: number
}

export class Scrub {
  readonly #options: ScrubOptions
  #stop: AbortController | undefined
  #startMs = 0
  #run = 0
  #totals: Totals = { replicas: 0, bytes: 0, replicasDone: 0, bytesDone: 0, corrupt: 0, unread: 0 }

  constructor(options: ScrubOptions) {
    this.#options = options
  }

  /** ENOENT, EBUSY. */
  start(server: number): void {
    const { servers, chunks, clock, log } = this.#options
    if (this.#stop) throw new PosixError('EBUSY', 'A scrub is running already.')
    if (server !== 0 && !servers.get(asServerId(server)))
      throw new PosixError('ENOENT', `There is no server ${server}.`)
    if (server !== 0 && !servers.isUp(asServerId(server))) throw new PosixError('EBUSY', `Server ${server} is down.`)
    const work = new Map<ServerId, ChunkId[]>()
    const totals: Totals = { replicas: 0, bytes: 0, replicasDone: 0, bytesDone: 0, corrupt: 0, unread: 0 }
    for (const entry of chunks.entries()) {
      if (!entry.sealed) continue
      for (const replica of entry.replicas) {
        if (!replica.sealed || !servers.isUp(replica.server)) continue
        if (server !== 0 && replica.server !== asServerId(server)) continue
        const list = work.get(replica.server)
        if (list) list.push(entry.id)
        else work.set(replica.server, [entry.id])
        totals.replicas++
        totals.bytes += entry.length
      }
    }
    this.#totals = totals
    this.#startMs = clock.nowMs()
    this.#run++
    const stop = new AbortController()
    this.#stop = stop
    log.info('scrub started', { replicas: totals.replicas, bytes: totals.bytes })
    const run = async (): Promise<void> => {
      await Promise.all([...work].map(([id, list]) => this.#scrubServer(id, list, totals, stop.signal)))
      if (this.#stop === stop) this.#stop = undefined
      log.info('scrub ended', { ...totals })
    }
    run().catch((cause: unknown) => {
      if (this.#stop === stop) this.#stop = undefined
      log.error('the scrub failed', { cause })
    })
  }

  stop(): void {
    this.#stop?.abort(new Error('the scrub was stopped'))
    this.#stop = undefined
  }

  status(): ScrubStatus {
    const { replicas, bytes, replicasDone, bytesDone, corrupt, unread } = this.#totals
    const bytesPerMs = bytesDone / Math.max(1, this.#options.clock.nowMs() - this.#startMs)
    return {
      running: this.#stop !== undefined,
      replicasTotal: BigInt(replicas),
      replicasDone: BigInt(replicasDone),
      bytesTotal: BigInt(bytes),
      bytesDone: BigInt(bytesDone),
      corrupt: BigInt(corrupt),
      unread: BigInt(unread),
      etaMs: this.#stop && bytesPerMs > 0 ? BigInt(Math.ceil((bytes - bytesDone) / bytesPerMs)) : undefined,
      run: BigInt(this.#run),
    }
  }

  async #scrubServer(server: ServerId, list: readonly ChunkId[], totals: Totals, signal: AbortSignal): Promise<void> {
    const { replicaCheck, chunks, clock } = this.#options
    for (const chunk of list) {
      if (signal.aborted) return
      const bytes = chunks.get(chunk)?.length ?? 0
      const startMs = clock.nowMs()
      // A chunk that was deleted meanwhile, or moved elsewhere, is no replica any more.
      const isHere = chunks.get(chunk)?.replicas.some((replica) => replica.server === server) === true
      const found = isHere ? await replicaCheck.check(chunk, server) : 'good'
      if (found === 'corrupt') totals.corrupt++
      else if (found !== 'good' && chunks.get(chunk)) totals.unread++
      totals.replicasDone++
      totals.bytesDone += bytes
      const leftMs = (bytes / bytesPerSecond) * 1000 - (clock.nowMs() - startMs)
      if (leftMs > 0) await clock.sleep(leftMs, signal).catch(() => undefined)
    }
  }
}
