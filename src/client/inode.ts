/**
 * What the client knows of the content of one regular file and has buffered of it, and the table of all of them. Attributes are in the
 * record of the lease (cached.ts), which many more inodes have.
 *
 * Three layers make the content: `dirty` (written, still changing) over `batches` (on their way to chunks, oldest first) over what is
 * committed (`inline` or `segments`, cached under a lease). The first two exist only under a write lease.
 *
 * Invariant: cached state is dropped before its lease is returned, and used only under a pin on it.
 * Invariant: an inode is in the table while something needs it: a user, a handle, buffered data. Those that only have an error that nobody
 * was told stay, too, the last `untoldMax`, and those that only have a layout that is right under a lease, the last `idleMax`.
 */
import type { PosixError } from '../domain/errors.ts'
import type { Extent } from '../domain/extents.ts'
import type { ChunkId, Ino } from '../domain/ids.ts'
import { blockBytes } from '../domain/limits.ts'
import { laterOf } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import type { Cached, KnownAttributes } from './cached.ts'
import type { Attributes } from './file-system.ts'
import type { Batch } from './flusher.ts'
import type { JournalEntry } from './journal.ts'
import { DirtyData } from './dirty-data.ts'
import { ReadWriteLock } from './read-write-lock.ts'
import { WriteErrors } from './write-errors.ts'

export class Inode {
  readonly ino: Ino
  /**
   * Shared: reads and writes. Exclusive: what changes size or layout at the master (truncate, fallocate, copy_file_range), and explicit
   * times. Flushing takes no lock, see leases.ts.
   */
  readonly lock = new ReadWriteLock()
  readonly errors = new WriteErrors()

  /** Operations in progress. */
  users = 0
  handles = 0
  /** Opens in progress. */
  opening = 0
  /** The master knows that this session has it open. While it does not, a lease keeps what is open (see open-files.ts). */
  opened: 'no' | 'yes' | Promise<void> = 'no'
  closing: Promise<void> | undefined
  /** What tells the master that it was made and is open, while that is in the journal. */
  creation: JournalEntry | undefined
  /** The file was gone when it was to be opened again in a new session. */
  stale = false

  /** The whole content, when the file lives in its inode record. */
  inline: Buffer | undefined
  readonly segments = new Map<bigint, readonly Extent[]>()
  /** Grows whenever `inline` or `segments` change. */
  layoutVersion = 0

  dirty = new DirtyData()
  dirtySinceMs = Infinity
  batches: Batch[] = []
  /** Set while something is buffered; never smaller than the committed size. */
  localSize: bigint | undefined
  localTimes: { mtime: Timespec; ctime: Timespec } | undefined
  /** The last, partly filled block of the file, when it was written here and nothing was written since. */
  tail: { offset: bigint; data: Buffer; synced: boolean } | undefined
  /** What is dirty takes the place of synced data with the same content, so it must be on disk before it is committed. */
  replacesSynced = false
  /** How the newest batch leaves the file. */
  planned: { kind: 'unknown' } | { kind: 'inline'; content: Buffer } | { kind: 'extents' } = { kind: 'unknown' }
  /**
   * Set while inline content is committed as extents because something needs them: no batch may be inline, and what is buffered is a copy.
   * `refused`: why that was not possible.
   */
  rewriting: { refused: PosixError | undefined } | undefined
  committing = false
  deciding: Promise<void> = Promise.resolve()

  /** Chunks with data of this file that was appended without sync. */
  readonly unsynced = new Set<ChunkId>()
  /** `unsynced` names all of them: nothing was written before this object was made. */
  unsyncedComplete = false

  readonly #cachedOf: (ino: Ino) => Cached | undefined

  constructor(ino: Ino, cachedOf: (ino: Ino) => Cached | undefined) {
    this.ino = ino
    this.#cachedOf = cachedOf
  }

  /** As the master gave them last, under the lease. */
  get attributes(): KnownAttributes | undefined {
    return this.#cachedOf(this.ino)?.attributes
  }

  /** The greatest change number seen under the lease: older replies tell nothing new. */
  get changeSeen(): bigint {
    return this.#cachedOf(this.ino)?.changeSeen ?? 0n
  }

  get buffered(): boolean {
    return !this.dirty.empty || this.batches.length > 0
  }

  /** Its content may not be the master's: some of it is buffered, or was lost and nobody knows it yet. */
  get unsettled(): boolean {
    return this.buffered || this.errors.untold
  }

  /** Attributes with what is buffered here. */
  effective(attributes: Attributes): Attributes {
    if (!this.buffered) return attributes
    const size = this.localSize !== undefined && this.localSize > attributes.size ? this.localSize : attributes.size
    const bufferedBytes = this.batches.reduce((sum, { bytes }) => sum + bytes, this.dirty.bytes)
    const most = roundUp(size)
    const guess = attributes.allocated + roundUp(BigInt(bufferedBytes))
    const allocated = guess < most ? guess : most
    return {
      ...attributes,
      size,
      allocated: allocated > attributes.allocated ? allocated : attributes.allocated,
      mtime: this.localTimes?.mtime ?? attributes.mtime,
      ctime: this.localTimes === undefined ? attributes.ctime : laterOf(this.localTimes.ctime, attributes.ctime),
    }
  }

  /** Size under a lease. */
  get size(): bigint {
    const committed = this.attributes?.size ?? 0n
    return this.localSize !== undefined && this.localSize > committed ? this.localSize : committed
  }

  /** The master is about to be told that it is open. False: it is not, or the master knows. */
  register(): boolean {
    const isKept = (this.handles > 0 || this.opening > 0) && this.opened === 'no' && this.closing === undefined
    if (isKept) this.opened = 'yes'
    return isKept
  }

  dropLayout(): void {
    this.inline = undefined
    this.segments.clear()
    this.layoutVersion++
    this.tail = undefined
    if (!this.buffered) this.planned = { kind: 'unknown' }
  }

  /** Attributes and layout are to be asked for again. */
  dropCached(): void {
    const cached = this.#cachedOf(this.ino)
    if (cached !== undefined) cached.attributes = undefined
    this.dropLayout()
  }
}

const roundUp = (bytes: bigint): bigint => ((bytes + BigInt(blockBytes - 1)) / BigInt(blockBytes)) * BigInt(blockBytes)

const idleMax = 4096
/** A few times what a full journal holds, which a lost session takes with it. */
export const untoldMax = 16_384

export class Inodes {
  readonly #inodes = new Map<Ino, Inode>()
  /** Those that only a lease keeps here, longest idle first. */
  readonly #idle = new Set<Inode>()
  /** Those that only an error keeps here, oldest first. */
  readonly #untold = new Set<Inode>()
  readonly #cachedOf: (ino: Ino) => Cached | undefined

  constructor(cachedOf: (ino: Ino) => Cached | undefined) {
    this.#cachedOf = cachedOf
  }

  get(ino: Ino): Inode | undefined {
    return this.#inodes.get(ino)
  }

  all(): IterableIterator<Inode> {
    return this.#inodes.values()
  }

  get anyUnsettled(): boolean {
    for (const { unsettled } of this.#inodes.values()) if (unsettled) return true
    return false
  }

  /** The inode, kept until `release`. */
  use(ino: Ino): Inode {
    let inode = this.#inodes.get(ino)
    if (inode === undefined) {
      inode = new Inode(ino, this.#cachedOf)
      this.#inodes.set(ino, inode)
    }
    inode.users++
    this.#idle.delete(inode)
    this.#untold.delete(inode)
    return inode
  }

  release(inode: Inode): void {
    inode.users--
    this.forgetIdle(inode)
  }

  forgetIdle(inode: Inode): void {
    const needed =
      inode.users > 0 || inode.handles > 0 || inode.opened !== 'no' || inode.buffered || inode.unsynced.size > 0
    this.#idle.delete(inode)
    this.#untold.delete(inode)
    if (needed) return
    if (inode.errors.untold) this.#keepSome(this.#untold, inode, untoldMax)
    else if (this.#cachedOf(inode.ino) !== undefined) this.#keepSome(this.#idle, inode, idleMax)
    else this.#inodes.delete(inode.ino)
  }

  /** Keeps it as the newest of these, and forgets the oldest when there are too many. */
  #keepSome(kept: Set<Inode>, inode: Inode, max: number): void {
    kept.add(inode)
    if (kept.size <= max) return
    for (const oldest of kept) {
      kept.delete(oldest)
      this.#inodes.delete(oldest.ino)
      return
    }
  }
}
