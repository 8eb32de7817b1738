import t from 'tap'
import { asIno, asSessionId } from '../../../src/domain/ids.ts'
import { OpenTable } from '../../../src/master/opens.ts'

const [one, two] = [asSessionId(1n), asSessionId(2n)]
const [a, b] = [asIno(10n), asIno(11n)]

t.test('an inode is open as long as some session that lives has it open', (t) => {
  const dead = new Set()
  const opens = new OpenTable({ isAlive: (session) => !dead.has(session), fence: () => t.fail('fenced') })
  opens.open(one, a)
  opens.open(one, a)
  opens.open(two, a)
  opens.open(one, b)
  t.equal(opens.countOf(one), 2)
  t.strictSame([opens.isOpen(a), opens.isOpen(a, one), opens.isOpen(b, one)], [true, true, false])
  dead.add(one)
  t.strictSame(opens.dropSession(one), [b])
  // The answer to its last request was on its way to the disk.
  opens.open(one, b)
  t.strictSame([opens.isOpen(b), opens.countOf(one)], [false, 0])
  opens.close(two, a)
  t.equal(opens.isOpen(a), false)
  t.end()
})

t.test('what is promised to a session counts as open until it has the answer, or ends', (t) => {
  const opens = new OpenTable({ isAlive: () => true, fence: () => t.fail('fenced') })
  opens.promise(one, 5n, a)
  opens.promise(one, 7n, b)
  opens.promise(two, 5n, b)
  t.strictSame([opens.isOpen(a), opens.isOpen(a, one), opens.countOf(one)], [true, true, 0])
  t.strictSame(opens.answered(one, 4n), [])
  opens.open(one, a)
  t.strictSame(opens.answered(one, 6n), [], 'it has it open by now')
  opens.close(one, a)
  t.equal(opens.isOpen(a), false)
  opens.open(one, b)
  t.strictSame([opens.dropSession(one), opens.isOpen(b)], [[], true])
  t.strictSame([opens.answered(two, 5n), opens.isOpen(b)], [[b], false])
  t.end()
})
