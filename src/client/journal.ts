/**
 * What this client has done on its own under write leases and the master does not know yet: a queue that is sent in batches, in its order.
 *
 * | an entry is | means                                                    |
 * |-------------|----------------------------------------------------------|
 * | unsent      | it may still be refined by who added it                  |
 * | sent        | the session brings it to the master, across restarts     |
 * | settled     | durable at the master, or refused, or lost with the session: the last two are told to `failed` |
 *
 * Entries leave when they are `ageMs` old, when a batch is full, and whenever something must not be answered without them.
 *
 * Invariant: entries are settled in their order: when one is, all before it are.
 */
import type { Clock, Timer } from '../platform/clock.ts'
import type { Ino } from '../domain/ids.ts'
import type { JournalEntry as WireEntry, JournalReply } from '../protocol/gen/shoal/v1/session.pb.ts'
import { Event } from './waiting.ts'

const ageMs = 100
const batchEntriesMax = 256
const batchBytesMax = 512 * 1024
/** Batches that leave before earlier ones are settled, unless somebody waits for them. */
const batchesAheadMax = 2
/** What may wait. Beyond this operations are carried out by the master, behind all that waits here. */
const entriesMax = 4096
const bytesMax = 16 * 1024 * 1024

export interface JournalEntry {
  readonly wire: WireEntry
  /** What is known of these inodes rests on the entry. */
  readonly inos: readonly Ino[]
  /** Those of them that are directories. */
  readonly directories: readonly Ino[]
  /** The caller who did it (`Context.pid`), where somebody may sync its directories. */
  readonly maker: number | undefined
  readonly bytes: number
  isSent: boolean
}

export interface JournalFailure {
  readonly entry: JournalEntry
  readonly cause: unknown
}

export interface JournalOptions {
  clock: Clock
  send(entries: WireEntry[]): Promise<JournalReply>
  /** Called before the entries count as settled. */
  failed(failures: readonly JournalFailure[]): void
}

interface Batch {
  readonly last: number
  readonly entries: readonly JournalEntry[]
  readonly bytes: number
  isDone: boolean
}

export class Journal {
  readonly #options: JournalOptions
  #unsent: JournalEntry[] = []
  #unsentBytes = 0
  /** In their order. */
  readonly #sent: Batch[] = []
  #sentEntries = 0
  #sentBytes = 0
  /** Entries have numbers from 1 on. */
  #last = 0
  #settled = 0
  #timer: Timer | undefined
  readonly #progress = new Event()

  constructor(options: JournalOptions) {
    this.#options = options
  }

  /** Number of the newest entry. */
  get last(): number {
    return this.#last
  }

  get isEmpty(): boolean {
    return this.#settled === this.#last
  }

  /** Losing it is losing something. */
  get isReliedOn(): boolean {
    return this.#unsent.some(isReliedOn) || this.#sent.some(({ entries }) => entries.some(isReliedOn))
  }

  get isFull(): boolean {
    return this.#unsent.length + this.#sentEntries >= entriesMax || this.#unsentBytes + this.#sentBytes >= bytesMax
  }

  /** Gives the entry's number. */
  add(entry: JournalEntry): number {
    this.#unsent.push(entry)
    this.#unsentBytes += entry.bytes
    this.#last++
    if (!this.#sendFull()) this.#timer ??= this.#options.clock.after(ageMs, () => this.push())
    return this.#last
  }

  /** Everything that waits goes to the session, before whatever is given to it from now on. */
  push(): void {
    while (this.#unsent.length > 0) this.#sendBatch()
  }

  isSettled(through: number): boolean {
    return this.#settled >= through
  }

  /** Resolves when everything up to this number is settled; hurries. */
  async settled(through: number): Promise<void> {
    if (this.isSettled(through)) return
    this.push()
    await this.settledByItself(through)
  }

  /** The same without any hurry. */
  async settledByItself(through: number): Promise<void> {
    while (!this.isSettled(through)) await this.#progress.wait()
  }

  /** The session is over: what was not sent never will be. The session itself settles what was. */
  lost(cause: unknown): void {
    this.#timer?.cancel()
    this.#timer = undefined
    const batches: Batch[] = []
    while (this.#unsent.length > 0) batches.push(this.#take())
    for (const batch of batches) {
      this.#finish(
        batch,
        batch.entries.map((entry) => ({ entry, cause })),
      )
    }
  }

  #sendFull(): boolean {
    const isFull = this.#unsent.length >= batchEntriesMax || this.#unsentBytes >= batchBytesMax
    if (!isFull || this.#sent.length >= batchesAheadMax) return false
    this.#sendBatch()
    return true
  }

  #take(): Batch {
    let count = 0
    let bytes = 0
    while (count < this.#unsent.length && count < batchEntriesMax && bytes < batchBytesMax) {
      bytes += this.#unsent[count++]!.bytes
    }
    const entries = this.#unsent.splice(0, count)
    this.#unsentBytes -= bytes
    const batch: Batch = { last: this.#last - this.#unsent.length, entries, bytes, isDone: false }
    this.#sent.push(batch)
    this.#sentEntries += count
    this.#sentBytes += bytes
    return batch
  }

  #sendBatch(): void {
    const batch = this.#take()
    for (const entry of batch.entries) entry.isSent = true
    if (this.#unsent.length === 0) {
      this.#timer?.cancel()
      this.#timer = undefined
    }
    void this.#send(batch)
  }

  async #send(batch: Batch): Promise<void> {
    let failures: JournalFailure[] = []
    try {
      const reply = await this.#options.send(batch.entries.map(({ wire }) => wire))
      for (const { index, failure } of reply.failures) {
        const entry = batch.entries[index]
        if (entry !== undefined) failures.push({ entry, cause: failure })
      }
    } catch (cause) {
      failures = batch.entries.map((entry) => ({ entry, cause }))
    }
    this.#finish(batch, failures)
  }

  #finish(batch: Batch, failures: readonly JournalFailure[]): void {
    if (failures.length > 0) this.#options.failed(failures)
    batch.isDone = true
    for (let first = this.#sent[0]; first?.isDone === true; first = this.#sent[0]) {
      this.#sent.shift()
      this.#settled = first.last
      this.#sentEntries -= first.entries.length
      this.#sentBytes -= first.bytes
    }
    this.#progress.fire()
    this.#sendFull()
  }
}

/**
 * Somebody is told when it is lost. Not of a time of access, for which nobody asked who only read, nor that a file is not open any more,
 * which the end of the session tells as well.
 */
export const isReliedOn = ({ wire: { op } }: JournalEntry): boolean => {
  if (op?.$case === 'close') return false
  return op?.$case !== 'setattr' || op.value.caller !== undefined
}

/** Of the one file that it names. */
export const changesContent = ({ wire: { op } }: JournalEntry): boolean =>
  op?.$case === 'commit' || (op?.$case === 'setattr' && op.value.size !== undefined)

/** For people: what was to be done, to which name or inode. */
export const describeEntry = ({ wire }: JournalEntry): string => {
  const { op } = wire
  if (op === undefined) return 'nothing'
  const { value } = op
  const names: string[] = []
  if ('parent' in value) names.push(`${value.name.toString()} in inode ${value.parent}`)
  if ('newParent' in value) names.push(`to ${value.newName.toString()} in inode ${value.newParent}`)
  if ('ino' in value && value.ino !== undefined) names.push(`inode ${value.ino}`)
  return `${op.$case} ${names.join(' ')}`
}
