import t from 'tap'
import { asIno, asSessionId } from '../../../src/domain/ids.ts'
import type { LockWish } from '../../../src/domain/range-locks.ts'
import { LockTable, lockWaitersPerSessionMax, locksPerSessionMax } from '../../../src/master/locks.ts'

const ino = asIno(5n)
const a = asSessionId(1n)
const b = asSessionId(2n)
const never = new AbortController().signal

const wish = (
  session: typeof a,
  type: LockWish['type'],
  start = 0n,
  end = 99n,
  kind: LockWish['kind'] = 'posix',
  owner = 1n,
): LockWish => ({ session, owner, kind, type, start, end, pid: 1 })

const settled = (promise: Promise<void>): { state: string } => {
  const seen = { state: 'waits' }
  promise.then(
    () => (seen.state = 'has it'),
    (error: { code: string }) => (seen.state = error.code),
  )
  return seen
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

t.test('waiters get their locks in order, and readers together', async (t) => {
  const locks = new LockTable()
  await locks.setlk(ino, wish(a, 'write'), { wait: false, signal: never })
  const reader1 = settled(locks.setlk(ino, wish(b, 'read', 0n, 9n), { wait: true, signal: never }))
  const reader2 = settled(locks.setlk(ino, wish(b, 'read', 0n, 9n, 'posix', 2n), { wait: true, signal: never }))
  const writer = settled(locks.setlk(ino, wish(b, 'write', 50n, 60n, 'posix', 3n), { wait: true, signal: never }))
  await locks.setlk(ino, wish(a, 'unlock', 0n, 20n), { wait: false, signal: never })
  await tick()
  t.equal(reader1.state, 'has it')
  t.equal(reader2.state, 'has it')
  t.equal(writer.state, 'waits')
  locks.dropSession(a)
  await tick()
  t.equal(writer.state, 'has it')
  locks.dropSession(b)
  t.equal(locks.inodes, 0)
})

t.test('a conversion that gets weaker lets others in', async (t) => {
  const locks = new LockTable()
  await locks.setlk(ino, wish(a, 'write'), { wait: false, signal: never })
  const reader = settled(locks.setlk(ino, wish(b, 'read'), { wait: true, signal: never }))
  await locks.setlk(ino, wish(a, 'read'), { wait: false, signal: never })
  await tick()
  t.equal(reader.state, 'has it')
})

t.test('flock: two readers that both upgrade do not wait for each other for ever', async (t) => {
  const locks = new LockTable()
  const whole = (session: typeof a, type: LockWish['type']) => wish(session, type, 0n, 1n << 62n, 'flock')
  await locks.setlk(ino, whole(a, 'read'), { wait: false, signal: never })
  await locks.setlk(ino, whole(b, 'read'), { wait: false, signal: never })
  const first = settled(locks.setlk(ino, whole(a, 'write'), { wait: true, signal: never }))
  await tick()
  t.equal(first.state, 'waits')
  const second = settled(locks.setlk(ino, whole(b, 'write'), { wait: true, signal: never }))
  await tick()
  t.equal(second.state, 'has it', 'the first one gave its lock up to wait')
  t.equal(first.state, 'waits')
  t.throws(() => locks.setlk(ino, whole(a, 'read'), { wait: false, signal: never }), { code: 'EAGAIN' })
  await locks.setlk(ino, whole(b, 'unlock'), { wait: false, signal: never })
  await tick()
  t.equal(first.state, 'has it')
})

t.test('an interrupted waiter is gone and leaves nothing behind', async (t) => {
  const locks = new LockTable()
  await locks.setlk(ino, wish(a, 'write'), { wait: false, signal: never })
  const abort = new AbortController()
  const waiter = settled(locks.setlk(ino, wish(b, 'write'), { wait: true, signal: abort.signal }))
  abort.abort()
  await tick()
  t.equal(waiter.state, 'EINTR')
  await locks.setlk(ino, wish(a, 'unlock'), { wait: false, signal: never })
  t.equal(locks.inodes, 0)
  await locks.setlk(ino, wish(a, 'write'), { wait: false, signal: never })
  t.throws(() => locks.setlk(ino, wish(b, 'write'), { wait: true, signal: abort.signal }), { code: 'EINTR' })
})

t.test('a deadlock over two files is refused, and the end of a session resolves its waits', async (t) => {
  const locks = new LockTable()
  const other = asIno(6n)
  await locks.setlk(ino, wish(a, 'write'), { wait: false, signal: never })
  await locks.setlk(other, wish(b, 'write'), { wait: false, signal: never })
  const waits = settled(locks.setlk(other, wish(a, 'write'), { wait: true, signal: never }))
  t.throws(() => locks.setlk(ino, wish(b, 'write'), { wait: true, signal: never }), { code: 'EDEADLK' })
  locks.dropSession(a)
  await tick()
  t.equal(waits.state, 'ESTALE')
  await locks.setlk(ino, wish(b, 'write'), { wait: false, signal: never })
})

t.test('limits', async (t) => {
  const locks = new LockTable()
  await locks.setlk(ino, wish(b, 'write'), { wait: false, signal: never })
  const waiting = Array.from({ length: lockWaitersPerSessionMax }, () =>
    locks.setlk(ino, wish(a, 'write'), { wait: true, signal: new AbortController().signal }).catch(() => undefined),
  )
  t.throws(() => locks.setlk(ino, wish(a, 'write'), { wait: true, signal: never }), { code: 'ENOLCK' })
  locks.dropSession(a)
  await Promise.all(waiting)
  for (let i = 0; i < locksPerSessionMax; i++) {
    const file = asIno(BigInt(100 + Math.floor(i / 100)))
    const start = BigInt((i % 100) * 10)
    await locks.setlk(file, wish(a, 'read', start, start), { wait: false, signal: never })
  }
  t.throws(() => locks.setlk(asIno(1n), wish(a, 'read'), { wait: false, signal: never }), { code: 'ENOLCK' })
  await locks.setlk(asIno(100n), wish(a, 'unlock', 0n, 0n), { wait: false, signal: never })
  await locks.setlk(asIno(1n), wish(a, 'read'), { wait: false, signal: never })
})
