/**
 * The leases that this client holds. What is cached of an inode may be used only under a pin on its lease: a lease that is recalled
 * is given back when its last pin is gone and `Holder.reduce` has committed and dropped what it covered. Nothing else is waited for,
 * in particular no lock of an inode: an operation that waits for the master while it holds such a lock can never stand in the way of
 * the recall that the master waits for.
 *
 * Grant numbers: the master numbers each grant; a return names the newest number that is known. A reply that arrives after its grant
 * was returned gives nothing (`floor`; it is kept until the master has echoed a heartbeat that was sent after the return, for then no such
 * reply can come any more). A recall that overtakes the reply with its grant waits for that reply, so that the
 * operation that asked gets its turn: two mounts that fight for one file both make progress.
 *
 * Hold: a write lease that somebody here asked for and uses is kept for up to `holdMs` after it was granted, although it is recalled. Writers
 * that fight for one file then write many times per turn, and a turn's end costs a flush. Who does not use it when the recall comes, or stops
 * to, gives it back at once: locks pass a file from one to the other without a wait.
 *
 * Invariant: what is cached (`Cached`) is in the record of its lease, and is cached only from replies whose own lease is the present one.
 * Invariant: a lease that is being returned gets no new pins beyond what stays; those who come wait until it is returned.
 * Invariant: while the session is not confirmed (its lease ran out by our clock), `usable` is false.
 */
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { LeaseMode } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import { Cached } from './cached.ts'
import { Event, orAborted, throwIfAborted } from './waiting.ts'

export type HeldMode = 'read' | 'write'
type Mode = 'none' | HeldMode

const rank: Record<Mode, number> = { none: 0, read: 1, write: 2 }
const wire: Record<Mode, LeaseMode> = {
  none: LeaseMode.LEASE_MODE_NONE,
  read: LeaseMode.LEASE_MODE_READ,
  write: LeaseMode.LEASE_MODE_WRITE,
}

const modeOf = (mode: LeaseMode): Mode =>
  mode === LeaseMode.LEASE_MODE_WRITE ? 'write' : mode === LeaseMode.LEASE_MODE_READ ? 'read' : 'none'

export interface LeaseSession {
  nowMs(): number
  after(ms: number, work: () => void): void
  isConfirmed(): boolean
  whenConfirmed(signal?: AbortSignal): Promise<void>
  /** `opened`: the inode is open, which the master does not know. */
  returnLease(lease: Lease, options: { opened: boolean }): void
}

export interface Holder {
  /**
   * Commits what is buffered and, when `to` is none, withdraws what others were told under the lease. Resolves when nothing is left that the
   * lease covered.
   */
  reduce(ino: Ino, to: 'none' | 'read', cached: Cached): Promise<void>
  /** The lease is about to be returned. True: what kept the inode open was the lease, and the master is to keep it from now on. */
  staysOpen(ino: Ino): boolean
  /** The lease is gone, and what was cached under it. */
  gone(ino: Ino, cached: Cached): void
}

/** A lease that counts until `release`. */
export interface Pin {
  /** The session that it belonged to has ended: what was read under it may be wrong. */
  readonly lost: boolean
  release(): void
}

class Held {
  readonly ino: Ino
  readonly cached = new Cached()
  /** The last pin is gone. */
  readonly #idle: (held: Held) => void
  mode: HeldMode
  grant: bigint
  readPins = 0
  writePins = 0
  /** When the write lease was granted to somebody who asked for it. */
  grantedMs = -Infinity
  /** Grows with each use. */
  uses = 0
  /** Used since it was looked at as one of the oldest. */
  used = false
  /** A recall that waits for the end of the hold. */
  postponed: Floor | undefined
  /** What it is being reduced to. */
  returning: 'none' | 'read' | undefined
  lost = false
  // Most leases never need these.
  #unpinned: Event | undefined
  #returned: Event | undefined

  constructor(ino: Ino, mode: HeldMode, grant: bigint, idle: (held: Held) => void) {
    this.ino = ino
    this.#idle = idle
    this.mode = mode
    this.grant = grant
  }

  get unpinned(): Event {
    return (this.#unpinned ??= new Event())
  }

  get returned(): Event {
    return (this.#returned ??= new Event())
  }

  pin(mode: HeldMode): Pin {
    if (mode === 'read') this.readPins++
    else this.writePins++
    this.uses++
    this.used = true
    let released = false
    const isLost = (): boolean => this.lost
    return {
      get lost() {
        return isLost()
      },
      release: () => {
        if (released) return
        released = true
        const left = mode === 'read' ? --this.readPins : --this.writePins
        if (left > 0) return
        this.#unpinned?.fire()
        this.#idle(this)
      },
    }
  }

  /** Nobody waits for it any more. */
  settle(): void {
    this.#returned?.fire()
  }

  /** The session that it belonged to has ended. */
  lose(): void {
    this.lost = true
    this.#unpinned?.fire()
    this.#returned?.fire()
  }
}

interface Wish {
  mode: HeldMode
  pin: Pin | undefined
}

interface Floor {
  grant: bigint
  mode: 'none' | 'read'
}

/** How long a recall that overtook its grant waits for it. */
const earlyMsMax = 5_000
/** Who has not used a lease for this long does not need it just now. */
const unusedMs = 2

export class Leases {
  readonly #session: LeaseSession
  readonly #holder: Holder
  readonly #leasesMax: number
  readonly #keeps: boolean
  readonly #holdMs: number
  /** Oldest first; those that were used since are passed over once (a clock: to note a use costs nothing). */
  #held = new Map<Ino, Held>()
  readonly #wishes = new Map<Ino, Set<Wish>>()
  /** Newest grant that was returned, by inode; in the order of the returns. */
  #floors = new Map<Ino, Floor & { atMs: number }>()
  /** Recalls that overtook the reply with their grant. */
  readonly #early = new Map<Ino, Floor & { sinceMs: number }>()

  /** `keeps`: a lease is kept when nobody needs it right now. Otherwise nothing is usable but what a pin from `acquire` covers. */
  constructor(session: LeaseSession, holder: Holder, options: { leasesMax: number; keeps: boolean; holdMs: number }) {
    this.#session = session
    this.#holder = holder
    this.#leasesMax = options.leasesMax
    this.#keeps = options.keeps
    this.#holdMs = options.holdMs
  }

  get count(): number {
    return this.#held.size
  }

  /** For Hello. */
  holdings(): Lease[] {
    return [...this.#held.values()].map(({ ino, mode, grant }) => ({ ino, mode: wire[mode], grant }))
  }

  holds(ino: Ino): boolean {
    return this.#held.has(ino)
  }

  /** Who holds them: all, for what is to be done with each. */
  *cachedOfAll(): Generator<[Ino, Cached]> {
    for (const held of this.#held.values()) yield [held.ino, held.cached]
  }

  /** What is cached under a lease, usable or not. */
  cached(ino: Ino): Cached | undefined {
    return this.#held.get(ino)?.cached
  }

  /** What is cached, when it may be used right now, within this turn of the event loop. */
  usableCached(ino: Ino): Cached | undefined {
    return this.usable(ino, 'read') ? this.#held.get(ino)!.cached : undefined
  }

  /** Takes note of a use. */
  touch(ino: Ino): void {
    const held = this.#held.get(ino)
    if (held === undefined) return
    held.uses++
    held.used = true
  }

  /** What is cached under a lease of this mode may be used right now, within this turn of the event loop. */
  usable(ino: Ino, mode: HeldMode): boolean {
    const held = this.#held.get(ino)
    return held !== undefined && this.#keeps && covers(held, mode) && this.#session.isConfirmed()
  }

  /** The lease of this mode was granted under at least this number and still counts: what came with it may be cached. */
  current(ino: Ino, lease: Lease | undefined): boolean {
    const held = this.#held.get(ino)
    const isMode = lease !== undefined && (lease.mode === wire.read || lease.mode === wire.write)
    return held !== undefined && isMode && lease.grant >= held.grant
  }

  /** A pin when the lease can be used at once. */
  tryPin(ino: Ino, mode: HeldMode): Pin | undefined {
    return this.usable(ino, mode) ? this.#held.get(ino)!.pin(mode) : undefined
  }

  /**
   * Gets a lease of at least this mode and pins it. `ask` sends the request whose reply carries the lease; undefined when that
   * reply brought none (the master gives none at the moment).
   */
  async acquire(
    ino: Ino,
    mode: HeldMode,
    ask: () => Promise<Lease | undefined>,
    signal?: AbortSignal,
  ): Promise<Pin | undefined> {
    for (;;) {
      throwIfAborted(signal)
      if (!this.#session.isConfirmed()) await this.#session.whenConfirmed(signal)
      const present = this.tryPin(ino, mode)
      if (present !== undefined) return present
      const held = this.#held.get(ino)
      if (held?.returning !== undefined) {
        await held.returned.wait(signal)
        continue
      }
      const wish: Wish = { mode, pin: undefined }
      const wishes = this.#wishes.get(ino) ?? new Set()
      this.#wishes.set(ino, wishes.add(wish))
      let lease: Lease | undefined
      try {
        lease = await orAborted(ask(), signal)
      } catch (caught) {
        wish.pin?.release()
        throw caught
      } finally {
        wishes.delete(wish)
        if (wishes.size === 0 && this.#wishes.get(ino) === wishes) this.#wishes.delete(ino)
        this.#idle(this.#held.get(ino))
      }
      if (wish.pin !== undefined && !wish.pin.lost && this.#session.isConfirmed()) return wish.pin
      wish.pin?.release()
      if (wish.pin === undefined && (lease === undefined || lease.mode === LeaseMode.LEASE_MODE_NONE)) return undefined
    }
  }

  /**
   * The client has made this inode: it holds the write lease, as the master will know when it learns of the inode. Number 0 comes before
   * every grant.
   */
  adopt(ino: Ino): Cached {
    const held = new Held(ino, 'write', 0n, this.#idle)
    held.cached.isUnseen = true
    this.#held.set(ino, held)
    this.#giveBackOldest()
    return held.cached
  }

  /** A lease came with a reply. */
  granted(lease: Lease): void {
    const ino = asIno(lease.ino)
    const mode = modeOf(lease.mode)
    const floor = this.#floors.get(ino)
    if (mode === 'none' || (floor !== undefined && lease.grant <= floor.grant && rank[mode] > rank[floor.mode])) return
    let held = this.#held.get(ino)
    if (held === undefined) {
      held = new Held(ino, mode, lease.grant, this.#idle)
      this.#held.set(ino, held)
    } else if (lease.grant < held.grant) return
    else {
      held.mode = lease.grant > held.grant ? mode : held.mode
      if (held.mode === 'read') held.cached.isUnseen = false
      held.grant = lease.grant
      held.used = true
    }
    if (held.returning === undefined) {
      for (const wish of this.#wishes.get(ino) ?? []) {
        if (!covers(held, wish.mode) || wish.pin !== undefined) continue
        wish.pin = held.pin(wish.mode)
        if (wish.mode === 'write') held.grantedMs = this.#session.nowMs()
      }
    }
    const early = this.#early.get(ino)
    if (early !== undefined) {
      this.#early.delete(ino)
      this.#recallAfterHold(held, early)
    }
    this.#idle(held)
    this.#giveBackOldest()
  }

  /** The master wants a lease reduced. */
  recalled(lease: Lease): void {
    const ino = asIno(lease.ino)
    const recall: Floor = { grant: lease.grant, mode: modeOf(lease.mode) === 'read' ? 'read' : 'none' }
    const held = this.#held.get(ino)
    if (held !== undefined) {
      if (recall.grant >= held.grant) this.#recallAfterHold(held, recall)
      return
    }
    const floor = this.#floors.get(ino)
    if (floor !== undefined && floor.grant >= recall.grant) {
      this.#session.returnLease({ ino, mode: wire[floor.mode], grant: floor.grant }, { opened: false })
      return
    }
    const sinceMs = this.#early.get(ino)?.sinceMs ?? this.#session.nowMs()
    if (this.#session.nowMs() - sinceMs < earlyMsMax) {
      this.#early.set(ino, { sinceMs, ...recall })
      return
    }
    // The master repeats the recall, and no reply came: whatever brings the lease now comes too late.
    this.#early.delete(ino)
    this.#keepFloor(ino, { grant: recall.grant, mode: 'none' })
    this.#session.returnLease({ ino, mode: wire.none, grant: recall.grant }, { opened: false })
  }

  /** Gives a lease back unasked. */
  giveBack(ino: Ino): void {
    const held = this.#held.get(ino)
    if (held !== undefined) this.#recall(held, { grant: held.grant, mode: 'none' })
  }

  /** The master has echoed a heartbeat that was sent then: it has seen every return before it, and its older replies have come. */
  echoed(sentMs: number): void {
    for (const [ino, { atMs }] of this.#floors) {
      if (atMs >= sentMs) return
      this.#floors.delete(ino)
    }
  }

  /** The session goes on over a new stream: what the master had granted in replies that were lost is not ours. */
  resumed(): void {
    this.#early.clear()
  }

  /** The session is over: nothing is held. */
  lost(): void {
    const gone = [...this.#held.values()]
    this.#held = new Map()
    this.#floors = new Map()
    this.#early.clear()
    for (const held of gone) {
      held.lose()
      this.#holder.gone(held.ino, held.cached)
    }
  }

  /** Gives back what is not to be kept, once nobody needs it or is about to. */
  readonly #idle = (held: Held | undefined): void => {
    if (this.#keeps || held === undefined || held.lost || held.returning !== undefined) return
    if (!isPinned(held, 'none') && !this.#wishes.has(held.ino)) this.giveBack(held.ino)
  }

  #recallAfterHold(held: Held, recall: Floor): void {
    if (held.postponed !== undefined) {
      const { mode, grant } = held.postponed
      held.postponed = {
        mode: mode === 'none' ? 'none' : recall.mode,
        grant: recall.grant > grant ? recall.grant : grant,
      }
      return
    }
    const untilMs = held.grantedMs + this.#holdMs
    const isUsed = this.#keeps && held.mode === 'write' && held.returning === undefined && isPinned(held, 'none')
    if (!isUsed || this.#session.nowMs() >= untilMs) {
      this.#recall(held, recall)
      return
    }
    held.postponed = recall
    const look = (usesBefore: number): void => {
      // It may have been given back unasked, and another be held by now.
      if (held.postponed === undefined || this.#held.get(held.ino) !== held) return
      const { uses } = held
      if (uses !== usesBefore && this.#session.nowMs() < untilMs) {
        this.#session.after(unusedMs, () => look(uses))
        return
      }
      const { postponed } = held
      held.postponed = undefined
      this.#recall(held, postponed)
    }
    look(-1)
  }

  #recall(held: Held, recall: Floor): void {
    if (recall.grant > held.grant) held.grant = recall.grant
    const target = held.returning === 'none' ? 'none' : recall.mode
    if (rank[held.mode] <= rank[target]) {
      this.#session.returnLease({ ino: held.ino, mode: wire[held.mode], grant: held.grant }, { opened: false })
      return
    }
    const busy = held.returning !== undefined
    held.returning = target
    if (!busy) void this.#return(held)
  }

  async #return(held: Held): Promise<void> {
    const { ino } = held
    let done: 'none' | 'read' | undefined
    while (held.returning !== done && !held.lost) {
      const target = held.returning ?? 'none'
      while (isPinned(held, target)) await held.unpinned.wait()
      if (held.lost) return
      // A failure to commit is kept for the file's handles; the lease must be returned all the same.
      await this.#holder.reduce(ino, target, held.cached)
      done = target
    }
    if (held.lost || done === undefined) return
    held.returning = undefined
    this.#keepFloor(ino, { grant: held.grant, mode: done })
    if (done === 'none') this.#held.delete(ino)
    else {
      held.mode = 'read'
      held.cached.isUnseen = false
    }
    const opened = done === 'none' && this.#holder.staysOpen(ino)
    this.#session.returnLease({ ino, mode: wire[done], grant: held.grant }, { opened })
    held.settle()
    if (done === 'none') this.#holder.gone(ino, held.cached)
  }

  #keepFloor(ino: Ino, floor: Floor): void {
    this.#floors.delete(ino)
    this.#floors.set(ino, { atMs: this.#session.nowMs(), ...floor })
  }

  #giveBackOldest(): void {
    let surplus = this.#held.size - this.#leasesMax
    if (surplus <= 0) return
    // At most once round: what is passed over goes to the end, and would come again.
    let left = this.#held.size
    for (const held of this.#held.values()) {
      if (surplus <= 0 || left-- <= 0) return
      if (held.used && held.returning === undefined) {
        held.used = false
        this.#held.delete(held.ino)
        this.#held.set(held.ino, held)
        continue
      }
      surplus--
      if (held.returning === undefined) this.#recall(held, { grant: held.grant, mode: 'none' })
    }
  }
}

const covers = (held: Held, mode: HeldMode): boolean =>
  rank[held.mode] >= rank[mode] && (held.returning === undefined || rank[held.returning] >= rank[mode])

const isPinned = ({ lost, readPins, writePins }: Held, target: 'none' | 'read'): boolean =>
  !lost && (writePins > 0 || (target === 'none' && readPins > 0))
