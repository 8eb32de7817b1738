import t from 'tap'
import { ByteBudget } from '../../../src/client/byte-budget.ts'
import { ReadWriteLock } from '../../../src/client/read-write-lock.ts'
import { WriteErrors } from '../../../src/client/write-errors.ts'
import { UnsyncedChunks } from '../../../src/client/unsynced-chunks.ts'
import { asChunkId } from '../../../src/domain/ids.ts'

t.test('ReadWriteLock: order of arrival, interrupted waiters leave no gap', async (t) => {
  const lock = new ReadWriteLock()
  const order: string[] = []
  const first = await lock.shared()
  const giveUp = new AbortController()
  const interrupted = lock.exclusive(giveUp.signal)
  const second = lock.shared().then((release) => {
    order.push('shared')
    return release
  })
  t.notOk(lock.tryShared(), 'a waiting writer is not overtaken')
  giveUp.abort()
  await t.rejects(interrupted, { code: 'EINTR' })
  const releaseSecond = await second
  const exclusive = lock.exclusive().then((release) => {
    order.push('exclusive')
    return release
  })
  first()
  releaseSecond()
  const releaseExclusive = await exclusive
  t.notOk(lock.tryShared())
  releaseExclusive()
  t.ok(lock.free)
  t.strictSame(order, ['shared', 'exclusive'])
})

t.test('ByteBudget: waits, keeps the order, lets one large request in', async (t) => {
  const budget = new ByteBudget(100)
  t.ok(budget.tryTake(1000), 'alone, anything fits')
  t.notOk(budget.tryTake(1))
  const order: number[] = []
  const waiters = [60, 50, 10].map((bytes) => budget.take(bytes).then(() => order.push(bytes)))
  budget.give(1000)
  await waiters[0]
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(order, [60], 'nobody overtakes the one that does not fit yet')
  t.ok(budget.short)
  budget.give(60)
  await Promise.all(waiters)
  t.equal(budget.taken, 60)
})

t.test('WriteErrors: once per handle, and to a later one what nobody was told', (t) => {
  const errors = new WriteErrors()
  const early = errors.cursor()
  errors.record('ENOSPC')
  const late = errors.cursor()
  t.throws(() => errors.check(early), { code: 'ENOSPC' })
  errors.check(early)
  t.throws(() => errors.check(late), { code: 'ENOSPC' })
  errors.check(errors.cursor())
  t.notOk(errors.untold)
  t.end()
})

t.test('UnsyncedChunks: a sync covers what was there when it began', (t) => {
  const unsynced = new UnsyncedChunks()
  const chunk = asChunkId(3n)
  unsynced.add(chunk, 0)
  const synced = unsynced.begin()
  unsynced.add(chunk, 5)
  synced(chunk)
  t.ok(unsynced.has(chunk), 'more was appended meanwhile')
  unsynced.begin()(chunk)
  t.notOk(unsynced.has(chunk))
  t.end()
})
