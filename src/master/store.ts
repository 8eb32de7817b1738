/**
 * The master's store: synchronous operations over a write-through cache, made durable by group commit.
 *
 * An operation is a function of a Tx. It runs to its end without waiting: when it needs a record that is not in the cache, the Tx
 * throws, the store loads the record and runs the operation again from its start. So an operation does nothing but read and write
 * through the Tx (and see context.ts), and may run several times. Because a run is synchronous in one thread, operations are
 * serializable without locks.
 *
 * The changes of a run go to the cache at once and into the next batch. One batch is being written at a time, with one sync; what
 * becomes ready meanwhile is the next one. `execute` resolves when its changes, and every change that it has seen, are on disk: no answer
 * rests on something that a crash could take back.
 *
 * Invariants: a cached record equals what the engine has, unless it was changed by a batch that is not on disk yet; such records, and
 * those that a waiting operation has asked for, are never evicted. After a failed batch nothing is answered any more: what is on disk is then
 * unknown, and only a new start can tell.
 */
import { PosixError, StacklessError, UnavailableError, UsageError, invariant } from '../domain/errors.ts'
import { rootIno } from '../domain/ids.ts'
import { cookieFirst } from '../domain/limits.ts'
import { S_IFDIR } from '../domain/mode.ts'
import type { Timespec } from '../domain/time.ts'
import type { Clock } from '../platform/clock.ts'
import type { KvChange, KvEngine } from '../platform/kv-engine.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import { counters, formatNumber, formats, inodes } from './keys.ts'
import type { Bounds, Table } from './keys.ts'
import { ResultIndex } from './ops/results.ts'

/** What an operation sees of the store. Only valid during the run. */
export interface Tx {
  /** The master's time of day at the start of the run. */
  readonly now: Timespec
  get<K, V>(table: Table<K, V>, key: K): V | undefined
  /** The same for several keys; what is missing in the cache is loaded together. */
  getMany<K, V>(table: Table<K, V>, keys: readonly K[]): (V | undefined)[]
  /** The value must not be changed afterwards. */
  put<K, V>(table: Table<K, V>, key: K, value: V): void
  delete<K, V>(table: Table<K, V>, key: K): void
  /** The first records within the bounds, in the order of the keys, with this run's own changes. */
  range<K, V>(table: Table<K, V>, bounds: Bounds, limit: number): [K, V][]
  /** Called once, in the same turn as the run that succeeded, before any other operation runs: for state in memory that goes with it. Must not throw. */
  onApply(callback: () => void): void
  /** Called once, when the changes are on disk, before `execute` resolves. Must not throw. */
  afterCommit(callback: () => void): void
}

export type StoreOperation<T> = (tx: Tx) => T

/** A place in a line outside the store. An operation that ends, or needs it no more, leaves it; harmless when it got its turn. */
export type Places = ReadonlyMap<string, () => void>

const noPlaces: Places = new Map()

/** Thrown by an operation that has to wait for something outside the store: it runs again when the promise resolves. */
export class Blocked extends StacklessError {
  readonly promise: Promise<void>
  readonly places: Places

  constructor(promise: Promise<void>, places: Places = noPlaces) {
    super('blocked')
    this.name = 'Blocked'
    this.promise = promise
    this.places = places
  }
}

/** Thrown by a Tx: records and parts of ranges that have to be loaded first. Not for others to catch. */
class Miss extends StacklessError {
  readonly keys: readonly MissedKey[]
  readonly ranges: readonly MissedRange[]

  constructor(keys: readonly MissedKey[], ranges: readonly MissedRange[] = []) {
    super('miss')
    this.keys = keys
    this.ranges = ranges
  }
}

/** Reads what does not depend on one another: what is missing of all of it is loaded together. */
export const readTogether = (...reads: readonly (() => unknown)[]): void => {
  const keys: MissedKey[] = []
  const ranges: MissedRange[] = []
  for (const read of reads) {
    try {
      read()
    } catch (caught) {
      if (!(caught instanceof Miss)) throw caught
      for (const key of caught.keys) keys.push(key)
      for (const range of caught.ranges) ranges.push(range)
    }
  }
  if (keys.length > 0 || ranges.length > 0) throw new Miss(keys, ranges)
}

type AnyTable = Table<unknown, unknown>

interface MissedKey {
  table: AnyTable
  key: string
}

interface MissedRange {
  table: AnyTable
  /** The pages of the range that the run has already. */
  pages: Page[]
  gte: string
  lt: string
  limit: number
}

/** A record in the cache; a value of undefined means that there is none. */
interface Entry {
  readonly table: AnyTable
  readonly key: string
  value: unknown
  weight: number
  /** Number of the last change; it is on disk when `durable` has reached it. */
  sequence: number
  /** How many waiting operations have asked for it. */
  pins: number
  /** Read since the hand of the clock last passed. */
  used: boolean
}

/** Part of a range as the engine had it. Complete for the keys from gte up to lt. */
interface Page {
  readonly gte: string
  readonly lt: string
  /** No more follows within the bounds that were asked for. */
  readonly last: boolean
  readonly entries: readonly (readonly [string, unknown])[]
  /** Changes up to this one are in it for certain; later ones are laid over it from the journal. */
  readonly sequence: number
}

interface JournalEntry {
  readonly sequence: number
  readonly key: string
  readonly value: unknown
}

interface Change {
  readonly table: AnyTable
  readonly value: unknown
}

/** What one `execute` keeps between its runs. */
interface Execution {
  readonly pinned: Set<Entry>
  readonly ranges: Map<string, Page[]>
}

interface Load {
  readonly promise: Promise<void>
  /** Who waits for the record, and gets it pinned when it is there. */
  readonly waiting: Execution[]
  /** The record was changed while it was on its way: what arrives is old. */
  stale: boolean
}

class Batch {
  readonly changes = new Map<string, Entry>()
  readonly done: Promise<void>
  lastSequence = 0
  resolve!: () => void
  reject!: (error: Error) => void

  constructor() {
    this.done = new Promise<void>((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    // Who waits gets the failure; that nobody waits is fine.
    this.done.catch(() => undefined)
  }
}

export interface StoreOptions {
  kv: KvEngine
  clock: Clock
  random: Random
  log: Log
  /** A batch could not be written: the process must stop. */
  onFatal(error: Error): void
  /** False while the master's disk has only its reserve left: changes are refused with ENOSPC, except those that free something. */
  admitWrites?: () => boolean
  cacheEntriesMax?: number
  cacheBytesMax?: number
}

export interface ExecuteOptions {
  /** The change frees space or must not fail: it may use the reserve. */
  mayUseReserve?: boolean
  /** Ends a wait with EINTR, and lets nothing be changed that was not before. */
  signal?: AbortSignal | undefined
  /** Called once, when the changes have been made, long before they are on disk. Not called when the operation throws. */
  applied?: (() => void) | undefined
}

export interface StoreStatistics {
  cacheEntries: number
  cacheBytes: number
  batches: number
  changes: number
}

export const cacheEntriesMaxDefault = 50_000
const cacheBytesMaxDefault = 24 * 1024 * 1024
/** What a record takes in the cache beside its value: key, entry and the map's slot. */
const entryBytes = 200
/** Beyond this many runs an operation is not waiting for records but going round in circles. */
const runsMax = 10_000
const pageEntriesMin = 16
/** How often a batch is tried again that a full disk has refused. */
const fullRetryMs = 500
/** No operation holds more than this many records in one page. */
const pageEntriesMax = 8192

export class Store {
  readonly clusterId: string
  /** Which requests have a stored result; see ops/results.ts. */
  readonly results: ResultIndex
  #options: StoreOptions
  #kv: KvEngine
  #clock: Clock
  #cache = new Map<string, Entry>()
  #cacheBytes = 0
  #hand: Iterator<Entry> | undefined
  #loads = new Map<string, Load>()
  #loadQueue: MissedKey[] = []
  #loading: Promise<void> | undefined
  /** Changes that a page of some waiting operation, or the engine, may lack; in order. */
  #journal: JournalEntry[] = []
  #paging = new Set<Execution>()
  #sequence = 0
  #durable = 0
  #next = new Batch()
  #writing: Batch | undefined
  #flushing: Promise<void> | undefined
  #broken: Error | undefined
  #batches = 0
  #changes = 0

  private constructor(options: StoreOptions, clusterId: string) {
    this.#options = options
    this.#kv = options.kv
    this.#clock = options.clock
    this.clusterId = clusterId
    this.results = new ResultIndex()
  }

  /**
   * Opens the store over an engine, which stays the caller's, and makes an empty file system in an empty one.
   * UsageError: the engine holds a newer format, or something that is no Shoal store.
   */
  static async open(options: StoreOptions): Promise<Store> {
    const key = Buffer.from(formats.encodeKey(undefined), 'latin1')
    const found = await options.kv.get(key)
    if (found === undefined) {
      const anything = await options.kv.range({ gte: Buffer.alloc(0), lt: Buffer.from([0xff]), limit: 1 })
      if (anything.length > 0) {
        throw new UsageError(
          "the data directory holds a database that is not a Shoal master's; choose another directory",
        )
      }
      const clusterId = options.random.bytes(16).toString('hex')
      await createFileSystem(options, clusterId)
      return new Store(options, clusterId)
    }
    const format = formats.decode(found)
    if (format.number > formatNumber) {
      throw new UsageError(
        `the data directory has format ${format.number}, and this Shoal knows formats up to ${formatNumber}; start a newer Shoal on it`,
      )
    }
    return new Store(options, format.clusterId)
  }

  get statistics(): StoreStatistics {
    return {
      cacheEntries: this.#cache.size,
      cacheBytes: this.#cacheBytes,
      batches: this.#batches,
      changes: this.#changes,
    }
  }

  /**
   * Runs an operation; see the top of this file. The first run happens before this returns.
   * Rejects with what the operation threw (once all that it saw is on disk), with ENOSPC when writes are not admitted, EINTR when the
   * signal was aborted while it waited, and UnavailableError when the store is closed or broken.
   */
  async execute<T>(operation: StoreOperation<T>, options: ExecuteOptions = {}): Promise<T> {
    const execution: Execution = { pinned: new Set(), ranges: new Map() }
    let places = noPlaces
    try {
      for (let runs = 0; runs < runsMax; runs++) {
        if (this.#broken) throw this.#unavailable()
        // Whoever asked may have waited before this, too. When his session has ended meanwhile, he may change nothing any more.
        if (options.signal?.aborted === true) throw new PosixError('EINTR')
        const run = new Run(this.#view, execution, this.#clock.wallTime())
        let result: T
        try {
          result = operation(run)
        } catch (caught) {
          if (caught instanceof Miss) {
            await this.#satisfy(caught, execution)
          } else if (caught instanceof Blocked) {
            // The wait can be long: what was loaded would keep the journal and the cache from shrinking.
            this.#release(execution)
            for (const [name, leave] of places) if (!caught.places.has(name)) leave()
            places = caught.places
            await interruptible(caught.promise, options.signal)
          } else {
            for (const leave of places.values()) leave()
            // A refusal is an answer too, and may rest on changes that are not on disk yet.
            await this.#durableThrough(run.seen)
            throw caught
          }
          continue
        }
        if (run.changes.size > 0) {
          if (options.mayUseReserve !== true && this.#options.admitWrites?.() === false) {
            throw new PosixError('ENOSPC', "the master's disk is full")
          }
          this.#apply(run)
        }
        for (const callback of run.applied) callback()
        options.applied?.()
        this.#release(execution)
        await this.#durableThrough(run.seen)
        for (const callback of run.committed) callback()
        return result
      }
      throw new Error('broken invariant: an operation never came to its end')
    } finally {
      this.#release(execution)
      for (const leave of places.values()) leave()
    }
  }

  /** Resolves when everything that was executed so far is on disk; later calls of `execute` are refused. */
  async close(): Promise<void> {
    const pending = this.#flushing
    this.#broken ??= new Error('the store is closed')
    await pending
  }

  // The Run is a class of its own, so it reaches the cache through this view.
  #view: StoreView = {
    find: (key) => {
      const entry = this.#cache.get(key)
      if (entry !== undefined) entry.used = true
      return entry
    },
    isDurable: (sequence) => sequence <= this.#durable,
    journal: () => this.#journal,
  }

  #unavailable(): UnavailableError {
    return new UnavailableError(`the master stops: ${this.#broken!.message}`, { maybeCommitted: true })
  }

  #durableThrough(sequence: number): Promise<void> | undefined {
    if (sequence <= this.#durable) return undefined
    if (this.#writing !== undefined && sequence <= this.#writing.lastSequence) return this.#writing.done
    return this.#next.done
  }

  #apply(run: Run): void {
    const sequence = ++this.#sequence
    run.seen = sequence
    this.#next.lastSequence = sequence
    for (const [key, change] of run.changes) {
      const load = this.#loads.get(key)
      if (load !== undefined) load.stale = true
      let entry = this.#cache.get(key)
      if (entry === undefined) entry = this.#insert(change.table, key, change.value)
      else this.#revalue(entry, change.value)
      entry.sequence = sequence
      entry.used = true
      this.#next.changes.set(key, entry)
      this.#journal.push({ sequence, key, value: change.value })
    }
    // After this turn, so that what is executed in the same turn shares the batch.
    this.#flushing ??= Promise.resolve().then(() => this.#flush())
  }

  async #flush(): Promise<void> {
    while (this.#next.changes.size > 0) {
      const batch = this.#next
      this.#next = new Batch()
      this.#writing = batch
      try {
        const changes: KvChange[] = []
        for (const [key, entry] of batch.changes) {
          const bytes = Buffer.from(key, 'latin1')
          if (entry.value === undefined) changes.push({ type: 'del', key: bytes })
          else changes.push({ type: 'put', key: bytes, value: entry.table.encode(entry.value) })
        }
        await this.#write(changes)
      } catch (caught) {
        const error = caught instanceof Error ? caught : new Error(String(caught))
        this.#broken = error
        this.#options.log.error('batch failed', { cause: error })
        batch.reject(this.#unavailable())
        this.#next.reject(this.#unavailable())
        this.#options.onFatal(error)
        return
      }
      this.#durable = batch.lastSequence
      this.#writing = undefined
      this.#batches++
      this.#changes += batch.changes.size
      this.#trimJournal()
      for (const entry of batch.changes.values()) if (entry.table.uncached === true) this.#drop(entry)
      batch.resolve()
      this.#evict()
    }
    this.#flushing = undefined
  }

  /** A full disk refuses a batch without effect (see KvEngine), so it waits for room. Meanwhile `admitWrites` keeps most changes away. */
  async #write(changes: readonly KvChange[]): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        return await this.#kv.write(changes, { sync: true })
      } catch (caught) {
        if (!(caught instanceof PosixError && caught.code === 'ENOSPC') || this.#broken) throw caught
        if (tries === 0) this.#options.log.error('the disk is full: changes wait for room', { cause: caught })
        await this.#clock.sleep(fullRetryMs)
      }
    }
  }

  #trimJournal(): void {
    let needed = this.#durable
    for (const execution of this.#paging) {
      for (const pages of execution.ranges.values()) {
        for (const page of pages) needed = Math.min(needed, page.sequence)
      }
    }
    const from = firstAfter(this.#journal, needed)
    if (from > 0) this.#journal = this.#journal.slice(from)
  }

  async #satisfy(miss: Miss, execution: Execution): Promise<void> {
    const loads = miss.keys.flatMap((missed) => this.#load(missed, execution) ?? [])
    for (const range of miss.ranges) loads.push(this.#loadPage(range, execution))
    // Also when one fails, the execution lasts until the others have pinned what came.
    for (const load of await Promise.allSettled(loads)) if (load.status === 'rejected') throw load.reason
    this.#evict()
  }

  /**
   * Loads of the same turn go to the engine together; two operations that miss the same record share its load. The record is pinned as soon
   * as it is in the cache: those who wait for others would take it out again before its turn. Absent only when it was changed on the way
   * and then evicted; the next run asks again.
   */
  #load(missed: MissedKey, execution: Execution): Promise<void> | undefined {
    const entry = this.#cache.get(missed.key)
    if (entry !== undefined) {
      pin(entry, execution)
      return undefined
    }
    const running = this.#loads.get(missed.key)
    if (running !== undefined) {
      running.waiting.push(execution)
      return running.promise
    }
    this.#loadQueue.push(missed)
    this.#loading ??= Promise.resolve().then(() => this.#loadQueued())
    this.#loads.set(missed.key, { promise: this.#loading, waiting: [execution], stale: false })
    return this.#loading
  }

  async #loadQueued(): Promise<void> {
    const queue = this.#loadQueue
    this.#loadQueue = []
    this.#loading = undefined
    try {
      const found = await this.#kv.getMany(queue.map(({ key }) => Buffer.from(key, 'latin1')))
      for (const [i, { table, key }] of queue.entries()) {
        const bytes = found[i]
        const { waiting, stale } = this.#loads.get(key)!
        let entry = this.#cache.get(key)
        if (entry === undefined && !stale) {
          entry = this.#insert(table, key, bytes === undefined ? undefined : table.decode(bytes))
        }
        if (entry !== undefined) for (const execution of waiting) pin(entry, execution)
      }
    } finally {
      for (const { key } of queue) this.#loads.delete(key)
    }
  }

  async #loadPage(missed: MissedRange, execution: Execution): Promise<void> {
    const { table, gte, lt } = missed
    // The journal must keep what this page may lack from before the engine is asked.
    const sequence = this.#durable
    const placeholder: Page = { gte, lt: gte, last: false, entries: [], sequence }
    missed.pages.push(placeholder)
    execution.ranges.set(rangeName(missed.pages[0]!.gte, lt), missed.pages)
    this.#paging.add(execution)
    const limit = Math.min(Math.max(missed.limit, pageEntriesMin), pageEntriesMax)
    const found = await this.#kv.range({ gte: Buffer.from(gte, 'latin1'), lt: Buffer.from(lt, 'latin1'), limit })
    const entries = found.map(({ key, value }) => [key.toString('latin1'), table.decode(value)] as const)
    const last = entries.length < limit
    missed.pages[missed.pages.length - 1] = {
      gte,
      lt: last ? lt : `${entries.at(-1)![0]}\0`,
      last,
      entries,
      sequence,
    }
  }

  #release(execution: Execution): void {
    for (const entry of execution.pinned) entry.pins--
    execution.pinned.clear()
    execution.ranges.clear()
    this.#paging.delete(execution)
  }

  #insert(table: AnyTable, key: string, value: unknown): Entry {
    const weight = weightOf(table, key, value)
    const entry: Entry = { table, key, value, weight, sequence: 0, pins: 0, used: false }
    this.#cache.set(key, entry)
    this.#cacheBytes += weight
    return entry
  }

  #revalue(entry: Entry, value: unknown): void {
    const weight = weightOf(entry.table, entry.key, value)
    this.#cacheBytes += weight - entry.weight
    entry.weight = weight
    entry.value = value
  }

  /** CLOCK: the hand goes round the entries in the order of their insertion and spares what was read since its last round. */
  #evict(): void {
    const entriesMax = this.#options.cacheEntriesMax ?? cacheEntriesMaxDefault
    const bytesMax = this.#options.cacheBytesMax ?? cacheBytesMaxDefault
    const excess = Math.max(0, this.#cache.size - entriesMax, (this.#cacheBytes - bytesMax) / entryBytes)
    let stepsLeft = 64 + 8 * excess
    while ((this.#cache.size > entriesMax || this.#cacheBytes > bytesMax) && stepsLeft-- > 0) {
      this.#hand ??= this.#cache.values()
      const step = this.#hand.next()
      if (step.done === true) {
        this.#hand = undefined
        continue
      }
      const entry = step.value
      if (entry.used) {
        entry.used = false
        continue
      }
      this.#drop(entry)
    }
  }

  /** Takes a record out of the cache, unless somebody needs it or it is not on disk. */
  #drop(entry: Entry): void {
    if (entry.pins > 0 || entry.sequence > this.#durable) return
    if (this.#cache.delete(entry.key)) this.#cacheBytes -= entry.weight
  }
}

const pin = (entry: Entry, { pinned }: Execution): void => {
  if (pinned.has(entry)) return
  pinned.add(entry)
  entry.pins++
}

interface StoreView {
  find(key: string): Entry | undefined
  isDurable(sequence: number): boolean
  journal(): readonly JournalEntry[]
}

/** One run of an operation. */
class Run implements Tx {
  readonly now: Timespec
  readonly changes = new Map<string, Change>()
  readonly applied: (() => void)[] = []
  readonly committed: (() => void)[] = []
  /** The latest change that the run has read and that was not on disk. */
  seen = 0
  #view: StoreView
  #execution: Execution

  constructor(view: StoreView, execution: Execution, now: Timespec) {
    this.#view = view
    this.#execution = execution
    this.now = now
  }

  get<K, V>(table: Table<K, V>, key: K): V | undefined {
    const name = table.encodeKey(key)
    const change = this.changes.get(name)
    if (change !== undefined) return change.value as V | undefined
    const entry = this.#view.find(name)
    if (entry === undefined) throw new Miss([{ table, key: name }])
    this.#saw(entry.sequence)
    return entry.value as V | undefined
  }

  getMany<K, V>(table: Table<K, V>, keys: readonly K[]): (V | undefined)[] {
    const missed: MissedKey[] = []
    const values: (V | undefined)[] = []
    for (const key of keys) {
      const name = table.encodeKey(key)
      const change = this.changes.get(name)
      if (change !== undefined) {
        values.push(change.value as V | undefined)
        continue
      }
      const entry = this.#view.find(name)
      if (entry === undefined) {
        missed.push({ table, key: name })
        continue
      }
      this.#saw(entry.sequence)
      values.push(entry.value as V | undefined)
    }
    if (missed.length > 0) throw new Miss(missed)
    return values
  }

  put<K, V>(table: Table<K, V>, key: K, value: V): void {
    invariant(value !== undefined, `a record of ${table.name} without a value`)
    this.changes.set(table.encodeKey(key), { table, value })
  }

  delete<K, V>(table: Table<K, V>, key: K): void {
    this.changes.set(table.encodeKey(key), { table, value: undefined })
  }

  range<K, V>(table: Table<K, V>, bounds: Bounds, limit: number): [K, V][] {
    const found: [K, V][] = []
    if (limit <= 0 || bounds.gte >= bounds.lt) return found
    const pages = this.#execution.ranges.get(rangeName(bounds.gte, bounds.lt)) ?? []
    let gte = bounds.gte
    for (const page of pages) {
      for (const [key, value] of this.#merged(page)) {
        found.push([table.decodeKey(key), value as V])
        if (found.length === limit) return found
      }
      if (page.last) return found
      gte = page.lt
    }
    throw new Miss([], [{ table, pages, gte, lt: bounds.lt, limit: limit - found.length }])
  }

  onApply(callback: () => void): void {
    this.applied.push(callback)
  }

  afterCommit(callback: () => void): void {
    this.committed.push(callback)
  }

  #saw(sequence: number): void {
    if (sequence > this.seen && !this.#view.isDurable(sequence)) this.seen = sequence
  }

  /** A page with the changes that came after it, and this run's own. */
  #merged(page: Page): Iterable<readonly [string, unknown]> {
    let changed: Map<string, unknown> | undefined
    const within = (key: string): boolean => key >= page.gte && key < page.lt
    const journal = this.#view.journal()
    for (let i = firstAfter(journal, page.sequence); i < journal.length; i++) {
      const { key, value, sequence } = journal[i]!
      if (!within(key)) continue
      changed ??= new Map(page.entries)
      changed.set(key, value)
      this.#saw(sequence)
    }
    for (const [key, change] of this.changes) {
      if (!within(key)) continue
      changed ??= new Map(page.entries)
      changed.set(key, change.value)
    }
    if (changed === undefined) return page.entries
    return [...changed].filter(([, value]) => value !== undefined).toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  }
}

const rangeName = (gte: string, lt: string): string => `${gte.length}:${gte}${lt}`

const weightOf = (table: AnyTable, key: string, value: unknown): number =>
  entryBytes + key.length + (value === undefined ? 0 : table.weigh(value))

/** Index of the first entry with a greater sequence number. */
const firstAfter = (journal: readonly JournalEntry[], sequence: number): number => {
  let low = 0
  let high = journal.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (journal[middle]!.sequence > sequence) high = middle
    else low = middle + 1
  }
  return low
}

const interruptible = (promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> => {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const interrupt = (): void => reject(new PosixError('EINTR'))
    if (signal.aborted) return interrupt()
    signal.addEventListener('abort', interrupt, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', interrupt))
  })
}

const putChange = <K, V>(table: Table<K, V>, key: K, value: V): KvChange => ({
  type: 'put',
  key: Buffer.from(table.encodeKey(key), 'latin1'),
  value: table.encode(value),
})

const createFileSystem = async (options: StoreOptions, clusterId: string): Promise<void> => {
  const now = options.clock.wallTime()
  await options.kv.write(
    [
      putChange(formats, undefined, { number: formatNumber, clusterId }),
      putChange(counters, 'nextIno', rootIno + 1n),
      putChange(counters, 'inodes', 1n),
      putChange(inodes, rootIno, {
        mode: S_IFDIR | 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0n,
        allocated: 0n,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        flags: 0,
        copies: 0,
        change: 1n,
        xattrs: 0,
        parent: rootIno,
        entries: 0,
        nextCookie: cookieFirst,
        content: undefined,
      }),
    ],
    { sync: true },
  )
}
