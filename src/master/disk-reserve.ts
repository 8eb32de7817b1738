/**
 * Keeps a reserve free on the master's disk: when only that is left, changes are refused with ENOSPC, while reads, removals and the
 * master's own housekeeping go on. Without it a full disk would break a batch, and the master with it.
 */
import type { Clock, Timer } from '../platform/clock.ts'
import type { DiskSpace } from '../platform/disk.ts'
import type { Log } from '../platform/log.ts'

const mebibyte = 1024 * 1024
/** The database needs room to merge its files. */
const reserveBytesMin = 64 * mebibyte
const reserveBytesMax = 512 * mebibyte
const reserveShare = 0.02
/** Of a small disk no more than this is kept. */
const reserveShareMax = 0.25
const checkIntervalMs = 1000

/** What must stay free on a disk of this size. */
export const reserveBytesOf = (totalBytes: number): number =>
  Math.min(
    totalBytes * reserveShareMax,
    Math.max(reserveBytesMin, Math.min(reserveBytesMax, totalBytes * reserveShare)),
  )

export class DiskReserve {
  readonly #options: { clock: Clock; log: Log; space: () => Promise<DiskSpace> }
  #timer: Timer | undefined
  #closed = false
  #admits = true

  constructor(options: { clock: Clock; log: Log; space: () => Promise<DiskSpace> }) {
    this.#options = options
  }

  /** Looks once, then goes on looking. */
  async start(): Promise<void> {
    await this.#check()
  }

  /** Changes that do not free anything are welcome. */
  admits(): boolean {
    return this.#admits
  }

  close(): void {
    this.#closed = true
    this.#timer?.cancel()
  }

  async #check(): Promise<void> {
    const { clock, log, space } = this.#options
    try {
      const { totalBytes, freeBytes } = await space()
      const admits = freeBytes > reserveBytesOf(totalBytes)
      if (admits !== this.#admits) {
        if (admits) log.info('the disk of the master has room again', { freeBytes })
        else log.error('the disk of the master is full: writes are refused', { freeBytes, totalBytes })
      }
      this.#admits = admits
    } catch (cause) {
      log.warn('free space of the disk is not known', { cause })
    }
    if (!this.#closed) this.#timer = clock.after(checkIntervalMs, () => void this.#check())
  }
}
