import t from 'tap'
import { asSessionId } from '../../../src/domain/ids.ts'
import type { HeldLock, LockWish } from '../../../src/domain/range-locks.ts'
import { applyLock, conflictOf, lockEndMax, ownerKey, wouldDeadlock } from '../../../src/domain/range-locks.ts'
import { seededRandom } from '../../lib/master-store.ts'

const session = asSessionId(1n)

const wish = (
  owner: bigint,
  type: LockWish['type'],
  start: number,
  end: number,
  kind: LockWish['kind'] = 'posix',
): LockWish => ({ session, owner, kind, type, start: BigInt(start), end: BigInt(end), pid: Number(owner) })

const show = (locks: readonly HeldLock[]): string[] =>
  locks.map(({ owner, type, start, end }) => `${owner}:${type[0]}${start}-${end}`)

const apply = (wishes: readonly LockWish[]): HeldLock[] => {
  let locks: HeldLock[] = []
  for (const each of wishes) locks = applyLock(locks, each)
  return locks
}

t.test('split, merge, shrink, upgrade', async (t) => {
  t.same(show(apply([wish(1n, 'write', 0, 99), wish(1n, 'unlock', 40, 59)])), ['1:w0-39', '1:w60-99'])
  t.same(show(apply([wish(1n, 'write', 0, 9), wish(1n, 'write', 10, 19)])), ['1:w0-19'])
  t.same(show(apply([wish(1n, 'write', 0, 9), wish(1n, 'write', 11, 19)])), ['1:w0-9', '1:w11-19'])
  t.same(show(apply([wish(1n, 'read', 0, 99), wish(1n, 'write', 40, 59)])), ['1:r0-39', '1:w40-59', '1:r60-99'])
  t.same(show(apply([wish(1n, 'write', 40, 59), wish(1n, 'read', 0, 99)])), ['1:r0-99'])
  t.same(show(apply([wish(1n, 'read', 0, 9), wish(1n, 'write', 3, 4), wish(1n, 'read', 3, 4)])), ['1:r0-9'])
  t.same(show(apply([wish(1n, 'read', 0, 9), wish(1n, 'unlock', 0, 9)])), [])
  t.same(show(apply([wish(1n, 'unlock', 0, 9)])), [])
  const toTheEnd = { ...wish(1n, 'write', 5, 0), end: lockEndMax }
  t.same(show(applyLock(applyLock([], toTheEnd), wish(1n, 'unlock', 100, 100))), ['1:w5-99', `1:w101-${lockEndMax}`])
})

t.test('conflicts are between owners and within a kind', async (t) => {
  const held = apply([wish(1n, 'read', 10, 19)])
  t.equal(conflictOf(held, wish(2n, 'read', 10, 19)), undefined)
  t.match(conflictOf(held, wish(2n, 'write', 19, 30)), { owner: 1n })
  t.equal(conflictOf(held, wish(2n, 'write', 20, 30)), undefined)
  t.equal(conflictOf(held, wish(2n, 'write', 0, 9)), undefined)
  t.equal(conflictOf(held, wish(1n, 'write', 0, 99)), undefined)
  t.equal(conflictOf(held, wish(2n, 'unlock', 0, 99)), undefined)
  t.equal(conflictOf(held, wish(2n, 'write', 0, 99, 'flock')), undefined)
  t.match(conflictOf(held, { ...wish(1n, 'write', 0, 99), session: asSessionId(2n) }), { owner: 1n })
})

t.test("flock replaces the owner's lock and leaves its record locks alone", async (t) => {
  const locks = apply([
    wish(1n, 'write', 0, 9),
    wish(1n, 'read', 0, 100, 'flock'),
    wish(1n, 'write', 0, 100, 'flock'),
    wish(1n, 'unlock', 0, 9),
  ])
  t.same(show(locks), ['1:w0-100'])
  t.same(show(applyLock(locks, wish(1n, 'unlock', 0, 100, 'flock'))), [])
})

t.test('a circle of waiters is a deadlock', async (t) => {
  const owner = (id: bigint) => ({ session, owner: id })
  const waits = new Map([
    [ownerKey(owner(2n)), [owner(3n)]],
    [ownerKey(owner(3n)), [owner(4n), owner(1n)]],
  ])
  const waitsFor = (of: { session: typeof session; owner: bigint }) => waits.get(ownerKey(of)) ?? []
  t.equal(wouldDeadlock(owner(1n), [owner(2n)], waitsFor), true)
  t.equal(wouldDeadlock(owner(1n), [owner(4n)], waitsFor), false)
  waits.set(ownerKey(owner(4n)), [owner(2n)])
  t.equal(wouldDeadlock(owner(9n), [owner(2n)], waitsFor), false, 'a circle without it is not its business')
})

t.test('random wishes agree with a model that has one lock per byte', async (t) => {
  const bytes = 24
  for (let seed = 1; seed <= 100; seed++) {
    const random = seededRandom(seed)
    let locks: HeldLock[] = []
    const model = new Map<bigint, (string | undefined)[]>([1n, 2n, 3n].map((id) => [id, Array(bytes).fill(undefined)]))
    for (let i = 0; i < 60; i++) {
      const start = random.below(bytes)
      const end = start + random.below(bytes - start)
      const owner = BigInt(1 + random.below(3))
      const next = wish(owner, random.pick(['read', 'write', 'unlock'] as const), start, end)
      let blocked = false
      for (const [other, held] of model) {
        if (other === owner || next.type === 'unlock') continue
        for (let at = start; at <= end; at++) {
          if (held[at] !== undefined && (held[at] === 'write' || next.type === 'write')) blocked = true
        }
      }
      if ((conflictOf(locks, next) !== undefined) !== blocked) t.fail(`seed=${seed} step ${i}: conflict`)
      if (blocked) continue
      locks = applyLock(locks, next)
      model.get(owner)!.fill(next.type === 'unlock' ? undefined : next.type, start, end + 1)
      const seen = new Map<bigint, (string | undefined)[]>([1n, 2n, 3n].map((id) => [id, Array(bytes).fill(undefined)]))
      for (const lock of locks) seen.get(lock.owner)!.fill(lock.type, Number(lock.start), Number(lock.end) + 1)
      if (JSON.stringify([...seen.values()]) !== JSON.stringify([...model.values()])) t.fail(`seed=${seed} step ${i}`)
      for (const [at, lock] of locks.entries()) {
        const before = locks[at - 1]
        if (!before || before.owner !== lock.owner) continue
        if (before.end >= lock.start || (before.end + 1n === lock.start && before.type === lock.type)) {
          t.fail(`seed=${seed} step ${i}: not merged`)
        }
      }
    }
  }
  t.pass('100 seeds')
})
