/** Which inodes the table keeps when nobody uses them. */
import t from 'tap'
import { Inodes, untoldMax } from '../../../src/client/inode.ts'
import { asIno } from '../../../src/domain/ids.ts'

t.test('an error that nobody was told outlives the last user, the newest of them', async (t) => {
  const inodes = new Inodes(() => undefined)
  const fail = (number: number): void => {
    const inode = inodes.use(asIno(BigInt(number)))
    inode.errors.record('ENOSPC')
    inodes.release(inode)
  }
  const isKept = (number: number): boolean => inodes.get(asIno(BigInt(number)))?.errors.untold === true
  for (let number = 1; number <= untoldMax; number++) fail(number)
  t.ok(isKept(1) && isKept(untoldMax))
  t.ok(inodes.anyUnsettled)
  fail(1)
  fail(untoldMax + 1)
  t.ok(isKept(1) && isKept(untoldMax + 1))
  t.notOk(isKept(2), 'the oldest goes when there are too many')
  const told = inodes.use(asIno(1n))
  t.throws(() => told.errors.tell(), { code: 'ENOSPC' })
  inodes.release(told)
  t.equal(inodes.get(asIno(1n)), undefined, 'what was told is not kept')
})
