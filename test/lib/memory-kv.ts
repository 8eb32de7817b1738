/**
 * A KvEngine in memory: a sorted array. Fast enough for thousands of keys, and what one does is easy to see.
 *
 * Fault model: crash() forgets every write after the last synced one, as power loss may, and leaves the engine closed; open it again with reopen().
 * A write counts as synced when its call returns. crash(kept) keeps that many of the batches that were not, the first ones.
 * failWrites(error) makes every later write fail, without effect. breakWrite(carriedOut) makes the next one fail with EIO, carried out or not,
 * and all later ones without effect until the engine is opened again. There are no torn batches: RocksDB's log excludes them.
 */
import type { PosixError } from '../../src/domain/errors.ts'
import { PosixError as Failure } from '../../src/domain/errors.ts'
import type { KvChange, KvEngine, KvEntry, KvRange, KvSnapshot } from '../../src/platform/kv-engine.ts'

export interface MemoryKv extends KvEngine {
  /** Loses what was not synced but for the first batches of it; the engine is closed afterwards. */
  crash(kept?: number): void
  /** How many batches a crash may lose. */
  readonly unsyncedBatches: number
  /** The same data, open again. */
  reopen(): MemoryKv
  failWrites(error: PosixError | undefined): void
  breakWrite(carriedOut: boolean): void
  /** What is under a key now, without a call. */
  peek(key: Buffer): Buffer | undefined
  /** What would be under a key if the power failed now. */
  peekDurable(key: Buffer): Buffer | undefined
  /** Every entry, in order. */
  entries(): KvEntry[]
}

type State = KvEntry[]

/** Index of the first entry whose key is not less. */
const indexOf = (state: State, key: Buffer): number => {
  let low = 0
  let high = state.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (state[middle]!.key.compare(key) < 0) low = middle + 1
    else high = middle
  }
  return low
}

/** Returns what was there before. */
const apply = (state: State, change: KvChange): KvEntry | undefined => {
  const at = indexOf(state, change.key)
  const before = state[at]?.key.equals(change.key) === true ? state[at] : undefined
  if (change.type === 'put') {
    const entry = { key: Buffer.from(change.key), value: Buffer.from(change.value) }
    if (before) state[at] = entry
    else state.splice(at, 0, entry)
  } else if (before) state.splice(at, 1)
  return before
}

const copied = ({ key, value }: KvEntry): KvEntry => ({ key: Buffer.from(key), value: Buffer.from(value) })

class MemoryEngine implements MemoryKv {
  private readonly state: State
  /** What a crash takes back: the batches since the last sync, each as the changes that undo it; newest last. */
  private undo: KvChange[][] = []
  private closed = false
  private failure: PosixError | undefined
  private breaks: 'before' | 'after' | undefined
  /** Of a write that broke the engine; nothing but opening it again mends that. */
  private broken: PosixError | undefined

  private readonly wait: (call: 'read' | 'write') => Promise<void>

  constructor(state: State, wait: (call: 'read' | 'write') => Promise<void>) {
    this.state = state
    this.wait = wait
  }

  async get(key: Buffer): Promise<Buffer | undefined> {
    return (await this.getMany([key]))[0]
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    this.assertOpen()
    const values = keys.map((key) => {
      const entry = this.state[indexOf(this.state, key)]
      return entry?.key.equals(key) ? Buffer.from(entry.value) : undefined
    })
    await this.wait('read')
    return values
  }

  async range({ gte, lt, limit, reverse = false }: KvRange): Promise<KvEntry[]> {
    this.assertOpen()
    if (limit <= 0 || gte.compare(lt) >= 0) return []
    const start = indexOf(this.state, gte)
    const end = indexOf(this.state, lt)
    const found = reverse
      ? this.state.slice(Math.max(start, end - limit), end).toReversed()
      : this.state.slice(start, Math.min(end, start + limit))
    const snapshot = found.map(copied)
    await this.wait('read')
    return snapshot
  }

  openSnapshot(): KvSnapshot {
    this.assertOpen()
    const left = this.state.map(copied)
    return {
      read: async (limit) => {
        await nextTurn()
        return left.splice(0, limit)
      },
      close: async () => {
        left.length = 0
      },
    }
  }

  async write(changes: readonly KvChange[], { sync }: { sync: boolean }): Promise<void> {
    this.assertOpen()
    if (this.broken) throw this.broken
    if (this.failure) throw this.failure
    const { breaks } = this
    if (breaks) this.broken = new Failure('EIO', 'the database cannot be written')
    if (breaks === 'before') throw this.broken!
    const batch: KvChange[] = []
    this.undo.push(batch)
    for (const change of changes) {
      const before = apply(this.state, change)
      batch.push(before ? { type: 'put', ...before } : { type: 'del', key: Buffer.from(change.key) })
    }
    await this.wait('write')
    if (breaks) throw this.broken!
    if (sync) this.undo.splice(0, this.undo.indexOf(batch) + 1)
  }

  async close(): Promise<void> {
    this.closed = true
  }

  get unsyncedBatches(): number {
    return this.undo.length
  }

  crash(kept = 0): void {
    for (const batch of this.undo.slice(kept).toReversed()) {
      for (const change of batch.toReversed()) apply(this.state, change)
    }
    this.undo = []
    this.closed = true
  }

  reopen(): MemoryKv {
    this.closed = true
    return new MemoryEngine(this.state, this.wait)
  }

  failWrites(error: PosixError | undefined): void {
    this.failure = error
  }

  breakWrite(carriedOut: boolean): void {
    this.breaks = carriedOut ? 'after' : 'before'
  }

  peek(key: Buffer): Buffer | undefined {
    const entry = this.state[indexOf(this.state, key)]
    return entry?.key.equals(key) === true ? entry.value : undefined
  }

  peekDurable(key: Buffer): Buffer | undefined {
    // The first of the batches that would be lost knows what was there before all of them.
    for (const batch of this.undo) {
      const before = batch.find((change) => change.key.equals(key))
      if (before) return before.type === 'put' ? before.value : undefined
    }
    return this.peek(key)
  }

  entries(): KvEntry[] {
    return this.state.map(copied)
  }

  private assertOpen(): void {
    if (this.closed) throw new Failure('EIO', 'the database is closed')
  }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** `wait`: what each call takes, after it was carried out. */
export const memoryKv = (wait: (call: 'read' | 'write') => Promise<void> = nextTurn): MemoryKv =>
  new MemoryEngine([], wait)
