/**
 * Which requests of which session have a stored result. The results themselves are records of the store; this index in memory spares
 * a look into the engine for each new request. A session's part is loaded with its first request after the master's start.
 *
 * Invariant: a loaded part names exactly the results that are stored or on their way to disk, except those that were forgotten and
 * wait to be deleted together with the session's next change.
 */
import type { SessionId } from '../../domain/ids.ts'

export interface SessionResults {
  readonly ids: Set<bigint>
  /** Ids whose records are still to be deleted. */
  forgotten: bigint[]
}

export class ResultIndex {
  #sessions = new Map<SessionId, SessionResults>()

  of(session: SessionId): SessionResults | undefined {
    return this.#sessions.get(session)
  }

  /** Ids that were found in the store; keeps what is known already. */
  loaded(session: SessionId, ids: Iterable<bigint>): SessionResults {
    let known = this.#sessions.get(session)
    if (known === undefined) {
      known = { ids: new Set(ids), forgotten: [] }
      this.#sessions.set(session, known)
    }
    return known
  }

  /** The client has every answer up to this id. */
  forget(session: SessionId, throughId: bigint): void {
    const known = this.#sessions.get(session)
    if (known === undefined) return
    for (const id of known.ids) {
      if (id > throughId) continue
      known.ids.delete(id)
      known.forgotten.push(id)
    }
  }

  drop(session: SessionId): void {
    this.#sessions.delete(session)
  }
}
