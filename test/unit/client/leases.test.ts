import t from 'tap'
import { setImmediate as turn } from 'node:timers/promises'
import { Leases } from '../../../src/client/leases.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { LeaseMode } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { Lease } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'

const { LEASE_MODE_NONE: none, LEASE_MODE_READ: read, LEASE_MODE_WRITE: write } = LeaseMode
const ino = asIno(7n)

const setUp = (options: { leasesMax?: number; keeps?: boolean; holdMs?: number } = {}) => {
  const returned: Lease[] = []
  const reduced: [Ino, string][] = []
  const state = { confirmed: true, nowMs: 0, finishReduce: undefined as (() => void) | undefined, slow: false }
  const timers: { ms: number; work: () => void }[] = []
  const pass = async (): Promise<void> => {
    for (const { ms, work } of timers.splice(0)) {
      state.nowMs += ms
      work()
    }
    await turn()
  }
  const leases = new Leases(
    {
      nowMs: () => state.nowMs,
      after: (ms, work) => void timers.push({ ms, work }),
      isConfirmed: () => state.confirmed,
      whenConfirmed: () => Promise.resolve(),
      returnLease: (lease) => returned.push(lease),
    },
    {
      reduce: async (which, to) => {
        reduced.push([which, to])
        if (state.slow) await new Promise<void>((resolve) => (state.finishReduce = resolve))
      },
      staysOpen: () => false,
      gone: () => {},
    },
    { leasesMax: options.leasesMax ?? 100, keeps: options.keeps ?? true, holdMs: options.holdMs ?? 0 },
  )
  return { leases, returned, reduced, state, pass }
}

/** A request whose reply brings this lease after a turn. */
const asking = (leases: Leases, lease: Lease) => async () => {
  await turn()
  leases.granted(lease)
  return lease
}

t.test('a write lease that is used is kept for the time of a hold', async (t) => {
  const { leases, returned, state, pass } = setUp({ holdMs: 5 })
  leases.recalled({ ino, mode: none, grant: 1n })
  const pin = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }))
  pin!.release()
  for (let i = 0; i < 2; i++) {
    leases.touch(ino)
    await pass()
    t.ok(leases.usable(ino, 'write'), 'in the hold')
  }
  leases.recalled({ ino, mode: none, grant: 1n })
  leases.touch(ino)
  await pass()
  t.strictSame(returned, [{ ino, mode: none, grant: 1n }], 'the hold is over')
  t.equal(state.nowMs, 6)

  const again = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 2n }))
  again!.release()
  state.nowMs += 5
  leases.recalled({ ino, mode: none, grant: 2n })
  await turn()
  t.equal(returned.length, 2, 'who has had it for that long does not hold it')
})

t.test('a write lease that nobody uses is given back in spite of the hold', async (t) => {
  const { leases, returned, pass } = setUp({ holdMs: 1000 })
  const pin = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }))
  leases.recalled({ ino, mode: read, grant: 1n })
  leases.recalled({ ino, mode: none, grant: 1n })
  pin!.release()
  await pass()
  t.strictSame(returned, [{ ino, mode: none, grant: 1n }], 'as far as it was wanted last')

  const idle = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 2n }))
  idle!.release()
  leases.recalled({ ino, mode: none, grant: 2n })
  await turn()
  t.equal(returned.length, 2, 'nobody used it when the recall came')

  const next = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 3n }))
  leases.recalled({ ino, mode: none, grant: 3n })
  next!.release()
  leases.lost()
  await pass()
  t.equal(returned.length, 2, 'a lease that is lost is not returned')
})

t.test('a recall waits for pins, then for the flush, and nobody gets in between', async (t) => {
  const { leases, returned, reduced, state } = setUp()
  const pin = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }))
  t.ok(pin)
  state.slow = true
  leases.recalled({ ino, mode: none, grant: 1n })
  t.equal(leases.usable(ino, 'read'), false, 'nothing new begins under it')
  await turn()
  t.strictSame(reduced, [], 'the pin keeps it')
  pin!.release()
  await turn()
  t.strictSame(reduced, [[ino, 'none']])
  let asked = 0
  const next = leases.acquire(ino, 'write', () => {
    asked++
    return asking(leases, { ino, mode: write, grant: 2n })()
  })
  await turn()
  t.equal(asked, 0, 'the next one asks when it is returned')
  t.strictSame(returned, [])
  state.finishReduce!()
  t.ok(await next)
  t.strictSame(returned, [{ ino, mode: none, grant: 1n }])
})

t.test('a recall to read keeps readers', async (t) => {
  const { leases, returned, reduced } = setUp()
  const writer = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }))
  writer!.release()
  const reader = leases.tryPin(ino, 'read')
  leases.recalled({ ino, mode: read, grant: 1n })
  await turn()
  t.strictSame(reduced, [[ino, 'read']])
  t.strictSame(returned, [{ ino, mode: read, grant: 1n }])
  t.ok(leases.usable(ino, 'read'))
  t.notOk(leases.usable(ino, 'write'))
  reader!.release()
})

t.test('a recall that overtakes its grant: the one who asked gets its turn first', async (t) => {
  const { leases, returned } = setUp()
  const pinned = leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 5n }))
  leases.recalled({ ino, mode: none, grant: 5n })
  await turn()
  const pin = await pinned
  t.ok(pin)
  t.strictSame(returned, [], 'not before it is done')
  pin!.release()
  await turn()
  t.strictSame(returned, [{ ino, mode: none, grant: 5n }])
})

t.test('a recall whose grant never comes is answered in the end', (t) => {
  const { leases, returned, state } = setUp()
  leases.recalled({ ino, mode: none, grant: 5n })
  t.strictSame(returned, [])
  state.nowMs = 6_000
  leases.recalled({ ino, mode: none, grant: 5n })
  t.strictSame(returned, [{ ino, mode: none, grant: 5n }])
  leases.granted({ ino, mode: write, grant: 5n })
  t.notOk(leases.holds(ino), 'and what comes late gives nothing')
  t.end()
})

t.test('a late reply does not bring back what was returned', async (t) => {
  const { leases } = setUp()
  leases.granted({ ino, mode: read, grant: 3n })
  leases.recalled({ ino, mode: none, grant: 3n })
  await turn()
  leases.granted({ ino, mode: read, grant: 2n })
  t.notOk(leases.usable(ino, 'read'))
  leases.granted({ ino, mode: read, grant: 4n })
  t.ok(leases.usable(ino, 'read'), 'a newer grant does count')
})

t.test('nothing counts while the session is not confirmed, and a lost session loses pins', async (t) => {
  const { leases, state } = setUp()
  leases.granted({ ino, mode: write, grant: 1n })
  const pin = leases.tryPin(ino, 'read')
  state.confirmed = false
  t.notOk(leases.usable(ino, 'read'))
  t.equal(leases.tryPin(ino, 'read'), undefined)
  leases.lost()
  t.equal(pin?.lost, true)
  t.strictSame(leases.holdings(), [])
})

t.test('more leases than the limit: the least recently used goes back', async (t) => {
  const { leases, returned } = setUp({ leasesMax: 2 })
  for (const number of [1n, 2n]) leases.granted({ ino: number, mode: read, grant: number })
  leases.tryPin(asIno(1n), 'read')!.release()
  leases.granted({ ino: 3n, mode: read, grant: 3n })
  await turn()
  t.strictSame(returned, [{ ino: 2n, mode: none, grant: 2n }])
})

t.test('who gives up waiting for a lease leaves it unpinned', async (t) => {
  const { leases, returned } = setUp()
  const giveUp = new AbortController()
  const waiting = leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }), giveUp.signal)
  giveUp.abort()
  await t.rejects(waiting, { code: 'EINTR' })
  await turn()
  await turn()
  t.ok(leases.holds(ino), 'the lease came all the same')
  leases.recalled({ ino, mode: none, grant: 1n })
  await turn()
  t.strictSame(returned, [{ ino, mode: none, grant: 1n }])
})

t.test('who keeps none uses only what it has just asked for, and gives it back with the last pin', async (t) => {
  const { leases, returned, reduced } = setUp({ keeps: false })
  const first = await leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 1n }))
  t.notOk(leases.usable(ino, 'read'))
  t.equal(leases.usableCached(ino), undefined)
  t.equal(leases.tryPin(ino, 'read'), undefined)
  t.ok(leases.cached(ino), 'but who has the pin has it')
  const second = leases.acquire(ino, 'read', asking(leases, { ino, mode: write, grant: 2n }))
  first!.release()
  t.strictSame(reduced, [], 'somebody is about to need it')
  ;(await second)!.release()
  await turn()
  t.strictSame(reduced, [[ino, 'none']])
  t.strictSame(returned, [{ ino, mode: none, grant: 2n }])
  leases.granted({ ino, mode: write, grant: 3n })
  await turn()
  t.strictSame(returned[1], { ino, mode: none, grant: 3n }, 'one that nobody asked for')
  const giveUp = new AbortController()
  const waiting = leases.acquire(ino, 'write', asking(leases, { ino, mode: write, grant: 4n }), giveUp.signal)
  giveUp.abort()
  await t.rejects(waiting, { code: 'EINTR' })
  await turn()
  await turn()
  t.notOk(leases.holds(ino), 'one that came too late')
})
