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
  /** As the answers of the master tell. An unlock counts from when it is asked for: it is sent until it is answered. */
  readonly #locks = new Map<Ino, Held[]>()
  /** Locks that were asked for and have no outcome yet, by the request itself. `told`: a Hello has left out what they give up. */
  readonly #asked = new Map<LockRequest, { ino: Ino; told: boolean }>()

  /**
   * This is about to be asked for. What it gives up is not declared from here on: the master may carry it out and give that to others before
   * we hear of it, and if it starts anew meanwhile, must not be told that it is still ours. Each lock that was asked for has one outcome:
   * granted, refused, keeps or loses.
   */
  asking(ino: Ino, request: LockRequest): void {
    if (request.lock.type === 'unlock') this.apply(ino, request)
    else this.#asked.set(request, { ino, told: false })
  }

  granted(ino: Ino, request: LockRequest): void {
    this.#asked.delete(request)
    this.apply(ino, request)
  }

  /** A conversion of a flock(2) lock that the master refuses has lost the old one. `sent`: the master has seen it. */
  refused(request: LockRequest, { sent }: { sent: boolean }): void {
    const told = this.#asked.get(request)?.told === true
    if (request.kind === 'flock' && (sent || told)) this.loses(request)
    else this.keeps(request)
  }

  /** A Hello has left out a record lock that this would have weakened: a master that has started anew knows of no more than what is left. */
  isInDoubt(request: LockRequest): boolean {
    const asked = this.#asked.get(request)
    if (asked?.told !== true || request.kind !== 'posix') return false
    const locks = this.#locks.get(asked.ino) ?? []
    return withoutGivenUp(locks, request) !== locks
  }

  /** The owner has what it had before. */
  keeps(request: LockRequest): void {
    this.#asked.delete(request)
  }

  /** What it gives up is gone, and nothing was granted for it. */
  loses(request: LockRequest): void {
    const ino = this.#asked.get(request)?.ino
    this.#asked.delete(request)
    if (ino !== undefined) this.#keep(ino, withoutGivenUp(this.#locks.get(ino) ?? [], request))
  }

  /**
   * The requests that leave the owner with what it has here, and nothing else, in the range of one that was granted when its caller had gone.
   * A flock(2) lock is not got back: the conversion may have waited, and others have had the file.
   */
  restoring(ino: Ino, { owner, kind, lock }: LockRequest): LockRequest[] {
    const requests: LockRequest[] = []
    const add = (type: LockRequest['lock']['type'], start: bigint, end: bigint): void => {
      if (start <= end) requests.push({ owner, kind, lock: { ...lock, type, start, end } })
    }
    let next = lock.start
    for (const held of kind === 'posix' ? (this.#locks.get(ino) ?? []) : []) {
      if (!isOf(held, { owner, kind })) continue
      const both = overlap(held, lock)
      if (both === undefined) continue
      add('unlock', next, both.start - 1n)
      add(held.type, both.start, both.end)
      next = both.end + 1n
    }
    add('unlock', next, lock.end)
    return requests
  }

  /** The master granted this. */
  apply(ino: Ino, { owner, kind, lock }: LockRequest): void {
    this.#keep(ino, applyLock(this.#locks.get(ino) ?? [], { ...lock, session, owner, kind }))
  }

  holds(ino: Ino, owner: bigint, kind: LockRequest['kind']): boolean {
    return this.#locks.get(ino)?.some((lock) => isOf(lock, { owner, kind })) ?? false
  }

  /** For Hello. */
  all(): HeldLock[] {
    for (const asked of this.#asked.values()) asked.told = true
    return [...this.#certain()].flatMap(([ino, locks]) =>
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
    const inos = [...this.#certain()].flatMap(([ino, locks]) => (locks.length > 0 ? [ino] : []))
    this.#locks.clear()
    return inos
  }

  /** Whatever becomes of what was asked for. */
  #certain(): Map<Ino, Held[]> {
    const certain = new Map(this.#locks)
    for (const [request, { ino }] of this.#asked) certain.set(ino, withoutGivenUp(certain.get(ino) ?? [], request))
    return certain
  }

  #keep(ino: Ino, locks: Held[]): void {
    if (locks.length === 0) this.#locks.delete(ino)
    else this.#locks.set(ino, locks)
  }
}

type Owner = Pick<LockRequest, 'owner' | 'kind'>
type Range = Pick<Held, 'start' | 'end'>

const isOf = (held: Held, { owner, kind }: Owner): boolean => held.owner === owner && held.kind === kind

const overlap = (a: Range, b: Range): Range | undefined => {
  const start = a.start > b.start ? a.start : b.start
  const end = a.end < b.end ? a.end : b.end
  return start <= end ? { start, end } : undefined
}

/** A conversion of a flock(2) lock may lose the old one; a read lock takes the place of a write lock. */
const withoutGivenUp = (locks: Held[], { owner, kind, lock }: LockRequest): Held[] => {
  const wish = { ...lock, session, owner, kind }
  if (kind === 'flock') return applyLock(locks, { ...wish, type: 'unlock' })
  if (lock.type !== 'read') return locks
  let left = locks
  for (const held of locks) {
    const both = isOf(held, { owner, kind }) && held.type === 'write' ? overlap(held, lock) : undefined
    if (both !== undefined) left = applyLock(left, { ...wish, ...both })
  }
  return left
}
