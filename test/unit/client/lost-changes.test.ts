import t from 'tap'
import { LostChanges } from '../../../src/client/lost-changes.ts'
import type { JournalEntry } from '../../../src/client/journal.ts'
import { asIno } from '../../../src/domain/ids.ts'

const entry = (maker: number | undefined, ...directories: bigint[]): JournalEntry => {
  const inos = directories.map(asIno)
  return {
    wire: { time: undefined, ino: 0n, replaced: 0n, op: undefined },
    inos,
    directories: inos,
    maker,
    bytes: 0,
    isSent: true,
  }
}

t.test('once to each caller who made a change, and to somebody else what nobody was told', (t) => {
  const lost = new LostChanges()
  const one = asIno(1n)
  lost.record(entry(100, 1n, 2n))
  lost.record(entry(101, 1n))
  lost.record(entry(101, 1n))
  t.throws(() => lost.check(one, 7), { code: 'EIO' }, 'the first one')
  lost.check(one, 7)
  lost.check(one, 8)
  t.throws(() => lost.check(one, 100), { code: 'EIO' }, 'whose change it was')
  lost.check(one, 100)
  t.throws(() => lost.check(one, 101), { code: 'EIO' })
  lost.check(one, 101)
  lost.check(asIno(3n), 100)
  t.throws(() => lost.check(asIno(2n), 100), { code: 'EIO' }, 'each directory of a change')
  lost.check(asIno(2n), 8)
  lost.record(entry(100, 1n))
  t.throws(() => lost.check(one, 100), { code: 'EIO' }, 'the next loss')
  lost.record(entry(undefined, 1n))
  t.throws(() => lost.check(one, 8), { code: 'EIO' }, 'a change that nobody in particular has made')
  lost.check(one, 9)
  t.end()
})

t.test('a session that is lost with a full journal: all directories are known', (t) => {
  const lost = new LostChanges()
  lost.record(entry(1, ...Array.from({ length: 16_384 }, (_, i) => BigInt(i + 1))))
  lost.record(entry(1, 20_000n))
  lost.check(asIno(1n), 1)
  t.throws(() => lost.check(asIno(2n), 1), { code: 'EIO' }, 'the oldest one is forgotten, and no other')
  t.end()
})
