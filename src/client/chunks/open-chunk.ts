/**
 * One chunk that this client appends to: who holds how much of it, and what waits for acknowledgement.
 *
 * Appends to a replica take effect in order, so what a replica holds is a prefix of the chunk, described by one number.
 *
 * kind      what happens
 * open      takes appends
 * retired   takes none any more: it is full, a replica failed, or the master asked; appends under way still complete
 * sealing   everything that was placed in it is committed or given up; the master is told
 * sealed    the master knows; kept while somebody may still ask for a sync
 *
 * INVARIANT: acknowledged(r) <= length for each replica, synced(r) <= length, and the waiting appends are sorted by their end.
 * An append is acknowledged when every replica that has not failed holds it, and these are at least copiesMin; it has failed
 * when fewer than copiesMin can hold it any more. Then all later appends have failed as well.
 */
import { invariant } from '../../domain/errors.ts'
import { asServerId } from '../../domain/ids.ts'
import type { ChunkId, ServerId } from '../../domain/ids.ts'
import { blockBytes, chunkBytes } from '../../domain/limits.ts'
import { deferred } from './deferred.ts'
import type { ServerAddress } from './ports.ts'

export interface Replica {
  readonly server: ServerAddress
  readonly id: ServerId
  /** It has confirmed every byte up to here. */
  acknowledged: number
  /** It has every byte up to here on disk. */
  synced: number
  /** Why it takes no part any more. */
  failed: string | undefined
  /** It could not bring to disk what it had taken: it can never again vouch for this chunk. */
  syncFailed: boolean
  /** Requests without a reply. */
  outstanding: number
  /** Since the last sign of life while something is outstanding. */
  waitingSinceMs: number
}

interface Waiting {
  end: number
  settle(held: boolean): void
}

/** Whoever may still commit data in the chunk; compared by identity. */
export type Holder = object

export class OpenChunk {
  readonly id: ChunkId
  readonly copies: number
  readonly copiesMin: number
  /** It is full with so many; a positive multiple of 4096. */
  readonly bytesMax: number
  readonly replicas: readonly Replica[]
  kind: 'open' | 'retired' | 'sealing' | 'sealed' = 'open'
  /** The session that it belonged to is gone: nothing in it can be committed any more. */
  lost = false
  /** Where the next append goes. */
  length = 0
  /** Appended bytes that are not settled. */
  inFlightBytes = 0
  lastUsedMs: number
  /** Calls and results that have data here which is neither committed nor given up. */
  readonly holders = new Set<Holder>()
  readonly #appends: Waiting[] = []
  readonly #syncs: (Waiting & { promise: Promise<boolean> })[] = []
  /** Bytes that enough replicas acknowledged. */
  #placedLength = 0
  #wake: (() => void) | undefined

  constructor(options: {
    id: ChunkId
    copies: number
    copiesMin: number
    bytesMax?: number
    servers: readonly ServerAddress[]
    nowMs: number
  }) {
    this.id = options.id
    this.copies = options.copies
    this.copiesMin = options.copiesMin
    this.bytesMax = options.bytesMax ?? chunkBytes
    this.lastUsedMs = options.nowMs
    this.replicas = options.servers.map((server) => ({
      server,
      id: asServerId(server.serverId),
      acknowledged: 0,
      synced: 0,
      failed: undefined,
      syncFailed: false,
      outstanding: 0,
      waitingSinceMs: options.nowMs,
    }))
  }

  get roomBytes(): number {
    return this.bytesMax - this.length
  }

  /** Up to where data counts as placed. */
  get placedLength(): number {
    return this.#placedLength
  }

  /** No append waits. */
  get settled(): boolean {
    return this.#appends.length === 0
  }

  get failedServers(): ServerId[] {
    return this.replicas.filter((replica) => replica.failed !== undefined).map(({ id }) => id)
  }

  /** Replicas that hold every byte up to here. */
  holding(length: number): Replica[] {
    return this.replicas.filter((replica) => replica.acknowledged >= length)
  }

  isSynced(length: number): boolean {
    return this.replicas.filter((replica) => replica.synced >= length).length >= this.copiesMin
  }

  /** Reserves the place of an append; resolves to whether enough replicas hold it. Never rejects. */
  place(bytes: number): { offset: number; end: number; held: Promise<boolean> } {
    invariant(this.kind === 'open', `append to the ${this.kind} chunk ${this.id}`)
    invariant(bytes > 0 && bytes % blockBytes === 0 && bytes <= this.roomBytes, `append of ${bytes} bytes to a chunk`)
    const offset = this.length
    const end = offset + bytes
    this.length = end
    this.inFlightBytes += bytes
    const held = deferred<boolean>()
    this.#appends.push({
      end,
      settle: (ok) => {
        this.inFlightBytes -= bytes
        if (ok) this.#placedLength = end
        held.resolve(ok)
      },
    })
    return { offset, end, held: held.promise }
  }

  /** A sync that is under way and covers this length. */
  syncUnderWay(length: number): Promise<boolean> | undefined {
    return this.#syncs.find(({ end }) => end >= length)?.promise
  }

  /** Waits until enough replicas have synced up to here, or cannot any more (false). A sync has to be on its way. */
  waitForSync(length: number): Promise<boolean> {
    if (this.isSynced(length)) return Promise.resolve(true)
    const { promise, resolve } = deferred<boolean>()
    const at = this.#syncs.findIndex(({ end }) => end > length)
    const waiting = { end: length, settle: resolve, promise }
    this.#syncs.splice(at < 0 ? this.#syncs.length : at, 0, waiting)
    this.update()
    return promise
  }

  /** Resolves when something was settled or the chunk changed its kind. */
  changed(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#wake
      this.#wake = () => {
        before?.()
        resolve()
      }
    })
  }

  wake(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  /** Settles what the state of the replicas decides. To be called after each change of a replica. */
  update(): void {
    // A sync is done as soon as enough replicas have it: waiting for more would keep no promise.
    const appends = this.#decided(this.#appends, {
      progress: ({ acknowledged }) => acknowledged,
      enoughSuffices: false,
    })
    const syncs = this.#decided(this.#syncs, { progress: ({ synced }) => synced, enoughSuffices: true })
    for (const { waiting, held } of appends) waiting.settle(held)
    for (const { waiting, held } of syncs) waiting.settle(held)
    if (appends.length > 0) this.wake()
  }

  /** Silence counts from now. */
  waitAnew(nowMs: number): void {
    for (const replica of this.replicas) replica.waitingSinceMs = nowMs
  }

  /** Which replicas have been silent for too long, given how long to wait. */
  stalled(nowMs: number, limits: { othersDoneMs: number; appendMs: number; syncMs: number }): Replica[] {
    return this.replicas.filter((replica) => {
      if (replica.failed !== undefined || replica.outstanding === 0) return false
      const silentMs = nowMs - replica.waitingSinceMs
      if (silentMs <= limits.othersDoneMs) return false
      const others = this.replicas.filter((other) => other !== replica && other.acknowledged > replica.acknowledged)
      if (others.length >= this.copiesMin) return true
      return silentMs > (this.#syncs.length > 0 ? limits.syncMs : limits.appendMs)
    })
  }

  #decided<T extends Waiting>(
    list: T[],
    rule: { progress(replica: Replica): number; enoughSuffices: boolean },
  ): { waiting: T; held: boolean }[] {
    const decided: { waiting: T; held: boolean }[] = []
    for (let waiting = list[0]; waiting !== undefined; waiting = list[0]) {
      let held = 0
      let pending = 0
      for (const replica of this.replicas) {
        if (rule.progress(replica) >= waiting.end) held++
        else if (replica.failed === undefined) pending++
      }
      const enough = held >= this.copiesMin
      const possible = held + pending >= this.copiesMin
      const undecided = enough ? pending > 0 && !rule.enoughSuffices : possible
      if (undecided && !this.lost) break
      list.shift()
      decided.push({ waiting, held: enough && !this.lost })
    }
    return decided
  }
}
