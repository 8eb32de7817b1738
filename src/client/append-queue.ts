/**
 * Collects what is to be appended in one turn of the event loop, so that small files written at the same time travel in shared
 * messages. Each job gets its own extents and a `release` to be called when they are committed or given up.
 */
import { segmentOf } from '../domain/extents.ts'
import type { Extent } from '../domain/extents.ts'
import { asChunkId } from '../domain/ids.ts'
import type { ChunkId } from '../domain/ids.ts'
import { segmentBytes } from '../domain/limits.ts'
import type { AppendResult } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { Appended } from './chunks/ports.ts'
import type { FilePart } from './dirty-data.ts'

const callBytesMax = 8 * 1024 * 1024
const callPiecesMax = 512

/** The part of ChunkWriter that is needed here. */
export interface ChunkAppender {
  append(pieces: readonly Buffer[], options: { copies: number; sync: boolean }): Promise<Appended>
  committed(appended: Appended): void
}

/** Where the parts of a job are now. */
export interface AppendedParts {
  /** By index of the segment, sorted by offset. */
  extents: Map<bigint, Extent[]>
  chunkIds: ChunkId[]
  results: readonly AppendResult[]
  locations: ReadonlyMap<ChunkId, readonly ServerAddress[]>
  /** Committed, or given up for good. */
  release(): void
}

interface Job {
  parts: readonly FilePart[]
  bytes: number
  resolve: (appended: AppendedParts) => void
  reject: (error: unknown) => void
}

export class AppendQueue {
  readonly #appender: ChunkAppender
  /** By copies and sync. */
  readonly #jobs = new Map<string, { copies: number; sync: boolean; jobs: Job[] }>()

  constructor(appender: ChunkAppender) {
    this.#appender = appender
  }

  append(parts: readonly FilePart[], options: { copies: number; sync: boolean }): Promise<AppendedParts> {
    return new Promise((resolve, reject) => {
      const key = `${options.copies} ${options.sync}`
      const waiting = this.#jobs.get(key)
      const job = { parts, bytes: parts.reduce((sum, { data }) => sum + data.length, 0), resolve, reject }
      if (waiting === undefined) {
        this.#jobs.set(key, { jobs: [job], ...options })
        queueMicrotask(() => this.#drain(key))
      } else waiting.jobs.push(job)
    })
  }

  #drain(key: string): void {
    const waiting = this.#jobs.get(key)
    this.#jobs.delete(key)
    if (waiting === undefined) return
    let group: Job[] = []
    let bytes = 0
    let pieces = 0
    for (const job of waiting.jobs) {
      if (group.length > 0 && (bytes + job.bytes > callBytesMax || pieces + job.parts.length > callPiecesMax)) {
        void this.#send(group, waiting)
        group = []
        bytes = 0
        pieces = 0
      }
      group.push(job)
      bytes += job.bytes
      pieces += job.parts.length
    }
    void this.#send(group, waiting)
  }

  async #send(jobs: readonly Job[], options: { copies: number; sync: boolean }): Promise<void> {
    try {
      const pieces = jobs.flatMap(({ parts }) => parts.map(({ data }) => data))
      const appended = await this.#appender.append(pieces, { copies: options.copies, sync: options.sync })
      let open = jobs.length
      const release = (): void => {
        if (--open === 0) this.#appender.committed(appended)
      }
      let next = 0
      let firstPiece = 0
      for (const job of jobs) {
        const endPiece = firstPiece + job.parts.length
        const extents = new Map<bigint, Extent[]>()
        const chunkIds = new Set<ChunkId>()
        for (; next < appended.placed.length && appended.placed[next]!.piece < endPiece; next++) {
          const { piece, pieceOffset, length, chunkId, chunkOffset } = appended.placed[next]!
          const { index, within } = segmentOf(job.parts[piece - firstPiece]!.offset + BigInt(pieceOffset))
          const list = extents.get(index) ?? []
          extents.set(index, list)
          list.push({ offset: within, length, chunkId, chunkOffset })
          chunkIds.add(chunkId)
          if (within + length > segmentBytes) throw new Error('broken invariant: a piece crosses a segment')
        }
        firstPiece = endPiece
        const results = appended.results.filter(({ chunkId }) => chunkIds.has(asChunkId(chunkId)))
        job.resolve({
          extents,
          chunkIds: [...chunkIds],
          results,
          locations: appended.locations,
          release: once(release),
        })
      }
    } catch (error) {
      for (const job of jobs) job.reject(error)
    }
  }
}

const once = (action: () => void): (() => void) => {
  let done = false
  return () => {
    if (done) return
    done = true
    action()
  }
}
