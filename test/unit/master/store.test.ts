import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { PosixError, UnavailableError, UsageError } from '../../../src/domain/errors.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { KvEngine } from '../../../src/platform/kv-engine.ts'
import { counters, formats, inodes, listings, tableBounds, xattrs, xattrBounds } from '../../../src/master/keys.ts'
import { Blocked, readTogether } from '../../../src/master/store.ts'
import type { Tx } from '../../../src/master/store.ts'
import { manualClock } from '../../lib/manual-clock.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import { openStore, seededRandom } from '../../lib/master-store.ts'

/** An engine whose writes and reads wait until the test lets them go. */
const gatedKv = (inner: KvEngine) => {
  const waiting: (() => void)[] = []
  const gate = { writes: false, reads: false }
  const batches: number[] = []
  const pass = async (closed: boolean): Promise<void> => {
    if (closed) await new Promise<void>((resolve) => waiting.push(resolve))
  }
  const kv: KvEngine = {
    get: (key) => inner.get(key),
    getMany: async (keys) => {
      const found = await inner.getMany(keys)
      await pass(gate.reads)
      return found
    },
    range: async (range) => {
      const found = await inner.range(range)
      await pass(gate.reads)
      return found
    },
    openSnapshot: () => inner.openSnapshot(),
    write: async (changes, options) => {
      batches.push(changes.length)
      await pass(gate.writes)
      await inner.write(changes, options)
    },
    close: () => inner.close(),
  }
  const release = async (): Promise<void> => {
    await settle()
    for (const go of waiting.splice(0)) go()
    await settle()
  }
  return { kv, gate, batches, release, waiting }
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await turn()
}

const key = (name: string) => ({ ino: asIno(5n), name: Buffer.from(name) })
const put = (name: string, value: string) => (tx: Tx) => tx.put(xattrs, key(name), Buffer.from(value))
const get = (name: string) => (tx: Tx) => tx.get(xattrs, key(name))?.toString()
const names =
  (limit = 100) =>
  (tx: Tx) =>
    tx.range(xattrs, xattrBounds(asIno(5n)), limit).map(([k]) => k.name.toString())

void t.test('the first start makes a file system, the next one finds it', async (t) => {
  const kv = memoryKv()
  const first = await openStore(kv)
  await first.execute(put('a', '1'))
  await first.close()
  const second = await openStore(kv.reopen(), { random: seededRandom(2) })
  t.equal(second.clusterId, first.clusterId)
  t.equal(await second.execute(get('a')), '1')
  t.equal((await second.execute((tx) => tx.get(inodes, asIno(1n))))?.nlink, 2)
})

void t.test('what reads together miss is loaded together', async (t) => {
  const kv = memoryKv()
  const { getMany } = kv
  const loads: number[] = []
  kv.getMany = (keys) => {
    loads.push(keys.length)
    return getMany.call(kv, keys)
  }
  const store = await openStore(kv)
  loads.length = 0
  let runs = 0
  const operation = (tx: Tx): unknown => {
    runs++
    readTogether(
      () => tx.getMany(inodes, [asIno(7n), asIno(8n)]),
      () => tx.get(xattrs, key('a')),
    )
    return [tx.get(inodes, asIno(8n)), tx.get(xattrs, key('a'))]
  }
  t.same(await store.execute(operation), [undefined, undefined])
  t.same({ loads, runs }, { loads: [3], runs: 2 })
  await store.close()
})

void t.test('a newer format and a foreign database are refused with a sentence', async (t) => {
  const newer = memoryKv()
  const value = formats.encode({ number: 2, clusterId: 'x' })
  await newer.write([{ type: 'put', key: Buffer.from('F'), value }], { sync: true })
  await t.rejects(
    openStore(newer),
    new UsageError('the data directory has format 2, and this Shoal knows formats up to 1; start a newer Shoal on it'),
  )
  const foreign = memoryKv()
  await foreign.write([{ type: 'put', key: Buffer.from('zebra'), value }], { sync: true })
  await t.rejects(openStore(foreign), UsageError)
})

void t.test('group commit: one batch in flight, all that became ready meanwhile in the next, in order', async (t) => {
  const { kv, gate, batches, release } = gatedKv(memoryKv())
  const store = await openStore(kv)
  batches.length = 0
  gate.writes = true
  const done: string[] = []
  const run = (name: string) => store.execute(put(name, '1')).then(() => done.push(name))
  const all = [run('a'), run('b')]
  await settle()
  all.push(run('c'), run('d'))
  await settle()
  all.push(run('c'))
  await settle()
  t.strictSame(done, [], 'nothing is answered before it is on disk')
  t.strictSame(batches, [2], 'one batch')
  await release()
  t.strictSame(done, ['a', 'b'])
  t.strictSame(batches, [2, 2], 'two changes of one record are one change of the batch')
  await release()
  await Promise.all(all)
  t.strictSame(done, ['a', 'b', 'c', 'd', 'c'])
})

void t.test('seed 5: what is aborted while a record is loaded changes nothing', async (t) => {
  const { kv, gate, release } = gatedKv(memoryKv())
  const store = await openStore(kv)
  gate.reads = true
  // As the master does when the session of a request has ended.
  const ended = new AbortController()
  const late = store.execute(
    (tx) => {
      if (get('lease')(tx) === undefined) put('f', 'late')(tx)
    },
    { signal: ended.signal },
  )
  ended.abort()
  const refused = t.rejects(late, { code: 'EINTR' })
  gate.reads = false
  await release()
  await refused
  t.equal(await store.execute(get('f')), undefined)
})

void t.test('seed 20349: nor what was aborted before it came here', async (t) => {
  const store = await openStore(memoryKv())
  // Results of earlier requests were loaded first, and the session ended meanwhile.
  await t.rejects(store.execute(put('f', 'late'), { signal: AbortSignal.abort() }), { code: 'EINTR' })
  t.equal(await store.execute(get('f')), undefined)
})

void t.test('a reader waits for what it has seen, and for nothing else', async (t) => {
  const { kv, gate, release } = gatedKv(memoryKv())
  const store = await openStore(kv)
  await store.execute(put('old', '1'))
  gate.writes = true
  const write = store.execute(put('new', '1'))
  let answered = false
  const reader = store.execute(get('new')).then((value) => {
    answered = true
    return value
  })
  const lister = store.execute(names())
  const refused = store.execute((tx) => {
    if (tx.get(xattrs, key('new')) !== undefined) throw new PosixError('EEXIST')
  })
  let refusedEarly = false
  refused.catch(() => (refusedEarly = true))
  t.equal(await store.execute(get('old')), '1', 'another record is read at once')
  await settle()
  t.equal(answered, false)
  t.equal(refusedEarly, false, 'a refusal that rests on the change waits too')
  await release()
  await write
  t.equal(await reader, '1')
  t.strictSame(await lister, ['new', 'old'])
  await t.rejects(refused, { code: 'EEXIST' })
})

void t.test(
  'a crash loses nothing that was acknowledged, and the changes of one operation stay together',
  async (t) => {
    for (let survivors = 0; survivors <= 3; survivors++) {
      const inner = memoryKv()
      const { kv, gate, waiting } = gatedKv(inner)
      const store = await openStore(kv)
      gate.writes = true
      const acknowledged: number[] = []
      for (let i = 0; i < 3; i++) {
        void store
          .execute((tx) => {
            put(`a${i}`, 'x')(tx)
            put(`b${i}`, 'x')(tx)
          })
          .then(() => acknowledged.push(i))
        await settle()
      }
      for (let i = 0; i < survivors; i++) {
        waiting.shift()?.()
        await settle()
      }
      const acknowledgedThen = [...acknowledged]
      inner.crash()
      const after = await openStore(inner.reopen())
      const found = await after.execute(names())
      for (const i of acknowledgedThen) t.ok(found.includes(`a${i}`), `a${i} after ${survivors} batches`)
      for (let i = 0; i < 3; i++) t.equal(found.includes(`a${i}`), found.includes(`b${i}`), 'together')
      // The operations after the first share the second batch.
      t.equal(acknowledgedThen.length, [0, 1, 3, 3][survivors])
    }
  },
)

void t.test('a batch that a full disk refuses waits for room, and is answered once it is stored', async (t) => {
  const kv = memoryKv()
  const clock = manualClock()
  const store = await openStore(kv, { clock })
  kv.failWrites(new PosixError('ENOSPC'))
  let answered = false
  const change = store.execute(put('a', '1')).then(() => (answered = true))
  for (let i = 0; i < 3; i++) {
    await settle()
    await clock.advance(500)
  }
  t.equal(answered, false, 'nothing is acknowledged that is not stored')
  kv.failWrites(undefined)
  await clock.advance(500)
  await change
  await store.close()
  const after = await openStore(kv)
  t.equal(await after.execute(get('a')), '1')
})

void t.test('a full disk does not keep a store from closing, and its waiting changes are refused', async (t) => {
  const kv = memoryKv()
  const clock = manualClock()
  const store = await openStore(kv, { clock, onFatal: () => undefined })
  kv.failWrites(new PosixError('ENOSPC'))
  const refused = t.rejects(store.execute(put('a', '1')), UnavailableError)
  await settle()
  const closed = store.close()
  await clock.advance(500)
  await closed
  await refused
})

void t.test('a failed batch stops the store: who waits and who comes gets no answer', async (t) => {
  const inner = memoryKv()
  const { kv, gate, release } = gatedKv(inner)
  const fatal: Error[] = []
  const store = await openStore(kv, { onFatal: (error) => void fatal.push(error) })
  await store.execute(put('a', '1'))
  gate.writes = true
  const first = store.execute(put('b', '1'))
  await settle()
  const second = store.execute(put('c', '1'))
  inner.failWrites(new PosixError('EIO'))
  const expected = { name: 'UnavailableError', maybeCommitted: true }
  const rejected = [t.rejects(first, expected), t.rejects(second, expected)]
  await release()
  await Promise.all(rejected)
  t.equal(fatal.length, 1)
  await t.rejects(store.execute(get('a')), UnavailableError)
})

void t.test('close waits for what was executed and refuses what comes after', async (t) => {
  const inner = memoryKv()
  const { kv, gate, release } = gatedKv(inner)
  const store = await openStore(kv)
  gate.writes = true
  const write = store.execute(put('a', '1'))
  const closed = store.close()
  await t.rejects(store.execute(put('b', '1')), UnavailableError)
  await release()
  await Promise.all([write, closed])
  t.equal(await (await openStore(inner.reopen())).execute(get('a')), '1')
})

void t.test('without room only what frees something is admitted; reading goes on', async (t) => {
  let room = true
  const store = await openStore(memoryKv(), { admitWrites: () => room })
  await store.execute(put('a', '1'))
  room = false
  let applied = false
  const refused = store.execute((tx) => {
    put('b', '1')(tx)
    tx.onApply(() => (applied = true))
  })
  await t.rejects(refused, { code: 'ENOSPC' })
  t.equal(applied, false)
  t.equal(await store.execute(get('b')), undefined)
  t.equal(await store.execute(get('a')), '1')
  await store.execute((tx) => tx.delete(xattrs, key('a')), { mayUseReserve: true })
  t.equal(await store.execute(get('a')), undefined)
})

void t.test('a blocked operation runs again, and a signal ends its wait', async (t) => {
  const store = await openStore(memoryKv())
  let free = false
  let unblock = (): void => undefined
  const promise = new Promise<void>((resolve) => (unblock = resolve))
  const operation = (tx: Tx) => {
    if (!free) throw new Blocked(promise)
    return tx.get(counters, 'inodes')
  }
  const abort = new AbortController()
  const interrupted = store.execute(operation, { signal: abort.signal })
  const waiting = store.execute(operation, { signal: new AbortController().signal })
  abort.abort()
  await t.rejects(interrupted, { code: 'EINTR' })
  await t.rejects(store.execute(operation, { signal: abort.signal }), { code: 'EINTR' }, 'aborted before')
  free = true
  unblock()
  t.equal(await waiting, 1n)
})

void t.test('callbacks: applied once in the turn of the run, committed once before the answer', async (t) => {
  const { kv, gate, release } = gatedKv(memoryKv())
  const store = await openStore(kv)
  gate.writes = true
  const events: string[] = []
  let runs = 0
  const done = store
    .execute((tx) => {
      runs++
      tx.onApply(() => events.push('applied'))
      tx.afterCommit(() => events.push('committed'))
      tx.get(xattrs, key('not in the cache'))
      put('a', '1')(tx)
    })
    .then(() => events.push('answered'))
  await settle()
  t.strictSame(events, ['applied'])
  await release()
  await done
  t.strictSame(events, ['applied', 'committed', 'answered'])
  t.ok(runs > 1, 'it did run again')
})

void t.test('a record that changes while it is loaded is not taken back', async (t) => {
  const inner = memoryKv()
  const seed = await openStore(inner)
  await seed.execute(put('a', 'old'))
  await seed.close()
  for (const cacheEntriesMax of [1, 1000]) {
    const { kv, gate, release } = gatedKv(inner.reopen())
    const store = await openStore(kv, { cacheEntriesMax })
    gate.reads = true
    const reader = store.execute(get('a'))
    await settle()
    // The old value is on its way. This change does not need to read, and is on disk before it arrives.
    await store.execute(put('a', 'new'))
    for (let i = 0; i < 5; i++) await store.execute(put(`other${i}`, 'x'))
    gate.reads = false
    await release()
    t.equal(await reader, 'new', `cache of ${cacheEntriesMax}`)
    await store.execute(put('a', 'old'))
    await store.close()
  }
})

void t.test('a range has the changes that came while its page was loaded', async (t) => {
  const inner = memoryKv()
  const seed = await openStore(inner)
  await seed.execute((tx) => {
    for (const name of ['b', 'd', 'f']) put(name, 'x')(tx)
  })
  await seed.close()
  const { kv, gate, release } = gatedKv(inner.reopen())
  const store = await openStore(kv)
  gate.writes = true
  // On its way to disk when the range is asked for: the engine has it or not.
  const early = store.execute(put('a', 'x'))
  gate.reads = true
  const lister = store.execute((tx) => {
    put('e', 'x')(tx)
    tx.delete(xattrs, key('f'))
    return names()(tx)
  })
  await settle()
  const late = store.execute((tx) => {
    put('c', 'x')(tx)
    tx.delete(xattrs, key('b'))
  })
  gate.reads = false
  await release()
  gate.writes = false
  await release()
  t.strictSame(await lister, ['a', 'c', 'd', 'e'])
  await Promise.all([early, late])
  t.strictSame(await store.execute(names(2)), ['a', 'c'])
})

void t.test('ranges in pages, against a sorted list, with random changes and limits', async (t) => {
  const random = seededRandom(7)
  const store = await openStore(memoryKv(), { cacheEntriesMax: 10 })
  const model = new Set<number>()
  const bounds = tableBounds(listings)
  const running: Promise<unknown>[] = []
  const record = { name: Buffer.from('x'), ino: asIno(1n), type: 0 }
  const at = (n: number) => ({ parent: asIno(9n), cookie: BigInt(n) })
  for (let step = 0; step < 3000; step++) {
    const n = random.below(400)
    if (random.below(3) > 0) {
      const remove = random.below(2) === 0
      running.push(
        store.execute((tx) => {
          if (remove) tx.delete(listings, at(n))
          else tx.put(listings, at(n), record)
          // Changes do not read, so they are applied in the turn of the call; the model follows.
          tx.onApply(() => void (remove ? model.delete(n) : model.add(n)))
        }),
      )
    } else {
      const limit = 1 + random.below(60)
      running.push(
        store
          .execute((tx) => {
            const found = tx.range(listings, { gte: listings.encodeKey(at(n)), lt: bounds.lt }, limit)
            return { found: found.map(([k]) => Number(k.cookie)), model: [...model] }
          })
          .then(({ found, model }) => {
            const expected = model.filter((m) => m >= n).toSorted((a, b) => a - b)
            if (String(found) !== String(expected.slice(0, limit)))
              t.fail(`step ${step}: ${found.join()} instead of ${expected.join()}`)
          }),
      )
    }
    if (random.below(5) === 0) await Promise.all(running.splice(0))
  }
  await Promise.all(running)
  t.ok(model.size > 0)
})

void t.test('concurrent operations are serializable, with a cache that holds next to nothing', async (t) => {
  const kv = memoryKv()
  const store = await openStore(kv, { cacheEntriesMax: 1 })
  const random = seededRandom(3)
  const accounts = 20
  const name = (i: number) => key(`account${i}`)
  await store.execute((tx) => {
    for (let i = 0; i < accounts; i++) tx.put(xattrs, name(i), Buffer.from('100'))
  })
  const amount = (tx: Tx, i: number) => Number(tx.get(xattrs, name(i))!.toString())
  const transfers = Array.from({ length: 500 }, () => {
    const source = random.below(accounts)
    const target = random.below(accounts)
    return store.execute((tx) => {
      if (source === target) return
      const by = 1 + (amount(tx, source) % 7)
      tx.put(xattrs, name(source), Buffer.from(String(amount(tx, source) - by)))
      tx.put(xattrs, name(target), Buffer.from(String(amount(tx, target) + by)))
    })
  })
  const total = (tx: Tx) => Array.from({ length: accounts }, (_, i) => amount(tx, i)).reduce((a, b) => a + b)
  const audits = Array.from({ length: 20 }, () => store.execute(total))
  for (const sum of await Promise.all(audits)) t.equal(sum, accounts * 100)
  await Promise.all(transfers)
  t.equal(await store.execute(total), accounts * 100)
  t.ok(store.statistics.cacheEntries <= 1 + accounts, 'the cache does not keep them')
  await store.close()
  t.equal(await (await openStore(kv.reopen())).execute(total), accounts * 100)
})

void t.test('seed 300085: who loads a record does not take out what was loaded for others', async (t) => {
  const microtasks = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) await Promise.resolve()
  }
  const memory = memoryKv()
  const first = await openStore(memory)
  for (const name of ['a', 'b', 'c']) await first.execute(put(name, name))
  await first.close()
  // Many ways in which three loads can come between each other's turns.
  for (let slow = 0; slow < 8; slow++) {
    const getMany: KvEngine['getMany'] = async (keys) => {
      const found = memory.getMany(keys)
      await microtasks(slow)
      return found
    }
    const kv: KvEngine = Object.assign(Object.create(memory) as KvEngine, { getMany })
    for (let late = 0; late < 12; late++) {
      for (let later = late; later < 24; later++) {
        const store = await openStore(kv, { cacheEntriesMax: 0 })
        const runs = new Map<string, number>()
        const after = async (count: number, name: string): Promise<string | undefined> => {
          await microtasks(count)
          return store.execute((tx) => {
            runs.set(name, (runs.get(name) ?? 0) + 1)
            if (runs.get(name)! > 100) throw new Error(`${slow}, ${late}, ${later}: again and again`)
            return get(name)(tx)
          })
        }
        t.same(await Promise.all([after(0, 'a'), after(late, 'b'), after(later, 'c')]), ['a', 'b', 'c'])
        t.ok(Math.max(...runs.values()) <= 2, 'loaded once each')
      }
    }
  }
})

void t.test('the cache stays within its bounds in entries and in bytes', async (t) => {
  const byEntries = await openStore(memoryKv(), { cacheEntriesMax: 50 })
  for (let i = 0; i < 500; i++) await byEntries.execute(put(`n${i}`, 'x'))
  t.ok(byEntries.statistics.cacheEntries <= 60, `${byEntries.statistics.cacheEntries} entries`)
  const byBytes = await openStore(memoryKv(), { cacheBytesMax: 200_000 })
  for (let i = 0; i < 200; i++) await byBytes.execute(put(`n${i}`, 'x'.repeat(10_000)))
  t.ok(byBytes.statistics.cacheBytes <= 250_000, `${byBytes.statistics.cacheBytes} bytes`)
  for (let i = 0; i < 200; i += 20) t.equal((await byBytes.execute(get(`n${i}`)))?.length, 10_000)
})
