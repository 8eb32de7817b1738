/**
 * Whether what is written now may find no room when it is stored. While it may, close(2) waits for that, so that whoever wrote it is told.
 * Otherwise a program that only writes and closes would never learn that its data is lost.
 */
import type { Clock } from '../platform/clock.ts'

/** How long after data was refused the next may be, whatever the master says of free space: it is the sum of many disks. */
const refusedMs = 30_000

export class RoomWatch {
  readonly #clock: Clock
  readonly #bytesMin: number
  #bytesFree: bigint | undefined
  #refusedAtMs = -Infinity

  /** `bytesMin`: more than can be written between two looks and before it is stored, here and elsewhere. */
  constructor(clock: Clock, bytesMin: number) {
    this.#clock = clock
    this.#bytesMin = bytesMin
  }

  /** That much is free in the cluster. */
  known(bytesFree: bigint): void {
    this.#bytesFree = bytesFree
  }

  /** There was no room for data. */
  refused(): void {
    this.#refusedAtMs = this.#clock.nowMs()
  }

  get isShort(): boolean {
    if (this.#clock.nowMs() - this.#refusedAtMs < refusedMs) return true
    return this.#bytesFree !== undefined && this.#bytesFree < this.#bytesMin
  }
}
