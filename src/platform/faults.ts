/**
 * Named places in the code where the end of a process, or a wait, leads down a path that is rare otherwise. In production nobody is told of
 * them; the simulation ends and holds processes there (test/sim/fault-traps.ts).
 *
 * Each is next to something that may take any time by itself, so a wait there breaks no promise.
 */
export const faultPoints = [
  /** Chunk server: what a client sent is stored, and not acknowledged. */
  'chunk.append.ack',
  /** Chunk server: a replica was copied here, and the master does not know. */
  'chunk.copy.ack',
  /** Chunk server: a chunk is deleted, and the master does not know. */
  'chunk.delete.ack',
  /** Chunk server: it is registered, and has not reported what it holds. */
  'chunk.report',
  /** Master: a request was carried out and is on disk, and is not answered. */
  'master.request.answer',
  /** Master: the end of a session is on disk, and what it held is not free. */
  'master.session.ended',
  /** Client: data is on the chunk servers, and not committed. */
  'client.append.commit',
  /** Client: data is committed, and not yet brought to disk for an fsync. */
  'client.commit.sync',
  /** Client: a lease was recalled, and all is there that it covers. */
  'client.lease.reduce',
] as const

export type FaultPoint = (typeof faultPoints)[number]

export interface Faults {
  /** Undefined: nothing happens. */
  point(name: FaultPoint): Promise<void> | undefined
}
