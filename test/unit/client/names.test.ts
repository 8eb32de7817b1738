import t from 'tap'
import { Cached } from '../../../src/client/cached.ts'
import { noSuchName } from '../../../src/client/directory-names.ts'
import { Names } from '../../../src/client/names.ts'
import { asIno } from '../../../src/domain/ids.ts'

const directory = asIno(5n)
const other = asIno(6n)
const name = (text: string): Buffer => Buffer.from(text)

t.test('names are known by their bytes, until the lease is gone', (t) => {
  const names = new Names({ namesMax: 100 })
  const cached = new Cached()
  names.set(directory, cached, name('a'), asIno(7n))
  names.set(directory, cached, Buffer.from([0xff, 0xfe]), asIno(8n))
  names.set(directory, cached, name('none'), noSuchName)
  t.equal(names.get(cached, name('a')), 7n)
  t.equal(names.get(cached, Buffer.from([0xff, 0xfe])), 8n)
  t.equal(names.get(cached, Buffer.from([0xff, 0xff])), undefined)
  t.equal(names.get(cached, name('none')), noSuchName)
  names.set(directory, cached, name('a'), asIno(9n))
  t.equal(names.count, 3)
  names.remove(cached, name('a'))
  t.equal(names.get(cached, name('a')), undefined)
  names.gone(directory, cached)
  t.equal(names.get(cached, name('none')), undefined)
  t.equal(names.count, 0)
  t.end()
})

t.test('too many names: the directory used least recently is forgotten', (t) => {
  const names = new Names({ namesMax: 6 })
  const [one, two, three] = [new Cached(), new Cached(), new Cached()]
  for (let i = 0; i < 3; i++) names.set(asIno(1n), one, name(`${i}`), asIno(10n))
  for (let i = 0; i < 3; i++) names.set(asIno(2n), two, name(`${i}`), asIno(10n))
  names.set(asIno(1n), one, name('0'), asIno(11n))
  names.set(asIno(3n), three, name('0'), asIno(10n))
  t.equal(names.get(two, name('0')), undefined)
  t.equal(names.get(one, name('0')), 11n)
  t.equal(names.count, 4)
  for (let i = 0; i < 50; i++) names.set(asIno(3n), three, name(`${i}`), asIno(10n))
  t.ok(names.count <= 6, 'also when one directory has more than all may have')
  t.end()
})

t.test('an answer that a change of our own may have overtaken is not kept', (t) => {
  const names = new Names({ namesMax: 100 })
  const before = names.watch(directory)
  const elsewhere = names.watch(other)
  const change = names.begin([directory])
  t.equal(before.spoiled, true, 'asked before the change began')
  const during = names.watch(directory)
  t.equal(during.spoiled, false)
  t.equal(change.end()(directory), true, 'nothing else has changed it')
  t.equal(during.spoiled, true, 'asked before its outcome was known')
  t.equal(elsewhere.spoiled, false)
  const after = names.watch(directory)
  t.equal(after.spoiled, false)
  for (const watch of [before, elsewhere, during, after]) names.unwatch(watch)
  t.end()
})

t.test('of changes that overlap nobody knows in which order they took effect', (t) => {
  const names = new Names({ namesMax: 100 })
  const first = names.begin([directory, other])
  const second = names.begin([directory])
  const isAlone = first.end()
  t.strictSame([isAlone(directory), isAlone(other)], [false, true])
  t.equal(second.end()(directory), false)
  const third = names.begin([directory, directory])
  t.equal(third.end()(directory), true, 'a rename within one directory')
  t.end()
})
