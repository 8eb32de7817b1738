import t from 'tap'
import { LostChanges } from '../../../src/client/lost-changes.ts'
import type { JournalEntry } from '../../../src/client/journal.ts'
import { asIno } from '../../../src/domain/ids.ts'

const entry = (...directories: bigint[]): JournalEntry => {
  const inos = directories.map(asIno)
  return {
    wire: { time: undefined, ino: 0n, replaced: 0n, op: undefined },
    inos,
    directories: inos,
    bytes: 0,
    isSent: true,
  }
}

t.test('once per handle, and to a later one what nobody was told', (t) => {
  const lost = new LostChanges()
  const one = asIno(1n)
  const early = lost.cursor(one)
  const elsewhere = lost.cursor(asIno(3n))
  lost.record(entry(1n, 2n))
  lost.record(entry(1n))
  const late = lost.cursor(one)
  t.throws(() => lost.check(one, early), { code: 'EIO' })
  lost.check(one, early)
  t.throws(() => lost.check(one, late), { code: 'EIO' })
  lost.check(one, lost.cursor(one))
  lost.check(asIno(3n), elsewhere)
  t.throws(() => lost.check(asIno(2n), lost.cursor(asIno(2n))), { code: 'EIO' }, 'each directory of a change')
  lost.record(entry(1n))
  t.throws(() => lost.check(one, early), { code: 'EIO' }, 'the next loss')
  t.end()
})

t.test('a session that is lost with a full journal: all directories are known', (t) => {
  const lost = new LostChanges()
  const directories = Array.from({ length: 16_384 }, (_, i) => BigInt(i + 1))
  const cursor = lost.cursor(asIno(1n))
  lost.record(entry(...directories))
  t.throws(() => lost.check(asIno(1n), { ...cursor }), { code: 'EIO' })
  lost.record(entry(20_000n))
  lost.check(asIno(1n), { ...cursor })
  t.throws(() => lost.check(asIno(2n), { ...cursor }), { code: 'EIO' }, 'the oldest one is forgotten, and no other')
  t.end()
})
