/** The file locks that this client holds at the master, so that it can say so when its session is resumed. */
import { asSessionId } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { applyLock } from '../domain/range-locks.ts'
import type { HeldLock as Held } from '../domain/range-locks.ts'
import { LockKind, LockType } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { HeldLock } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { LockRequest } from './file-system.ts'

/** All locks here are this session's. */
const session = asSessionId(0n)

export const kindOf = (kind: LockRequest['kind']): LockKind =>
  kind === 'posix' ? LockKind.LOCK_KIND_POSIX : LockKind.LOCK_KIND_FLOCK

export const typeOf = (type: 'read' | 'write' | 'unlock'): LockType =>
  type === 'read' ? LockType.LOCK_TYPE_READ : type === 'write' ? LockType.LOCK_TYPE_WRITE : LockType.LOCK_TYPE_UNLOCK

export class HeldLocks {
  readonly #locks = new Map<Ino, Held[]>()

  /**
   * This is about to be asked for. What it gives up counts as given up from here on: the master may carry it out and give that to others before
   * we hear of it, and if it starts anew meanwhile, must not be told that it is still ours.
   */
  asking(ino: Ino, request: LockRequest): void {
    const { owner, kind, lock } = request
    // A conversion of a flock(2) lock may lose the old one.
    if (kind === 'flock' || lock.type === 'unlock') {
      this.apply(ino, { owner, kind, lock: { ...lock, type: 'unlock' } })
    } else if (lock.type === 'read') {
      for (const { type, start, end, ...held } of this.#locks.get(ino) ?? []) {
        if (held.owner !== owner || held.kind !== kind || type === 'read' || start > lock.end || end < lock.start)
          continue
        const both = { start: start > lock.start ? start : lock.start, end: end < lock.end ? end : lock.end }
        this.apply(ino, { owner, kind, lock: { ...lock, ...both } })
      }
    }
  }

  /** The master granted this. */
  apply(ino: Ino, { owner, kind, lock }: LockRequest): void {
    const locks = applyLock(this.#locks.get(ino) ?? [], { ...lock, session, owner, kind })
    if (locks.length === 0) this.#locks.delete(ino)
    else this.#locks.set(ino, locks)
  }

  holds(ino: Ino, owner: bigint, kind: LockRequest['kind']): boolean {
    return this.#locks.get(ino)?.some((lock) => lock.owner === owner && lock.kind === kind) ?? false
  }

  /** For Hello. */
  all(): HeldLock[] {
    return [...this.#locks].flatMap(([ino, locks]) =>
      locks.map(({ owner, kind, type, start, end, pid }) => ({
        ino,
        owner,
        kind: kindOf(kind),
        lock: { type: typeOf(type), start, end, pid },
      })),
    )
  }

  /** The inodes that had locks. */
  lost(): Ino[] {
    const inos = [...this.#locks.keys()]
    this.#locks.clear()
    return inos
  }
}
