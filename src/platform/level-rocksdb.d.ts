/** The part of level-rocksdb (levelup 5 over RocksDB 6) that Shoal uses; the package has no types of its own. */
declare module 'level-rocksdb' {
  type Done<T> = (error: Error | null | undefined, result: T) => void

  export interface LevelIterator {
    /** Called without a key at the end. */
    next(callback: (error: Error | null | undefined, key?: Buffer, value?: Buffer) => void): void
    end(callback: (error?: Error | null) => void): void
  }

  export interface Level {
    getMany(keys: readonly Buffer[], callback: Done<(Buffer | undefined)[]>): void
    batch(
      changes: readonly ({ type: 'put'; key: Buffer; value: Buffer } | { type: 'del'; key: Buffer })[],
      options: { sync: boolean },
      callback: (error?: Error | null) => void,
    ): void
    iterator(options: {
      gte: Buffer
      lt: Buffer
      limit: number
      reverse: boolean
      /** Bytes that one call into RocksDB reads ahead. */
      highWaterMark: number
      fillCache: boolean
    }): LevelIterator
    close(callback: (error?: Error | null) => void): void
    /** The wrapper that encodes, and in it the binding. */
    readonly db: { readonly db: { getProperty(name: string): string } }
  }

  export interface LevelOptions {
    keyEncoding: 'binary'
    valueEncoding: 'binary'
    createIfMissing: boolean
    /** Bytes of the block cache. */
    cacheSize: number
    /** Bytes of one write buffer; RocksDB keeps up to two. */
    writeBufferSize: number
    maxOpenFiles: number
  }

  export default function level(
    path: string,
    options: LevelOptions,
    callback: (error: Error | null | undefined, level: Level) => void,
  ): Level
}
