import t from 'tap'
import { FilesAhead } from '../../../src/client/files-ahead.ts'
import { asIno } from '../../../src/domain/ids.ts'

const read = (ahead: FilesAhead, ino: number): number[] => ahead.read(asIno(BigInt(ino))).map(Number)

t.test('who reads one file after the other is told the next ones before he needs them', (t) => {
  const ahead = new FilesAhead()
  t.strictSame(read(ahead, 100), [], 'a single file says nothing')
  const told = new Map<number, number>()
  let asked = 0
  for (let ino = 101; ino < 600; ino++) {
    const next = read(ahead, ino)
    if (next.length > 0) asked++
    t.ok(next.length <= 64)
    for (const one of next) {
      t.notOk(told.has(one), `${one} is told once`)
      told.set(one, ino)
    }
    if (ino > 101) t.ok(told.get(ino)! < ino, `${ino} was told before`)
  }
  t.ok(asked < 25, `${asked} times for 500 files`)
  t.end()
})

t.test('files that nobody reads lie between, and several readers do not disturb each other', (t) => {
  const ahead = new FilesAhead()
  const starts = [1000, 5000, 9000]
  let told = 0
  for (let step = 0; step < 50; step++) for (const start of starts) told += read(ahead, start + step * 5).length
  t.ok(told > 600)
  t.end()
})

t.test('who reads here and there is told nothing', (t) => {
  const ahead = new FilesAhead()
  let ino = 1000
  for (let step = 0; step < 200; step++) {
    ino = (ino * 7919 + 1000) % 100_003
    t.strictSame(read(ahead, ino), [])
  }
  t.strictSame(read(ahead, ino), [], 'the same file twice')
  t.end()
})
