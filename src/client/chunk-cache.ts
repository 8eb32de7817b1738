/**
 * Bytes of chunks that were read ahead, bounded, least recently used first out. What is in a chunk never changes, so an entry is right for
 * as long as somebody asks for it; nothing has to be invalidated. What was read once is dropped: the front end keeps it.
 *
 * Entries are ranges of whole blocks within 1 MiB pieces of a chunk. Invariant: `#bytes` is the sum of the lengths of all entries,
 * also of those that are still being fetched.
 * Invariant: the buffer of an entry goes back to the pool when it was dropped and nobody waits for it; whoever was given a view holds it too.
 */
import { PosixError } from '../domain/errors.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes, chunkBytes } from '../domain/limits.ts'
import { giveBackBuffer, holdBuffer, takeBuffer } from '../platform/buffer-pool.ts'
import { orAborted } from './waiting.ts'

export const pieceBytes = 1024 * 1024

export type FetchChunk = (
  chunkId: ChunkId,
  chunkOffset: number,
  length: number,
  signal?: AbortSignal,
) => Promise<Buffer>

interface Entry {
  key: string
  from: number
  to: number
  data: Buffer | undefined
  fetched: Promise<Buffer>
  /** Reads that wait for it. */
  waiting: number
  dropped: boolean
  /** Bytes that nobody has read yet, as long as each is read once. */
  unreadBytes: number
}

export class ChunkCache {
  readonly #fetch: FetchChunk
  readonly #bytesMax: number
  readonly #entries = new Map<string, Entry[]>()
  #bytes = 0

  constructor(fetch: FetchChunk, options: { bytesMax: number }) {
    this.#fetch = fetch
    this.#bytesMax = options.bytesMax
  }

  get bytes(): number {
    return this.#bytes
  }

  /**
   * A range of a chunk. `keepTo`: the reader goes on at least to this place, so everything up to there (within the piece) is
   * fetched and kept; otherwise only the blocks that are needed are fetched, and not kept. The buffer is the caller's, to be given back to
   * the pool.
   */
  async read(
    chunkId: ChunkId,
    range: { offset: number; length: number; keepTo?: number },
    signal?: AbortSignal,
  ): Promise<Buffer> {
    const end = range.offset + range.length
    const lastPiece = Math.floor((end - 1) / pieceBytes)
    if (Math.floor(range.offset / pieceBytes) === lastPiece) return this.#readPiece(chunkId, range, signal)
    const parts: Promise<Buffer>[] = []
    for (let at = range.offset; at < end;) {
      const stop = Math.min(end, (Math.floor(at / pieceBytes) + 1) * pieceBytes)
      parts.push(this.#readPiece(chunkId, { ...range, offset: at, length: stop - at }, signal))
      at = stop
    }
    return joined(await Promise.all(parts), range.length)
  }

  /** Starts to fetch a range, piece by piece, unless it is there or on its way. */
  prefetch(chunkId: ChunkId, offset: number, length: number): void {
    const end = Math.min(roundUp(offset + length), chunkBytes)
    for (let at = roundDown(offset); at < end;) {
      const stop = Math.min(end, (Math.floor(at / pieceBytes) + 1) * pieceBytes)
      this.#obtain(chunkId, at, stop)
      at = stop
    }
  }

  async #readPiece(
    chunkId: ChunkId,
    { offset, length, keepTo }: { offset: number; length: number; keepTo?: number },
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    const end = offset + length
    let entry = this.#find(chunkId, offset, end)
    if (entry === undefined) {
      if (keepTo === undefined) return this.#fetch(chunkId, offset, length, signal)
      const pieceEnd = (Math.floor(offset / pieceBytes) + 1) * pieceBytes
      entry = this.#obtain(chunkId, roundDown(offset), Math.min(pieceEnd, roundUp(Math.max(end, keepTo))))
    }
    entry.waiting++
    try {
      const data = entry.data ?? (await orAborted(entry.fetched, signal))
      holdBuffer(data)
      entry.unreadBytes -= length
      if (entry.unreadBytes <= 0) this.#drop(entry)
      return data.subarray(offset - entry.from, end - entry.from)
    } catch (caught) {
      // What is damaged may be only what was fetched along: another file's bytes, or some that nobody has asked for.
      const alone = entry.to - entry.from <= roundUp(end) - roundDown(offset)
      if (alone || !(caught instanceof PosixError && caught.code === 'EIO')) throw caught
      return await this.#fetch(chunkId, offset, length, signal)
    } finally {
      entry.waiting--
      giveBackUnused(entry)
    }
  }

  #find(chunkId: ChunkId, from: number, to: number): Entry | undefined {
    const key = keyOf(chunkId, from)
    const entries = this.#entries.get(key)
    const found = entries?.find((entry) => entry.from <= from && entry.to >= to)
    if (found !== undefined) {
      this.#entries.delete(key)
      this.#entries.set(key, entries!)
    }
    return found
  }

  #obtain(chunkId: ChunkId, from: number, to: number): Entry {
    const present = this.#find(chunkId, from, to)
    if (present !== undefined) {
      // What was read of it will be read again.
      present.unreadBytes = present.to - present.from
      return present
    }
    const key = keyOf(chunkId, from)
    const entry: Entry = {
      key,
      from,
      to,
      data: undefined,
      fetched: this.#fetch(chunkId, from, to - from),
      waiting: 0,
      dropped: false,
      unreadBytes: to - from,
    }
    this.#entries.set(key, [...(this.#entries.get(key) ?? []), entry])
    this.#bytes += to - from
    entry.fetched.then(
      (data) => {
        entry.data = data
        giveBackUnused(entry)
      },
      // Who waits for it gets the error; who comes later tries again.
      () => this.#drop(entry),
    )
    this.#trim()
    return entry
  }

  #drop(entry: Entry): void {
    const entries = this.#entries.get(entry.key)
    if (entries === undefined || !entries.includes(entry)) return
    const rest = entries.filter((other) => other !== entry)
    if (rest.length === 0) this.#entries.delete(entry.key)
    else this.#entries.set(entry.key, rest)
    this.#forget(entry)
  }

  #forget(entry: Entry): void {
    this.#bytes -= entry.to - entry.from
    entry.dropped = true
    giveBackUnused(entry)
  }

  #trim(): void {
    for (const [key, entries] of this.#entries) {
      if (this.#bytes <= this.#bytesMax) return
      this.#entries.delete(key)
      for (const entry of entries) this.#forget(entry)
    }
  }
}

const giveBackUnused = (entry: Entry): void => {
  const { data, waiting, dropped } = entry
  if (data === undefined || waiting > 0 || !dropped) return
  entry.data = undefined
  giveBackBuffer(data)
}

const joined = (parts: readonly Buffer[], length: number): Buffer => {
  const whole = takeBuffer(length)
  let at = 0
  for (const part of parts) {
    at += part.copy(whole, at)
    giveBackBuffer(part)
  }
  return whole
}

const keyOf = (chunkId: ChunkId, offset: number): string => `${chunkId}/${Math.floor(offset / pieceBytes)}`
const roundDown = (offset: number): number => Math.floor(offset / blockBytes) * blockBytes
const roundUp = (offset: number): number => Math.ceil(offset / blockBytes) * blockBytes
