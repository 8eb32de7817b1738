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
