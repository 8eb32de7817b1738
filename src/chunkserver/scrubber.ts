/**
 * Reads all sealed chunks again and again, slowly, so that damage is found while there are still other copies. Where it is in
 * its pass is kept in scrub.json, so that restarts do not make it read the first chunks for ever.
 *
 * Invariant: at most `bytesPerSecond` on average, and a pass begins at least `passIntervalMs` after the one before it began.
 */
import { PosixError } from '../domain/errors.ts'
import type { Clock } from '../platform/clock.ts'
import type { Disk } from '../platform/disk.ts'
import type { Log } from '../platform/log.ts'
import type { ChunkStore } from './store.ts'

export const scrubBytesPerSecondDefault = 8 * 1024 * 1024
const passIntervalSeconds = 24 * 60 * 60
const idleMs = 60_000
/** How much may be read before the progress is written down. */
const saveMs = 30_000
const stateVersion = 1

export interface ScrubberOptions {
  store: ChunkStore
  directory: string
  disk: Disk
  clock: Clock
  log: Log
  bytesPerSecond: number
}

interface Progress {
  /** Wall time in seconds. */
  passStarted: number
  /** All sealed chunks up to this id were read in this pass. */
  checkedUpTo: bigint
  finished: boolean
}

export class Scrubber {
  readonly #options: ScrubberOptions
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  #savedMs = 0
  /** Since the start. */
  readonly statistics = { chunks: 0, damaged: 0, bytes: 0, passes: 0 }

  constructor(options: ScrubberOptions) {
    this.#options = options
    this.#running = this.#run().catch((cause: unknown) => {
      if (!this.#stop.signal.aborted) options.log.error('the scrubber stopped', { cause })
    })
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('the scrubber is stopping'))
    await this.#running
  }

  get #path(): string {
    return `${this.#options.directory}/scrub.json`
  }

  #wallSeconds(): number {
    return Number(this.#options.clock.wallTime().seconds)
  }

  async #run(): Promise<void> {
    const { clock } = this.#options
    let progress = await this.#load()
    for (;;) {
      const due = progress.passStarted + passIntervalSeconds
      // A clock that was set back must not stop scrubbing for years.
      if (progress.finished && this.#wallSeconds() < due && this.#wallSeconds() >= progress.passStarted) {
        await clock.sleep(idleMs, this.#stop.signal)
        continue
      }
      if (progress.finished) progress = { passStarted: this.#wallSeconds(), checkedUpTo: 0n, finished: false }
      await this.#pass(progress)
      await clock.sleep(idleMs, this.#stop.signal)
    }
  }

  async #pass(progress: Progress): Promise<void> {
    const { store, clock, log } = this.#options
    let chunks = 0
    let damaged = 0
    for (const id of store.sealedAfter(progress.checkedUpTo)) {
      try {
        const { corrupt } = await store.check(id, (bytes) => this.#pace(bytes))
        chunks++
        this.statistics.chunks++
        if (corrupt.length > 0) {
          damaged++
          this.statistics.damaged++
        }
      } catch (caught) {
        // Deleted or already known as unreadable: the store has told the master.
        if (!(caught instanceof PosixError)) throw caught
      }
      progress.checkedUpTo = id
      if (clock.nowMs() - this.#savedMs >= saveMs) await this.#save(progress)
    }
    progress.finished = true
    this.statistics.passes++
    await this.#save(progress)
    if (chunks > 0) log.info('all sealed chunks were read and checked', { chunks, damaged })
  }

  async #pace(bytes: number): Promise<void> {
    this.statistics.bytes += bytes
    await this.#options.clock.sleep((bytes / this.#options.bytesPerSecond) * 1000, this.#stop.signal)
  }

  async #load(): Promise<Progress> {
    const fresh: Progress = { passStarted: this.#wallSeconds(), checkedUpTo: 0n, finished: false }
    const bytes = await this.#options.disk.readFile(this.#path)
    if (!bytes) return fresh
    try {
      const parsed = JSON.parse(bytes.toString('utf8')) as Record<string, unknown>
      const { version, pass_started: passStarted, checked_up_to: checkedUpTo, finished } = parsed
      if (version !== stateVersion || typeof passStarted !== 'number' || typeof checkedUpTo !== 'string') return fresh
      return { passStarted, checkedUpTo: BigInt(checkedUpTo), finished: finished === true }
    } catch {
      // Nothing but the progress is lost with it.
      return fresh
    }
  }

  async #save({ passStarted, checkedUpTo, finished }: Progress): Promise<void> {
    this.#savedMs = this.#options.clock.nowMs()
    const state = { version: stateVersion, pass_started: passStarted, checked_up_to: checkedUpTo.toString(), finished }
    try {
      await this.#options.disk.replaceFile(this.#path, Buffer.from(`${JSON.stringify(state)}\n`))
    } catch (cause) {
      if (!(cause instanceof PosixError)) throw cause
      this.#options.log.warn('the progress of the scrubber cannot be saved', { cause })
    }
  }
}
