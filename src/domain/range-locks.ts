/**
 * Advisory locks on one inode, as pure functions over the list of those held: fcntl(2) record locks over byte ranges, which split,
 * merge, shrink and are upgraded in place, and flock(2) locks over the whole file. The two kinds do not know of each other.
 *
 * A range is start .. end inclusive; `lockEndMax` as end means "however far the file grows".
 * Invariant: the record locks of one owner are sorted by start and do not overlap; neighbours of one type that touch are one lock.
 * Invariant: two owners never hold locks of one kind that overlap unless both are read locks.
 * Inputs are never changed. Source: fcntl_locking(2), flock(2), fs/locks.c of Linux.
 */
import type { SessionId } from './ids.ts'

export const lockEndMax = (1n << 63n) - 1n

export type LockKind = 'posix' | 'flock'

/** Who holds or wants a lock: the kernel's lock owner is unique within a session only. */
export interface LockOwner {
  session: SessionId
  owner: bigint
}

export interface HeldLock extends LockOwner {
  kind: LockKind
  type: 'read' | 'write'
  start: bigint
  end: bigint
  /** Of the process that F_GETLK names. */
  pid: number
}

/** A lock wished for, or a range to unlock. */
export interface LockWish extends LockOwner {
  kind: LockKind
  type: 'read' | 'write' | 'unlock'
  start: bigint
  end: bigint
  pid: number
}

export const sameOwner = (a: LockOwner, b: LockOwner): boolean => a.session === b.session && a.owner === b.owner

export const ownerKey = ({ session, owner }: LockOwner): string => `${session}/${owner}`

const overlaps = (a: { start: bigint; end: bigint }, b: { start: bigint; end: bigint }): boolean =>
  a.start <= b.end && b.start <= a.end

const conflicts = (held: HeldLock, wish: LockWish): boolean =>
  held.kind === wish.kind &&
  wish.type !== 'unlock' &&
  (held.type === 'write' || wish.type === 'write') &&
  overlaps(held, wish) &&
  !sameOwner(held, wish)

/** The first lock that stands in the way, or undefined. */
export const conflictOf = (held: readonly HeldLock[], wish: LockWish): HeldLock | undefined =>
  held.find((lock) => conflicts(lock, wish))

/** All locks that stand in the way. */
export const conflictsOf = (held: readonly HeldLock[], wish: LockWish): HeldLock[] =>
  held.filter((lock) => conflicts(lock, wish))

/**
 * The locks after a wish that nothing stands in the way of: what the owner held in the range is replaced, what sticks out stays.
 * An flock(2) lock replaces the owner's former one.
 */
export const applyLock = (held: readonly HeldLock[], wish: LockWish): HeldLock[] => {
  const others: HeldLock[] = []
  const own: HeldLock[] = []
  for (const lock of held) {
    if (lock.kind !== wish.kind || !sameOwner(lock, wish)) others.push(lock)
    else if (wish.kind === 'posix') own.push(...withoutRange(lock, wish))
  }
  if (wish.type !== 'unlock') own.push({ ...wish, type: wish.type })
  return [...others, ...joined(own.toSorted((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0)))]
}

/** What is left of a lock outside a range: nothing, one piece or two. */
const withoutRange = (lock: HeldLock, range: { start: bigint; end: bigint }): HeldLock[] => {
  if (!overlaps(lock, range)) return [lock]
  const pieces: HeldLock[] = []
  if (lock.start < range.start) pieces.push({ ...lock, end: range.start - 1n })
  if (lock.end > range.end) pieces.push({ ...lock, start: range.end + 1n })
  return pieces
}

const joined = (sorted: readonly HeldLock[]): HeldLock[] => {
  const result: HeldLock[] = []
  for (const lock of sorted) {
    const last = result.at(-1)
    if (last && last.type === lock.type && last.end + 1n >= lock.start) {
      result[result.length - 1] = { ...last, end: lock.end > last.end ? lock.end : last.end, pid: lock.pid }
    } else {
      result.push(lock)
    }
  }
  return result
}

/**
 * Whether a wait for these owners would close a circle back to the one that is going to wait.
 * `waitsFor` gives the owners whose locks stand in the way of what an owner waits for now; none when it does not wait.
 */
export const wouldDeadlock = (
  waiter: LockOwner,
  blockers: Iterable<LockOwner>,
  waitsFor: (owner: LockOwner) => Iterable<LockOwner>,
): boolean => {
  const seen = new Set<string>()
  const open = [...blockers]
  for (let owner = open.pop(); owner; owner = open.pop()) {
    if (sameOwner(owner, waiter)) return true
    const key = ownerKey(owner)
    if (seen.has(key)) continue
    seen.add(key)
    open.push(...waitsFor(owner))
  }
  return false
}
