import t from 'tap'
import { kernelInvalidations } from '../../../mount/kernel-invalidations.ts'
import type { Sent } from '../../../mount/device.ts'
import { asIno } from '../../../src/domain/ids.ts'
import { DoubtfulListings } from '../../../mount/doubtful-listings.ts'
import { UntakenAnswers } from '../../../mount/untaken-answers.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const ino = asIno(9n)

const setUp = (options: { minor?: number; cacheNames?: boolean } = {}) => {
  const clock = manualClock()
  const listings = new UntakenAnswers()
  const made = new UntakenAnswers()
  const state = {
    outcome: 'sent' as Sent,
    referenced: true,
    busy: false,
    sent: [] as string[],
    notified: [] as ((() => void) | undefined)[],
  }
  const device = {
    send: (head: Buffer): Sent => {
      state.sent.push(head.toString('hex', 4, 8))
      return state.outcome
    },
    notify: (_message: Buffer, done?: () => void): void => void state.notified.push(done),
  }
  const doubtful = new DoubtfulListings(device, clock, listings)
  const invalidations = kernelInvalidations({
    clock,
    listings,
    made,
    doubtful,
    cacheNames: options.cacheNames ?? true,
    dispatcher: {
      nodeIdOf: (which) => which,
      isReferenced: () => state.referenced,
      isDataBusy: () => state.busy,
      minor: () => options.minor ?? 44,
    },
    device,
  })
  return { clock, state, listings, made, doubtful, invalidations }
}

t.test('what the kernel has is taken back at once', (t) => {
  const { state, invalidations } = setUp()
  t.equal(invalidations.forgetAttributes(ino), undefined)
  t.equal(invalidations.forgetNames(ino), undefined)
  t.strictSame(state.sent, ['02000000', '08000000'], 'INVAL_INODE, INC_EPOCH')
  void invalidations.dropData(ino, { offset: 0n, length: -1n })
  t.equal(state.notified.length, 1, 'that may wait for locks')
  t.end()
})

t.test('what the kernel does not have is forgotten, when it was never told of it', (t) => {
  const { state, invalidations } = setUp()
  state.outcome = 'gone'
  state.referenced = false
  t.equal(invalidations.forgetAttributes(ino), undefined)
  t.end()
})

t.test('an answer that the kernel has not got to yet is waited for', async (t) => {
  const { clock, state, invalidations } = setUp()
  state.outcome = 'gone'
  let done = false
  const told = Promise.resolve(invalidations.forgetAttributes(ino)).then(() => (done = true))
  await clock.advance(5)
  t.equal(done, false)
  t.ok(state.sent.length > 2, 'tried again')
  state.outcome = 'sent'
  await clock.advance(1)
  await told
  t.equal(done, true)

  state.outcome = 'gone'
  const forgotten = invalidations.forgetAttributes(ino)
  t.ok(forgotten)
  state.referenced = false
  await clock.advance(1)
  await forgotten
})

t.test('a mount that is gone believes nothing', (t) => {
  const { state, invalidations } = setUp()
  state.outcome = 'ended'
  t.equal(invalidations.forgetAttributes(ino), undefined)
  t.end()
})

t.test('kernels that cannot forget names, and mounts that must not', (t) => {
  t.equal(setUp({ minor: 43 }).invalidations.canForgetNames, false)
  t.equal(setUp({ minor: 44 }).invalidations.canForgetNames, true)
  t.equal(setUp({ cacheNames: false }).invalidations.canForgetNames, false)
  t.end()
})

t.test('names of a listing that the kernel has not read yet', async (t) => {
  const { clock, state, listings, invalidations } = setUp()
  const epoch = '08000000'
  for (const how of ['its reader goes on', 'the kernel says so', 'too long'] as const) {
    state.sent.length = 0
    listings.told(1n, ino)
    listings.told(2n, asIno(10n))
    let done = false
    const forgotten = Promise.resolve(invalidations.forgetNames(ino)).then(() => (done = true))
    await clock.advance(3000)
    t.equal(done, false, how)
    t.strictSame(state.sent, [epoch], 'what was not in the listing is forgotten at once')
    if (how === 'its reader goes on') listings.taken(1n)
    if (how === 'the kernel says so') state.notified.at(-1)?.()
    if (how === 'too long') await clock.advance(1000)
    await forgotten
    t.strictSame(state.sent, [epoch, epoch], 'then what was')
    t.equal(listings.isUntaken(asIno(10n)), true, 'another directory')
    t.equal(clock.pending, 0)
    for (const locked of state.notified.splice(0)) locked?.()
  }
})

t.test('the lock of a directory is asked for once, and again when something was told meanwhile', async (t) => {
  const { state, listings, invalidations } = setUp()
  let done = 0
  const forget = (): Promise<number> => Promise.resolve(invalidations.forgetNames(ino)).then(() => done++)
  listings.told(1n, ino)
  const first = [forget(), forget()]
  t.equal(state.notified.length, 1)
  listings.told(2n, ino)
  const second = forget()
  t.equal(state.notified.length, 1)
  state.notified.shift()?.()
  await Promise.all(first)
  t.equal(done, 2)
  t.equal(listings.isUntaken(ino), true)
  t.equal(state.notified.length, 1)
  state.notified.shift()?.()
  await second
  t.equal(listings.isUntaken(ino), false)
  t.equal(state.notified.length, 0)
})

t.test('a listing is in doubt until its pages are gone, and those that are on their way', async (t) => {
  const { clock, state, listings, doubtful, invalidations } = setUp()
  let done = false
  const forget = (): Promise<boolean> => Promise.resolve(invalidations.forgetListing(ino)).then(() => (done = true))
  const forgotten = forget()
  t.equal(doubtful.has(ino), true)
  t.strictSame(state.sent, ['02000000'], 'its attributes are believed no longer')
  t.equal(state.notified.length, 1)
  await clock.advance(1000)
  t.equal(done, false)
  state.notified.shift()?.()
  await forgotten
  t.equal(doubtful.has(ino), false)

  done = false
  listings.told(1n, ino)
  const later = forget()
  await clock.advance(1000)
  t.equal(state.notified.length, 1, 'what takes the lock of the directory')
  state.notified.shift()?.()
  await clock.advance(1)
  t.equal(done, false)
  t.equal(state.notified.length, 1, 'then what takes its pages')
  doubtful.add(ino)
  state.notified.shift()?.()
  await later
  t.equal(doubtful.has(ino), true, 'something was told meanwhile')

  done = false
  const slow = forget()
  await clock.advance(4000)
  await slow
  t.equal(doubtful.has(ino), true, 'the kernel was not through with it')
  t.equal(clock.pending, 0)
})

t.test(
  'attributes of what was made just now, which the kernel takes for new ones whatever it was told before',
  async (t) => {
    const inval = '02000000'
    for (const how of ['it is used', 'the directory changes', 'the kernel says so', 'too long'] as const) {
      const { clock, state, made, invalidations } = setUp()
      made.told(ino, 2n)
      made.told(10n, 3n)
      let done = false
      const forgotten = Promise.resolve(invalidations.forgetAttributes(ino)).then(() => (done = true))
      await clock.advance(3000)
      t.equal(done, false, how)
      t.equal(state.notified.length, 1, 'what takes the lock of the directory tells when the kernel is through with it')
      t.strictSame(state.sent, [], 'before that it would be of no use')
      // The kernel has not yet got to the answer when it is asked for the first time.
      state.outcome = 'gone'
      if (how === 'it is used') made.taken(ino)
      if (how === 'the directory changes') made.allTaken(2n)
      if (how === 'the kernel says so') state.notified[0]?.()
      await clock.advance(1000)
      t.equal(done, false)
      state.outcome = 'sent'
      await clock.advance(1)
      await forgotten
      t.equal(state.sent.at(-1), inval)
      t.equal(made.isUntaken(3n), true, 'another directory')
      t.equal(invalidations.forgetAttributes(ino), undefined, 'at once from now on')
      t.equal(clock.pending, 0)
    }
  },
)

t.test('what is made while the kernel is asked whether it is through is not taken for taken over', async (t) => {
  const { clock, state, made, invalidations } = setUp()
  const later = asIno(11n)
  made.told(ino, 2n)
  const first = invalidations.forgetAttributes(ino)
  made.allTaken(2n)
  made.told(later, 2n)
  await first
  state.notified[0]?.()
  t.equal(made.directoryOf(later), 2n)
  let done = false
  const second = Promise.resolve(invalidations.forgetAttributes(later)).then(() => (done = true))
  await clock.advance(5)
  t.equal(done, false)
  state.notified[1]?.()
  await second
  t.equal(clock.pending, 0)
})

t.test('pages are dropped before anybody goes on, unless an operation holds them', async (t) => {
  const { clock, state, invalidations } = setUp()
  let dropped = 0
  const drop = (): Promise<number> => invalidations.dropData(ino, { offset: 0n, length: -1n }).then(() => dropped++)
  const told = drop()
  await clock.advance(5)
  t.equal(dropped, 0)
  state.notified.at(-1)?.()
  await told
  t.equal(dropped, 1)

  const held = drop()
  await clock.advance(5)
  state.busy = true
  await clock.advance(1)
  await held
  t.equal(dropped, 2, 'a READ that came meanwhile')
  await drop()
  t.equal(dropped, 3, 'one that was there before')
  await clock.advance(5)
  t.equal(clock.pending, 0)
})

t.test('pages that others hold up from being dropped do not keep a lease for ever', async (t) => {
  const { clock, state, invalidations } = setUp()
  state.busy = true
  for (const held of [1n, 2n]) await invalidations.dropData(asIno(held), { offset: 0n, length: -1n })
  state.busy = false
  let dropped = false
  // Behind two that wait for an operation which waits for what another mount does not give back before it gets this.
  const drop = invalidations.dropData(ino, { offset: 0n, length: -1n }).then(() => {
    dropped = true
  })
  await clock.advance(3000)
  t.equal(dropped, false)
  await clock.advance(1500)
  await drop
  for (const done of state.notified) done?.()
  await clock.advance(5)
  t.equal(clock.pending, 0)
})
