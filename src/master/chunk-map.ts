/**
 * What is known of every chunk: how it should be (copies, committed length, sealed; the store has it) and where its replicas are
 * (chunk servers report it; the servers are the authority, so it is in memory only).
 *
 * A replica is valid when it is not corrupt and holds all that is committed: in a sealed chunk exactly the committed bytes, or more as
 * long as the server has not been told to seal it. In a store that was restored from a backup, replicas may have been sealed at a greater
 * length than the backup knows: what it knows of them is there.
 *
 * Invariant: the counts are those of the entries, by replicas on servers that are up; empty chunks count as open only.
 * Invariant: a chunk that needs something done is in `attention`, in the bucket of its number of valid replicas.
 */
import type { ChunkId, ServerId, SessionId } from '../domain/ids.ts'
import { asChunkId, asServerId, asSessionId } from '../domain/ids.ts'
import type { Clock } from '../platform/clock.ts'
import type { Replica as ReportedReplica } from '../protocol/gen/shoal/v1/cluster.pb.ts'
import type { AppendResult } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Chunk } from './keys.ts'

export interface Replica {
  readonly server: ServerId
  length: number
  sealed: boolean
  corrupt: boolean
  /** Behind its end, where a block does not match, there are good ones. */
  more?: boolean
}

export interface ChunkEntry {
  readonly id: ChunkId
  copies: number
  /**
   * What its replicas are to hold: the committed bytes (of an open chunk: as far as replicas acknowledged commits since the master's
   * start), or less when it is `cut`.
   */
  length: number
  /** Committed bytes of a sealed chunk whose end is on no disk any more: it is kept as far as a replica has it. */
  cut: number | undefined
  sealed: boolean
  /** A sealed replica with more than the committed bytes is valid too. */
  readonly mayBeLonger: boolean
  /** Who appends; 0 when it is sealed. */
  owner: SessionId
  /** Where an open chunk was placed; empty after a restart of the master, when reports tell. */
  allocated: readonly ServerId[]
  replicas: Replica[]
  /** Valid replicas on servers that are up. */
  valid: number
  /** Those of them on servers that are not being drained. */
  staying: number
}

export interface ChunkCounts {
  total: number
  open: number
  byValid: number[]
  under: number
  over: number
  lost: number
}

/** A replica of a chunk that the master does not know, or knows no more. */
export interface UnknownReplica {
  server: ServerId
  chunk: ChunkId
  sinceMs: number
}

/** Beyond, reports of unknown replicas are not remembered; they come again with the next registration. */
export const unknownReplicasMax = 1_000_000
const bucketCount = 8

export const isValid = (entry: ChunkEntry, replica: Replica): boolean => {
  if (replica.corrupt || replica.length < entry.length) return false
  return !entry.sealed || replica.length === entry.length || !replica.sealed || entry.mayBeLonger
}

const noOne = asSessionId(0n)

export interface ChunkMapOptions {
  clock: Clock
  isUp: (server: ServerId) => boolean
  /** Up, and not being drained. */
  isStaying: (server: ServerId) => boolean
  /** The store was restored from a backup. */
  isRestored?: boolean
  /** A chunk came into `attention`. */
  attention: () => void
}

export class ChunkMap {
  readonly #options: ChunkMapOptions
  readonly #chunks = new Map<ChunkId, ChunkEntry>()
  readonly #open = new Set<ChunkEntry>()
  readonly #replicasOf = new Map<ServerId, { replicas: number; corrupt: number; placed: number }>()
  /** By number of valid replicas, in the order in which they came; the last one holds all with more. */
  readonly #attention: Set<ChunkEntry>[] = Array.from({ length: bucketCount }, () => new Set())
  readonly #unknown = new Map<string, UnknownReplica>()
  /** What the running report of a server has named so far. */
  readonly #reports = new Map<ServerId, Set<ChunkId>>()
  readonly #byValid: number[] = []
  #total = 0
  #under = 0
  #over = 0
  #lost = 0

  constructor(options: ChunkMapOptions) {
    this.#options = options
  }

  get(chunk: ChunkId): ChunkEntry | undefined {
    return this.#chunks.get(chunk)
  }

  get size(): number {
    return this.#chunks.size
  }

  entries(): Iterable<ChunkEntry> {
    return this.#chunks.values()
  }

  openChunks(): Iterable<ChunkEntry> {
    return this.#open
  }

  /** A record of the store: at the start, or of a chunk just allocated. */
  load(id: ChunkId, record: Chunk, allocated: readonly ServerId[] = []): ChunkEntry {
    const entry: ChunkEntry = {
      id,
      copies: record.copies,
      length: record.committedBytes,
      cut: undefined,
      sealed: record.sealed,
      mayBeLonger: this.#options.isRestored === true,
      owner: record.sealed ? noOne : record.owner,
      allocated,
      replicas: [],
      valid: 0,
      staying: 0,
    }
    this.#chunks.set(id, entry)
    if (!entry.sealed) this.#open.add(entry)
    this.#place(entry, 1)
    this.#count(entry, 1)
    this.#judge(entry)
    return entry
  }

  /** Sealed for ever at this length. */
  sealed(id: ChunkId, length: number): void {
    this.#change(id, (entry) => {
      this.#place(entry, -1)
      entry.length = length
      entry.sealed = true
      entry.owner = noOne
      entry.allocated = []
      this.#open.delete(entry)
    })
  }

  /** The record is gone. Returns the servers that hold a replica or may. */
  removed(id: ChunkId): ServerId[] {
    const entry = this.#chunks.get(id)
    if (!entry) return []
    this.#count(entry, -1)
    this.#place(entry, -1)
    this.#forget(entry)
    const holders = new Set(entry.allocated)
    for (const replica of entry.replicas) {
      holders.add(replica.server)
      this.#tally(replica, -1)
    }
    this.#open.delete(entry)
    this.#chunks.delete(id)
    return [...holders]
  }

  /** A commit told how far servers have acknowledged what was appended to open chunks. */
  appended(results: readonly AppendResult[]): void {
    for (const { chunkId, length, serverIds } of results) {
      this.#change(asChunkId(chunkId), (entry) => {
        if (entry.sealed) return
        entry.length = Math.max(entry.length, length)
        for (const id of serverIds) {
          const server = asServerId(id)
          // A client's word counts for servers that the chunk is on, not for any others.
          const known = entry.replicas.find((replica) => replica.server === server)
          if (known) known.length = Math.max(known.length, length)
          else if (entry.allocated.includes(server)) {
            this.#addReplica(entry, { server, length, sealed: false, corrupt: false })
          }
        }
      })
    }
  }

  /** What a server says it holds now. */
  report(server: ServerId, reported: ReportedReplica): void {
    const id = asChunkId(reported.chunkId)
    this.#reports.get(server)?.add(id)
    if (reported.deleted) return this.lost(id, server)
    const entry = this.#chunks.get(id)
    if (!entry) return this.holdsUnknown(server, id)
    // Until the server starts anew, damage that it has found stays unless a copy takes its place, and what it has of an open chunk only
    // grows: a heartbeat that says less is an older one.
    const known = this.#reports.has(server) ? undefined : entry.replicas.find((replica) => replica.server === server)
    const { sealed } = reported
    const length = sealed ? reported.length : Math.max(reported.length, known?.length ?? 0)
    const corrupt = reported.corrupt || known?.corrupt === true
    this.update(id, { server, length, sealed, corrupt, more: reported.more })
  }

  /** A full report begins: what it does not name is gone at its end. */
  reportBegins(server: ServerId): void {
    this.#reports.set(server, new Set())
  }

  /** Returns how many replicas that were known before the report does not name. */
  reportEnds(server: ServerId): number {
    const named = this.#reports.get(server)
    if (!named) return 0
    this.#reports.delete(server)
    let missing = 0
    for (const entry of this.#chunks.values()) {
      if (!named.has(entry.id) && entry.replicas.some((replica) => replica.server === server)) {
        missing++
        this.lost(entry.id, server)
      }
    }
    for (const [key, unknown] of this.#unknown) {
      if (unknown.server === server && !named.has(unknown.chunk)) this.#unknown.delete(key)
    }
    return missing
  }

  /** A replica as it is now known to be: from a report, or because the server just did something with it. */
  update(id: ChunkId, replica: Replica): void {
    this.#change(id, (entry) => {
      const known = entry.replicas.find(({ server }) => server === replica.server)
      if (!known) return this.#addReplica(entry, { ...replica })
      this.#tally(known, -1)
      known.length = replica.length
      known.sealed = replica.sealed
      known.corrupt = replica.corrupt
      known.more = replica.more === true
      this.#tally(known, 1)
      regrow(entry, known)
    })
  }

  /**
   * No server has the chunk wholly, and none that might is away: what the longest replica has is what is left. False: there is nothing to
   * keep, or some replica has more behind what is bad in it.
   */
  cut(id: ChunkId): boolean {
    let isLeft = false
    this.#change(id, (entry) => {
      const committed = entry.cut ?? entry.length
      const longest = (isCorrupt: boolean): number =>
        Math.max(0, ...entry.replicas.filter(({ corrupt }) => corrupt === isCorrupt).map(({ length }) => length))
      const length = longest(false)
      const hasMore = longest(true) > length || entry.replicas.some(({ more }) => more === true)
      if (!entry.sealed || length === 0 || length >= committed || hasMore) return
      entry.cut = committed
      entry.length = length
      isLeft = true
    })
    return isLeft
  }

  /** The server has no such replica any more. */
  lost(id: ChunkId, server: ServerId): void {
    this.#unknown.delete(unknownKey(server, id))
    this.#change(id, (entry) => {
      const at = entry.replicas.findIndex((replica) => replica.server === server)
      if (at < 0) return
      this.#tally(entry.replicas[at]!, -1)
      entry.replicas.splice(at, 1)
    })
  }

  /** The chunk is to have another number of copies. */
  setCopies(id: ChunkId, copies: number): void {
    this.#change(id, (entry) => {
      entry.copies = copies
    })
  }

  /** The server does not belong to the cluster any more: its replicas are gone. */
  serverRemoved(server: ServerId): void {
    for (const entry of this.#chunks.values()) this.lost(entry.id, server)
    for (const [key, unknown] of this.#unknown) if (unknown.server === server) this.#unknown.delete(key)
    this.#replicasOf.delete(server)
  }

  /** Counts again after a server came up or went down, or began or ceased to be drained. */
  serverChanged(server: ServerId): void {
    for (const entry of this.#chunks.values()) {
      if (!entry.replicas.some((replica) => replica.server === server)) continue
      this.#change(entry.id, () => {})
    }
  }

  /** Looks at a chunk again although nothing that is known of it has changed. */
  wantsAttention(id: ChunkId): void {
    const entry = this.#chunks.get(id)
    if (entry) this.#judge(entry)
  }

  /** Chunks that need something done, those with the fewest valid replicas first; at most `max` of each number. */
  *attention(max: number): Generator<ChunkEntry> {
    for (const bucket of this.#attention) {
      const some: ChunkEntry[] = []
      for (const entry of bucket) {
        if (some.length >= max) break
        some.push(entry)
      }
      // To the end of the line, so that those which cannot be helped now do not hide the others.
      for (const entry of some) {
        bucket.delete(entry)
        bucket.add(entry)
      }
      yield* some
    }
  }

  /** All of them, in no order that matters. */
  *attentive(): Generator<ChunkEntry> {
    for (const bucket of this.#attention) yield* bucket
  }

  get attentionCount(): number {
    let count = 0
    for (const bucket of this.#attention) count += bucket.size
    return count
  }

  /** Unknown replicas on servers that are up, first reported before this time; they stay until `lost` says that they are gone. */
  unknownSince(beforeMs: number, max: number): UnknownReplica[] {
    const found: UnknownReplica[] = []
    for (const unknown of this.#unknown.values()) {
      if (unknown.sinceMs > beforeMs || found.length >= max) break
      if (this.#options.isUp(unknown.server)) found.push(unknown)
    }
    return found
  }

  /** The server holds, or may hold, a replica of a chunk that is not known. */
  holdsUnknown(server: ServerId, chunk: ChunkId): void {
    const key = unknownKey(server, chunk)
    if (this.#unknown.has(key) || this.#unknown.size >= unknownReplicasMax) return
    this.#unknown.set(key, { server, chunk, sinceMs: this.#options.clock.nowMs() })
  }

  forgetUnknown(chunk: ChunkId, server: ServerId): void {
    this.#unknown.delete(unknownKey(server, chunk))
  }

  counts(): ChunkCounts {
    return {
      total: this.#total,
      open: this.#open.size,
      byValid: [...this.#byValid],
      under: this.#under,
      over: this.#over,
      lost: this.#lost,
    }
  }

  /** Replicas on a server, and open chunks placed there. */
  serverCounts(server: ServerId): { replicas: number; corrupt: number; placed: number } {
    return this.#replicasOf.get(server) ?? { replicas: 0, corrupt: 0, placed: 0 }
  }

  #change(id: ChunkId, change: (entry: ChunkEntry) => void): void {
    const entry = this.#chunks.get(id)
    if (!entry) return
    this.#count(entry, -1)
    change(entry)
    this.#count(entry, 1)
    this.#judge(entry)
  }

  #addReplica(entry: ChunkEntry, replica: Replica): void {
    entry.replicas.push(replica)
    this.#tally(replica, 1)
    regrow(entry, replica)
  }

  #tallyOf(server: ServerId): { replicas: number; corrupt: number; placed: number } {
    let tally = this.#replicasOf.get(server)
    if (!tally) {
      tally = { replicas: 0, corrupt: 0, placed: 0 }
      this.#replicasOf.set(server, tally)
    }
    return tally
  }

  #tally(replica: Replica, by: 1 | -1): void {
    const tally = this.#tallyOf(replica.server)
    tally.replicas += by
    if (replica.corrupt) tally.corrupt += by
  }

  #place(entry: ChunkEntry, by: 1 | -1): void {
    for (const server of entry.allocated) this.#tallyOf(server).placed += by
  }

  /** Takes an entry out of the counts, or in with its valid replicas counted anew. */
  #count(entry: ChunkEntry, by: 1 | -1): void {
    if (by === 1) {
      entry.valid = 0
      entry.staying = 0
      for (const replica of entry.replicas) {
        if (!isValid(entry, replica) || !this.#options.isUp(replica.server)) continue
        entry.valid++
        if (this.#options.isStaying(replica.server)) entry.staying++
      }
    }
    if (entry.length === 0) return
    this.#total += by
    while (this.#byValid.length <= entry.valid) this.#byValid.push(0)
    this.#byValid[entry.valid]! += by
    if (entry.valid < entry.copies) this.#under += by
    if (entry.valid > entry.copies) this.#over += by
    if (entry.valid === 0) this.#lost += by
  }

  #forget(entry: ChunkEntry): void {
    for (const bucket of this.#attention) bucket.delete(entry)
  }

  #judge(entry: ChunkEntry): void {
    const bucket = this.#attention[Math.min(entry.valid, bucketCount - 1)]!
    const needs = needsAttention(entry)
    if (needs && bucket.has(entry)) return
    this.#forget(entry)
    if (!needs) return
    bucket.add(entry)
    this.#options.attention()
  }
}

/** One has come that has more of the chunk than was left of it. */
const regrow = (entry: ChunkEntry, { corrupt, length }: Replica): void => {
  if (entry.cut === undefined || corrupt || length <= entry.length) return
  entry.length = Math.min(length, entry.cut)
  if (entry.length === entry.cut) entry.cut = undefined
}

/** A sealed chunk with too few or too many valid replicas where they can stay, with bad ones, or with some that are not sealed yet. */
const needsAttention = (entry: ChunkEntry): boolean => {
  if (!entry.sealed) return false
  if (entry.staying !== entry.copies || entry.valid !== entry.staying) return true
  return entry.replicas.some((replica) => !replica.sealed || !isValid(entry, replica))
}

const unknownKey = (server: ServerId, chunk: ChunkId): string => `${server}/${chunk}`
