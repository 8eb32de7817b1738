/**
 * Advisory locks of all sessions: fcntl(2) and flock(2), with a queue of those that wait. Locks live in memory only; a session that
 * resumes after a restart of the master says which it holds, and a session's end frees them.
 *
 * Waiters are looked at in the order in which they came, each time something is freed; whoever no longer finds a conflict gets its lock.
 * Invariant: no waiter stays whose wish has no conflict.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino, SessionId } from '../domain/ids.ts'
import type { HeldLock, LockOwner, LockWish } from '../domain/range-locks.ts'
import { applyLock, conflictOf, conflictsOf, ownerKey, wouldDeadlock } from '../domain/range-locks.ts'

/** ENOLCK beyond; a process of its own has far fewer. */
export const locksPerSessionMax = 100_000
/** Together with the other requests that a client has under way at most, this stays below what the master takes of a session. */
export const lockWaitersPerSessionMax = 4_000

interface Waiter {
  wish: LockWish
  resolve: () => void
  reject: (error: PosixError) => void
}

interface InodeLocks {
  held: HeldLock[]
  /** In the order of arrival. */
  waiters: Set<Waiter>
}

interface SessionLocks {
  inos: Set<Ino>
  held: number
  waiters: number
}

export class LockTable {
  readonly #inodes = new Map<Ino, InodeLocks>()
  readonly #sessions = new Map<SessionId, SessionLocks>()
  /** Who waits, for the search for circles: a process may wait with several threads. */
  readonly #waits = new Map<string, Set<{ ino: Ino; waiter: Waiter }>>()

  /** The lock that stands in the way, or undefined. */
  getlk(ino: Ino, wish: LockWish): HeldLock | undefined {
    return conflictOf(this.#inodes.get(ino)?.held ?? [], wish)
  }

  /**
   * Takes or frees a lock. EAGAIN when another owner has a lock in conflict; with `wait` it waits, EDEADLK when that would never end,
   * EINTR when the signal is aborted. ENOLCK beyond the limits. ESTALE when the session ends meanwhile.
   */
  setlk(ino: Ino, wish: LockWish, options: { wait: boolean; signal: AbortSignal }): Promise<void> {
    const locks = this.#inodes.get(ino)
    const conflict = conflictOf(locks?.held ?? [], wish)
    if (!conflict) {
      this.#checkRoom(ino, wish)
      this.#set(ino, wish)
      this.#wake(ino)
      return Promise.resolve()
    }
    // As Linux does: a conversion of a flock(2) lock gives up the old one first and does not get it back.
    if (wish.kind === 'flock') {
      this.#set(ino, { ...wish, type: 'unlock' })
      this.#wake(ino)
    }
    if (!options.wait) throw new PosixError('EAGAIN', 'another owner holds a lock')
    if (wish.kind === 'posix') {
      const blockers = conflictsOf(this.#inodes.get(ino)?.held ?? [], wish)
      if (wouldDeadlock(wish, blockers, (owner) => this.#blockersOf(owner))) {
        throw new PosixError('EDEADLK', 'to wait for this lock would never end')
      }
    }
    return this.#enqueue(ino, wish, options.signal)
  }

  /** What a session that resumes says it holds. False: another session has a lock in conflict meanwhile. */
  declare(ino: Ino, wish: LockWish): boolean {
    if (this.getlk(ino, wish)) return false
    this.#set(ino, wish)
    return true
  }

  dropSession(session: SessionId): void {
    const own = this.#sessions.get(session)
    if (!own) return
    for (const ino of own.inos) {
      const locks = this.#inodes.get(ino)
      if (!locks) continue
      for (const waiter of locks.waiters) {
        if (waiter.wish.session !== session) continue
        this.#removeWaiter(ino, waiter)
        waiter.reject(new PosixError('ESTALE', 'the session has ended'))
      }
      locks.held = locks.held.filter((lock) => lock.session !== session)
      this.#wake(ino)
    }
    this.#sessions.delete(session)
  }

  /** Inodes with locks or waiters; for tests and status. */
  get inodes(): number {
    return this.#inodes.size
  }

  #enqueue(ino: Ino, wish: LockWish, signal: AbortSignal): Promise<void> {
    const own = this.#session(wish.session)
    if (own.waiters >= lockWaitersPerSessionMax) {
      this.#tidy(ino)
      throw new PosixError('ENOLCK', 'too many requests wait for locks')
    }
    if (signal.aborted) {
      this.#tidy(ino)
      throw new PosixError('EINTR')
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        if (this.#removeWaiter(ino, waiter)) {
          this.#tidy(ino)
          reject(new PosixError('EINTR'))
        }
      }
      const waiter: Waiter = {
        wish,
        resolve: () => {
          signal.removeEventListener('abort', onAbort)
          resolve()
        },
        reject: (error) => {
          signal.removeEventListener('abort', onAbort)
          reject(error)
        },
      }
      signal.addEventListener('abort', onAbort, { once: true })
      own.waiters++
      own.inos.add(ino)
      this.#inode(ino).waiters.add(waiter)
      const key = ownerKey(wish)
      const waits = this.#waits.get(key)
      if (waits) waits.add({ ino, waiter })
      else this.#waits.set(key, new Set([{ ino, waiter }]))
    })
  }

  #removeWaiter(ino: Ino, waiter: Waiter): boolean {
    if (!this.#inodes.get(ino)?.waiters.delete(waiter)) return false
    const key = ownerKey(waiter.wish)
    const waits = this.#waits.get(key)
    for (const wait of waits ?? []) if (wait.waiter === waiter) waits?.delete(wait)
    if (waits?.size === 0) this.#waits.delete(key)
    const own = this.#sessions.get(waiter.wish.session)
    if (own) own.waiters--
    return true
  }

  /** Gives every waiter that finds no conflict any more its lock. */
  #wake(ino: Ino): void {
    const locks = this.#inodes.get(ino)
    if (!locks) return
    // What a waiter gets can only add conflicts, except that it may replace its owner's own lock by a weaker one: then look again.
    let again = true
    while (again) {
      again = false
      for (const waiter of locks.waiters) {
        if (conflictOf(locks.held, waiter.wish)) continue
        this.#removeWaiter(ino, waiter)
        this.#set(ino, waiter.wish)
        waiter.resolve()
        again = true
      }
    }
    this.#tidy(ino)
  }

  *#blockersOf(owner: LockOwner): Generator<LockOwner> {
    for (const { ino, waiter } of this.#waits.get(ownerKey(owner)) ?? []) {
      yield* conflictsOf(this.#inodes.get(ino)?.held ?? [], waiter.wish)
    }
  }

  #checkRoom(ino: Ino, wish: LockWish): void {
    const held = this.#sessions.get(wish.session)?.held ?? 0
    // An unlock in the middle makes two of one.
    if (held < locksPerSessionMax) return
    const grows = applyLock(this.#inodes.get(ino)?.held ?? [], wish).length > (this.#inodes.get(ino)?.held.length ?? 0)
    if (grows) throw new PosixError('ENOLCK', 'the session holds too many locks')
  }

  #set(ino: Ino, wish: LockWish): void {
    const locks = this.#inode(ino)
    const own = this.#session(wish.session)
    const before = locks.held.length
    locks.held = applyLock(locks.held, wish)
    own.held += locks.held.length - before
    own.inos.add(ino)
    this.#tidy(ino)
  }

  #inode(ino: Ino): InodeLocks {
    let locks = this.#inodes.get(ino)
    if (!locks) {
      locks = { held: [], waiters: new Set() }
      this.#inodes.set(ino, locks)
    }
    return locks
  }

  #session(session: SessionId): SessionLocks {
    let own = this.#sessions.get(session)
    if (!own) {
      own = { inos: new Set(), held: 0, waiters: 0 }
      this.#sessions.set(session, own)
    }
    return own
  }

  #tidy(ino: Ino): void {
    const locks = this.#inodes.get(ino)
    if (!locks || locks.held.length > 0 || locks.waiters.size > 0) return
    this.#inodes.delete(ino)
    for (const own of this.#sessions.values()) own.inos.delete(ino)
  }
}
