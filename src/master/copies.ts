/**
 * How many copies files are to have, below a directory: the number is set on every inode below it, and the chunks follow in the
 * background. Repair then makes or removes replicas.
 *
 * A chunk holds data of many files: it has as many copies as the most demanding of them. Raising is local: each file raises its chunks.
 * Lowering needs to know every file that shows a part of a chunk, so after the walk all extents are read once.
 *
 * Jobs are in the store and run one after another, from the start again after a restart of the master: each step can be repeated.
 *
 * Invariant: a chunk's number is never below that of a file with data in it, as soon as that file's change is done. What comes to
 * refer to a chunk while a lowering scan runs is remembered in `#wanted`.
 */
import { PosixError, UnavailableError } from '../domain/errors.ts'
import type { ChunkId, Ino } from '../domain/ids.ts'
import { asChunkId } from '../domain/ids.ts'
import { isDirectory, isRegular } from '../domain/mode.ts'
import type { Clock } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { CopiesJob, GetCopiesReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ChunkEntry, ChunkMap } from './chunk-map.ts'
import type { OpContext } from './context.ts'
import {
  chunks as chunkTable,
  copiesJobs,
  counters,
  inodes,
  listingBounds,
  listings,
  segmentBounds,
  segments,
  tableBounds,
} from './keys.ts'
import { writable } from './ops/operation.ts'
import { copiesMax } from './ops/setattr.ts'
import { resolvePath } from './paths.ts'
import type { ServerTable } from './servers.ts'
import type { Store, Tx } from './store.ts'

const jobsMax = 1000
const entriesPerStep = 500
const segmentsPerStep = 64
const scanPerStep = 1000
/** How long the writers of open chunks have to seal them before the chunk keeps its number. */
const sealWaitMs = 30_000
const sealPollMs = 500
const retryMs = 5000

export interface CopiesOptions {
  store: Store
  clock: Clock
  log: Log
  chunks: ChunkMap
  servers: ServerTable
  /** Of a session that is the master itself. */
  context: OpContext
  askToSeal: (entry: ChunkEntry) => void
}

interface Job {
  id: bigint
  ino: Ino
  copies: number
  inodesDone: number
  chunksChanged: number
}

export class Copies {
  readonly #options: CopiesOptions
  readonly #jobs: Job[] = []
  readonly #stop = new AbortController()
  /** What files that came to share a chunk lately need; kept while a job runs. */
  readonly #wanted = new Map<ChunkId, number>()
  #started = false
  #running = false

  constructor(options: CopiesOptions) {
    this.#options = options
  }

  /** Goes on with what a former run of the master left. Mounts may have to give leases back, so not before they could return. */
  async start(): Promise<void> {
    const found = await this.#options.store.execute((tx) => tx.range(copiesJobs, tableBounds(copiesJobs), jobsMax))
    for (const [id, { ino, copies }] of found) {
      if (!this.#jobs.some((job) => job.id === id))
        this.#jobs.push({ id, ino, copies, inodesDone: 0, chunksChanged: 0 })
    }
    this.#jobs.sort((a, b) => (a.id < b.id ? -1 : 1))
    this.#started = true
    this.#kick()
  }

  close(): void {
    this.#stop.abort(new Error('the master is stopping'))
  }

  status(): CopiesJob[] {
    return this.#jobs.map(({ id, ino, copies, inodesDone, chunksChanged }) => ({
      jobId: id,
      ino,
      copies: this.#effective(copies),
      inodesDone: BigInt(inodesDone),
      chunksChanged: BigInt(chunksChanged),
    }))
  }

  get(path: string): Promise<GetCopiesReply> {
    return this.#options.store.execute((tx) => {
      const { ino, inode } = resolvePath(tx, path, this.#options.context)
      return {
        ino,
        copies: this.#effective(inode.copies),
        isDefault: inode.copies === 0,
        directory: isDirectory(inode.mode),
      }
    })
  }

  /** Durable when it resolves: the job is carried out, whatever happens. EINVAL, EBUSY, ENOENT. */
  async set(path: string, copies: number): Promise<GetCopiesReply> {
    const { store, context, servers } = this.#options
    if (copies > copiesMax) throw new PosixError('EINVAL', `A file has 1 to ${copiesMax} copies.`)
    const effective = this.#effective(copies)
    const able = servers.staying().length
    if (effective > able) {
      throw new PosixError(
        'EBUSY',
        `${effective} copies need ${effective} chunk servers that are up and not being drained, and there ${able === 1 ? 'is 1' : `are ${able}`}.`,
      )
    }
    if (this.#jobs.length >= jobsMax) throw new PosixError('EBUSY', `${jobsMax} such changes wait already.`)
    const reply = await store.execute((tx) => {
      const { ino, inode } = resolvePath(tx, path, context)
      if (!isDirectory(inode.mode) && !isRegular(inode.mode)) {
        throw new PosixError('EINVAL', `${path} is neither a directory nor a regular file.`)
      }
      const id = tx.get(counters, 'nextJob') ?? 1n
      tx.put(counters, 'nextJob', id + 1n)
      tx.put(copiesJobs, id, { ino, copies })
      tx.onApply(() => this.#jobs.push({ id, ino, copies, inodesDone: 0, chunksChanged: 0 }))
      return { ino, copies: effective, isDefault: copies === 0, directory: isDirectory(inode.mode) }
    })
    this.#kick()
    return reply
  }

  /** A file that is to have so many copies shows data of this chunk now. */
  wanted(chunk: ChunkId, copies: number): void {
    if (this.#jobs.length === 0) return
    this.#wanted.set(chunk, Math.max(this.#wanted.get(chunk) ?? 0, copies))
  }

  #effective(copies: number): number {
    return copies === 0 ? this.#options.context.cluster.copies : copies
  }

  #kick(): void {
    if (!this.#started || this.#running || this.#jobs.length === 0) return
    this.#running = true
    void this.#runAll()
  }

  async #runAll(): Promise<void> {
    const { store, clock, log } = this.#options
    for (let job = this.#jobs[0]; job && !this.#stop.signal.aborted; job = this.#jobs[0]) {
      const { id } = job
      try {
        job.inodesDone = 0
        job.chunksChanged = 0
        await this.#run(job)
        await store.execute((tx) => tx.delete(copiesJobs, id), { mayUseReserve: true })
        log.info('the number of copies was changed', { ino: job.ino, copies: job.copies, inodes: job.inodesDone })
        this.#jobs.shift()
      } catch (cause) {
        if (this.#stop.signal.aborted || cause instanceof UnavailableError) break
        log.warn('changing the number of copies is tried again', { ino: job.ino, cause })
        await clock.sleep(retryMs, this.#stop.signal).catch(() => undefined)
      }
    }
    this.#wanted.clear()
    this.#running = false
  }

  async #run(job: Job): Promise<void> {
    /** Chunks that may have more copies than they need now. */
    const generous = new Set<ChunkId>()
    const directories = [job.ino]
    for (let ino = directories.pop(); ino !== undefined; ino = directories.pop()) {
      this.#stop.signal.throwIfAborted()
      const kind = await this.#setInode(job, ino, generous)
      if (kind !== 'directory') continue
      for (let cookie = 0n; ;) {
        const page = await this.#options.store.execute((tx) =>
          tx.range(listings, listingBounds(ino, cookie), entriesPerStep),
        )
        for (const [key, listing] of page) {
          cookie = key.cookie
          if (isDirectory(listing.type)) directories.push(listing.ino)
          else if (isRegular(listing.type)) await this.#setInode(job, listing.ino, generous)
        }
        if (page.length < entriesPerStep) break
      }
    }
    if (generous.size > 0) await this.#lower(job, generous)
  }

  async #setInode(job: Job, ino: Ino, generous: Set<ChunkId>): Promise<'directory' | 'file' | 'gone'> {
    const { store, context } = this.#options
    const kind = await store.execute(
      (tx) => {
        const inode = tx.get(inodes, ino)
        if (!inode) return 'gone'
        // A mount that writes the file must hear of it, so that what it writes from now on has as many copies.
        if (inode.copies !== job.copies) {
          writable(context, ino)
          tx.put(inodes, ino, { ...inode, copies: job.copies, change: inode.change + 1n })
        }
        return isDirectory(inode.mode) ? 'directory' : 'file'
      },
      { signal: this.#stop.signal },
    )
    job.inodesDone++
    if (kind !== 'file') return kind
    const copies = this.#effective(job.copies)
    for (let from = 0n; ;) {
      const next = await store.execute((tx) => {
        const page = tx.range(segments, segmentBounds(ino, from), segmentsPerStep)
        const ids = new Set(page.flatMap(([, extents]) => extents.map(({ chunkId }) => chunkId)))
        ids.delete(0n)
        for (const id of ids) {
          const chunk = tx.get(chunkTable, asChunkId(id))
          if (!chunk) continue
          if (chunk.copies > copies) generous.add(asChunkId(id))
          if (chunk.copies < copies) this.#put(tx, job, asChunkId(id), copies)
        }
        return page.length < segmentsPerStep ? undefined : page.at(-1)![0].index + 1n
      })
      if (next === undefined) return kind
      from = next
    }
  }

  #put(tx: Tx, job: Job, id: ChunkId, copies: number): void {
    setChunkCopies(tx, id, copies, (chunk, number) => {
      this.#options.chunks.setCopies(chunk, number)
      job.chunksChanged++
    })
  }

  /** Gives each of these chunks the number that the most demanding file in it wants. */
  async #lower(job: Job, generous: Set<ChunkId>): Promise<void> {
    const { store, log } = this.#options
    await this.#sealAll(generous)
    this.#wanted.clear()
    const needed = new Map<ChunkId, number>()
    const all = tableBounds(segments)
    let { gte } = all
    for (;;) {
      this.#stop.signal.throwIfAborted()
      const last = await store.execute((tx) => {
        const page = tx.range(segments, { gte, lt: all.lt }, scanPerStep)
        const mentioned = page.flatMap(([{ ino }, extents]) => {
          const here = new Set(extents.flatMap(({ chunkId }) => (generous.has(asChunkId(chunkId)) ? [chunkId] : [])))
          return here.size === 0 ? [] : [{ ino, ids: here }]
        })
        const owners = tx.getMany(
          inodes,
          mentioned.map(({ ino }) => ino),
        )
        for (const [i, { ids }] of mentioned.entries()) {
          const copies = this.#effective(owners[i]?.copies ?? 0)
          for (const id of ids) needed.set(asChunkId(id), Math.max(needed.get(asChunkId(id)) ?? 0, copies))
        }
        return page.length < scanPerStep ? undefined : page.at(-1)![0]
      })
      if (last === undefined) break
      gte = `${segments.encodeKey(last)}\0`
    }
    for (const [id, copies] of needed) {
      await store.execute((tx) => {
        const chunk = tx.get(chunkTable, id)
        const enough = Math.max(copies, this.#wanted.get(id) ?? 0)
        if (!chunk || chunk.copies <= enough) return
        if (chunk.sealed) this.#put(tx, job, id, enough)
        else log.info('an open chunk keeps its number of copies', { chunk: id, copies: chunk.copies })
      })
    }
  }

  /** What is still being appended to cannot be judged; its writers are asked to go on elsewhere. */
  async #sealAll(generous: ReadonlySet<ChunkId>): Promise<void> {
    const { chunks, clock, askToSeal } = this.#options
    const untilMs = clock.nowMs() + sealWaitMs
    for (;;) {
      const open = [...generous].flatMap((id) => chunks.get(id) ?? []).filter(({ sealed }) => !sealed)
      if (open.length === 0 || clock.nowMs() >= untilMs) return
      for (const entry of open) askToSeal(entry)
      await clock.sleep(sealPollMs, this.#stop.signal)
    }
  }
}

/** Writes a chunk's number of copies; `applied` is told in the same turn. */
export const setChunkCopies = (
  tx: Tx,
  id: ChunkId,
  copies: number,
  applied: (chunk: ChunkId, copies: number) => void,
): void => {
  const chunk = tx.get(chunkTable, id)
  if (!chunk || chunk.copies === copies) return
  tx.put(chunkTable, id, { ...chunk, copies })
  tx.onApply(() => applied(id, copies))
}
