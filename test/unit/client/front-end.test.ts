import t from 'tap'
import { Cached } from '../../../src/client/cached.ts'
import type { KnownAttributes } from '../../../src/client/cached.ts'
import { FrontEnd } from '../../../src/client/front-end.ts'
import { Leases } from '../../../src/client/leases.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { LeaseMode } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'

const { LEASE_MODE_READ: read, LEASE_MODE_NONE: none } = LeaseMode
const time = { seconds: 1n, nanos: 0 }
const directory = asIno(5n)
const file = asIno(6n)

const attributes = (ino: Ino, change: bigint): KnownAttributes => ({
  ino,
  mode: 0o100644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  size: 0n,
  allocated: 0n,
  atime: time,
  mtime: { ...time },
  ctime: { ...time },
  btime: { ...time },
  flags: 0,
  copies: 3,
  change,
  hasXattrs: false,
})

const setUp = (options: { canForgetNames?: boolean } = {}) => {
  const said: string[] = []
  const state = {
    nowMs: 1000,
    confirmedForMs: 9000.7,
    pending: undefined as Promise<void> | undefined,
    names: undefined as Promise<void> | undefined,
    listing: undefined as Promise<void> | undefined,
    dropped: Promise.resolve(),
    /** What is to be done when answers have been taken over. */
    afterwards: [] as (() => void)[],
  }
  const leases: Leases = new Leases(
    {
      nowMs: () => state.nowMs,
      after: () => {},
      isConfirmed: () => state.confirmedForMs > 0,
      whenConfirmed: () => Promise.resolve(),
      returnLease: ({ ino }) => said.push(`returned ${ino}`),
    },
    {
      reduce: (ino, _to, cached) => frontEnd.withdraw(ino, cached, { data: false }) ?? Promise.resolve(),
      staysOpen: () => false,
      gone: () => {},
    },
    { leasesMax: 100, keeps: true, holdMs: 0 },
  )
  const frontEnd: FrontEnd = new FrontEnd({
    leases,
    nowMs: () => state.nowMs,
    confirmedForMs: () => state.confirmedForMs,
    later: (ms, work) => {
      if (ms === 0) setImmediate(work)
      else state.afterwards.push(work)
    },
  })
  const attach = (): void =>
    frontEnd.attach({
      canForgetNames: options.canForgetNames ?? true,
      forgetNames: () => {
        said.push('names')
        return state.names
      },
      forgetAttributes: (ino) => {
        said.push(`attributes ${ino}`)
        return state.pending
      },
      forgetListing: (ino) => {
        said.push(`listing ${ino}`)
        return state.listing
      },
      dropData: (ino) => {
        said.push(`data ${ino}`)
        return state.dropped
      },
    })
  for (const ino of [directory, file]) {
    leases.granted({ ino, mode: read, grant: 1n })
    leases.cached(ino)!.learn(attributes(ino, 1n))
  }
  return { leases, frontEnd, attach, said, state }
}

t.test('the front end is told what the lease is certain to last, and nothing without one', (t) => {
  const { frontEnd, attach, state, leases } = setUp()
  t.equal(frontEnd.attributesMs(file), 0, 'there is nobody to take it back from')
  attach()
  t.equal(frontEnd.attributesMs(file), 9000)
  t.equal(frontEnd.namesMs(directory), 9000)
  t.equal(frontEnd.attributesMs(asIno(9n)), 0, 'no lease')
  state.confirmedForMs = 0
  t.equal(frontEnd.namesMs(directory), 0, 'a lease that may be over')
  state.confirmedForMs = 50
  leases.recalled({ ino: directory, mode: none, grant: 1n })
  t.equal(frontEnd.namesMs(directory), 0, 'a lease that is being returned')
  t.end()
})

t.test('names that cannot be taken back are not told', (t) => {
  const { frontEnd, attach } = setUp({ canForgetNames: false })
  attach()
  t.equal(frontEnd.namesMs(directory), 0)
  t.equal(frontEnd.attributesMs(file), 9000)
  t.end()
})

t.test('a lease is returned after what was told under it was taken back', async (t) => {
  const { frontEnd, attach, leases, said, state } = setUp()
  attach()
  frontEnd.namesMs(directory)
  frontEnd.attributesMs(file)
  let settle = (): void => {}
  state.pending = new Promise((resolve) => (settle = resolve))
  leases.recalled({ ino: directory, mode: none, grant: 1n })
  leases.recalled({ ino: file, mode: none, grant: 1n })
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, ['names', `attributes ${file}`, `returned ${directory}`], 'not before that took effect')
  settle()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(said.at(-1), `returned ${file}`)
})

t.test('a lease is returned after the names of a listing were taken back', async (t) => {
  const { frontEnd, attach, leases, said, state } = setUp()
  attach()
  frontEnd.namesMs(directory)
  frontEnd.attributesMs(directory)
  let settle = (): void => {}
  state.names = new Promise((resolve) => (settle = resolve))
  leases.recalled({ ino: directory, mode: none, grant: 1n })
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, ['names', `attributes ${directory}`])
  settle()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(said.at(-1), `returned ${directory}`)
})

t.test('withdrawing data waits until it was dropped', async (t) => {
  const { frontEnd, attach, leases, said, state } = setUp()
  attach()
  let settle = (): void => {}
  state.dropped = new Promise((resolve) => (settle = resolve))
  let done = false
  const withdrawn = Promise.resolve(frontEnd.withdraw(file, leases.cached(file)!, { data: true })).then(
    () => (done = true),
  )
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, [`data ${file}`])
  t.equal(done, false)
  settle()
  await withdrawn
})

t.test('a lease is returned after the listing that was told under it was taken back', async (t) => {
  const { frontEnd, attach, leases, said, state } = setUp()
  const cached = leases.cached(directory)!
  t.equal(frontEnd.keepsListing(cached), false, 'there is nobody to take it back from')
  t.equal(cached.hasListing, false)
  attach()
  t.equal(frontEnd.keepsListing(cached), true)
  let settle = (): void => {}
  state.listing = new Promise((resolve) => (settle = resolve))
  leases.recalled({ ino: directory, mode: none, grant: 1n })
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, [`listing ${directory}`])
  settle()
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, [`listing ${directory}`, `returned ${directory}`])
})

t.test('what nobody believes any more need not be taken back', async (t) => {
  const { frontEnd, attach, leases, said, state } = setUp()
  attach()
  frontEnd.namesMs(directory)
  frontEnd.attributesMs(directory)
  state.nowMs += 60_000
  leases.recalled({ ino: directory, mode: none, grant: 1n })
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(said, [`returned ${directory}`])
})

t.test('a name that moves to where no lease covers it is forgotten', (t) => {
  const { frontEnd, attach, said } = setUp()
  attach()
  const away = asIno(77n)
  frontEnd.moved(directory, away)
  t.strictSame(said, [], 'it was never told')
  frontEnd.namesMs(directory)
  frontEnd.moved(directory, directory)
  frontEnd.moved(directory, file)
  t.strictSame(said, [], 'there is a lease on both')
  frontEnd.moved(directory, away)
  t.strictSame(said, ['names'])
  t.end()
})

t.test(
  'what was told under a lease that was lost: names at once, the rest behind an answer that is awaited',
  async (t) => {
    const { frontEnd, attach, said, leases, state } = setUp()
    const taken = (): void => {
      for (const work of state.afterwards.splice(0)) work()
    }
    attach()
    frontEnd.attributesMs(file)
    frontEnd.namesMs(directory)
    frontEnd.attributesMs(directory)
    const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
    frontEnd.withdrawLost(file, leases.cached(file)!, { data: true })
    await turn()
    t.strictSame(said, [], 'there may be questions that were put before')
    await turn()
    t.strictSame(said.splice(0), [`data ${file}`, `attributes ${file}`])
    frontEnd.withdrawLost(file, leases.cached(file)!, { data: true })
    await turn()
    const wasPutBefore = frontEnd.asks(file)
    await turn()
    await turn()
    t.strictSame(said, [], 'it is being answered')
    wasPutBefore()
    t.strictSame(said, [], 'it has to be taken over')
    taken()
    t.strictSame(said.splice(0), [`data ${file}`, `attributes ${file}`])
    frontEnd.withdrawLost(file, leases.cached(file)!, { data: true })
    await turn()
    frontEnd.asks(file)()
    await turn()
    t.strictSame(said, [], 'it was answered meanwhile')
    taken()
    t.strictSame(said.splice(0), [`data ${file}`, `attributes ${file}`])
    const ends = [frontEnd.asks(file), frontEnd.asks(file), frontEnd.asks(directory)]
    frontEnd.withdrawLost(file, leases.cached(file)!, { data: true })
    frontEnd.withdrawLost(directory, leases.cached(directory)!, { data: false })
    t.strictSame(said.splice(0), ['names'])
    await turn()
    await turn()
    for (const end of ends.slice(0, 2)) {
      t.strictSame(said, [])
      end()
    }
    t.strictSame(said, [], 'the answer is handed over in this turn')
    taken()
    t.strictSame(said, [`data ${file}`, `attributes ${file}`])
  },
)

t.test('attributes: the newest count, times that are equal are kept once', (t) => {
  const cached = new Cached()
  const first = cached.learn(attributes(file, 5n))
  t.equal(first.mtime, first.btime)
  t.equal(first.atime, first.btime)
  t.equal(cached.learn(attributes(file, 4n)), first, 'an older reply tells nothing new')
  const second = cached.learn({ ...attributes(file, 6n), mtime: { seconds: 2n, nanos: 0 } })
  t.strictSame(second.mtime, { seconds: 2n, nanos: 0 })
  t.strictSame(second.ctime, time)
  t.equal(cached.attributes, second)
  t.end()
})
