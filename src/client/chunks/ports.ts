/** What the data path asks of the master, and the shapes that travel between it and the file system above it. */
import type { ChunkId, ServerId } from '../../domain/ids.ts'
import type { AppendResult } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../../protocol/gen/shoal/v1/types.pb.ts'

export type { ServerAddress }

/** Checksum mismatch, or the server has no such chunk or a shorter one. */
export type ReplicaProblem = 'corrupt' | 'missing'

/** The master, over the session. Each promise rejects with PosixError (an answer) or UnavailableError (none). */
export interface ChunkMaster {
  /** A new chunk for this session to append to. ENOSPC when too few servers can take it. */
  allocateChunk(copies: number, excluded: readonly ServerId[]): Promise<{ chunkId: ChunkId; servers: ServerAddress[] }>
  /** This session appends no more. `failed`: servers whose append or sync failed. */
  sealChunk(chunkId: ChunkId, failed: readonly ServerId[]): Promise<void>
  /**
   * Where valid replicas are. A chunk that has none at the moment has an empty list, one that does not exist (any more) no entry:
   * a sync counts a chunk without an entry as deleted.
   */
  locate(chunkIds: readonly ChunkId[], signal?: AbortSignal): Promise<Map<ChunkId, ServerAddress[]>>
  /** Never fails and never waits: a report that is lost is found again by the next reader or by the scrubber. */
  reportReplica(chunkId: ChunkId, serverId: ServerId, problem: ReplicaProblem): void
}

/** Bytes [pieceOffset, pieceOffset + length) of a piece are bytes [chunkOffset, chunkOffset + length) of a chunk. */
export interface Placed {
  /** Index in the pieces of the call. */
  piece: number
  /** A multiple of 4096. */
  pieceOffset: number
  /** Positive; a multiple of 4096 unless it reaches the piece's end. */
  length: number
  chunkId: ChunkId
  /** A multiple of 4096. */
  chunkOffset: number
}

/**
 * What an append achieved: for CommitRequest. `placed` is sorted by piece and pieceOffset and covers every byte of every piece once;
 * places that continue each other are already one. `results` has one entry for each chunk named in it.
 */
export interface Appended {
  readonly placed: readonly Placed[]
  readonly results: readonly AppendResult[]
  /** Where each of these chunks can be read from now on, until the master says otherwise. */
  readonly locations: ReadonlyMap<ChunkId, readonly ServerAddress[]>
}
