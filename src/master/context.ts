/**
 * What an operation of the master needs beside the store: the state that lives in memory only. Leases, open files and replica
 * locations are given through these ports, so that operations can be tested without sessions and chunk servers.
 *
 * Everything here is synchronous, because an operation is one synchronous run. A run may be repeated (a record was not in the cache),
 * so an operation changes this state either through `tx.onApply`, which is called once, or by calls that are idempotent and come last.
 */
import type { ChunkId, Ino, SessionId } from '../domain/ids.ts'
import type { AppendResult, Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'

export type LeaseHold = 'none' | 'read' | 'write'

export interface LeaseGate {
  /**
   * Undefined when no OTHER session holds more than `allowed` on the inode. Otherwise recalls are on their way (started once, however
   * often this is asked), and the promise resolves when it is worth running again; it never rejects.
   */
  reduceOthers(session: SessionId, ino: Ino, allowed: 'none' | 'read'): Promise<void> | undefined
  /** Who asked, was told to wait and does not want it any more. */
  leave(session: SessionId, ino: Ino, allowed: 'none' | 'read'): void
  /** Others are to give back what they hold of the inode, for a change that is likely; nobody waits for it. */
  hurryOthers(session: SessionId, ino: Ino): void
  /** True while another session holds the inode for writing. Starts nothing. */
  writtenByOther(session: SessionId, ino: Ino): boolean
  /**
   * Gives the session this lease, or keeps a stronger one, at once. Only after reduceOthers gave undefined in the same run, and as
   * the last thing in it: nothing after it can throw. Idempotent.
   * A run that changes records passes `onApply`, since it can still be refused: then it takes effect with the change.
   */
  grant(session: SessionId, ino: Ino, mode: 'read' | 'write', onApply?: (effect: () => void) => void): Lease
  /**
   * The lease that the session holds, or else a read lease when nobody stands in the way or waits and the inode is not fought for; mode
   * NONE otherwise. Under the same rules as grant.
   */
  offer(session: SessionId, ino: Ino, onApply?: (effect: () => void) => void): Lease
  /**
   * The same for a write lease, for what the session will probably go on changing: when nobody else holds or waits for anything, and the
   * inode is not fought for. Otherwise what the session holds. Always takes effect with the change.
   */
  offerWrite(session: SessionId, ino: Ino, onApply: (effect: () => void) => void): Lease
  /** The session has made this inode on its own, and has held the write lease ever since. Called when the change is made. */
  made(session: SessionId, ino: Ino): void
  /** The lease that the session holds; mode NONE without one. */
  holding(session: SessionId, ino: Ino): Lease
  held(session: SessionId, ino: Ino): LeaseHold
}

/** Which inodes are open in which sessions; a set, not a count: a session opens an inode once, for its first handle. */
export interface OpenGate {
  /** Idempotent. */
  open(session: SessionId, ino: Ino): void
  /** Idempotent. */
  close(session: SessionId, ino: Ino): void
  /** Some session, other than this one, has it open, or any may be about to learn that it has; see opens.ts. */
  isOpen(ino: Ino, except?: SessionId): boolean
}

export interface ChunkGate {
  /** Servers with a valid replica; for an open chunk those that it was allocated on. */
  locate(chunk: ChunkId): ServerAddress[]
  /** A commit told which servers hold what. */
  appended(results: readonly AppendResult[]): void
  /** A file that is to have so many copies has come to share data of this chunk, whose record says so many by now. */
  wanted(chunk: ChunkId, copies: number): void
  /** Blocks of this chunk wait to be punched, or nothing in it is live any more; called once the change is on disk. */
  freed(chunk: ChunkId): void
}

export interface ClusterFacts {
  /** Replicas of each chunk of a new file. */
  readonly copies: number
  readonly copiesMin: number
  /** The largest file that lives in its inode record. */
  readonly inlineBytesMax: number
  /** Of all chunk servers that are up, divided by `copies`. */
  statistics(): { bytesTotal: bigint; bytesFree: bigint }
}

export interface OpContext {
  readonly session: SessionId
  readonly leases: LeaseGate
  readonly opens: OpenGate
  readonly chunks: ChunkGate
  readonly cluster: ClusterFacts
  /** The inode has no name and nobody has it open: the reaper may free it now. Called once the change is on disk. */
  reap(ino: Ino): void
}
