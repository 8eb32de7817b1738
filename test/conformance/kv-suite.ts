/** What every KvEngine must do, as tests. The factory gives an empty engine; `reopen` closes it and opens the same data again. */
import type { Test } from 'tap'
import type { KvChange, KvEngine, KvEntry } from '../../src/platform/kv-engine.ts'
import { seededRandom } from '../lib/seeded-random.ts'

export interface KvFixture {
  engine: KvEngine
  reopen: (engine: KvEngine) => Promise<KvEngine>
}

const key = (text: string): Buffer => Buffer.from(text)
const put = (name: string, value: string): KvChange => ({ type: 'put', key: key(name), value: Buffer.from(value) })
const del = (name: string): KvChange => ({ type: 'del', key: key(name) })
const shown = (entries: readonly KvEntry[]): string[] =>
  entries.map(({ key, value }) => `${String(key)}=${String(value)}`)
const all = { gte: Buffer.from([0]), lt: Buffer.from([0xff, 0xff, 0xff]), limit: 100_000 }
const synced = { sync: true }

export const kvSuite = (t: Test, name: string, factory: (t: Test) => Promise<KvFixture>): Promise<unknown> =>
  t.test(name, async (t) => {
    const open = async (t: Test): Promise<KvEngine> => {
      const { engine } = await factory(t)
      t.teardown(() => engine.close())
      return engine
    }

    await t.test('what was put is there, what was deleted or never put is undefined', async (t) => {
      const engine = await open(t)
      t.equal(await engine.get(key('a')), undefined)
      await engine.write([put('a', '1'), put('b', '2'), put('empty', '')], synced)
      t.equal(String(await engine.get(key('a'))), '1')
      t.equal((await engine.get(key('empty')))?.length, 0)
      await engine.write([del('a'), del('never')], { sync: false })
      t.equal(await engine.get(key('a')), undefined)
      t.same(
        (await engine.getMany([key('b'), key('a'), key('b')])).map((value) => value && String(value)),
        ['2', undefined, '2'],
      )
      t.same(await engine.getMany([]), [])
    })

    await t.test('the changes of a batch apply in their order', async (t) => {
      const engine = await open(t)
      await engine.write([put('a', '1'), del('a'), put('a', '2'), put('b', '1'), del('b')], synced)
      t.same(shown(await engine.range(all)), ['a=2'])
    })

    await t.test('batches apply in the order of the calls, whoever waits for them', async (t) => {
      const engine = await open(t)
      const writes: Promise<void>[] = []
      for (let i = 0; i < 300; i++)
        writes.push(engine.write([put('a', String(i)), put(`n${i}`, '')], { sync: i % 3 === 0 }))
      await Promise.all(writes)
      t.equal(String(await engine.get(key('a'))), '299')
      t.equal((await engine.range({ gte: key('n'), lt: key('o'), limit: 1000 })).length, 300)
    })

    await t.test(
      'a snapshot has what was there when it was taken, whole batches, and lets the engine go on',
      async (t) => {
        const engine = await open(t)
        const names = Array.from({ length: 500 }, (_, i) => `k${String(i).padStart(3, '0')}`)
        await engine.write(
          names.map((name) => put(name, 'old')),
          synced,
        )
        const snapshot = engine.openSnapshot()
        const first = await snapshot.read(10)
        await engine.write([put('k400', 'new'), del('k450'), put('later', '1')], synced)
        const rest: KvEntry[] = []
        for (let page = await snapshot.read(100); page.length > 0; page = await snapshot.read(100)) rest.push(...page)
        t.same(
          shown([...first, ...rest]),
          names.map((name) => `${name}=old`),
        )
        await snapshot.close()
        await snapshot.close()
        t.equal(String(await engine.get(key('k400'))), 'new')
        // One that is left open does not keep the engine from closing.
        await engine.openSnapshot().read(1)
      },
    )

    await t.test('an empty batch is fine', async (t) => {
      const engine = await open(t)
      await engine.write([], synced)
      await engine.write([], { sync: false })
      t.same(await engine.range(all), [])
    })

    await t.test('ranges: bounds, limit, both directions, bytewise order', async (t) => {
      const engine = await open(t)
      const names = [[1], [1, 0], [1, 0xff], [2], [0x7f], [0x80], [0xfe]].map((bytes) => Buffer.from(bytes))
      await engine.write(
        names.toReversed().map((each) => ({ type: 'put', key: each, value: each })),
        synced,
      )
      const range = async (gte: number[], lt: number[], limit: number, reverse = false): Promise<string[]> =>
        (await engine.range({ gte: Buffer.from(gte), lt: Buffer.from(lt), limit, reverse })).map(({ key, value }) => {
          if (!key.equals(value)) throw new Error('a value of another key')
          return key.toString('hex')
        })
      t.same(await range([0], [0xff], 100), ['01', '0100', '01ff', '02', '7f', '80', 'fe'])
      t.same(await range([1], [2], 100), ['01', '0100', '01ff'], 'the end is exclusive')
      t.same(await range([1, 0], [0x80], 2), ['0100', '01ff'])
      t.same(await range([1, 0], [0x80], 2, true), ['7f', '02'])
      t.same(await range([0], [0xff], 3, true), ['fe', '80', '7f'])
      t.same(await range([2], [2], 10), [], 'an empty range')
      t.same(await range([3], [2], 10), [], 'an inverted range')
      t.same(await range([0], [0xff], 0), [], 'no entries wanted')
    })

    await t.test('a range sees the moment of its call', async (t) => {
      const engine = await open(t)
      const before: KvChange[] = Array.from({ length: 3000 }, (_, i) => put(`k${String(i).padStart(5, '0')}`, 'old'))
      await engine.write(before, synced)
      const reading = engine.range(all)
      const writing = engine.write(
        before.map((change) => put(String(change.key), 'new')),
        synced,
      )
      const entries = await reading
      await writing
      t.equal(entries.length, 3000)
      t.ok(
        entries.every(({ value }) => String(value) === 'old'),
        'nothing of the later batch',
      )
    })

    await t.test('large values and many entries', async (t) => {
      const engine = await open(t)
      const large = Buffer.alloc(1_000_000, 3)
      await engine.write([{ type: 'put', key: key('large'), value: large }], synced)
      t.ok((await engine.get(key('large')))?.equals(large))
      const many: KvChange[] = Array.from({ length: 20_000 }, (_, i) =>
        put(`m${String(i).padStart(6, '0')}`, String(i)),
      )
      await engine.write(many, synced)
      const entries = await engine.range({ gte: key('m'), lt: key('n'), limit: 100_000 })
      t.equal(entries.length, 20_000)
      t.same(shown(entries.slice(19_998)), ['m019998=19998', 'm019999=19999'])
    })

    await t.test('nobody shares memory with the engine', async (t) => {
      const engine = await open(t)
      const name = key('a')
      const value = Buffer.from('value')
      const written = engine.write([{ type: 'put', key: name, value }], synced)
      await written
      name.fill(0)
      value.fill(0)
      const read = await engine.get(key('a'))
      read?.fill(0)
      t.equal(String(await engine.get(key('a'))), 'value')
    })

    await t.test('after closing and opening again everything is there', async (t) => {
      const { engine, reopen } = await factory(t)
      await engine.write([put('a', '1')], synced)
      const unsynced = engine.write([put('b', '2')], { sync: false })
      await unsynced
      const again = await reopen(engine)
      t.teardown(() => again.close())
      t.same(shown(await again.range(all)), ['a=1', 'b=2'])
    })

    await t.test('closing waits for what was begun, afterwards everything fails', async (t) => {
      const { engine, reopen } = await factory(t)
      const begun = engine.write([put('a', '1')], synced)
      const reading = engine.range(all)
      const reopened = reopen(engine)
      await begun
      await reading
      const again = await reopened
      t.teardown(() => again.close())
      t.same(shown(await again.range(all)), ['a=1'])
      await t.rejects(engine.get(key('a')), { name: 'PosixError' })
      await t.rejects(engine.write([put('b', '1')], synced), { name: 'PosixError' })
      await t.rejects(engine.range(all), { name: 'PosixError' })
      await engine.close()
    })

    await t.test('random batches and ranges agree with a map', async (t) => {
      const seed = Number(process.env['SIM_SEED'] ?? 20_251_122)
      t.comment(`seed=${seed}`)
      const random = seededRandom(seed)
      const engine = await open(t)
      const model = new Map<string, string>()
      const randomKey = (): string => `${'abc'[random.below(3)]}${random.below(40)}`
      for (let round = 0; round < 150; round++) {
        const changes = Array.from({ length: random.below(6) }, () => {
          const name = randomKey()
          if (random.below(3) === 0) {
            model.delete(name)
            return del(name)
          }
          model.set(name, String(round))
          return put(name, String(round))
        })
        await engine.write(changes, { sync: random.below(4) === 0 })
        const [gte, lt] = [randomKey(), randomKey()].toSorted() as [string, string]
        const reverse = random.below(2) === 0
        const limit = 1 + random.below(20)
        const expected = [...model]
          .filter(([name]) => name >= gte && name < lt)
          .toSorted(([a], [b]) => (a < b ? -1 : 1))
        const wanted = (reverse ? expected.toReversed() : expected).slice(0, limit).map((entry) => entry.join('='))
        const found = shown(await engine.range({ gte: key(gte), lt: key(lt), limit, reverse }))
        if (found.join() !== wanted.join()) t.same(found, wanted, `round ${round}`)
      }
      t.same(shown(await engine.range(all)).length, model.size)
    })
  })
