/** fcntl(2) and flock(2) locks. The master keeps them; what this client holds is noted for the resumption of its session. */
import type { Ino } from '../domain/ids.ts'
import { LockType } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ClientCore } from './client-core.ts'
import type { Context, FileLock, LockRequest } from './file-system.ts'
import { HeldLocks, kindOf, typeOf } from './held-locks.ts'
import type { Result } from './requests.ts'
import { orAborted } from './waiting.ts'

const lockEndMax = (1n << 63n) - 1n

export class FileLocks {
  readonly held = new HeldLocks()
  readonly #core: ClientCore
  /** By inode, owner and kind: what was given up, or asked for by a caller who has gone, and has no outcome yet. The owner's next request comes after it. */
  readonly #unsettled = new Map<string, Promise<void>>()

  constructor(core: ClientCore) {
    this.#core = core
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
    const { owner, kind, lock } = request
    if (lock.type === 'unlock') return this.#core.run(context, (signal) => this.#unlock(ino, request, signal))
    const { wait } = options
    const value = { ino, owner, kind: kindOf(kind), lock: { ...lock, type: typeOf(lock.type) }, wait }
    const key = keyOf(ino, request)
    const set = async (signal: AbortSignal, deadline: { deadlineMs?: number }): Promise<void> => {
      for (let before = this.#unsettled.get(key); before !== undefined; before = this.#unsettled.get(key)) {
        await orAborted(before, signal)
      }
      this.held.asking(ino, request)
      let known: ((granted: boolean) => void) | 'yes' | undefined
      const outcome = (result: Result | undefined): void => {
        const granted = result?.$case === 'empty'
        if (granted) this.held.apply(ino, request)
        if (typeof known === 'function') known(granted)
        known = 'yes'
      }
      try {
        await this.#core.session.call({ $case: 'setlk', value }, 'empty', { signal, ...deadline, outcome })
      } catch (caught) {
        if (known === undefined) {
          const granted = new Promise<boolean>((resolve) => {
            known = resolve
          })
          this.#settleLater(key, granted, ino, request)
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

  /** The caller has gone without an answer. What is granted after that is given up again. */
  #settleLater(key: string, granted: Promise<boolean>, ino: Ino, request: LockRequest): void {
    this.#unsettledUntil(
      key,
      granted.then((isGranted) => (isGranted ? this.#unlock(ino, request) : undefined)),
    )
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
  #unlock(ino: Ino, request: LockRequest, signal?: AbortSignal): Promise<void> {
    const unlock: LockRequest = { ...request, lock: { ...request.lock, type: 'unlock' } }
    const lock = { ...unlock.lock, type: LockType.LOCK_TYPE_UNLOCK }
    const value = { ino, owner: request.owner, kind: kindOf(request.kind), lock, wait: false }
    this.held.asking(ino, unlock)
    const unlocked = this.#core.persist({ $case: 'setlk', value }, 'empty').then(() => {})
    this.#unsettledUntil(keyOf(ino, request), unlocked)
    return orAborted(unlocked, signal)
  }
}

const keyOf = (ino: Ino, { owner, kind }: Pick<LockRequest, 'owner' | 'kind'>): string => `${ino}/${owner}/${kind}`
