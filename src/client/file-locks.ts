/** fcntl(2) and flock(2) locks. The master keeps them; what this client holds is noted for the resumption of its session. */
import type { Ino } from '../domain/ids.ts'
import { LockType } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ClientCore } from './client-core.ts'
import type { Context, FileLock, LockRequest } from './file-system.ts'
import { HeldLocks, kindOf, typeOf } from './held-locks.ts'
import type { Operation, Result } from './requests.ts'
import { orAborted } from './waiting.ts'

const lockEndMax = (1n << 63n) - 1n

export class FileLocks {
  readonly held = new HeldLocks()
  readonly #core: ClientCore
  /** By inode, owner and kind: what was given up, or asked for by a caller who has gone, and has no outcome yet. The owner's next request comes after it. */
  readonly #unsettled = new Map<string, Promise<void>>()
  readonly #lostOf: (ino: Ino) => void
  #sessionEnd = new AbortController()

  /** `lostOf`: a lock of this file that somebody believes to hold is gone. */
  constructor(core: ClientCore, { lostOf }: { lostOf: (ino: Ino) => void }) {
    this.#core = core
    this.#lostOf = lostOf
  }

  /** The session has ended. Gives the inodes that had locks. */
  lost(): Ino[] {
    // What was to be got back in it must not be taken in the next one.
    this.#sessionEnd.abort()
    this.#sessionEnd = new AbortController()
    return this.held.lost()
  }

  getlk(context: Context, ino: Ino, { owner, kind, lock }: LockRequest): Promise<FileLock> {
    return this.#core.run(context, async (signal) => {
      const value = { ino, owner, kind: kindOf(kind), lock: { ...lock, type: typeOf(lock.type) } }
      const found = await this.#core.call({ $case: 'getlk', value }, 'lock', signal)
      if (found.type === LockType.LOCK_TYPE_UNLOCK) return { ...lock, type: 'unlock' }
      return { ...found, type: found.type === LockType.LOCK_TYPE_READ ? 'read' : 'write' }
    })
  }

  async setlk(context: Context, ino: Ino, request: LockRequest, options: { wait: boolean }): Promise<void> {
    if (request.lock.type === 'unlock') return this.#core.run(context, (signal) => this.#unlock(ino, request, signal))
    const { wait } = options
    const key = keyOf(ino, request)
    const set = async (signal: AbortSignal, deadline: { deadlineMs?: number }): Promise<void> => {
      for (let before = this.#unsettled.get(key); before !== undefined; before = this.#unsettled.get(key)) {
        await orAborted(before, signal)
      }
      this.held.asking(ino, request)
      let answered: ((result: Result | undefined) => void) | 'yes' | undefined
      const outcome = (result: Result | undefined): void => {
        if (typeof answered === 'function') answered(result)
        else if (isGrant(result)) this.held.granted(ino, request)
        else if (this.held.isInDoubt(request)) this.#unsettledUntil(key, this.#getBack(ino, request))
        else this.held.refused(request, { sent: result !== undefined })
        answered = 'yes'
      }
      try {
        await this.#core.session.call(setlkOf(ino, request, { wait }), 'empty', { signal, ...deadline, outcome })
      } catch (caught) {
        if (answered === undefined) {
          const settled = new Promise<void>((resolve) => {
            answered = (result) => resolve(this.#answeredLate(ino, request, result))
          })
          this.#unsettledUntil(key, settled)
        }
        throw caught
      }
    }
    if (!wait) return this.#core.run(context, (signal) => set(signal, {}))
    // A wait for a lock has no deadline.
    try {
      await set(context.signal, { deadlineMs: Infinity })
    } catch (caught) {
      await this.#core.run(undefined, () => Promise.reject(caught as Error))
    }
  }

  /** The caller has gone without an answer, and believes that it has what it had before. What is granted after that is given up again. */
  async #answeredLate(ino: Ino, request: LockRequest, result: Result | undefined): Promise<void> {
    if (isGrant(result) || this.held.isInDoubt(request)) return this.#getBack(ino, request)
    this.held.refused(request, { sent: result !== undefined })
  }

  /** Makes the owner have what it had before it asked for this. A write lock in whose place a read lock was may be lost by then. */
  async #getBack(ino: Ino, request: LockRequest): Promise<void> {
    const { signal } = this.#sessionEnd
    const options = { signal, deadlineMs: Infinity }
    const restored = this.held.restoring(ino, request).map((part) => {
      if (part.lock.type === 'unlock') return this.#sendUnlock(ino, part)
      return this.#core.session.call(setlkOf(ino, part, { wait: false }), 'empty', options)
    })
    const outcomes = await Promise.allSettled(restored)
    if (outcomes.every(({ status }) => status === 'fulfilled')) return this.held.keeps(request)
    this.held.loses(request)
    if (!signal.aborted) this.#lostOf(ino)
  }

  #unsettledUntil(key: string, outcome: Promise<void>): void {
    this.#core.inBackground(outcome)
    const settled = outcome
      // The lock is gone with its session then.
      .catch(() => undefined)
      .then(() => {
        if (this.#unsettled.get(key) === settled) this.#unsettled.delete(key)
      })
    this.#unsettled.set(key, settled)
  }

  /** Drops everything that an owner has locked in a file. */
  async drop(ino: Ino, owner: bigint, kind: LockRequest['kind'], signal: AbortSignal): Promise<void> {
    // Of a flock(2) lock the front end knows: what became of it in a conversion that found no answer is not known here.
    if (kind === 'posix' && !this.held.holds(ino, owner, kind)) return
    const lock = { type: 'unlock', start: 0n, end: lockEndMax, pid: 0 } as const
    await this.#unlock(ino, { owner, kind, lock }, signal)
  }

  /** Goes on until the master knows it, also when the signal ends the wait for that. */
  #unlock(ino: Ino, request: LockRequest, signal: AbortSignal): Promise<void> {
    const unlocked = this.#sendUnlock(ino, { ...request, lock: { ...request.lock, type: 'unlock' } })
    this.#unsettledUntil(keyOf(ino, request), unlocked)
    return orAborted(unlocked, signal)
  }

  async #sendUnlock(ino: Ino, unlock: LockRequest): Promise<void> {
    this.held.asking(ino, unlock)
    await this.#core.persist(setlkOf(ino, unlock, { wait: false }), 'empty')
  }
}

const isGrant = (result: Result | undefined): boolean => result?.$case === 'empty'

const setlkOf = (ino: Ino, { owner, kind, lock }: LockRequest, { wait }: { wait: boolean }): Operation => ({
  $case: 'setlk',
  value: { ino, owner, kind: kindOf(kind), lock: { ...lock, type: typeOf(lock.type) }, wait },
})

const keyOf = (ino: Ino, { owner, kind }: Pick<LockRequest, 'owner' | 'kind'>): string => `${ino}/${owner}/${kind}`
