/**
 * Listings that the kernel may have and that may be wrong. Directories are not opened (OPENDIR is answered with ENOSYS), so the kernel keeps
 * what it is told by READDIR whatever we want, and tells it again while it believes the directory's attributes, or when a GETATTR says that the
 * mtime is what it was. That is right for what was told under a lease until that is given back. The mtime proves nothing: utimensat(2) can set it back.
 *
 * So a directory is in doubt from the moment when something is told without a lease, or the lease of what was told is given back. While it
 * is, its attributes are told without a validity, so that each new reader asks for them first, and before it is answered the pages with the
 * listing are dropped: with its first page gone the kernel begins the listing anew.
 *
 * The doubt ends when pages are dropped and no answer is on its way that would bring others (see untaken-answers.ts).
 * Source: fuse_readdir_cached in fs/fuse/readdir.c of Linux 6.18.
 */
import type { Clock } from '../src/platform/clock.ts'
import type { Device } from './device.ts'
import { attributesInvalidation, dataInvalidation } from './protocol.ts'
import type { UntakenAnswers } from './untaken-answers.ts'

/** Whoever has a page of a listing has it for a moment. */
const dropMsMax = 4_000
const all = { offset: 0n, length: -1n }

export class DoubtfulListings {
  readonly #device: Pick<Device, 'send' | 'notify'>
  readonly #clock: Clock
  readonly #listings: UntakenAnswers
  /** By node id; how often there was a reason. */
  readonly #doubts = new Map<bigint, number>()

  constructor(device: Pick<Device, 'send' | 'notify'>, clock: Clock, listings: UntakenAnswers) {
    this.#device = device
    this.#clock = clock
    this.#listings = listings
  }

  has(directory: bigint): boolean {
    return this.#doubts.size > 0 && this.#doubts.has(directory)
  }

  /** What the kernel has, or is about to be told, may be wrong. It believes no attributes of the directory from now on. */
  add(directory: bigint): void {
    const before = this.#doubts.get(directory)
    this.#doubts.set(directory, (before ?? 0) + 1)
    if (before !== undefined) return
    const message = attributesInvalidation(directory)
    this.#device.send(message, message.length)
  }

  /** The kernel has forgotten the directory. */
  forgotten(directory: bigint): void {
    this.#doubts.delete(directory)
  }

  /** Resolves when nothing is left of what the kernel had when this was called, apart from answers that it had not taken over. */
  async drop(directory: bigint): Promise<void> {
    const doubts = this.#doubts.get(directory)
    const isTaken = !this.#listings.isUntaken(directory)
    // So that the doubt ends the next time although a reader has stopped in the middle. Not to be waited for: the asker may hold the lock.
    if (!isTaken) this.#listings.askForLock(this.#device, directory)
    const isDropped = await new Promise<boolean>((resolve) => {
      const timer = this.#clock.after(dropMsMax, () => resolve(false))
      const done = (): void => {
        timer.cancel()
        resolve(true)
      }
      this.#device.notify(dataInvalidation(directory, all), done, 'listings')
    })
    if (isDropped && isTaken && this.#doubts.get(directory) === doubts) this.#doubts.delete(directory)
  }
}
