/**
 * The leases of all sessions on one inode, as a pure state machine. Any number of sessions may hold a read lease, or one session a
 * write lease and nobody else anything.
 *
 * Who wants more than the others leave it asks; what stands in the way is recalled; who asked waits in a queue. Each grant has a
 * number, and a recall and a return name it: a return of an older grant than the present one crossed with it on the wire and says
 * nothing about it.
 *
 * | state     | ask                     | grant             | return, end                  | abandon    | declare           |
 * |-----------|-------------------------|-------------------|------------------------------|------------|-------------------|
 * | free      | proceed                 | shared, exclusive | -                            | -          | shared, exclusive |
 * | shared    | read: proceed           | shared, exclusive | shared, free                 | -          | shared; write:    |
 * |           | none: recalling         | (sole holder)     |                              |            | refused if others |
 * | exclusive | holder: proceed         | exclusive         | shared (to read), free       | -          | others: refused   |
 * |           | others: recalling       |                   |                              |            |                   |
 * | recalling | holder whose lease      | recall again with | recalling; reserved when the | next waiter| others: refused   |
 * |           | covers it: proceed;     | the new number    | first waiter may go; wake it | or at rest |                   |
 * |           | others: wait in line    |                   |                              |            |                   |
 * | reserved  | first waiter: proceed,  | shared, exclusive | as before                    | next waiter| others: refused   |
 * |           | leaves the line; others |                   |                              | or at rest |                   |
 * |           | wait in line            |                   |                              |            |                   |
 *
 * Invariant: a holder of a write lease is the only holder.
 * Invariant: `recalling` and `reserved` have a waiter; in `recalling` a holder stands in the first waiter's way, in `reserved` none.
 * Invariant: nobody overtakes a waiter with whose wish its own is in conflict, except who holds what it needs already: a holder
 * must be able to commit what it has buffered, or a recall could never end.
 */
import { invariant } from './errors.ts'
import type { SessionId } from './ids.ts'

export type LeaseMode = 'none' | 'read' | 'write'
export type HeldMode = 'read' | 'write'
/** What others may keep while somebody works: nothing while it changes the inode, read leases while it reads it. */
export type Allowed = 'none' | 'read'

export interface Holder {
  mode: HeldMode
  grant: bigint
  /** The grant since which it has held something without a gap: what it read under that or a later one is still right. */
  since: bigint
  /** The number of the grant for which a recall was sent, and what the holder was asked to keep. */
  recalled?: { grant: bigint; to: Allowed }
}

export interface Waiter {
  session: SessionId
  allowed: Allowed
}

export type Holders = ReadonlyMap<SessionId, Holder>

export type LeaseState =
  | { kind: 'free' }
  | { kind: 'shared'; holders: Holders }
  | { kind: 'exclusive'; holders: Holders }
  /** The first waiter waits for holders to give back what they have. */
  | { kind: 'recalling'; holders: Holders; waiters: readonly Waiter[] }
  /** The first waiter may go, was told so, and has not come back yet. */
  | { kind: 'reserved'; holders: Holders; waiters: readonly Waiter[] }

export type LeaseEvent =
  /** A session wants to work while others hold at most `allowed`. */
  | { kind: 'ask'; session: SessionId; allowed: Allowed }
  /** A session that was told to proceed gets (or keeps a stronger) lease under a new number. */
  | { kind: 'grant'; session: SessionId; mode: HeldMode; grant: bigint }
  /** A session gave its lease back down to this mode. */
  | { kind: 'return'; session: SessionId; mode: LeaseMode; grant: bigint }
  /** A session is over. */
  | { kind: 'end'; session: SessionId }
  /** A waiter that was woken did not come back. */
  | { kind: 'abandon'; session: SessionId; allowed: Allowed }
  /** A session that resumes says what it holds. */
  | { kind: 'declare'; session: SessionId; mode: HeldMode; grant: bigint }

export type LeaseAction =
  /** The asking session may work now. */
  | { kind: 'proceed' }
  /** The asking session must ask again after it is woken. */
  | { kind: 'wait' }
  | { kind: 'recall'; session: SessionId; to: Allowed; grant: bigint }
  | { kind: 'wake'; session: SessionId; allowed: Allowed }
  /** What was declared is in conflict with what others hold; it does not count. */
  | { kind: 'refuse' }

export interface LeaseStep {
  state: LeaseState
  actions: readonly LeaseAction[]
  /** Why, for traces and tests. */
  reason: string
}

export const freeLease: LeaseState = { kind: 'free' }

const noHolders: Holders = new Map()

export const holdersOf = (state: LeaseState): Holders => (state.kind === 'free' ? noHolders : state.holders)

export const waitersOf = (state: LeaseState): readonly Waiter[] =>
  state.kind === 'recalling' || state.kind === 'reserved' ? state.waiters : []

export const heldMode = (state: LeaseState, session: SessionId): LeaseMode =>
  holdersOf(state).get(session)?.mode ?? 'none'

/** A holder's lease is more than a session that works leaves to others. */
const exceeds = (mode: HeldMode, allowed: Allowed): boolean => allowed === 'none' || mode === 'write'

const obstructed = (holders: Holders, { session, allowed }: Waiter): boolean => {
  for (const [holder, { mode }] of holders) if (holder !== session && exceeds(mode, allowed)) return true
  return false
}

/** What a session holds is all that its wish could give it. */
const covered = (holders: Holders, { session, allowed }: Waiter): boolean => {
  const mode = holders.get(session)?.mode
  return mode === 'write' || (mode === 'read' && allowed === 'read')
}

const compatible = (a: Waiter, b: Waiter): boolean =>
  a.session === b.session || (a.allowed === 'read' && b.allowed === 'read')

const isWaiter = (waiter: Waiter, { session, allowed }: Waiter): boolean =>
  waiter.session === session && waiter.allowed === allowed

const mayProceed = (holders: Holders, waiters: readonly Waiter[], wish: Waiter): boolean => {
  if (obstructed(holders, wish)) return false
  if (covered(holders, wish)) return true
  for (const waiter of waiters) {
    if (isWaiter(waiter, wish)) return true
    if (!compatible(waiter, wish)) return false
  }
  return true
}

/** The state for these holders and waiters, with the recalls that the first waiter needs and have not been sent for these grants. */
const settle = (holders: Holders, waiters: readonly Waiter[], recalls: LeaseAction[]): LeaseState => {
  const first = waiters[0]
  if (first === undefined) {
    if (holders.size === 0) return freeLease
    const [only] = holders.values()
    const exclusive = only!.mode === 'write'
    invariant(!exclusive || holders.size === 1, 'a write lease beside another lease')
    return { kind: exclusive ? 'exclusive' : 'shared', holders }
  }
  if (!obstructed(holders, first)) return { kind: 'reserved', holders, waiters }
  const marked = new Map(holders)
  for (const [session, holder] of holders) {
    if (session === first.session || !exceeds(holder.mode, first.allowed)) continue
    const sent = holder.recalled
    const enough = sent?.grant === holder.grant && (sent.to === 'none' || first.allowed === 'read')
    if (enough) continue
    marked.set(session, { ...holder, recalled: { grant: holder.grant, to: first.allowed } })
    recalls.push({ kind: 'recall', session, to: first.allowed, grant: holder.grant })
  }
  return { kind: 'recalling', holders: marked, waiters }
}

/** Settles, and wakes each waiter that could not go before and can now. */
const move = (before: LeaseState, holders: Holders, waiters: readonly Waiter[], reason: string): LeaseStep => {
  const actions: LeaseAction[] = []
  const state = settle(holders, waiters, actions)
  const oldHolders = holdersOf(before)
  const oldWaiters = waitersOf(before)
  for (const waiter of waiters) {
    const could = oldWaiters.some((w) => isWaiter(w, waiter)) && mayProceed(oldHolders, oldWaiters, waiter)
    if (!could && mayProceed(holders, waiters, waiter)) {
      actions.push({ kind: 'wake', session: waiter.session, allowed: waiter.allowed })
    }
  }
  return { state, actions, reason }
}

export const transition = (state: LeaseState, event: LeaseEvent): LeaseStep => {
  const holders = holdersOf(state)
  const waiters = waitersOf(state)
  switch (event.kind) {
    case 'ask': {
      const wish: Waiter = { session: event.session, allowed: event.allowed }
      if (mayProceed(holders, waiters, wish)) {
        const rest = waiters.filter((waiter) => !isWaiter(waiter, wish))
        const step = move(state, holders, rest, 'nobody stands in the way')
        return { ...step, actions: [{ kind: 'proceed' }, ...step.actions] }
      }
      if (waiters.some((waiter) => isWaiter(waiter, wish))) {
        return { state, actions: [{ kind: 'wait' }], reason: 'still in line' }
      }
      const step = move(state, holders, [...waiters, wish], 'others hold more than is allowed, or wait already')
      return { ...step, actions: [{ kind: 'wait' }, ...step.actions] }
    }
    case 'grant': {
      const old = holders.get(event.session)
      const mode: HeldMode = old?.mode === 'write' ? 'write' : event.mode
      const conflict = obstructed(holders, { session: event.session, allowed: mode === 'write' ? 'none' : 'read' })
      invariant(!conflict, 'a lease granted in spite of another one')
      const changed = new Map(holders).set(event.session, {
        mode,
        grant: event.grant,
        since: old?.since ?? event.grant,
      })
      return move(state, changed, waiters, old ? 'granted again' : 'granted')
    }
    case 'return': {
      const old = holders.get(event.session)
      if (!old) return { state, actions: [], reason: 'nothing was held' }
      if (old.grant !== event.grant) return { state, actions: [], reason: 'an older grant' }
      const changed = new Map(holders)
      if (event.mode === 'none') changed.delete(event.session)
      else if (event.mode === 'read') changed.set(event.session, { ...old, mode: 'read' })
      else return { state, actions: [], reason: 'nothing given back' }
      return move(state, changed, waiters, 'given back')
    }
    case 'end': {
      const changed = new Map(holders)
      changed.delete(event.session)
      const rest = waiters.filter((waiter) => waiter.session !== event.session)
      return move(state, changed, rest, 'the session is over')
    }
    case 'abandon': {
      const rest = waiters.filter((waiter) => !isWaiter(waiter, event))
      return move(state, holders, rest, 'the waiter did not come back')
    }
    case 'declare': {
      const conflict = obstructed(holders, {
        session: event.session,
        allowed: event.mode === 'write' ? 'none' : 'read',
      })
      if (conflict) return { state, actions: [{ kind: 'refuse' }], reason: 'in conflict with another holder' }
      const changed = new Map(holders).set(event.session, {
        mode: event.mode,
        grant: event.grant,
        since: holders.get(event.session)?.since ?? event.grant,
      })
      return move(state, changed, waiters, 'declared')
    }
  }
}
