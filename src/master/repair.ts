/**
 * Brings each sealed chunk to its number of valid, sealed replicas: seals replicas, copies from a valid one, removes surplus and bad
 * ones. Chunks with the fewest valid replicas come first. A server that is being drained gives replicas and takes none.
 *
 * Invariant: a replica is removed only while at least `copies` other valid sealed replicas are on servers that are up and not being
 * drained, and have just said that they hold them: what heartbeats told may be older than a removal or a loss. A bad one is replaced in
 * its place where no other server can take a copy.
 * Invariant: nothing is copied or removed before each known server has reported, or has been away for `repairDelayMs`: a master that has
 * just started knows of no replica.
 *
 * A loss of power everywhere can take the unsynced end of a chunk from all replicas. When it is certain that nobody has it, what the longest
 * replica has is brought to the number of copies.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId, ServerId } from '../domain/ids.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { RepairStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ChunkEntry, ChunkMap, Replica } from './chunk-map.ts'
import { isValid } from './chunk-map.ts'
import type { ChunkServers } from './chunk-servers.ts'
import type { Placement } from './placement/placement.ts'
import type { Server, ServerTable } from './servers.ts'

export interface RepairOptions {
  clock: Clock
  log: Log
  chunks: ChunkMap
  servers: ServerTable
  placement: Placement
  chunkServers: ChunkServers
  /** How long a server may be away before its replicas are made anew. */
  repairDelayMs: number
  /** For all copies together. */
  bytesPerSecondMax: number
}

const tickMs = 500
/** Copies that one server takes or gives at the same time. */
const copiesPerServerMax = 2
const copiesMax = 16
/** Chunks looked at per tick and number of valid replicas. */
const examinedPerTickMax = 512
/** A seal, copy or removal that failed is tried again after this. */
const retryMs = 3000
const sealsMax = 256
const eventsMax = 100
/** The rate of the last copies is measured over this. */
const rateWindowMs = 30_000
/** A copy slower than this is given up. */
const copyBytesPerSecondMin = 256 * 1024

export type RepairWhat = 'lost replica' | 'corrupt replica' | 'surplus replica' | 'copied' | 'copy failed'

interface RepairEvent {
  atMs: number
  chunk: ChunkId
  server: ServerId
  what: RepairWhat
}

interface Copy {
  chunk: ChunkId
  source: ServerId
  target: ServerId
  /** For this copy; undefined: its share of what all repairs may have. */
  bytesPerSecondMax?: number
}

export class Repair {
  readonly #options: RepairOptions
  readonly #startMs: number
  readonly #copies = new Map<string, Copy>()
  readonly #copiesBegun = new WeakMap<ChunkEntry, number>()
  readonly #jobs = new Map<ServerId, number>()
  readonly #busy = new Set<string>()
  readonly #notBeforeMs = new Map<string, number>()
  readonly #events: RepairEvent[] = []
  /** Replicas that go once another server has taken a copy. */
  readonly #moves = new Map<ChunkId, ServerId>()
  /** Chunks of which no server has all, though every server is there: since when. */
  readonly #cutSinceMs = new Map<ChunkId, number>()
  readonly #finished: { atMs: number; bytes: number }[] = []
  #timer: Timer | undefined
  #dueMs = 0
  #closed = false
  #done = 0
  #failed = 0
  #corruptReplaced = 0
  #seals = 0

  constructor(options: RepairOptions) {
    this.#options = options
    this.#startMs = options.clock.nowMs()
    this.#schedule(tickMs)
  }

  /** Something that needs attention has come: look soon. */
  kick(): void {
    if (this.#timer) return
    this.#schedule(tickMs / 10)
  }

  /** For status: what was found or done. */
  note(what: RepairWhat, chunk: ChunkId, server: ServerId): void {
    const seconds = this.#options.clock.wallTime()
    const atMs = Number(seconds.seconds) * 1000 + Math.floor(seconds.nanos / 1e6)
    this.#events.push({ atMs, chunk, server, what })
    if (this.#events.length > eventsMax) this.#events.shift()
  }

  /**
   * Moves a replica of a chunk that has all its copies: a copy is made, then the one on the source is surplus and goes. False when
   * it cannot begin now.
   */
  move(entry: ChunkEntry, way: { source: ServerId; target: ServerId; bytesPerSecondMax: number }): boolean {
    const { source, target, bytesPerSecondMax } = way
    if (this.#copies.size >= copiesMax || !this.#hasRoom(source) || !this.#hasRoom(target)) return false
    if (this.isCopying(entry.id)) return false
    const sources = entry.replicas.filter((replica) => isValid(entry, replica))
    const copy: Copy = { chunk: entry.id, source, target, bytesPerSecondMax }
    return this.#start(`copy/${entry.id}/${target}`, async () => {
      this.#moves.set(entry.id, source)
      try {
        await this.#runCopy(entry, copy, sources, undefined)
      } catch (caught) {
        this.#moves.delete(entry.id)
        throw caught
      }
    })
  }

  /** While a copy runs, its source must keep what it has. */
  isCopying(chunk: ChunkId): boolean {
    for (const copy of this.#copies.values()) if (copy.chunk === chunk) return true
    return false
  }

  /** How many copies of the chunk were begun since the master's start. */
  copiesBegun(entry: ChunkEntry): number {
    return this.#copiesBegun.get(entry) ?? 0
  }

  /** Every known server has reported, or had its time to come back after the master's start. */
  ready(): boolean {
    const { clock, servers, repairDelayMs } = this.#options
    return servers.complete() || clock.nowMs() - this.#startMs >= repairDelayMs
  }

  status(): RepairStatus {
    let queued = 0
    let bytesLeft = 0
    for (const entry of this.#options.chunks.attentive()) {
      const missing = entry.copies - entry.staying
      if (missing <= 0 || entry.length === 0) continue
      queued++
      bytesLeft += missing * entry.length
    }
    const running = this.#copies.size
    const bytesPerMs = this.#bytesPerMs()
    return {
      queued: BigInt(Math.max(0, queued - running)),
      running: BigInt(running),
      done: BigInt(this.#done),
      failed: BigInt(this.#failed),
      bytesLeft: BigInt(bytesLeft),
      etaMs: bytesPerMs > 0 ? BigInt(Math.ceil(bytesLeft / bytesPerMs)) : bytesLeft === 0 ? 0n : undefined,
      corruptReplaced: BigInt(this.#corruptReplaced),
      recent: this.#events.map(({ atMs, chunk, server, what }) => ({
        atMs: BigInt(atMs),
        chunkId: chunk,
        serverId: server,
        what,
      })),
    }
  }

  close(): void {
    this.#closed = true
    this.#timer?.cancel()
  }

  /** Looks again after this time, or earlier when that was planned. */
  #schedule(ms: number): void {
    const { clock } = this.#options
    if (this.#closed || (this.#timer && this.#dueMs <= clock.nowMs() + ms)) return
    this.#timer?.cancel()
    this.#dueMs = clock.nowMs() + ms
    this.#timer = clock.after(ms, () => {
      this.#timer = undefined
      this.#tick()
      if (this.#options.chunks.attentionCount > 0) this.#schedule(tickMs)
    })
  }

  #tick(): void {
    const ready = this.ready()
    const now = this.#options.clock.nowMs()
    for (const id of this.#cutSinceMs.keys())
      if ((this.#options.chunks.get(id)?.valid ?? 1) > 0) this.#cutSinceMs.delete(id)
    for (const [key, notBeforeMs] of this.#notBeforeMs) if (notBeforeMs <= now) this.#notBeforeMs.delete(key)
    for (const entry of this.#options.chunks.attention(examinedPerTickMax)) {
      this.#sealReplicas(entry)
      if (ready) this.#mend(entry)
    }
  }

  #sealReplicas(entry: ChunkEntry): void {
    for (const replica of entry.replicas) {
      if (this.#seals >= sealsMax) return
      if (replica.sealed || !isValid(entry, replica) || !this.#options.servers.isUp(replica.server)) continue
      this.#start(`seal/${entry.id}/${replica.server}`, async () => {
        this.#seals++
        try {
          await this.#seal(entry, replica)
        } finally {
          this.#seals--
        }
      })
    }
  }

  /** A replica that is known as sealed is only asked for: it is found out when it is not there, or not like that. */
  async #seal(entry: ChunkEntry, replica: Replica): Promise<void> {
    const { chunks, chunkServers } = this.#options
    const { server } = replica
    const length = replica.sealed ? replica.length : entry.length
    try {
      await chunkServers.seal(server, entry.id, length)
      chunks.update(entry.id, { server, length, sealed: true, corrupt: replica.corrupt })
    } catch (caught) {
      if (!(caught instanceof PosixError)) throw caught
      if (caught.code === 'ENOENT') {
        this.note('lost replica', entry.id, server)
        chunks.lost(entry.id, server)
      } else if (caught.code === 'ERANGE') {
        // Shorter than reported; its next heartbeat tells the true length.
        chunks.update(entry.id, { server, length: 0, sealed: false, corrupt: false })
      } else throw caught
    }
  }

  #mend(entry: ChunkEntry): void {
    const { clock, servers, repairDelayMs } = this.#options
    if (entry.length === 0) return
    const good: Replica[] = []
    const bad: Replica[] = []
    let expected = 0
    for (const replica of entry.replicas) {
      const server = servers.get(replica.server)
      if (!server) continue
      const valid = isValid(entry, replica)
      if (server.state === 'up') (valid ? good : bad).push(replica)
      else if (valid && !server.draining && clock.nowMs() - server.lastSeenMs < repairDelayMs) expected++
    }
    const staying = good.filter((replica) => servers.isStaying(replica.server))
    const sealedGood = staying.filter(({ sealed }) => sealed)
    if (sealedGood.length >= entry.copies) {
      for (const replica of bad) this.#remove(entry, replica, replica.corrupt ? 'corrupt' : 'bad')
      for (const replica of good) if (!servers.isStaying(replica.server)) this.#remove(entry, replica, 'drained')
      if (bad.length === 0 && sealedGood.length > entry.copies) this.#removeSurplus(entry, sealedGood)
      return
    }
    if (good.length === 0) return this.#cut(entry)
    let running = 0
    for (const copy of this.#copies.values()) if (copy.chunk === entry.id) running++
    for (let missing = entry.copies - staying.length - expected - running; missing > 0; missing--) {
      if (!this.#copy(entry, good, bad)) return
    }
  }

  /** Not at once: a replica that is looked at again right now may have more. */
  #cut(entry: ChunkEntry): void {
    const { clock, chunks, servers, log, repairDelayMs } = this.#options
    if (!servers.complete()) {
      this.#cutSinceMs.delete(entry.id)
      return
    }
    const sinceMs = this.#cutSinceMs.get(entry.id)
    if (sinceMs === undefined) this.#cutSinceMs.set(entry.id, clock.nowMs())
    if (sinceMs === undefined || clock.nowMs() - sinceMs < repairDelayMs || !chunks.cut(entry.id)) return
    this.#cutSinceMs.delete(entry.id)
    log.error('no server has all of a chunk; the rest of it is kept', {
      chunk: entry.id,
      committed: entry.cut,
      kept: entry.length,
    })
  }

  #removeSurplus(entry: ChunkEntry, good: readonly Replica[]): void {
    const { servers } = this.#options
    if ([...this.#busy].some((key) => key.startsWith(`remove/${entry.id}/`))) return
    // One at a time: the next look starts from what is then known. The fullest server gives its replica up, unless the racks of the
    // others would be fewer.
    const racksWithout = (replica: Replica): number =>
      new Set(good.filter((other) => other !== replica).map(({ server }) => servers.get(server)?.address.rack)).size
    const moving = this.#moves.get(entry.id)
    const [first] = good.toSorted(
      (a, b) =>
        racksWithout(b) - racksWithout(a) ||
        Number(b.server === moving) - Number(a.server === moving) ||
        (servers.get(a.server)?.freeBytes ?? 0) - (servers.get(b.server)?.freeBytes ?? 0),
    )
    this.#remove(entry, first!, 'surplus')
  }

  #remove(entry: ChunkEntry, replica: Replica, why: 'corrupt' | 'bad' | 'surplus' | 'drained'): void {
    const { chunks, chunkServers, servers } = this.#options
    const { server } = replica
    if (this.isCopying(entry.id)) return
    this.#start(`remove/${entry.id}/${server}`, async () => {
      const counts = (other: Replica): boolean =>
        other.server !== server && other.sealed && isValid(entry, other) && servers.isStaying(other.server)
      const others = entry.replicas.filter(counts)
      if (others.length < entry.copies) return
      await Promise.all(others.map((other) => this.#seal(entry, other)))
      const confirmed = entry.replicas.filter((other) => others.includes(other) && counts(other))
      if (confirmed.length < entry.copies || chunks.get(entry.id) !== entry || this.isCopying(entry.id)) return
      await chunkServers.delete(server, [entry.id])
      chunks.lost(entry.id, server)
      if (why === 'surplus') this.#moves.delete(entry.id)
      if (why === 'surplus') this.note('surplus replica', entry.id, server)
      if (why === 'corrupt') this.#corruptReplaced++
    })
  }

  /** Starts one copy; false when it has to wait. */
  #copy(entry: ChunkEntry, good: readonly Replica[], bad: readonly Replica[]): boolean {
    if (this.#copies.size >= copiesMax) return false
    const sources = good.filter(({ server }) => this.#hasRoom(server))
    if (sources.length === 0) return false
    const target = this.#target(entry, good, bad)
    if (!target) return false
    const replaced = bad.find(({ server }) => server === target.id)
    // The least busy source does the work; the others are named in case it fails.
    sources.sort((a, b) => (this.#jobs.get(a.server) ?? 0) - (this.#jobs.get(b.server) ?? 0))
    const source = sources[0]!.server
    const copy: Copy = { chunk: entry.id, source, target: target.id }
    return this.#start(`copy/${entry.id}/${target.id}`, () => this.#runCopy(entry, copy, sources, replaced))
  }

  #target(entry: ChunkEntry, good: readonly Replica[], bad: readonly Replica[]): Server | undefined {
    const { servers, placement, chunks } = this.#options
    const free = servers
      .staying()
      .filter(
        (server) =>
          this.#hasRoom(server.id) &&
          !this.#waits(`copy/${entry.id}/${server.id}`) &&
          !this.#copies.has(`${entry.id}/${server.id}`) &&
          !good.some((replica) => replica.server === server.id) &&
          server.freeBytes > entry.length,
      )
    const holdsNone = free.filter((server) => !entry.replicas.some((replica) => replica.server === server.id))
    const [chosen] = placement.choose({
      copies: 1,
      servers: holdsNone.map((server) => ({
        id: server.id,
        rack: server.address.rack,
        freeBytes: server.freeBytes,
        load: server.load + chunks.serverCounts(server.id).placed + (this.#jobs.get(server.id) ?? 0),
      })),
      excluded: new Set(),
      chunkId: entry.id,
      racksTaken: good.flatMap(({ server }) =>
        servers.isStaying(server) ? [servers.get(server)?.address.rack ?? ''] : [],
      ),
    })
    if (chosen) return servers.get(chosen.id)
    // Nobody else can take it: it is made anew where the bad one is, which goes only when the copy is complete.
    const elsewhere = servers
      .staying()
      .some((server) => !entry.replicas.some((r) => r.server === server.id) && server.freeBytes > entry.length)
    return elsewhere ? undefined : free.find((server) => bad.some((replica) => replica.server === server.id))
  }

  async #runCopy(
    entry: ChunkEntry,
    copy: Copy,
    sources: readonly Replica[],
    replaced: Replica | undefined,
  ): Promise<void> {
    const { chunks, chunkServers, servers, clock, log, bytesPerSecondMax } = this.#options
    const { target, source } = copy
    // It may be another one when the copy is done.
    const { length } = entry
    const key = `${entry.id}/${target}`
    const replacesCorrupt = replaced?.corrupt === true
    this.#copies.set(key, copy)
    this.#copiesBegun.set(entry, this.copiesBegun(entry) + 1)
    this.#job(source, 1)
    this.#job(target, 1)
    try {
      await chunkServers.copy(
        target,
        {
          chunkId: entry.id,
          length,
          sources: sources.flatMap(({ server }) => servers.get(server)?.address ?? []),
          bytesPerSecondMax: BigInt(
            Math.max(1, Math.floor(copy.bytesPerSecondMax ?? bytesPerSecondMax / this.#copies.size)),
          ),
        },
        30_000 + (length / copyBytesPerSecondMin) * 1000,
      )
      chunks.update(entry.id, { server: target, length, sealed: true, corrupt: false })
      this.#done++
      if (replacesCorrupt) this.#corruptReplaced++
      this.#finished.push({ atMs: clock.nowMs(), bytes: length })
      this.note('copied', entry.id, target)
      log.info('replica copied', { chunk: entry.id, source, target, length })
    } catch (cause) {
      this.#failed++
      this.note('copy failed', entry.id, target)
      log.warn('copy failed', { chunk: entry.id, source, target, cause })
      throw cause
    } finally {
      this.#copies.delete(key)
      this.#job(source, -1)
      this.#job(target, -1)
      // A place is free for the next one.
      this.#schedule(tickMs / 10)
    }
  }

  /** Runs a job unless the same one runs or has just failed; whatever it throws only makes it wait. */
  #start(key: string, job: () => Promise<void>): boolean {
    if (this.#busy.has(key) || this.#waits(key)) return false
    this.#busy.add(key)
    const run = async (): Promise<void> => {
      try {
        await job()
      } catch (cause) {
        this.#notBeforeMs.set(key, this.#options.clock.nowMs() + retryMs)
        this.#options.log.debug('repair step failed', { step: key, cause })
      } finally {
        this.#busy.delete(key)
        if (this.#options.chunks.attentionCount > 0) this.kick()
      }
    }
    void run()
    return true
  }

  #waits(key: string): boolean {
    return (this.#notBeforeMs.get(key) ?? 0) > this.#options.clock.nowMs()
  }

  #hasRoom(server: ServerId): boolean {
    return (this.#jobs.get(server) ?? 0) < copiesPerServerMax
  }

  #job(server: ServerId, by: 1 | -1): void {
    const jobs = (this.#jobs.get(server) ?? 0) + by
    if (jobs === 0) this.#jobs.delete(server)
    else this.#jobs.set(server, jobs)
  }

  #bytesPerMs(): number {
    const now = this.#options.clock.nowMs()
    while (this.#finished.length > 0 && this.#finished[0]!.atMs < now - rateWindowMs) this.#finished.shift()
    if (this.#finished.length === 0) return 0
    const bytes = this.#finished.reduce((sum, finished) => sum + finished.bytes, 0)
    return bytes / Math.max(1000, now - this.#finished[0]!.atMs)
  }
}
