/**
 * Copies a sealed chunk from peers. Each piece comes from the first source that has it undamaged, so that even sources with
 * different damaged blocks make one good copy.
 */
import { PosixError, UnavailableError } from '../domain/errors.ts'
import { blockBytes, chunkBytes, transferBytesMax } from '../domain/limits.ts'
import { giveBackBuffer } from '../platform/buffer-pool.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Transport } from '../platform/transport.ts'
import type { CopyRequest } from '../protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { Piece } from './chunk-file.ts'
import { PeerReader } from './peer-reader.ts'
import type { ChunkStore, Incoming } from './store.ts'

/** Pieces that are asked for ahead. */
const piecesAhead = 4
const zeroBlock = Buffer.alloc(blockBytes)

export interface CopyOptions {
  store: ChunkStore
  bulk: Transport
  rpc: Transport
  clock: Clock
  log: Log
  faults?: Faults | undefined
}

/**
 * Resolves when this store durably has the chunk, sealed at this length. A good open replica that is long enough is sealed instead.
 * EINVAL, ENOSPC, EIO when no source has all of it, EBUSY while it is being copied already.
 */
export const copyChunk = async (options: CopyOptions, request: CopyRequest, signal: AbortSignal): Promise<void> => {
  const { store } = options
  const { chunkId, length } = request
  if (chunkId === 0n || length % blockBytes !== 0 || length > chunkBytes) {
    throw new PosixError('EINVAL', 'a chunk has whole blocks and at most 64 MiB')
  }
  const present = store.state(chunkId)
  if (present && !present.corrupt) {
    if (present.sealed && present.length === length) return
    if (!present.sealed && present.length >= length) return store.seal(chunkId, length)
  }
  const sources = new Sources(options, request)
  try {
    await store.receive(chunkId, length, (incoming) => fill(options, request, sources, incoming, signal))
  } finally {
    sources.close()
  }
}

const fill = async (
  { clock }: CopyOptions,
  { length, bytesPerSecondMax }: CopyRequest,
  sources: Sources,
  incoming: Incoming,
  signal: AbortSignal,
): Promise<void> => {
  const rate = Number(bytesPerSecondMax)
  const startedMs = clock.nowMs()
  const ahead: Promise<Piece>[] = []
  for (let offset = 0; offset < length || ahead.length > 0;) {
    if (signal.aborted) throw new UnavailableError('the copy was called off', { maybeCommitted: false })
    if (offset < length && ahead.length < piecesAhead) {
      if (rate > 0) {
        const earlyMs = (offset / rate) * 1000 - (clock.nowMs() - startedMs)
        if (earlyMs > 0) await clock.sleep(earlyMs)
      }
      const piece = sources.read(offset, Math.min(transferBytesMax, length - offset))
      // Looked at in its turn; until then its failure is nobody's.
      piece.catch(() => undefined)
      ahead.push(piece)
      offset += transferBytesMax
      continue
    }
    const piece = await ahead.shift()!
    await writeSparsely(incoming, piece)
    giveBackBuffer(piece.data)
  }
}

/** Writes a piece, blocks of zeros (holes of the source among them) as holes. */
const writeSparsely = async (incoming: Incoming, { data, checksums }: Piece): Promise<void> => {
  const isZero = (at: number): boolean => data.subarray(at, at + blockBytes).equals(zeroBlock)
  for (let at = 0; at < data.length;) {
    const zero = isZero(at)
    let end = at + blockBytes
    while (end < data.length && isZero(end) === zero) end += blockBytes
    if (zero) await incoming.hole(end - at)
    else {
      const piece = {
        data: data.subarray(at, end),
        checksums: checksums.subarray((at / blockBytes) * 4, (end / blockBytes) * 4),
      }
      await incoming.write(piece)
    }
    at = end
  }
}

/** The servers that a chunk may be read from; the one that answered last is asked first. */
class Sources {
  readonly #options: CopyOptions
  readonly #request: CopyRequest
  readonly #readers = new Map<number, PeerReader>()
  #current = 0

  constructor(options: CopyOptions, request: CopyRequest) {
    this.#options = options
    this.#request = request
  }

  async read(offset: number, length: number): Promise<Piece> {
    const { sources, chunkId } = this.#request
    const first = this.#current
    let failure: unknown = new PosixError('EINVAL', 'a copy needs a source')
    for (let step = 0; step < sources.length; step++) {
      const index = (first + step) % sources.length
      const reader = this.#reader(index)
      try {
        const piece = await reader.read({ chunkId, offset, length })
        this.#current = index
        return piece
      } catch (caught) {
        if (!(caught instanceof PosixError || caught instanceof UnavailableError)) throw caught
        this.#options.log.warn('a source of a copy failed', { chunk: chunkId, offset, cause: caught })
        failure = caught
        if (caught instanceof UnavailableError && this.#readers.get(index) === reader) this.#readers.delete(index)
      }
    }
    const why = failure instanceof Error ? failure.message : String(failure)
    throw new PosixError(
      failure instanceof PosixError ? failure.code : 'EIO',
      `no source has bytes ${offset} on: ${why}`,
    )
  }

  close(): void {
    for (const reader of this.#readers.values()) reader.close()
    this.#readers.clear()
  }

  #reader(index: number): PeerReader {
    let reader = this.#readers.get(index)
    if (!reader) {
      const { bulk, rpc, clock } = this.#options
      reader = new PeerReader({ bulk, rpc, clock, source: this.#request.sources[index]! })
      this.#readers.set(index, reader)
    }
    return reader
  }
}
