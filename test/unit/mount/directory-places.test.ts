import t from 'tap'
import { DirectoryPlaces } from '../../../mount/directory-places.ts'
import { nameInvalidation } from '../../../mount/protocol.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const at = (parent: bigint, name: string): { parent: bigint; name: Buffer } => ({ parent, name: Buffer.from(name) })

const setUp = (cacheNames = true) => {
  const clock = manualClock()
  const sent: { message: Buffer; done: () => void }[] = []
  const places = new DirectoryPlaces({
    clock,
    cacheNames,
    notify: (message, done) => void sent.push({ message, done }),
  })
  return { clock, sent, places }
}

t.test('a directory that is found in another one leaves its old name first', async (t) => {
  const { places, sent } = setUp()
  t.equal(places.told(at(1n, 'a'), 10n), undefined)
  t.equal(places.told(at(1n, 'a'), 10n), undefined, 'where it was')
  const left = places.told(at(2n, 'b'), 10n)
  t.strictSame(
    sent.map(({ message }) => message),
    [nameInvalidation(1n, Buffer.from('a'))],
  )
  t.equal(places.told(at(2n, 'b'), 10n), left, 'who asks again waits for the same')
  sent[0]!.done()
  await left
  t.equal(places.told(at(2n, 'b'), 10n), undefined)
})

t.test('the wait has an end', async (t) => {
  const { places, clock } = setUp()
  void places.told(at(1n, 'a'), 10n)
  const left = places.told(at(2n, 'a'), 10n)
  await clock.advance(20)
  await left
  t.equal(places.told(at(2n, 'a'), 10n), undefined)
})

t.test('nothing is to be left', (t) => {
  const { places, sent } = setUp()
  const none = (directory: bigint, parent: bigint, name: string, why: string): void => {
    t.equal(places.told(at(parent, name), directory), undefined, why)
  }
  none(10n, 1n, 'a', 'new')
  none(10n, 1n, 'b', 'in the same directory')
  places.renamed(at(1n, 'b'), at(2n, 'b'), false)
  none(10n, 2n, 'b', 'the kernel has moved it itself')
  none(11n, 1n, 'b', 'another one')
  places.renamed(at(2n, 'b'), at(1n, 'b'), true)
  none(10n, 1n, 'b', 'exchanged')
  none(11n, 2n, 'b', 'exchanged')
  none(12n, 1n, 'b', 'something else is there now')
  none(10n, 3n, 'b', 'its old name leads elsewhere')
  void places.told(at(3n, 'b'), undefined)
  none(10n, 4n, 'b', 'its old name leads to a file')
  places.forgotten(10n)
  none(10n, 5n, 'b', 'it was forgotten')
  t.strictSame(sent, [])
  t.end()
})

t.test('a kernel that keeps no names keeps what is in use', (t) => {
  const { places, sent } = setUp(false)
  void places.told(at(1n, 'a'), 10n)
  t.equal(places.told(at(2n, 'a'), 10n), undefined)
  t.strictSame(sent, [])
  t.end()
})
