/**
 * Brings buffered data to the chunk servers and the master, in the background and on demand.
 *
 * A file's dirty data is frozen into batches. Batches of one file are appended side by side and committed in their order; one commit may
 * cover several that do not overlap. A file of at most inline_bytes_max whose content is known is committed inline instead.
 *
 * When: a file has enough whole slots for a stream; its oldest data is `ageMsMax` old; memory is short; somebody asks (fsync, a
 * recalled lease); it was closed. Files that are closed within a moment go together, so that many share appends and commits; only what
 * will be inline goes at once, to the journal.
 * Failures: no answer is tried again for as long as the session lives, because the data is still here; a refusal (ENOSPC, ESTALE, …)
 * drops everything that is buffered of the file and is kept for its handles.
 *
 * Invariant: nothing in here takes the lock of an inode, see leases.ts.
 * Invariant: what was appended is released exactly once, after its commit or when it is given up.
 */
import { merge, overlay } from '../domain/extents.ts'
import type { Extent } from '../domain/extents.ts'
import { errnoOf, PosixError, UnavailableError } from '../domain/errors.ts'
import type { ErrnoName } from '../domain/errors.ts'
import { asChunkId } from '../domain/ids.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import { laterOf } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { CommitRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { AppendedParts, AppendQueue } from './append-queue.ts'
import type { ByteBudget } from './byte-budget.ts'
import { DirtyData, slotBytes } from './dirty-data.ts'
import type { FilePart } from './dirty-data.ts'
import type { Inode, Inodes } from './inode.ts'
import type { Locations } from './locations.ts'
import type { RoomWatch } from './room-watch.ts'
import type { UnsyncedChunks } from './unsynced-chunks.ts'

/** A file with this much in whole slots starts to be written out. */
const streamBytes = 4 * slotBytes
const batchBytesMax = 4 * slotBytes
const batchesMax = 8
const ageMsMax = 1_000
const tickMs = 250
const retryMsMin = 100
const retryMsMax = 2_000
const rejectionsMax = 10
const commitExtentsMax = 4_096
/** Appended data that nobody syncs is synced after this long. */
const unsyncedMsMax = 5_000
/** How long a closed file waits for others, and how much waits. */
const closedMsMax = 50
const closedBytesMax = 2 * 1024 * 1024

type Phase =
  | { kind: 'appending' }
  | { kind: 'inline'; content: Buffer }
  | { kind: 'appended'; parts: AppendedParts }
  | { kind: 'done' }

/** Frozen data of one file on its way. */
export interface Batch {
  readonly data: DirtyData
  readonly bytes: number
  /** Of the whole file, with this batch. */
  readonly size: bigint
  readonly times: { mtime: Timespec; ctime: Timespec } | undefined
  /** On disk before it is committed: somebody asked for it, or it takes the place of data that is. */
  sync: boolean
  phase: Phase
  /** How often its chunks were sealed before the commit. */
  rejections: number
  /** Resolves when it is committed or has failed; never rejects. */
  readonly done: Promise<void>
  finish(): void
}

export interface FlusherOptions {
  clock: Clock
  log: Log
  faults?: Faults | undefined
  inodes: Inodes
  budget: ByteBudget
  appends: AppendQueue
  unsynced: UnsyncedChunks
  locations: Locations
  room: RoomWatch
  inlineBytesMax(): number
  /** Of a file that does not say it. */
  copies(): number
  /** What the master says of the file afterwards is known when it resolves. */
  commit(request: CommitRequest): Promise<void>
  /** Makes `inline` or `segments` known as far as it takes to know which of them it is. */
  learnLayout(inode: Inode): Promise<void>
  syncChunks(chunkIds: readonly ChunkId[]): Promise<void>
  isOver(): boolean
}

/** Files that were closed and go on their way together. */
interface Gathering {
  readonly inodes: Set<Inode>
  bytes: number
  readonly timer: Timer
  readonly sent: Promise<void>
  readonly send: () => void
}

export class Flusher {
  readonly #options: FlusherOptions
  #timer: Timer | undefined
  #stopped = false
  #syncing = false
  /** Files with dirty data. */
  readonly #dirty = new Set<Inode>()

  #closed: Gathering | undefined

  constructor(options: FlusherOptions) {
    this.#options = options
  }

  /** Data was added to a file. */
  written(inode: Inode): void {
    if (inode.dirtySinceMs === Infinity) inode.dirtySinceMs = this.#options.clock.nowMs()
    this.#dirty.add(inode)
    if (this.#options.budget.short) this.relieve()
    else this.#stream(inode)
    this.#startTimer()
  }

  /** Memory is short: everything goes out. */
  relieve(): void {
    for (const inode of this.#dirty) this.freeze(inode, { sync: false })
  }

  /** Everything that is dirty now goes on its way. */
  freeze(inode: Inode, options: { sync: boolean }): void {
    while (!inode.dirty.empty) this.#freezeSome(inode, { full: false, ...options })
    this.#isClean(inode)
  }

  /** Resolves when everything that is buffered now is committed or has failed; with `sync` it is on disk. Never rejects. */
  async flush(inode: Inode, options: { sync: boolean }): Promise<void> {
    this.freeze(inode, options)
    if (options.sync && inode.tail !== undefined) inode.tail.synced = true
    await Promise.all(inode.batches.map(({ done }) => done))
    if (!options.sync) return
    await this.#options.faults?.point('client.commit.sync')
    await this.#sync(inode)
  }

  /** What is on its way is committed or has failed; what is dirty stays. */
  async drain(inode: Inode): Promise<void> {
    await Promise.all(inode.batches.map(({ done }) => done))
  }

  /** A descriptor is closed: what is dirty goes on its way soon, and is stored when that might fail for lack of room. */
  async close(inode: Inode): Promise<void> {
    const isInline = inode.size <= BigInt(this.#options.inlineBytesMax()) && inode.planned.kind !== 'extents'
    if (!isInline && !this.waitsAtClose) {
      void this.#gather(inode)
      return
    }
    this.freeze(inode, { sync: false })
    await inode.deciding
    if (this.waitsAtClose) await this.drain(inode)
  }

  /** Resolves when what is buffered of a file that was closed is committed or has failed. Nobody is in a hurry. Never rejects. */
  async closed(inode: Inode): Promise<void> {
    if (!inode.dirty.empty) await this.#gather(inode)
    await this.drain(inode)
  }

  get waitsAtClose(): boolean {
    return this.#options.room.isShort
  }

  /** Drops everything that is buffered of a file. */
  fail(inode: Inode, code: ErrnoName, why: unknown): void {
    if (!inode.buffered) return
    if (inode.rewriting === undefined) {
      this.#options.log.error('buffered data of a file is lost', { ino: inode.ino, code, cause: why })
      inode.errors.record(code)
    } else inode.rewriting.refused = new PosixError(code, 'inline content could not be stored as extents')
    if (code === 'ENOSPC') this.#options.room.refused()
    this.discard(inode)
  }

  /** The file was made empty; nothing of it is on its way. */
  emptied(inode: Inode): void {
    this.#discardDirty(inode)
    inode.localSize = undefined
    inode.localTimes = undefined
    inode.dropLayout()
  }

  discard(inode: Inode): void {
    inode.dropCached()
    this.abandon(inode)
  }

  /** The same for a file that is gone and that nobody has open: nothing is lost. */
  abandon(inode: Inode): void {
    this.#discardDirty(inode)
    const batches = inode.batches
    inode.batches = []
    for (const batch of batches) this.#finish(batch)
    inode.localSize = undefined
    inode.localTimes = undefined
    inode.dropLayout()
    this.#options.inodes.forgetIdle(inode)
  }

  stop(): void {
    this.#stopped = true
    this.#timer?.cancel()
    this.#closed?.timer.cancel()
  }

  /** Resolves when it is on its way, with all that was closed shortly before and after it. */
  #gather(inode: Inode): Promise<void> {
    this.#closed ??= this.#newGathering()
    const closed = this.#closed
    if (!closed.inodes.has(inode)) closed.bytes += inode.dirty.bytes
    closed.inodes.add(inode)
    if (closed.bytes >= closedBytesMax) this.#sendClosed()
    return closed.sent
  }

  #newGathering(): Gathering {
    let send = (): void => {}
    const sent = new Promise<void>((resolve) => {
      send = resolve
    })
    const timer = this.#options.clock.after(closedMsMax, () => this.#sendClosed())
    return { inodes: new Set(), bytes: 0, timer, sent, send }
  }

  #sendClosed(): void {
    const closed = this.#closed
    this.#closed = undefined
    if (closed === undefined) return
    closed.timer.cancel()
    for (const inode of closed.inodes) this.freeze(inode, { sync: false })
    closed.send()
  }

  #discardDirty(inode: Inode): void {
    const bytes = inode.dirty.bytes
    inode.dirty = new DirtyData()
    this.#isClean(inode)
    if (bytes > 0) this.#options.budget.give(bytes)
  }

  #startTimer(): void {
    if (this.#stopped) return
    this.#timer ??= this.#options.clock.after(tickMs, () => {
      this.#timer = undefined
      this.#tick()
    })
  }

  #tick(): void {
    const { clock, inodes, budget, unsynced } = this.#options
    const now = clock.nowMs()
    let more = false
    for (const inode of inodes.all()) {
      if (!inode.dirty.empty && (budget.short || now - inode.dirtySinceMs >= ageMsMax))
        this.freeze(inode, { sync: false })
      more ||= inode.buffered
    }
    const old = this.#syncing ? [] : unsynced.olderThan(now - unsyncedMsMax)
    if (old.length > 0) {
      this.#syncing = true
      void this.#syncQuietly(old).finally(() => {
        this.#syncing = false
      })
    }
    if (this.#dirty.size > 0 || unsynced.count > 0) this.#startTimer()
  }

  #stream(inode: Inode): void {
    while (inode.batches.length < batchesMax && inode.dirty.bytes >= streamBytes) {
      this.#freezeSome(inode, { sync: false, full: inode.dirty.fullBytes >= streamBytes })
    }
    if (inode.dirty.empty) this.#isClean(inode)
  }

  #isClean(inode: Inode): void {
    inode.dirtySinceMs = Infinity
    inode.replacesSynced = false
    this.#dirty.delete(inode)
  }

  #freezeSome(inode: Inode, options: { sync: boolean; full: boolean }): void {
    const { size } = inode
    const data = inode.dirty.take({ bytesMax: batchBytesMax, full: options.full })
    let finish = (): void => {}
    const done = new Promise<void>((resolve) => {
      finish = resolve
    })
    const batch: Batch = {
      data,
      bytes: data.bytes,
      // Of several batches that leave together the last one tells the size, so that no commit makes a file longer than its data.
      size: inode.dirty.empty ? size : data.end,
      times: inode.localTimes,
      sync: options.sync || inode.replacesSynced,
      phase: { kind: 'appending' },
      rejections: 0,
      done,
      finish,
    }
    inode.batches.push(batch)
    if (inode.dirty.empty) keepTail(inode, batch, size)
    inode.deciding = inode.deciding.then(() => this.#start(inode, batch))
  }

  /** Decides where a batch goes, in the order of the batches, and sends it on its way. */
  async #start(inode: Inode, batch: Batch): Promise<void> {
    try {
      if (inode.planned.kind === 'unknown') await this.#learn(inode, batch)
      if (batch.phase.kind !== 'appending') return
      const { planned } = inode
      if (planned.kind === 'inline') {
        const keeps = batch.size <= BigInt(this.#options.inlineBytesMax()) && inode.rewriting === undefined
        if (keeps) {
          const length = Math.max(Number(batch.size), planned.content.length)
          const content = Buffer.alloc(length)
          planned.content.copy(content)
          for (const { offset, data } of batch.data.parts(0n, length)) data.copy(content, Number(offset))
          inode.planned = { kind: 'inline', content }
          batch.phase = { kind: 'inline', content }
          void this.#commit(inode)
          return
        }
        batch.data.fill(0n, planned.content)
        // Inline content is on the master's disk; power may fail before anybody syncs what replaces it.
        if (planned.content.length > 0) syncAll(inode)
        inode.planned = { kind: 'extents' }
      }
      void this.#append(inode, batch)
    } catch (caught) {
      this.#failBatch(inode, batch, caught)
    }
  }

  async #learn(inode: Inode, batch: Batch): Promise<void> {
    for (let attempt = 0; batch.phase.kind === 'appending' && inode.planned.kind === 'unknown'; attempt++) {
      if (inode.inline !== undefined) inode.planned = { kind: 'inline', content: inode.inline }
      else if (inode.attributes?.size === 0n) inode.planned = { kind: 'inline', content: Buffer.alloc(0) }
      else if (inode.segments.size > 0) inode.planned = { kind: 'extents' }
      else {
        try {
          await this.#options.learnLayout(inode)
        } catch (caught) {
          if (!(caught instanceof UnavailableError) || this.#options.isOver()) throw caught
        }
        if (attempt > 0) await this.#options.clock.sleep(backoffMs(attempt))
      }
    }
  }

  async #append(inode: Inode, batch: Batch): Promise<void> {
    const { appends, clock, log, faults, unsynced, locations } = this.#options
    const parts: FilePart[] = batch.data.pieces()
    const copies = inode.attributes?.copies ?? this.#options.copies()
    for (let attempt = 0; batch.phase.kind === 'appending'; attempt++) {
      try {
        const appended = await appends.append(parts, { copies, sync: batch.sync })
        await faults?.point('client.append.commit')
        for (const chunkId of appended.chunkIds) {
          const servers = appended.locations.get(chunkId)
          if (servers !== undefined) locations.set(chunkId, servers)
        }
        if ((batch.phase as Phase).kind !== 'appending') {
          appended.release()
          return
        }
        if (!batch.sync) {
          for (const chunkId of appended.chunkIds) {
            unsynced.add(chunkId, clock.nowMs())
            inode.unsynced.add(chunkId)
          }
          this.#startTimer()
        }
        batch.phase = { kind: 'appended', parts: appended }
        void this.#commit(inode)
        return
      } catch (caught) {
        if (!(caught instanceof UnavailableError) || this.#options.isOver()) {
          this.#failBatch(inode, batch, caught)
          return
        }
        log.warn('data could not be appended yet', { ino: inode.ino, bytes: batch.bytes, cause: caught })
        await clock.sleep(backoffMs(attempt))
      }
    }
  }

  /** Commits what is appended, in order, until something is not. */
  async #commit(inode: Inode): Promise<void> {
    if (inode.committing) return
    inode.committing = true
    for (let ready = readyPrefix(inode.batches); ready.length > 0; ready = readyPrefix(inode.batches)) {
      try {
        const request = commitRequest(inode, ready)
        await this.#options.commit(request)
        // Meanwhile everything may have been dropped; a layout that was learned since then may be older than this commit.
        if (ready.some(({ phase }) => phase.kind === 'done')) inode.dropLayout()
        else this.#committed(inode, ready, request)
      } catch (caught) {
        this.#refused(inode, ready, caught)
      }
    }
    inode.committing = false
  }

  #refused(inode: Inode, ready: readonly Batch[], caught: unknown): void {
    if (caught instanceof PosixError && caught.code === 'EROFS' && ready.every(canAppendAgain)) {
      this.#options.log.info('chunks were sealed before a commit; their data goes elsewhere', { ino: inode.ino })
      for (const batch of ready) this.#appendAgain(inode, batch)
    } else if (ready.some(({ phase }) => phase.kind !== 'done')) this.fail(inode, lossCode(caught), caught)
  }

  #appendAgain(inode: Inode, batch: Batch): void {
    if (batch.phase.kind !== 'appended') return
    batch.phase.parts.release()
    batch.phase = { kind: 'appending' }
    batch.rejections++
    void this.#append(inode, batch)
  }

  #committed(inode: Inode, ready: readonly Batch[], request: CommitRequest): void {
    if (request.inlineData !== undefined) {
      inode.inline = request.inlineData
      inode.segments.clear()
    } else {
      if (inode.inline !== undefined) {
        // The content was inline: nothing but what this commit says is in the first segment.
        inode.inline = undefined
        inode.segments.clear()
        inode.segments.set(0n, [])
      }
      for (const { index, extents } of request.segments) {
        const known = inode.segments.get(index)
        if (known !== undefined) inode.segments.set(index, overlay(known, extents))
      }
    }
    inode.layoutVersion++
    inode.batches = inode.batches.filter((batch) => !ready.includes(batch))
    if (!inode.buffered) {
      inode.localSize = undefined
      inode.localTimes = undefined
    }
    for (const batch of ready) this.#finish(batch)
    this.#stream(inode)
    if (!inode.buffered) this.#options.inodes.forgetIdle(inode)
  }

  #failBatch(inode: Inode, batch: Batch, caught: unknown): void {
    if (batch.phase.kind !== 'done') this.fail(inode, lossCode(caught), caught)
  }

  #finish(batch: Batch): void {
    if (batch.phase.kind === 'done') return
    if (batch.phase.kind === 'appended') batch.phase.parts.release()
    batch.phase = { kind: 'done' }
    this.#options.budget.give(batch.bytes)
    batch.finish()
  }

  /** Brings to disk what was appended of this file without sync. A failure is kept for the file's handles. */
  async #sync(inode: Inode): Promise<void> {
    const { unsynced } = this.#options
    const candidates = inode.unsyncedComplete ? [...inode.unsynced] : unsynced.all()
    const chunkIds = candidates.filter((chunkId) => unsynced.has(chunkId))
    const complete = !inode.unsyncedComplete
    try {
      if (chunkIds.length > 0) await this.#syncNow(chunkIds)
      // What was appended meanwhile is still to be synced.
      for (const chunkId of candidates) if (!unsynced.has(chunkId)) inode.unsynced.delete(chunkId)
      if (complete) inode.unsyncedComplete = true
    } catch (caught) {
      this.#options.log.error('data could not be brought to disk', { ino: inode.ino, cause: caught })
      inode.errors.record(lossCode(caught))
    }
  }

  async #syncNow(chunkIds: readonly ChunkId[]): Promise<void> {
    const synced = this.#options.unsynced.begin()
    await this.#options.syncChunks(chunkIds)
    for (const chunkId of chunkIds) synced(chunkId)
  }

  async #syncQuietly(chunkIds: readonly ChunkId[]): Promise<void> {
    try {
      await this.#syncNow(chunkIds)
    } catch (caught) {
      this.#options.log.debug('a background sync failed', { cause: caught })
      return
    }
    for (const inode of this.#options.inodes.all()) {
      if (inode.unsynced.size === 0) continue
      for (const chunkId of chunkIds) if (!this.#options.unsynced.has(chunkId)) inode.unsynced.delete(chunkId)
      if (inode.unsynced.size === 0) this.#options.inodes.forgetIdle(inode)
    }
  }
}

const canAppendAgain = ({ phase, rejections }: Batch): boolean =>
  phase.kind === 'done' || (phase.kind === 'appended' && rejections < rejectionsMax)

const backoffMs = (attempt: number): number => Math.min(retryMsMin * 2 ** Math.min(attempt, 10), retryMsMax)

const lossCode = (caught: unknown): ErrnoName => {
  const code = errnoOf(caught)
  return caught instanceof PosixError && (code === 'ENOSPC' || code === 'EFBIG' || code === 'EDQUOT') ? code : 'EIO'
}

/** Everything that is on its way and not appended yet, and what takes the place of that, is to be on disk before it is committed. */
const syncAll = (inode: Inode): void => {
  for (const batch of inode.batches) batch.sync = true
  if (inode.tail !== undefined) inode.tail.synced = true
  if (!inode.dirty.empty) inode.replacesSynced = true
}

/** Remembers the content of a partly filled last block, so that the next write at the end replaces its extent. */
const keepTail = (inode: Inode, { data, sync }: Batch, size: bigint): void => {
  inode.tail = undefined
  const length = Number(size % BigInt(blockBytes))
  if (length === 0) return
  const offset = size - BigInt(length)
  const bytes = Buffer.alloc(length)
  let held = 0
  for (const part of data.parts(offset, length)) held += part.data.copy(bytes, Number(part.offset - offset))
  if (held === length) inode.tail = { offset, data: bytes, synced: sync }
}

/** The batches at the front that can be committed together. */
const readyPrefix = (batches: readonly Batch[]): Batch[] => {
  const ready: Batch[] = []
  let extents: Extent[][] = []
  let count = 0
  const bySegment = new Map<bigint, Extent[]>()
  for (const batch of batches) {
    const { phase } = batch
    if (phase.kind === 'inline') {
      // Each inline content is the whole file: of several the last one counts.
      if (ready.some((earlier) => earlier.phase.kind !== 'inline')) break
      ready.push(batch)
      continue
    }
    if (phase.kind !== 'appended' || ready.some((earlier) => earlier.phase.kind === 'inline')) break
    extents = [...phase.parts.extents.values()]
    const size = extents.reduce((sum, list) => sum + list.length, 0)
    if (ready.length > 0 && (count + size > commitExtentsMax || overlaps(bySegment, phase.parts.extents))) break
    for (const [index, list] of phase.parts.extents) bySegment.set(index, [...(bySegment.get(index) ?? []), ...list])
    count += size
    ready.push(batch)
  }
  return ready
}

const overlaps = (bySegment: ReadonlyMap<bigint, Extent[]>, added: ReadonlyMap<bigint, Extent[]>): boolean => {
  for (const [index, list] of added) {
    for (const a of bySegment.get(index) ?? []) {
      for (const b of list) if (a.offset < b.offset + b.length && b.offset < a.offset + a.length) return true
    }
  }
  return false
}

const commitRequest = (inode: Inode, ready: readonly Batch[]): CommitRequest => {
  const last = ready.at(-1)!
  const size = ready.reduce((most, batch) => (batch.size > most ? batch.size : most), inode.attributes?.size ?? 0n)
  // Times that were set explicitly meanwhile must stay.
  const times = inode.localTimes === undefined ? undefined : last.times
  // The inode may have been changed in another way meanwhile; its ctime must not go back. Nor forward by a commit that comes after times
  // were set: nobody has done anything then.
  const known = inode.attributes?.ctime
  const ctime = times && known ? laterOf(times.ctime, known) : (times?.ctime ?? known)
  const common = { ino: inode.ino, mtime: times?.mtime, ctime, killPrivileges: false }
  if (last.phase.kind === 'inline') {
    const { content } = last.phase
    return { segments: [], size: BigInt(content.length), inlineData: content, appended: [], ...common }
  }
  const segments = new Map<bigint, Extent[]>()
  const lengths = new Map<ChunkId, { chunkId: bigint; length: number; serverIds: number[] }>()
  for (const { phase } of ready) {
    if (phase.kind !== 'appended') continue
    for (const [index, list] of phase.parts.extents) segments.set(index, [...(segments.get(index) ?? []), ...list])
    for (const result of phase.parts.results) {
      const chunkId = asChunkId(result.chunkId)
      const known = lengths.get(chunkId)
      if (known === undefined || result.length >= known.length) lengths.set(chunkId, result)
    }
  }
  return {
    size,
    inlineData: undefined,
    segments: [...segments].map(([index, list]) => ({
      index,
      extents: merge(list.toSorted((a, b) => a.offset - b.offset)),
    })),
    appended: [...lengths.values()],
    ...common,
  }
}
