import t from 'tap'
import { asIno, asSessionId } from '../../../src/domain/ids.ts'
import type { SessionId } from '../../../src/domain/ids.ts'
import {
  LeaseTable,
  leasesPerSessionMax,
  offersPerSessionMax,
  quietMsDefault,
  recallMsMax,
} from '../../../src/master/leases.ts'
import { silentLog } from '../../../src/platform/log.ts'
import type { Lease } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { LeaseMode } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const a = asSessionId(1n)
const b = asSessionId(2n)
const c = asSessionId(3n)
/** Wants no leases but those that it asks for. */
const picky = asSessionId(4n)
const ino = asIno(7n)

const table = () => {
  const clock = manualClock()
  const recalls: [SessionId, Lease][] = []
  const fenced: [SessionId, string][] = []
  const dead = new Set<SessionId>()
  const leases = new LeaseTable({
    clock,
    log: silentLog,
    recall: (session, lease) => recalls.push([session, lease]),
    isAlive: (session) => !dead.has(session),
    wantsOffers: (session) => session !== picky,
    fence: (session, reason) => {
      fenced.push([session, reason])
      dead.add(session)
      leases.dropSession(session)
    },
  })
  return { clock, recalls, fenced, dead, leases }
}

const isResolved = async (promise: Promise<void> | undefined): Promise<boolean> => {
  let resolved = false
  void promise?.then(() => {
    resolved = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  return resolved
}

t.test('a recall is repeated until it is answered, and one that is never answered ends the session', async (t) => {
  const { clock, recalls, fenced, leases } = table()
  leases.grant(a, ino, 'write')
  const waiting = leases.reduceOthers(b, ino, 'none')
  t.equal(recalls.length, 1)
  await clock.advance(5500)
  t.equal(recalls.length, 6)
  t.match(leases.statistics(), { recalls: 1, recallsPerSecond: 0.1 })
  t.equal(await isResolved(waiting), false)
  await clock.advance(recallMsMax)
  t.equal(fenced.length, 1)
  t.equal(await isResolved(waiting), true)
  t.equal(leases.reduceOthers(b, ino, 'none'), undefined)
  leases.grant(b, ino, 'write')
  t.throws(() => leases.reduceOthers(a, ino, 'read'), { code: 'ESTALE' })
  t.throws(() => leases.grant(a, ino, 'read'), { code: 'ESTALE' })
  t.equal(leases.held(b, ino), 'write')
  t.match(leases.statistics(), { leases: 1, recalls: 1 })
  t.ok(leases.statistics().recallMsMax >= recallMsMax)
  leases.close()
})

t.test('a waiter that was woken and does not come back does not hold up the others', async (t) => {
  const { clock, leases } = table()
  const { grant } = leases.grant(a, ino, 'write')
  const first = leases.reduceOthers(b, ino, 'none')
  const second = leases.reduceOthers(c, ino, 'none')
  leases.returned(a, ino, 'none', grant)
  t.equal(await isResolved(first), true)
  t.equal(await isResolved(second), false)
  await clock.advance(1100)
  t.equal(await isResolved(second), true)
  t.equal(leases.reduceOthers(c, ino, 'none'), undefined)
  t.equal(leases.reduceOthers(b, ino, 'none'), undefined, 'nothing was granted')
  leases.close()
})

t.test('asking again while waiting gives the same promise and no second recall', async (t) => {
  const { recalls, leases } = table()
  leases.grant(a, ino, 'read')
  const first = leases.reduceOthers(b, ino, 'none')
  t.equal(leases.reduceOthers(b, ino, 'none'), first)
  t.equal(recalls.length, 1)
  t.equal(leases.writtenByOther(b, ino), false)
  leases.dropSession(b)
  t.equal(await isResolved(first), true)
  leases.close()
})

t.test('current: what a reply brings is right only when the lease was never given up', async (t) => {
  const { leases } = table()
  const first = leases.grant(a, ino, 'read').grant
  const second = leases.grant(a, ino, 'read').grant
  t.equal(leases.current(a, ino, first)?.grant, second)
  leases.returned(a, ino, 'none', second)
  t.equal(leases.current(a, ino, second), undefined)
  const third = leases.grant(a, ino, 'read').grant
  t.equal(leases.current(a, ino, second), undefined)
  t.equal(leases.current(a, ino, third)?.grant, third)
  leases.close()
})

t.test('numbers grow across restarts', async (t) => {
  const { leases } = table()
  const { grant } = leases.grant(a, ino, 'read')
  const clock = manualClock({ startMs: 1 })
  const later = new LeaseTable({
    clock,
    log: silentLog,
    recall: () => {},
    isAlive: () => true,
    wantsOffers: () => true,
    fence: () => {},
  })
  t.ok(later.grant(a, ino, 'read').grant > grant)
  later.declare(b, [{ ino: asIno(9n), mode: 'read', grant: 1n << 62n }])
  t.ok(later.grant(a, ino, 'read').grant > 1n << 62n)
  later.close()
  leases.close()
})

t.test('declare: what is not named is free, what conflicts is recalled', async (t) => {
  const { recalls, leases } = table()
  const other = asIno(8n)
  const { grant } = leases.grant(a, ino, 'read')
  leases.grant(a, other, 'write')
  leases.declare(a, [{ ino, mode: 'read', grant }])
  t.equal(leases.held(a, ino), 'read')
  t.equal(leases.held(a, other), 'none')
  leases.declare(b, [{ ino, mode: 'write', grant: 3n }])
  t.same(recalls, [[b, { ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 3n }]])
  t.equal(leases.held(b, ino), 'none')
  t.equal(leases.countOf(a), 1)
  leases.close()
})

t.test('a session that holds more than the limit is ended', async (t) => {
  const { fenced, leases } = table()
  for (let i = 1; i <= leasesPerSessionMax; i++) leases.grant(a, asIno(BigInt(i)), 'read')
  await isResolved(undefined)
  t.equal(fenced.length, 0)
  leases.grant(a, asIno(BigInt(leasesPerSessionMax + 1)), 'read')
  await isResolved(undefined)
  t.equal(fenced.length, 1)
  t.equal(leases.statistics().leases, 0)
  leases.close()
})

t.test('a read lease is offered where nobody stands in the way, and told again while it is held', (t) => {
  const { leases } = table()
  const offered = leases.offer(a, ino)
  t.equal(offered.mode, LeaseMode.LEASE_MODE_READ)
  t.strictSame(leases.offer(a, ino), offered, 'no new number for what is held')
  t.equal(leases.offer(b, ino).mode, LeaseMode.LEASE_MODE_READ, 'readers share')
  t.strictSame(leases.holding(a, ino), offered)
  t.equal(leases.holding(c, ino).mode, LeaseMode.LEASE_MODE_NONE)
  const other = asIno(8n)
  const written = leases.grant(a, other, 'write')
  t.equal(leases.offer(b, other).mode, LeaseMode.LEASE_MODE_NONE)
  t.strictSame(leases.offer(a, other), written, 'the stronger one is kept')
  t.equal(leases.held(c, ino), 'none')
  t.end()
})

t.test(
  'nobody is offered a lease that somebody waits for, nor for a moment after it was recalled for a change',
  async (t) => {
    const { leases, clock } = table()
    const { grant } = leases.offer(a, ino)
    const waiting = leases.reduceOthers(b, ino, 'none')
    t.equal(leases.offer(c, ino).mode, LeaseMode.LEASE_MODE_NONE, 'somebody waits')
    t.equal(leases.offer(a, ino).mode, LeaseMode.LEASE_MODE_READ, 'who has it still has it')
    leases.returned(a, ino, 'none', grant)
    t.ok(await isResolved(waiting))
    t.equal(leases.reduceOthers(b, ino, 'none'), undefined)
    for (const session of [a, b, c]) t.equal(leases.offer(session, ino).mode, LeaseMode.LEASE_MODE_NONE, 'quiet')
    await clock.advance(quietMsDefault - 1)
    t.equal(leases.offer(a, ino).mode, LeaseMode.LEASE_MODE_NONE)
    await clock.advance(1)
    t.equal(leases.offer(a, ino).mode, LeaseMode.LEASE_MODE_READ)
  },
)

t.test('a recall for a reader does not make quiet', (t) => {
  const { leases } = table()
  const { grant } = leases.grant(a, ino, 'write')
  void leases.reduceOthers(b, ino, 'read')
  leases.returned(a, ino, 'read', grant)
  t.equal(leases.reduceOthers(b, ino, 'read'), undefined)
  t.equal(leases.offer(b, ino).mode, LeaseMode.LEASE_MODE_READ)
  t.end()
})

t.test('others are hurried without a line, and what they give back is not fought for', async (t) => {
  const { leases, recalls } = table()
  const { grant } = leases.grant(a, ino, 'write')
  leases.hurryOthers(a, ino)
  t.equal(recalls.length, 0, 'the own lease stands in nobody’s way')
  leases.hurryOthers(b, ino)
  leases.hurryOthers(b, ino)
  t.strictSame(recalls, [[a, { ino, mode: LeaseMode.LEASE_MODE_NONE, grant }]], 'once')
  t.equal(leases.held(a, ino), 'write')
  leases.returned(a, ino, 'none', grant)
  t.equal(leases.offer(c, ino).mode, LeaseMode.LEASE_MODE_READ, 'nobody waits, and it is not quiet')
  leases.close()
})

t.test('who waits in line keeps its place when its session hurries others', async (t) => {
  const { leases, recalls } = table()
  const { grant } = leases.grant(a, ino, 'write')
  const waiting = leases.reduceOthers(b, ino, 'none')
  leases.hurryOthers(b, ino)
  leases.hurryOthers(c, ino)
  t.equal(recalls.length, 1)
  leases.returned(a, ino, 'none', grant)
  t.ok(await isResolved(waiting))
  t.equal(leases.reduceOthers(b, ino, 'none'), undefined)
  t.equal(leases.offer(c, ino).mode, LeaseMode.LEASE_MODE_NONE, 'a change waited for it')
  leases.close()
})

t.test('who leaves the line lets the next one through, and others of its session ask again', async (t) => {
  const { leases } = table()
  const { grant } = leases.offer(a, ino)
  const first = leases.reduceOthers(b, ino, 'none')
  const second = leases.reduceOthers(c, ino, 'none')
  leases.returned(a, ino, 'none', grant)
  t.ok(await isResolved(first))
  t.notOk(await isResolved(second), 'the first one has a place')
  leases.leave(b, ino, 'none')
  t.ok(await isResolved(second), 'at once')
  leases.leave(b, ino, 'none')
  t.equal(leases.reduceOthers(c, ino, 'none'), undefined)
})

t.test('a session is offered a bounded number of leases, and gets what it needs beyond', (t) => {
  const { leases, fenced } = table()
  for (let i = 1; i <= offersPerSessionMax; i++) leases.offer(a, asIno(BigInt(i)))
  t.equal(leases.countOf(a), offersPerSessionMax)
  t.equal(leases.offer(a, asIno(10n ** 9n)).mode, LeaseMode.LEASE_MODE_NONE)
  t.equal(leases.offer(b, asIno(10n ** 9n)).mode, LeaseMode.LEASE_MODE_READ)
  t.equal(leases.grant(a, asIno(10n ** 9n + 1n), 'write').mode, LeaseMode.LEASE_MODE_WRITE)
  t.strictSame(fenced, [])
  t.end()
})

t.test('who wants none is offered none, and gets what it asks for', (t) => {
  const { leases } = table()
  const none = { ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 0n }
  t.strictSame(leases.offer(picky, ino), none)
  t.strictSame(
    leases.offerWrite(picky, ino, (effect) => effect()),
    none,
  )
  t.equal(leases.held(picky, ino), 'none')
  leases.grant(picky, ino, 'read')
  t.equal(leases.offer(picky, ino).mode, LeaseMode.LEASE_MODE_READ, 'what it holds is what it holds')
  t.equal(leases.offer(a, ino).mode, LeaseMode.LEASE_MODE_READ)
  t.end()
})
