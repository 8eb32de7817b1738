/**
 * The chunk files that are open, a bounded number of them: the ones that nobody uses go first, in the order of their last use.
 *
 * Invariant: a file is not closed while somebody uses it, nor before what was written to it is on disk; so a failure to write
 * back is seen by whoever asks for a sync later, and never lost with a descriptor.
 */
import type { ChunkId } from '../domain/ids.ts'
import type { ChunkFile } from './chunk-file.ts'

interface Entry {
  opening: Promise<ChunkFile>
  users: number
  /** No longer the file of this chunk; closed by its last user. */
  forgotten: boolean
}

export interface FileCacheOptions {
  open(chunkId: ChunkId): Promise<ChunkFile>
  /** What was written to this chunk could not be brought to disk. */
  syncFailed(chunkId: ChunkId, cause: unknown): void
  filesMax: number
}

export class FileCache {
  readonly #options: FileCacheOptions
  /** In the order of the last use. */
  readonly #entries = new Map<ChunkId, Entry>()
  #evicting: Promise<void> | undefined

  constructor(options: FileCacheOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#entries.size
  }

  /** Calls with the open file and keeps it open until the promise settles. A file that is open already is taken at once. */
  async use<T>(chunkId: ChunkId, work: (file: ChunkFile) => Promise<T>): Promise<T> {
    let entry = this.#entries.get(chunkId)
    if (entry) this.#entries.delete(chunkId)
    else entry = { opening: this.#options.open(chunkId), users: 0, forgotten: false }
    this.#entries.set(chunkId, entry)
    entry.users++
    try {
      return await work(await entry.opening)
    } catch (error) {
      // A file that did not open is not kept.
      await entry.opening.catch(() => {
        if (this.#entries.get(chunkId) === entry) this.#entries.delete(chunkId)
      })
      throw error
    } finally {
      entry.users--
      await this.#release(entry)
    }
  }

  /** A file that was just made. */
  adopt(chunkId: ChunkId, file: ChunkFile): void {
    this.#entries.set(chunkId, { opening: Promise.resolve(file), users: 0, forgotten: false })
  }

  /** The chunk is gone or has another file now. Who uses the old one may finish. */
  async forget(chunkId: ChunkId): Promise<void> {
    const entry = this.#entries.get(chunkId)
    if (!entry) return
    this.#entries.delete(chunkId)
    entry.forgotten = true
    if (entry.users === 0) await closeQuietly(entry)
  }

  async #release(entry: Entry): Promise<void> {
    if (entry.forgotten) {
      if (entry.users === 0) await closeQuietly(entry)
      return
    }
    if (this.#entries.size > this.#options.filesMax) this.#evicting ??= this.#evict()
  }

  async #evict(): Promise<void> {
    try {
      for (const [chunkId, entry] of this.#entries) {
        if (this.#entries.size <= this.#options.filesMax) break
        if (entry.users === 0) await this.#closeOne(chunkId, entry)
      }
    } finally {
      this.#evicting = undefined
    }
  }

  async #closeOne(chunkId: ChunkId, entry: Entry): Promise<void> {
    entry.users++
    try {
      const file = await entry.opening
      // Again when somebody wrote to it meanwhile and has gone.
      do if (file.dirty) await file.sync()
      while (file.dirty && entry.users === 1)
    } catch (cause) {
      if (!entry.forgotten) this.#options.syncFailed(chunkId, cause)
    }
    entry.users--
    if (entry.users > 0 || this.#entries.get(chunkId) !== entry) {
      // Somebody came meanwhile, or it was forgotten while we held it.
      if (entry.forgotten && entry.users === 0) await closeQuietly(entry)
      return
    }
    this.#entries.delete(chunkId)
    await closeQuietly(entry)
  }

  /** Brings everything to disk and closes it. Nobody may use the cache any more. */
  async close(): Promise<void> {
    await this.#evicting
    for (const [chunkId, entry] of this.#entries) {
      await this.#closeOne(chunkId, entry)
      // Whoever still reads closes it.
      entry.forgotten = true
      this.#entries.delete(chunkId)
    }
  }
}

const closeQuietly = async (entry: Entry): Promise<void> => {
  // What it held is on disk or of no interest: a failure to close changes nothing.
  await entry.opening.then((file) => file.close()).catch(() => undefined)
}
