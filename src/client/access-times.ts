/**
 * When files, directories and links were read, until the master knows it. Reading never waits for that: the time is shown by this mount at
 * once, and goes to the master later, many together. It is lost when this process dies meanwhile, and when somebody else changes
 * the inode meanwhile, which has the right to set another time.
 *
 * Invariant: at most `pendingMax` inodes wait; beyond that they are sent earlier.
 */
import { isAccessDue } from '../domain/access-time.ts'
import type { AccessTimePolicy } from '../domain/access-time.ts'
import type { Ino } from '../domain/ids.ts'
import { NOATIME } from '../domain/inode-flags.ts'
import { isDirectory } from '../domain/mode.ts'
import { compareTimespec } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Attributes } from './file-system.ts'

/** Like a local file system, which keeps new times of access in memory for up to half a minute: who reads a tree does not also write it. */
export const accessDelayMs = 20_000
const pendingMax = 4096
/** Requests under way at a time. */
const sendingMax = 64

export interface AccessTimesOptions {
  clock: Clock
  policy: AccessTimePolicy
  /** Tells the master. Never rejects. */
  send: (ino: Ino, time: Timespec) => Promise<void>
  /** The front end may have been told an older atime. */
  changed: (ino: Ino) => void
}

export class AccessTimes {
  readonly #clock: Clock
  readonly #policy: AccessTimePolicy
  readonly #send: AccessTimesOptions['send']
  readonly #changed: AccessTimesOptions['changed']
  readonly #pending = new Map<Ino, Timespec>()
  readonly #sending = new Map<Ino, { time: Timespec; sent: Promise<void> }>()
  #timer: Timer | undefined
  #sendingAll: Promise<void> | undefined

  constructor({ clock, policy, send, changed }: AccessTimesOptions) {
    this.#clock = clock
    this.#policy = policy
    this.#send = send
    this.#changed = changed
  }

  /** A listing must not be read without being noted. Otherwise that is noted once after each change, and so is known here. */
  get notesEachListing(): boolean {
    return this.#policy.directories === 'always'
  }

  /** Something of it was read that now has these attributes. */
  read(attributes: Attributes): void {
    const mode = isDirectory(attributes.mode) ? this.#policy.directories : this.#policy.others
    if (mode === 'never' || (attributes.flags & NOATIME) !== 0) return
    const now = this.#clock.wallTime()
    if (!isAccessDue(this.overlaid(attributes), now, mode)) return
    this.#pending.set(attributes.ino, now)
    this.#changed(attributes.ino)
    if (this.#pending.size >= pendingMax) void this.flush()
    else this.#timer ??= this.#clock.after(accessDelayMs, () => void this.flush())
  }

  /** With the atime that the master does not know yet. */
  overlaid<T extends Attributes>(attributes: T): T {
    if (this.#pending.size === 0 && this.#sending.size === 0) return attributes
    const time = this.#pending.get(attributes.ino) ?? this.#sending.get(attributes.ino)?.time
    if (time === undefined || compareTimespec(time, attributes.atime) <= 0) return attributes
    return { ...attributes, atime: time }
  }

  /** Another time is to be set, or somebody else changes it: what has not been sent is forgotten. */
  drop(ino: Ino): void {
    this.#pending.delete(ino)
  }

  /** The same, and what is on its way has arrived. */
  async settle(ino: Ino): Promise<void> {
    this.drop(ino)
    await this.#sending.get(ino)?.sent
  }

  /** Resolves when the master knows everything that was noted up to now. */
  flush(): Promise<void> {
    this.#timer?.cancel()
    this.#timer = undefined
    this.#sendingAll ??= this.#sendAll().finally(() => (this.#sendingAll = undefined))
    return this.#sendingAll
  }

  async #sendAll(): Promise<void> {
    const worker = async (): Promise<void> => {
      for (const [ino, time] of this.#pending) {
        if (this.#sending.has(ino)) continue
        this.#pending.delete(ino)
        const sent = this.#send(ino, time).finally(() => this.#sending.delete(ino))
        this.#sending.set(ino, { time, sent })
        await sent
      }
    }
    await Promise.all(Array.from({ length: Math.min(sendingMax, this.#pending.size) }, worker))
  }
}
