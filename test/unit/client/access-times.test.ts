/** When something was read: what counts as a first reading, what is shown meanwhile, and what reaches the master. */
import t from 'tap'
import { accessDelayMs, AccessTimes } from '../../../src/client/access-times.ts'
import type { Attributes } from '../../../src/client/file-system.ts'
import { relatime } from '../../../src/domain/access-time.ts'
import type { AccessTimePolicy } from '../../../src/domain/access-time.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { S_IFDIR, S_IFREG } from '../../../src/domain/mode.ts'
import type { Timespec } from '../../../src/domain/time.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const NOATIME = 0x80
const second = (seconds: number): Timespec => ({ seconds: BigInt(seconds), nanos: 0 })

const attributesOf = (ino: number, changes: Partial<Attributes> = {}): Attributes => ({
  ino: asIno(BigInt(ino)),
  mode: S_IFREG | 0o644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  size: 1n,
  allocated: 4096n,
  atime: second(100),
  mtime: second(100),
  ctime: second(100),
  btime: second(100),
  flags: 0,
  copies: 3,
  change: 1n,
  ...changes,
})

const start = (policy: AccessTimePolicy = relatime) => {
  const clock = manualClock({ wallSeconds: 1000n })
  const sent: Ino[] = []
  let arrive = (): void => {}
  const arrived = { now: true }
  const times = new AccessTimes({
    clock,
    policy,
    send: async (ino) => {
      sent.push(ino)
      if (!arrived.now) await new Promise<void>((resolve) => (arrive = resolve))
    },
    changed: () => undefined,
  })
  return { clock, times, sent, arrived, arrive: () => arrive() }
}

t.test('the first reading after a change is shown at once and sent a little later', async (t) => {
  const { clock, times, sent } = start()
  const file = attributesOf(5)
  times.read(file)
  const shown = times.overlaid(file)
  t.strictSame(shown.atime, clock.wallTime())
  await clock.advance(10)
  times.read(file)
  t.strictSame(times.overlaid(file), shown, 'the second one counts no more')
  t.strictSame(sent, [])
  await clock.advance(accessDelayMs - 100)
  t.strictSame(sent, [])
  await clock.advance(100)
  t.strictSame(sent, [5n])
  t.strictSame(times.overlaid(file), file, 'from now on the master says it')
  t.equal(clock.pending, 0)
})

t.test('what is not noted', async (t) => {
  const { clock, times, sent } = start({ others: 'relative', directories: 'never' })
  times.read(attributesOf(2, { atime: second(500) }))
  times.read(attributesOf(3, { flags: NOATIME }))
  times.read(attributesOf(4, { mode: S_IFDIR | 0o755 }))
  times.read(attributesOf(5, { atime: second(2000), mtime: second(3000) }))
  await clock.advance(2 * accessDelayMs)
  t.strictSame(sent, [], 'unchanged since the last reading, by its flag, by the policy, in the future')
  times.read(attributesOf(6, { atime: second(500), ctime: second(600) }))
  times.read(attributesOf(7, { atime: second(1000 - 90_000), mtime: second(-100_000), ctime: second(-100_000) }))
  await clock.advance(2 * accessDelayMs)
  t.strictSame(sent, [6n, 7n], 'changed since, and a day ago')
})

t.test('a time that is set by hand waits for one that is on its way, and drops one that is not', async (t) => {
  const { clock, times, sent, arrived, arrive } = start()
  const file = attributesOf(5)
  times.read(file)
  await times.settle(file.ino)
  await clock.advance(2000)
  t.strictSame(sent, [])
  arrived.now = false
  times.read(file)
  await clock.advance(accessDelayMs)
  t.strictSame(sent, [5n])
  t.strictSame(times.overlaid(file).atime, second(1002), 'still shown while it is on its way')
  let settled = false
  const settling = times.settle(file.ino).then(() => (settled = true))
  await clock.advance(100)
  t.notOk(settled)
  arrive()
  await settling
  t.strictSame(times.overlaid(file), file)
})

t.test('a bounded number waits', async (t) => {
  const { clock, times, sent } = start()
  for (let ino = 2; ino < 4096 + 2; ino++) times.read(attributesOf(ino))
  await clock.advance(0)
  t.equal(sent.length, 4096)
})
