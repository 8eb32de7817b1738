/**
 * What the front end (the kernel, behind a mount) may believe of what it was told, and taking it back before a lease is returned.
 *
 * It is told a time for everything: as long as the session's lease lasts for certain. So it stops believing by itself when this process is
 * stopped or cut off. When a lease is recalled it is told at once, and the lease is returned only after that took effect.
 *
 * Invariant: a validity above 0 is told only while the lease is usable, in the same turn in which the answer is handed over.
 * Invariant: what the front end believes of an inode it was told under the lease whose record says until when.
 */
import type { Ino } from '../domain/ids.ts'
import type { Cached } from './cached.ts'
import type { Invalidations } from './file-system.ts'
import type { Leases } from './leases.ts'

/** The front end starts to count when it gets to the answer: it may believe something for a little longer than it was told. */
const delayMsMax = 10_000

/** After this time whoever asked has taken the answer over: a kernel does that when the process that asked runs again. */
const takenMs = 1_000

export interface FrontEndOptions {
  leases: Leases
  nowMs(): number
  /** For how long leases count, whatever happens. */
  confirmedForMs(): number
  /** In another turn of the event loop, after this time at least. */
  later(ms: number, work: () => void): void
}

export class FrontEnd {
  readonly #leases: Leases
  readonly #nowMs: () => number
  readonly #confirmedForMs: () => number
  readonly #later: FrontEndOptions['later']
  /** Inodes of whose attributes the front end has asked for, and what is to be done when it has its answers. */
  readonly #asked = new Map<Ino, { count: number; answered?: () => void }>()
  /** To be taken back as soon as it is certain who has asked for what. */
  readonly #lost: { ino: Ino; cached: Cached; options: { data: boolean } }[] = []
  readonly #askedSinceLost = new Set<Ino>()
  #receiver: Invalidations | undefined

  constructor({ leases, nowMs, confirmedForMs, later }: FrontEndOptions) {
    this.#later = later
    this.#leases = leases
    this.#nowMs = nowMs
    this.#confirmedForMs = confirmedForMs
  }

  attach(receiver: Invalidations): void {
    this.#receiver = receiver
  }

  /** For how long the cached attributes of an inode may be believed that are being told now. */
  attributesMs(ino: Ino): number {
    const cached = this.#leases.usableCached(ino)
    if (cached?.attributes === undefined || this.#receiver === undefined) return 0
    const ms = Math.floor(this.#confirmedForMs())
    cached.attributesToldMs = Math.max(cached.attributesToldMs, this.#nowMs() + ms)
    return ms
  }

  /** For how long a name of a directory may be believed that is being told now. */
  namesMs(directory: Ino): number {
    const cached = this.#leases.usableCached(directory)
    if (cached === undefined || this.#receiver?.canForgetNames !== true) return 0
    const ms = Math.floor(this.#confirmedForMs())
    cached.namesToldMs = Math.max(cached.namesToldMs, this.#nowMs() + ms)
    return ms
  }

  /** The front end asks for attributes: it believes none. The function that this gives ends it, in the turn of the answer. */
  asks(ino: Ino): () => void {
    const asked = this.#asked.get(ino) ?? { count: 0 }
    this.#asked.set(ino, asked)
    if (this.#lost.length > 0) this.#askedSinceLost.add(ino)
    asked.count++
    return () => {
      asked.count--
      if (asked.count > 0) return
      this.#asked.delete(ino)
      if (asked.answered !== undefined) this.#later(takenMs, asked.answered)
    }
  }

  /**
   * The same as `withdraw` when the lease has ended without being given back, so that others may have changed the inode before. A question
   * for its attributes that is under way may have been put after such a change. Its answer will be right; but after an invalidation, also of
   * data, a kernel would not believe it, go on with the size that it knew, and cut off there what it reads. So the answer goes first: with
   * another size or mtime it makes a kernel drop its pages, too. Questions that have been put but not been read from the front end yet
   * come in within a turn; who was stopped for a while finds both at once, the end of its lease and what it was asked meanwhile.
   */
  withdrawLost(ino: Ino, cached: Cached, options: { data: boolean }): void {
    void this.#withdrawNames(ino, cached)
    void this.#withdrawListing(ino, cached)
    this.#lost.push({ ino, cached, options })
    if (this.#lost.length > 1) return
    // The first turn may have begun to take in what is there before this.
    this.#later(0, () => this.#later(0, () => this.#withdrawAllLost()))
  }

  #withdrawAllLost(): void {
    for (const { ino, cached, options } of this.#lost.splice(0)) {
      const withdraw = (): void => {
        if (options.data) void this.#receiver?.dropData(ino, { offset: 0n, length: -1n })
        void this.forgetAttributes(ino, cached)
      }
      const asked = this.#asked.get(ino)
      if (asked !== undefined) asked.answered = withdraw
      else if (this.#askedSinceLost.has(ino)) this.#later(takenMs, withdraw)
      else withdraw()
    }
    this.#askedSinceLost.clear()
  }

  /** Everything that was told under this lease is not to be believed any longer; undefined: that took effect at once. */
  withdraw(ino: Ino, cached: Cached, options: { data: boolean }): Promise<void> | undefined {
    const waits = [
      options.data ? this.#receiver?.dropData(ino, { offset: 0n, length: -1n }) : undefined,
      this.#withdrawNames(ino, cached),
      this.#withdrawListing(ino, cached),
      this.forgetAttributes(ino, cached),
    ].filter((wait) => wait !== undefined)
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => {})
  }

  #withdrawNames(ino: Ino, cached: Cached): Promise<void> | undefined {
    return this.#believes(cached.namesToldMs) ? this.#receiver?.forgetNames(ino) : undefined
  }

  /** The names of a directory were told to somebody who keeps them. False: nobody does. */
  keepsListing(cached: Cached): boolean {
    if (this.#receiver === undefined) return false
    cached.hasListing = true
    return true
  }

  #withdrawListing(ino: Ino, cached: Cached): Promise<void> | undefined {
    if (!cached.hasListing) return undefined
    cached.hasListing = false
    return this.#receiver?.forgetListing(ino)
  }

  /**
   * Attributes that were told are old. Also for what this client has changed itself, before the answer: an older answer that is still on
   * its way would otherwise be believed after it.
   */
  forgetAttributes(ino: Ino, cached: Cached | undefined): Promise<void> | undefined {
    if (cached === undefined || !this.#believes(cached.attributesToldMs)) return undefined
    return this.#receiver?.forgetAttributes(ino)
  }

  /**
   * A name went from one directory to another by an operation of the front end, which believes it there for as long as it did here. When
   * that is not covered by a lease it must forget it.
   */
  moved(from: Ino, to: Ino): void {
    if (from === to || !this.#believes(this.#leases.cached(from)?.namesToldMs ?? 0)) return
    // Nobody reads a listing while names change: this takes effect at once.
    if (this.namesMs(to) === 0) void this.#receiver?.forgetNames(to)
  }

  #believes(untilMs: number): boolean {
    return untilMs > 0 && this.#nowMs() < untilMs + delayMsMax
  }
}
