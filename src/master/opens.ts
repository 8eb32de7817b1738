/**
 * Which inodes are open in which sessions: an inode without a name lives on while it is here. In memory only; a session that resumes
 * after a restart of the master says what it has open.
 *
 * What it cannot say is what it was about to have open: the answer was lost with the master's last run. So an inode that a stored answer
 * tells of is promised to the session, which counts as open, until the session says that it has the answer.
 */
import type { Ino, SessionId } from '../domain/ids.ts'
import type { OpenGate } from './context.ts'

/** A session beyond is ended: no client has so many files open. */
export const opensPerSessionMax = 1_000_000

export class OpenTable implements OpenGate {
  readonly #sessionsOf = new Map<Ino, Set<SessionId>>()
  readonly #inosOf = new Map<SessionId, Set<Ino>>()
  readonly #promisesOf = new Map<SessionId, Set<Promised>>()
  readonly #promised = new Map<Ino, Set<Promised>>()
  readonly #isAlive: (session: SessionId) => boolean
  readonly #fence: (session: SessionId, reason: string) => void

  /** `fence` ends a session that does not keep the rules; it is called outside of any operation. */
  constructor(options: {
    isAlive: (session: SessionId) => boolean
    fence: (session: SessionId, reason: string) => void
  }) {
    this.#isAlive = options.isAlive
    this.#fence = options.fence
  }

  /** A session that ended while its request waited for the disk opens nothing any more: nobody would ever close it. */
  open(session: SessionId, ino: Ino): void {
    if (!this.#isAlive(session)) return
    add(this.#sessionsOf, ino, session)
    add(this.#inosOf, session, ino)
    if (this.countOf(session) > opensPerSessionMax) {
      queueMicrotask(() => this.#fence(session, `it has more than ${opensPerSessionMax} files open`))
    }
  }

  close(session: SessionId, ino: Ino): void {
    remove(this.#sessionsOf, ino, session)
    remove(this.#inosOf, session, ino)
  }

  /** The answer to this request may still be told to the session. */
  promise(session: SessionId, request: bigint, ino: Ino): void {
    const promised = { request, ino }
    add(this.#promisesOf, session, promised)
    add(this.#promised, ino, promised)
  }

  /** The session has all answers up to this one, and has told what it has open of them. Returns the inodes that nobody has open any more. */
  answered(session: SessionId, throughRequest: bigint): Ino[] {
    const closed: Ino[] = []
    for (const promised of this.#promisesOf.get(session) ?? []) {
      if (promised.request > throughRequest) continue
      remove(this.#promisesOf, session, promised)
      remove(this.#promised, promised.ino, promised)
      if (!this.isOpen(promised.ino)) closed.push(promised.ino)
    }
    return closed
  }

  /** A promise is nobody's, whoever is excepted. */
  isOpen(ino: Ino, except?: SessionId): boolean {
    if (this.#promised.has(ino)) return true
    const sessions = this.#sessionsOf.get(ino)
    if (sessions === undefined) return false
    return except === undefined || sessions.size > (sessions.has(except) ? 1 : 0)
  }

  countOf(session: SessionId): number {
    return this.#inosOf.get(session)?.size ?? 0
  }

  /** The session is over. Returns the inodes that nobody has open any more. */
  dropSession(session: SessionId): Ino[] {
    const closed: Ino[] = []
    for (const ino of this.#inosOf.get(session) ?? []) {
      remove(this.#sessionsOf, ino, session)
      if (!this.isOpen(ino)) closed.push(ino)
    }
    this.#inosOf.delete(session)
    return [...closed, ...this.answered(session, requestMax)]
  }
}

interface Promised {
  readonly request: bigint
  readonly ino: Ino
}

const requestMax = 2n ** 64n - 1n

const add = <K, V>(map: Map<K, Set<V>>, key: K, value: V): void => {
  const set = map.get(key)
  if (set) set.add(value)
  else map.set(key, new Set([value]))
}

const remove = <K, V>(map: Map<K, Set<V>>, key: K, value: V): void => {
  const set = map.get(key)
  if (set?.delete(value) && set.size === 0) map.delete(key)
}
