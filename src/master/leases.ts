/**
 * The leases of every inode: drives the state machine of src/domain/lease.ts, sends recalls to the holders and wakes who waits.
 * An inode is here only while somebody holds or waits for something.
 *
 * A recall is sent again each second until it is answered, since a stream may break under it. A holder that stays connected but does
 * not give back within `recallMsMax` is fenced: its session ends. One that is away is gone when its session expires.
 *
 * A read lease is offered with what is read anyway, unless the inode is fought for: for a moment after it was recalled for a change
 * nobody gets one, so that a directory in which two mounts work side by side costs a recall per moment and not one per change.
 *
 * Invariant: every grant has a greater number than all before it in the same session.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino, SessionId } from '../domain/ids.ts'
import type { Allowed, HeldMode, LeaseEvent, LeaseMode, LeaseState } from '../domain/lease.ts'
import { freeLease, heldMode, holdersOf, transition } from '../domain/lease.ts'
import { RecentRate } from '../domain/recent-rate.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import { LeaseMode as WireMode } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { LeaseGate } from './context.ts'

/** A client that holds more has lost count of them; its session ends. Clients give back long before. */
export const leasesPerSessionMax = 200_000
/** Beyond this many a session is offered no more; what it needs to work it still gets. */
export const offersPerSessionMax = 150_000
/** The same for all sessions together: the memory that leases take is bounded. */
export const offersMax = 500_000
/** How long nobody is offered a lease after one was recalled for a change. */
export const quietMsDefault = 100
/** Inodes that are remembered as quiet before those that are so no more are dropped. */
const quietKept = 1000
/** How long a connected holder has to give back what is recalled. */
export const recallMsMax = 60_000
const recallRepeatMs = 1000
/** A waiter that was woken comes back at once; this is for one whose operation ended meanwhile. */
const reservationMsMax = 1000

export const wireMode = (mode: LeaseMode): WireMode => {
  if (mode === 'none') return WireMode.LEASE_MODE_NONE
  return mode === 'read' ? WireMode.LEASE_MODE_READ : WireMode.LEASE_MODE_WRITE
}

/** undefined for numbers that are no mode. */
export const leaseModeOf = (wire: WireMode): LeaseMode | undefined => {
  if (wire === WireMode.LEASE_MODE_NONE) return 'none'
  if (wire === WireMode.LEASE_MODE_READ) return 'read'
  return wire === WireMode.LEASE_MODE_WRITE ? 'write' : undefined
}

export interface LeaseTableOptions {
  clock: Clock
  log: Log
  /** Sends a recall to a session; dropped while it is away. */
  recall: (session: SessionId, lease: Lease) => void
  /** How long nobody is offered a lease after one was recalled for a change. */
  quietMs?: number
  /** Whether a session may work; one that has ended gets ESTALE. */
  isAlive: (session: SessionId) => boolean
  /** False: it is offered no leases and gets those that it asks for. */
  wantsOffers: (session: SessionId) => boolean
  /** Ends a session that does not keep the rules. Called outside of any operation. */
  fence: (session: SessionId, reason: string) => void
}

export interface LeaseStatistics {
  leases: number
  recalls: number
  recallsPerSecond: number
  recallMsMax: number
}

interface Waiting {
  promise: Promise<void>
  wake: () => void
  /** Set once it was woken: runs out when it does not come back. */
  reservation?: Timer
}

interface Recall {
  ino: Ino
  session: SessionId
  grant: bigint
  to: Allowed
  sinceMs: number
  /** When it is given back, the inode counts as fought for. */
  quiets: boolean
}

export class LeaseTable implements LeaseGate {
  readonly #options: LeaseTableOptions
  readonly #states = new Map<Ino, LeaseState>()
  readonly #held = new Map<SessionId, Set<Ino>>()
  readonly #waiting = new Map<Ino, Map<string, Waiting>>()
  readonly #recalls = new Map<string, Recall>()
  /** Until when no lease is offered, in the order of these times. */
  readonly #quietUntilMs = new Map<Ino, number>()
  #repeat: Timer | undefined
  /** What is recalled now is recalled for a change that has not come yet. */
  #hurrying = false
  #grants: bigint
  #leases = 0
  #recallsSent = 0
  readonly #recallRate = new RecentRate()
  #longestRecallMs = 0

  constructor(options: LeaseTableOptions) {
    this.#options = options
    // Also across restarts of the master: a client takes an older number for a lease that it has given back.
    const { seconds, nanos } = options.clock.wallTime()
    const milliseconds = seconds * 1000n + BigInt(Math.floor(nanos / 1_000_000))
    this.#grants = milliseconds < 0n ? 0n : milliseconds << 20n
  }

  /**
   * undefined when no other session holds more than `allowed` and it is this session's turn; otherwise a promise that resolves when it
   * is worth asking again. ESTALE when the session has ended.
   */
  reduceOthers(session: SessionId, ino: Ino, allowed: Allowed): Promise<void> | undefined {
    if (!this.#options.isAlive(session)) throw new PosixError('ESTALE', 'the session has ended')
    // The common case costs one look-up and leaves nothing behind.
    if (!this.#states.has(ino)) return undefined
    const proceed = this.#apply(ino, { kind: 'ask', session, allowed })
    const key = waitingKey(session, allowed)
    const waiting = this.#waiting.get(ino)
    const entry = waiting?.get(key)
    if (proceed) {
      entry?.reservation?.cancel()
      entry?.wake()
      waiting?.delete(key)
      this.#tidy(ino)
      return undefined
    }
    if (entry && !entry.reservation) return entry.promise
    entry?.reservation?.cancel()
    const fresh = newWaiting()
    if (waiting) waiting.set(key, fresh)
    else this.#waiting.set(ino, new Map([[key, fresh]]))
    return fresh.promise
  }

  /**
   * Grants a lease under a new number, or keeps a stronger one, in the same run in which reduceOthers gave undefined, or for an inode that
   * the run makes. Takes effect at once, so it comes last, when nothing can fail any more; with `onApply` when that calls back.
   */
  grant(session: SessionId, ino: Ino, mode: HeldMode, onApply?: (effect: () => void) => void): Lease {
    if (!this.#options.isAlive(session)) throw new PosixError('ESTALE', 'the session has ended')
    const grant = ++this.#grants
    const stronger = this.held(session, ino) === 'write' ? 'write' : mode
    const effect = (): void => {
      this.#apply(ino, { kind: 'grant', session, mode, grant })
      const count = this.#held.get(session)?.size ?? 0
      if (count > leasesPerSessionMax) {
        queueMicrotask(() => this.#options.fence(session, `it holds ${count} leases`))
      }
    }
    if (onApply) onApply(effect)
    else effect()
    return { ino, mode: wireMode(stronger), grant }
  }

  leave(session: SessionId, ino: Ino, allowed: Allowed): void {
    const key = waitingKey(session, allowed)
    const waiting = this.#waiting.get(ino)
    const entry = waiting?.get(key)
    if (!entry) return
    entry.reservation?.cancel()
    waiting?.delete(key)
    this.#apply(ino, { kind: 'abandon', session, allowed })
    // Other operations of the session may wait for the same: they ask again.
    entry.wake()
    this.#tidy(ino)
  }

  hurryOthers(session: SessionId, ino: Ino): void {
    // Whoever waits in line has sent the recalls.
    if (!this.#states.has(ino) || this.#waiting.get(ino)?.has(waitingKey(session, 'none')) === true) return
    this.#hurrying = true
    if (!this.#apply(ino, { kind: 'ask', session, allowed: 'none' })) {
      this.#apply(ino, { kind: 'abandon', session, allowed: 'none' })
    }
    this.#hurrying = false
  }

  offer(session: SessionId, ino: Ino, onApply?: (effect: () => void) => void): Lease {
    const state = this.#states.get(ino)
    if (state) {
      const holder = holdersOf(state).get(session)
      if (holder) return { ino, mode: wireMode(holder.mode), grant: holder.grant }
      if (state.kind !== 'shared') return noLease(ino)
    }
    if (this.#hasEnough(session) || this.#isQuiet(ino) || !this.#options.isAlive(session)) return noLease(ino)
    return this.grant(session, ino, 'read', onApply)
  }

  offerWrite(session: SessionId, ino: Ino, onApply: (effect: () => void) => void): Lease {
    const state = this.#states.get(ino)
    const isAlone = state === undefined || (state.kind === 'shared' && isOnlyHolder(state, session))
    if (!isAlone || this.#hasEnough(session) || this.#isQuiet(ino) || !this.#options.isAlive(session)) {
      return this.holding(session, ino)
    }
    return this.grant(session, ino, 'write', onApply)
  }

  /**
   * The session has made this inode in its journal, and has held the write lease since then. Number 0: it comes before every grant.
   */
  made(session: SessionId, ino: Ino): void {
    this.#apply(ino, { kind: 'grant', session, mode: 'write', grant: 0n })
    const count = this.countOf(session)
    if (count > leasesPerSessionMax) queueMicrotask(() => this.#options.fence(session, `it holds ${count} leases`))
  }

  holding(session: SessionId, ino: Ino): Lease {
    const state = this.#states.get(ino)
    const holder = state && holdersOf(state).get(session)
    return holder ? { ino, mode: wireMode(holder.mode), grant: holder.grant } : noLease(ino)
  }

  /** True while another session holds the inode for writing. Starts nothing. */
  writtenByOther(session: SessionId, ino: Ino): boolean {
    const state = this.#states.get(ino)
    if (!state) return false
    for (const [holder, { mode }] of holdersOf(state)) if (holder !== session && mode === 'write') return true
    return false
  }

  held(session: SessionId, ino: Ino): LeaseMode {
    const state = this.#states.get(ino)
    return state ? heldMode(state, session) : 'none'
  }

  /**
   * What a lease that was granted some time ago is now, for the reply that is about to bring it: undefined when it was given up, even for
   * a moment, since then, so that what was read under it may be wrong.
   */
  current(session: SessionId, ino: Ino, grant: bigint): { mode: HeldMode; grant: bigint } | undefined {
    const state = this.#states.get(ino)
    const holder = state && holdersOf(state).get(session)
    return holder && grant >= holder.since ? holder : undefined
  }

  /** A session gave a lease back, down to a mode. */
  returned(session: SessionId, ino: Ino, mode: LeaseMode, grant: bigint): void {
    if (!this.#states.has(ino)) return
    this.#apply(ino, { kind: 'return', session, mode, grant })
    this.#tidy(ino)
  }

  /**
   * What a session that resumes says it holds replaces what is known: leases that it does not name never reached it, or were given back
   * on a stream that broke. One in conflict with another session's is recalled from it.
   */
  declare(session: SessionId, leases: readonly { ino: Ino; mode: HeldMode; grant: bigint }[]): void {
    const declared = new Set(leases.map(({ ino }) => ino))
    for (const ino of this.#held.get(session) ?? []) {
      const holder = holdersOf(this.#states.get(ino) ?? freeLease).get(session)
      if (!declared.has(ino) && holder) this.returned(session, ino, 'none', holder.grant)
    }
    for (const { ino, mode, grant } of leases) {
      if (grant > this.#grants) this.#grants = grant
      if (!this.#apply(ino, { kind: 'declare', session, mode, grant })) {
        this.#options.log.warn('a declared lease is in conflict with another session', { session, ino, mode })
        this.#options.recall(session, { ino, mode: WireMode.LEASE_MODE_NONE, grant })
        this.#tidy(ino)
      }
    }
    this.repeatRecalls(session)
  }

  /** The session is over: what it held is free. */
  dropSession(session: SessionId): void {
    const inos = new Set(this.#held.get(session))
    for (const [ino, waiting] of this.#waiting) {
      if (waiting.has(waitingKey(session, 'none')) || waiting.has(waitingKey(session, 'read'))) inos.add(ino)
    }
    for (const ino of inos) {
      this.#apply(ino, { kind: 'end', session })
      for (const allowed of ['none', 'read'] as const) {
        const entry = this.#waiting.get(ino)?.get(waitingKey(session, allowed))
        entry?.reservation?.cancel()
        entry?.wake()
        this.#waiting.get(ino)?.delete(waitingKey(session, allowed))
      }
      this.#tidy(ino)
    }
    this.#held.delete(session)
  }

  /** Sends what is recalled from a session again: on a new stream nothing of it is on its way. */
  repeatRecalls(session: SessionId): void {
    for (const recall of this.#recalls.values()) if (recall.session === session) this.#send(recall)
  }

  countOf(session: SessionId): number {
    return this.#held.get(session)?.size ?? 0
  }

  statistics(): LeaseStatistics {
    return {
      leases: this.#leases,
      recalls: this.#recallsSent,
      recallsPerSecond: this.#recallRate.perSecond(this.#options.clock.nowMs()),
      recallMsMax: Math.round(this.#longestRecallMs),
    }
  }

  close(): void {
    this.#repeat?.cancel()
    for (const waiting of this.#waiting.values()) {
      for (const entry of waiting.values()) {
        entry.reservation?.cancel()
        entry.wake()
      }
    }
  }

  /** Takes the step and carries out its actions. False: an ask must wait, a declaration was refused. */
  #apply(ino: Ino, event: LeaseEvent): boolean {
    const before = this.#states.get(ino) ?? freeLease
    const { state, actions } = transition(before, event)
    if (state.kind === 'free') this.#states.delete(ino)
    else this.#states.set(ino, state)
    if (state !== before && event.kind !== 'ask') this.#account(ino, state, event.session)
    let granted = true
    for (const action of actions) {
      switch (action.kind) {
        case 'proceed':
          break
        case 'wait':
        case 'refuse':
          granted = false
          break
        case 'recall':
          this.#recall(ino, action.session, action.grant, action.to)
          break
        case 'wake':
          this.#wake(ino, action.session, action.allowed)
          break
      }
    }
    return granted
  }

  /** Keeps the counts and closes the session's recall when it has given enough back. */
  #account(ino: Ino, state: LeaseState, session: SessionId): void {
    const holder = holdersOf(state).get(session)
    const held = this.#held.get(session)
    if (holder && !held?.has(ino)) {
      this.#leases++
      if (held) held.add(ino)
      else this.#held.set(session, new Set([ino]))
    } else if (!holder && held?.delete(ino)) {
      this.#leases--
      if (held.size === 0) this.#held.delete(session)
    }
    const key = recallKey(ino, session)
    const recall = this.#recalls.get(key)
    if (recall && (!holder || (recall.to === 'read' && holder.mode === 'read'))) {
      this.#recalls.delete(key)
      const now = this.#options.clock.nowMs()
      this.#longestRecallMs = Math.max(this.#longestRecallMs, now - recall.sinceMs)
      if (recall.to === 'none' && recall.quiets) this.#quiet(ino, now)
    }
  }

  #hasEnough(session: SessionId): boolean {
    const isFull = this.#leases >= offersMax || this.countOf(session) >= offersPerSessionMax
    return isFull || !this.#options.wantsOffers(session)
  }

  #quiet(ino: Ino, nowMs: number): void {
    this.#quietUntilMs.delete(ino)
    this.#quietUntilMs.set(ino, nowMs + (this.#options.quietMs ?? quietMsDefault))
    if (this.#quietUntilMs.size <= quietKept) return
    for (const [other, untilMs] of this.#quietUntilMs) {
      if (untilMs > nowMs) return
      this.#quietUntilMs.delete(other)
    }
  }

  #isQuiet(ino: Ino): boolean {
    const untilMs = this.#quietUntilMs.get(ino)
    if (untilMs === undefined) return false
    if (this.#options.clock.nowMs() < untilMs) return true
    this.#quietUntilMs.delete(ino)
    return false
  }

  #recall(ino: Ino, session: SessionId, grant: bigint, to: Allowed): void {
    const key = recallKey(ino, session)
    const nowMs = this.#options.clock.nowMs()
    const sinceMs = this.#recalls.get(key)?.sinceMs ?? nowMs
    const recall: Recall = { ino, session, grant, to, sinceMs, quiets: !this.#hurrying }
    this.#recalls.set(key, recall)
    this.#recallsSent++
    this.#recallRate.add(nowMs)
    this.#send(recall)
    this.#repeat ??= this.#options.clock.after(recallRepeatMs, () => this.#repeatAll())
  }

  #send({ ino, session, grant, to }: Recall): void {
    this.#options.recall(session, { ino, mode: wireMode(to), grant })
  }

  #repeatAll(): void {
    this.#repeat = undefined
    const now = this.#options.clock.nowMs()
    const stuck = new Set<SessionId>()
    for (const recall of this.#recalls.values()) {
      if (now - recall.sinceMs >= recallMsMax) stuck.add(recall.session)
      else if (now - recall.sinceMs >= recallRepeatMs / 2) this.#send(recall)
    }
    for (const session of stuck) {
      this.#options.fence(session, `it has not answered a recall for ${recallMsMax / 1000} seconds`)
    }
    if (this.#recalls.size > 0) this.#repeat ??= this.#options.clock.after(recallRepeatMs, () => this.#repeatAll())
  }

  #wake(ino: Ino, session: SessionId, allowed: Allowed): void {
    const entry = this.#waiting.get(ino)?.get(waitingKey(session, allowed))
    if (!entry || entry.reservation) return
    entry.reservation = this.#options.clock.after(reservationMsMax, () => {
      this.#waiting.get(ino)?.delete(waitingKey(session, allowed))
      this.#apply(ino, { kind: 'abandon', session, allowed })
      this.#tidy(ino)
    })
    entry.wake()
  }

  #tidy(ino: Ino): void {
    if (this.#waiting.get(ino)?.size === 0) this.#waiting.delete(ino)
  }
}

const isOnlyHolder = (state: LeaseState, session: SessionId): boolean => {
  const holders = holdersOf(state)
  return holders.size === 1 && holders.has(session)
}

const noLease = (ino: Ino): Lease => ({ ino, mode: WireMode.LEASE_MODE_NONE, grant: 0n })

const waitingKey = (session: SessionId, allowed: Allowed): string => `${session}/${allowed}`
const recallKey = (ino: Ino, session: SessionId): string => `${ino}/${session}`

const newWaiting = (): Waiting => {
  const { promise, resolve } = deferred()
  return { promise, wake: resolve }
}

const deferred = (): { promise: Promise<void>; resolve: () => void } => {
  let resolve!: () => void
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
