/**
 * An ordered key-value store with atomic, durable batches: what the master keeps the namespace in.
 * Keys are ordered bytewise. One process at a time has it open.
 */

export type KvChange = { type: 'put'; key: Buffer; value: Buffer } | { type: 'del'; key: Buffer }

export interface KvRange {
  /** Inclusive. */
  gte: Buffer
  /** Exclusive. */
  lt: Buffer
  /** Entries at most. */
  limit: number
  reverse?: boolean
}

export interface KvEntry {
  key: Buffer
  value: Buffer
}

/** All entries as they were at one moment, in the order of their keys, while the engine goes on. */
export interface KvSnapshot {
  /** The next entries, as many as asked for unless the end comes first. One call at a time. */
  read(limit: number): Promise<KvEntry[]>
  /** Idempotent. */
  close(): Promise<void>
}

export interface KvEngine {
  get(key: Buffer): Promise<Buffer | undefined>
  /** In the order of the keys. */
  getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]>
  /** A snapshot of the moment of the call. */
  range(range: KvRange): Promise<KvEntry[]>
  /** Of the moment of the call. It keeps old data alive until it is closed; `close` of the engine closes it. */
  openSnapshot(): KvSnapshot
  /**
   * All of the changes or none, on disk when the promise resolves if `sync`. Batches apply in the order of the calls.
   * ENOSPC: refused, without effect. EIO: whether it took effect is unknown, and every later write fails until the engine is opened
   * again.
   */
  write(changes: readonly KvChange[], options: { sync: boolean }): Promise<void>
  close(): Promise<void>
}
