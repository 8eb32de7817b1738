import t from 'tap'
import { agreedVersion, isSpoken, versionRefusal, versionsToSend } from '../../../src/domain/protocol-versions.ts'

const range = (oldest: number, newest: number): { oldest: number; newest: number } => ({ oldest, newest })

t.test('the newest that both know', async (t) => {
  const cases: [ours: [number, number], theirs: [number, number], agreed: number | undefined][] = [
    [[1, 1], [1, 1], 1],
    [[1, 2], [1, 1], 1],
    [[1, 1], [1, 2], 1],
    [[1, 3], [2, 4], 3],
    [[2, 4], [1, 3], 3],
    [[1, 2], [2, 3], 2],
    [[2, 3], [1, 1], undefined],
    [[1, 1], [2, 3], undefined],
  ]
  for (const [ours, theirs, agreed] of cases) {
    const sent = versionsToSend(range(...theirs))
    t.equal(agreedVersion(range(...ours), sent), agreed, `${ours.join('-')} and ${theirs.join('-')}`)
    if (agreed !== undefined) t.ok(isSpoken(range(...ours), agreed) && isSpoken(range(...theirs), agreed))
  }
})

t.test('a process that knows nothing of ranges speaks what it sends', async (t) => {
  const sent = { protocolVersion: 1, protocolVersionNewest: 0 }
  t.equal(agreedVersion(range(1, 2), sent), 1)
  t.equal(agreedVersion(range(2, 3), sent), undefined)
  t.ok(isSpoken(range(1, 2), 0), 'and answers nothing')
  // It compares the number that it knows with what it speaks itself.
  t.equal(versionsToSend(range(1, 2)).protocolVersion, 1)
})

t.test('a refusal says who is to be upgraded', async (t) => {
  t.equal(
    versionRefusal(range(2, 3), versionsToSend(range(1, 1)), 'client'),
    'This master speaks versions 2 to 3 of the protocol, the client version 1. Install a newer Shoal for the client.',
  )
  t.equal(
    versionRefusal(range(1, 1), versionsToSend(range(2, 3)), 'chunk server'),
    'This master speaks version 1 of the protocol, the chunk server versions 2 to 3. Install a newer Shoal for the master.',
  )
})
