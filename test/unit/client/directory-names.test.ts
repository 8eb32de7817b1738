import t from 'tap'
import { DirectoryNames, noSuchName } from '../../../src/client/directory-names.ts'
import type { NamedInode } from '../../../src/client/directory-names.ts'
import { asIno } from '../../../src/domain/ids.ts'
import { cookieFirst } from '../../../src/domain/limits.ts'
import { S_IFDIR, S_IFREG } from '../../../src/domain/mode.ts'

const parent = asIno(1n)
const entry = (key: string, ino: bigint, cookie: bigint): NamedInode => ({
  key,
  ino: asIno(ino),
  type: S_IFREG,
  cookie,
})
const shown = (names: DirectoryNames, after = 0n): [string, bigint, bigint][] | undefined => {
  const entries = names.after(after)
  return entries && [...entries].map(({ key, ino, cookie }) => [key, ino, cookie])
}

t.test('whoever alone fills a directory knows each cookie', (t) => {
  const names = DirectoryNames.ofEmpty(parent)
  t.equal(names.isEmpty, true)
  names.put('a', asIno(10n), S_IFREG)
  names.put('b', asIno(11n), S_IFDIR)
  names.put('c', asIno(12n), S_IFREG)
  t.equal(names.isEmpty, false)
  t.equal(names.get('none'), noSuchName)
  // b is removed; a is renamed to d; e takes the place of c, and with it its cookie.
  names.vanished('b')
  names.vanished('a')
  names.put('d', asIno(10n), S_IFREG)
  names.put('c', asIno(13n), S_IFREG)
  t.strictSame(shown(names), [
    ['c', 13n, cookieFirst + 2n],
    ['d', 10n, cookieFirst + 3n],
  ])
  t.strictSame(shown(names, cookieFirst + 2n), [['d', 10n, cookieFirst + 3n]])
  names.vanished('c')
  names.vanished('d')
  t.equal(names.isEmpty, true)
  t.strictSame(shown(names), [])
  t.end()
})

t.test('a listing that was read from its start to its end is complete', (t) => {
  const names = new DirectoryNames()
  names.learn('b', asIno(21n))
  names.learn('none', noSuchName)
  t.equal(shown(names), undefined)
  names.listed({
    after: 0n,
    entries: [entry('a', 20n, 3n), entry('b', 21n, 5n)],
    end: false,
    parent,
    nextCookie: 0n,
  })
  t.equal(names.isComplete, false)
  t.equal(names.get('c'), undefined)
  names.listed({ after: 5n, entries: [entry('c', 22n, 9n)], end: true, parent, nextCookie: 12n })
  t.equal(names.isComplete, true)
  t.equal(names.get('d'), noSuchName)
  names.put('e', asIno(23n), S_IFREG)
  t.strictSame(shown(names), [
    ['a', 20n, 3n],
    ['b', 21n, 5n],
    ['c', 22n, 9n],
    ['e', 23n, 12n],
  ])
  t.end()
})

t.test('parts that leave something out between them are not', (t) => {
  const names = new DirectoryNames()
  const page = { parent, nextCookie: 20n }
  names.listed({ ...page, after: 0n, entries: [entry('a', 20n, 3n)], end: false })
  names.listed({ ...page, after: 7n, entries: [entry('c', 22n, 9n)], end: true })
  t.equal(names.isComplete, false)
  names.listed({ ...page, after: undefined, entries: [entry('x', 29n, 4n)], end: true })
  t.equal(names.isComplete, false, 'entries that somebody wanted to remove')
  names.listed({ ...page, after: 3n, entries: [entry('x', 29n, 4n), entry('b', 21n, 7n)], end: false })
  t.equal(names.isComplete, false, 'the end was read before')
  names.listed({ ...page, after: 7n, entries: [entry('c', 22n, 9n)], end: true })
  t.strictSame(shown(names), [
    ['a', 20n, 3n],
    ['x', 29n, 4n],
    ['b', 21n, 7n],
    ['c', 22n, 9n],
  ])
  t.end()
})

t.test('after a change by the master nothing has a place until the directory was listed again', (t) => {
  const names = DirectoryNames.ofEmpty(parent)
  names.put('a', asIno(10n), S_IFREG)
  names.unknown('b')
  t.equal(names.isComplete, false)
  t.equal(names.get('b'), undefined)
  names.learn('b', asIno(11n))
  names.completeAgain()
  t.equal(names.get('c'), noSuchName)
  t.equal(shown(names), undefined, 'where b stands is not known')
  names.put('c', asIno(12n), S_IFREG)
  t.equal(shown(names), undefined)
  const entries = [entry('a', 10n, 3n), entry('b', 11n, 4n), entry('c', 12n, 5n)]
  names.listed({ after: 0n, entries, end: true, parent, nextCookie: 6n })
  t.strictSame(shown(names)?.length, 3)
  t.end()
})

t.test('a master that does not tell the next cookie', (t) => {
  const names = new DirectoryNames()
  names.listed({ after: 0n, entries: [entry('a', 10n, 3n)], end: true, parent, nextCookie: 0n })
  t.equal(shown(names)?.length, 1)
  names.put('b', asIno(11n), S_IFREG)
  t.equal(shown(names), undefined)
  names.vanished('b')
  t.equal(shown(names)?.length, 1)
  t.end()
})

t.test('what is gone does not stay in memory', (t) => {
  const names = DirectoryNames.ofEmpty(parent)
  for (let i = 0; i < 10_000; i++) {
    names.put(`f${i}`, asIno(BigInt(100 + i)), S_IFREG)
    if (i >= 10) names.vanished(`f${i - 10}`)
  }
  t.equal(names.size, 10)
  t.strictSame(
    shown(names)?.map(([key]) => key),
    Array.from({ length: 10 }, (_, i) => `f${9990 + i}`),
  )
  t.end()
})
