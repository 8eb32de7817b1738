/**
 * Frees orphans in the background: inodes without a name that nobody has open any more. Their extents go step by step, so that no
 * step holds up the operations beside it; then the xattrs and the inode. Several are freed side by side, so that they share the syncs.
 *
 * `start` looks for what an earlier run of the master left behind. It must be called only when every session that may come back has told
 * which files it has open; what it could not tell yet is promised, see opens.ts. `kick` is for single inodes, from then on or before.
 *
 * Invariant: an inode that some session has open is never touched. That is checked in the same run that changes it, and nobody
 * can open an inode without a name that is not open already, so a file that began to go cannot be opened again.
 */
import { UnavailableError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkGate, OpenGate } from './context.ts'
import { inodes, orphans, segmentBounds, segments, tableBounds, xattrBounds, xattrs } from './keys.ts'
import { deleteOrphan } from './ops/entries.ts'
import { FileEdit } from './ops/file-edit.ts'
import type { Store, Tx } from './store.ts'

export interface ReaperOptions {
  store: Store
  opens: Pick<OpenGate, 'isOpen'>
  chunks: Pick<ChunkGate, 'freed'>
  log: Log
}

/** Segments that one step frees: 256 MiB of a file. */
const segmentsPerStep = 4
const xattrsPerStep = 256
const orphansPerPage = 256
const sideBySideMax = 16

export class Reaper {
  #options: ReaperOptions
  #queue = new Set<Ino>()
  #working: Promise<void> | undefined
  #stopped = false

  constructor(options: ReaperOptions) {
    this.#options = options
  }

  /** Queues every orphan that nobody has open; resolves when all of them were looked at. */
  async start(): Promise<void> {
    const { store, opens } = this.#options
    let { gte, lt } = tableBounds(orphans)
    while (!this.#stopped) {
      const bounds = { gte, lt }
      const page = await store.execute((tx) => tx.range(orphans, bounds, orphansPerPage))
      for (const [ino] of page) if (!opens.isOpen(ino)) this.kick(ino)
      // The queue stays as short as a page, however many orphans there are.
      await this.idle()
      if (page.length < orphansPerPage) return
      gte = `${orphans.encodeKey(page.at(-1)![0])}\0`
    }
  }

  /** This inode may have become free. */
  kick(ino: Ino): void {
    if (this.#stopped) return
    this.#queue.add(ino)
    this.#working ??= this.#work()
  }

  /** Resolves when the queue is empty. */
  async idle(): Promise<void> {
    while (this.#working !== undefined) await this.#working
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#queue.clear()
    await this.idle()
  }

  async #work(): Promise<void> {
    // `#working` has to be set before it can be cleared.
    await Promise.resolve()
    while (this.#queue.size > 0) await Promise.all(Array.from({ length: sideBySideMax }, () => this.#workOnQueue()))
    this.#working = undefined
  }

  /** Ends when the queue is empty. */
  async #workOnQueue(): Promise<void> {
    for (const ino of this.#queue) {
      this.#queue.delete(ino)
      try {
        let left: 'more' | 'done' = 'more'
        while (left === 'more' && !this.#stopped) left = await this.#step(ino)
      } catch (cause) {
        // It stays an orphan and is found again at the next start.
        if (!(cause instanceof UnavailableError)) this.#options.log.error('orphan not freed', { ino, cause })
      }
    }
  }

  #step(ino: Ino): Promise<'more' | 'done'> {
    return this.#options.store.execute((tx) => this.#free(tx, ino), { mayUseReserve: true })
  }

  #free(tx: Tx, ino: Ino): 'more' | 'done' {
    const { opens, chunks } = this.#options
    if (opens.isOpen(ino) || tx.get(orphans, ino) === undefined) return 'done'
    const inode = tx.get(inodes, ino)
    if (inode !== undefined && inode.allocated > 0n && inode.content === undefined) {
      const edit = new FileEdit(tx, ino)
      const found = tx.range(segments, segmentBounds(ino), segmentsPerStep)
      for (const [{ index }, extents] of found) edit.remove(index, extents)
      tx.put(inodes, ino, { ...inode, allocated: inode.allocated + edit.finish(chunks) })
      // Small ones, of which there may be many, are gone with this step.
      if (found.length === segmentsPerStep || inode.xattrs > 0) return 'more'
    } else if (inode !== undefined && inode.xattrs > 0) {
      const found = tx.range(xattrs, xattrBounds(ino), xattrsPerStep)
      for (const [key] of found) tx.delete(xattrs, key)
      tx.put(inodes, ino, { ...inode, xattrs: inode.xattrs - found.length })
      return 'more'
    }
    deleteOrphan(tx, ino)
    return 'done'
  }
}
