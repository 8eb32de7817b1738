/**
 * In which order the requests of one session are carried out. They run side by side, except that what a client has done on its own
 * (a journal, and commits of data that belong between its entries) is carried out in the order of arrival, and nothing that arrives later
 * looks before that has been done.
 *
 * Invariant: a request that others wait for never waits for another session, or sessions could wait for each other in a circle.
 */
import type { Request } from '../protocol/gen/shoal/v1/session.pb.ts'

type Name = NonNullable<Request['op']>['$case']

/** Others wait for these. They need no lease that the session does not hold. */
const inOrder: ReadonlySet<Name> = new Set<Name>(['journal', 'commit'])
/** These have nothing to do with names and files; a client may need their answers before it can send what it has done. */
const atOnce: ReadonlySet<Name> = new Set<Name>([
  'allocateChunk',
  'sealChunk',
  'reportReplica',
  'locate',
  'getlk',
  'setlk',
  'reserveInos',
])

export interface Turn {
  /** Undefined when it may run at once. */
  readonly before: Promise<void> | undefined
  /** It has changed what it changes, or never will. Idempotent. */
  done(): void
}

const noTurn: Turn = { before: undefined, done: () => {} }

export class SessionOrder {
  /** Resolves when everything that has to be done before a request that arrives now is done. */
  #last: Promise<void> | undefined

  /** In the order of arrival. */
  turn(name: Name | undefined): Turn {
    if (name === undefined || atOnce.has(name)) return noTurn
    const before = this.#last
    if (!inOrder.has(name)) return { before, done: noTurn.done }
    let done!: () => void
    const last = new Promise<void>((resolve) => {
      done = () => {
        if (this.#last === last) this.#last = undefined
        resolve()
      }
    })
    this.#last = last
    return { before, done }
  }
}
