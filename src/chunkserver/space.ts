/**
 * How much this store may still write: bounded by its capacity and by what the file system below has, minus a reserve.
 *
 * Invariant: what is admitted is counted at once, so that requests at the same time cannot all spend the same free bytes.
 */
import type { Clock } from '../platform/clock.ts'
import type { Disk } from '../platform/disk.ts'

const mebibyte = 1024 * 1024
/** How old the file system's figures may be while there is plenty of room. */
const refreshMs = 1000
/** Below this much room the figures are read again more often. */
const scarceBytes = 256 * mebibyte
const scarceRefreshMs = 50

/** What stays free on a file system of this size, so that the machine and the deletion of chunks go on. */
export const reserveOf = (totalBytes: number): number =>
  Math.min(Math.max(totalBytes / 100, Math.min(64 * mebibyte, totalBytes / 10)), 1024 * mebibyte)

export interface SpaceFigures {
  capacityBytes: number
  usedBytes: number
  freeBytes: number
  fileSystem: string
  /** What the file system has for everybody who writes to it, minus the reserve. */
  fileSystemFreeBytes: number
}

export interface SpaceOptions {
  disk: Disk
  directory: string
  clock: Clock
  /** Undefined: whatever the file system has. */
  capacityBytes: number | undefined
}

export class Space {
  readonly #options: SpaceOptions
  #usedBytes = 0
  #fileSystem = ''
  #roomBytes = 0
  #readAtMs = -Infinity
  #reading: Promise<void> | undefined

  constructor(options: SpaceOptions) {
    this.#options = options
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  /** Counts bytes that the store has more (or fewer, when negative) than before. */
  count(bytes: number): void {
    this.#usedBytes += bytes
  }

  #freeBytes(): number {
    const { capacityBytes } = this.#options
    const byCapacity = capacityBytes === undefined ? Infinity : capacityBytes - this.#usedBytes
    return Math.max(0, Math.floor(Math.min(this.#roomBytes, byCapacity)))
  }

  async #refresh(olderThanMs: number): Promise<void> {
    if (this.#options.clock.nowMs() - this.#readAtMs < olderThanMs) return
    this.#reading ??= this.#read()
    await this.#reading
  }

  async #read(): Promise<void> {
    try {
      const { fileSystem, totalBytes, freeBytes } = await this.#options.disk.space(this.#options.directory)
      this.#fileSystem = fileSystem
      this.#roomBytes = freeBytes - reserveOf(totalBytes)
      this.#readAtMs = this.#options.clock.nowMs()
    } finally {
      this.#reading = undefined
    }
  }

  /** Whether that many bytes may be written; counts them as used. Whoever does not write them takes them back with `count`. */
  async admit(bytes: number): Promise<boolean> {
    // Only an answer that is near the limit waits for new figures: the rest refresh beside the work.
    if (this.#freeBytes() < bytes + scarceBytes) await this.#refresh(scarceRefreshMs)
    else this.#refresh(refreshMs).catch(() => undefined)
    if (this.#freeBytes() < bytes) return false
    this.#roomBytes -= bytes
    this.#usedBytes += bytes
    return true
  }

  async figures(): Promise<SpaceFigures> {
    await this.#refresh(scarceRefreshMs)
    const freeBytes = this.#freeBytes()
    const { capacityBytes } = this.#options
    return {
      capacityBytes: Math.min(capacityBytes ?? Infinity, this.#usedBytes + freeBytes),
      usedBytes: this.#usedBytes,
      freeBytes,
      fileSystem: this.#fileSystem,
      fileSystemFreeBytes: Math.max(0, Math.floor(this.#roomBytes)),
    }
  }
}
