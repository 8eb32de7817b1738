import t from 'tap'
import { UsageError } from '../../../src/domain/errors.ts'
import type { ServerId } from '../../../src/domain/ids.ts'
import { asChunkId, asServerId } from '../../../src/domain/ids.ts'
import type { PlacementServer } from '../../../src/master/placement/placement.ts'
import { placementNamed, placementNames } from '../../../src/master/placement/policies.ts'
import { seededRandom } from '../../lib/master-store.ts'

const none: ReadonlySet<ServerId> = new Set()

const server = (id: number, rack = '', freeBytes = 1e9, load = 0): PlacementServer => ({
  id: asServerId(id),
  rack,
  freeBytes,
  load,
})

t.test('every policy: distinct servers, none excluded, as many as there are, two racks where possible', async (t) => {
  for (const name of placementNames) {
    for (let seed = 1; seed <= 300; seed++) {
      const random = seededRandom(seed)
      const policy = placementNamed(name, random)
      const servers = Array.from({ length: random.below(8) }, (_, i) =>
        server(i + 1, random.pick(['', 'a', 'b', 'c']), random.below(1000) * 1e6, random.below(20)),
      )
      const excluded = new Set(servers.filter(() => random.below(4) === 0).map(({ id }) => id))
      const copies = 1 + random.below(5)
      const chunkId = asChunkId(BigInt(seed))
      const chosen = policy.choose({ copies, servers, excluded, chunkId })
      const usable = servers.filter(({ id }) => !excluded.has(id))
      const label = `${name} seed=${seed}`
      if (chosen.length !== Math.min(copies, usable.length)) t.fail(`${label}: ${chosen.length} servers`)
      if (new Set(chosen.map(({ id }) => id)).size !== chosen.length) t.fail(`${label}: one server twice`)
      if (chosen.some(({ id }) => excluded.has(id))) t.fail(`${label}: an excluded server`)
      const racks = (list: readonly PlacementServer[]): number =>
        new Set(list.map(({ rack }) => rack).filter((rack) => rack !== '')).size
      if (copies >= 2 && racks(usable) >= 2 && racks(chosen) < 2) t.fail(`${label}: one rack`)
    }
    t.pass(name)
  }
})

t.test('one more replica goes to another rack than the others are in', async (t) => {
  for (const name of placementNames) {
    const policy = placementNamed(name, seededRandom(1))
    for (let i = 1n; i <= 50n; i++) {
      const [chosen] = policy.choose({
        copies: 1,
        servers: [server(1, 'a'), server(2, 'a'), server(3, 'b')],
        excluded: none,
        chunkId: asChunkId(i),
        racksTaken: ['a', 'a'],
      })
      if (chosen?.rack !== 'b') t.fail(`${name} ${i}`)
    }
    t.pass(name)
  }
})

t.test('weighted: free space and load decide how often', async (t) => {
  const policy = placementNamed('weighted', seededRandom(3))
  const counts = new Map<number, number>()
  const servers = [server(1, '', 3e9, 0), server(2, '', 1e9, 0), server(3, '', 3e9, 5)]
  for (let i = 0; i < 6000; i++) {
    const [chosen] = policy.choose({ copies: 1, servers, excluded: none, chunkId: asChunkId(BigInt(i)) })
    counts.set(chosen!.id, (counts.get(chosen!.id) ?? 0) + 1)
  }
  // Weights 3 : 1 : 0.5.
  t.ok(Math.abs(counts.get(1)! - 4000) < 300, `${counts.get(1)}`)
  t.ok(Math.abs(counts.get(2)! - 1333) < 200, `${counts.get(2)}`)
  t.ok(Math.abs(counts.get(3)! - 667) < 150, `${counts.get(3)}`)
})

t.test('rendezvous: the same choice each time, even, and hardly changed by a server more or less', async (t) => {
  const policy = placementNamed('rendezvous', seededRandom(1))
  const servers = Array.from({ length: 10 }, (_, i) => server(i + 1))
  const counts = new Map<number, number>()
  let moved = 0
  for (let i = 1n; i <= 3000n; i++) {
    const request = { copies: 3, excluded: none, chunkId: asChunkId(i) }
    const chosen = policy.choose({ ...request, servers })
    const again = policy.choose({ ...request, servers: servers.toReversed() })
    if (again.some(({ id }, at) => id !== chosen[at]!.id)) t.fail(`chunk ${i}`)
    for (const { id } of chosen) counts.set(id, (counts.get(id) ?? 0) + 1)
    const without = policy.choose({ ...request, servers: servers.slice(0, 9) })
    const kept = chosen.filter(({ id }) => without.some((other) => other.id === id)).length
    if (chosen.some(({ id }) => id === 10)) moved += 2 - kept
    else moved += 3 - kept
  }
  t.equal(moved, 0)
  for (const [id, count] of counts) t.ok(Math.abs(count - 900) < 150, `server ${id}: ${count}`)
})

t.test('an unknown policy', async (t) => {
  t.throws(() => placementNamed('best', seededRandom(1)), UsageError)
})
