import t from 'tap'
import type { ChunkId, ServerId } from '../../../src/domain/ids.ts'
import { asChunkId, asServerId, asSessionId } from '../../../src/domain/ids.ts'
import { ChunkMap, isValid } from '../../../src/master/chunk-map.ts'
import { manualClock } from '../../lib/manual-clock.ts'
import { seededRandom } from '../../lib/master-store.ts'

const record = (committedBytes: number, sealed: boolean) => ({
  copies: 3,
  committedBytes,
  sealed,
  liveBlocks: 1,
  referenceIntervals: 0,
  owner: asSessionId(sealed ? 0n : 1n),
  created: { seconds: 0n, nanos: 0 },
})

t.test('what a valid replica is', async (t) => {
  const map = new ChunkMap({ clock: manualClock(), isUp: () => true, isStaying: () => true, attention: () => {} })
  const sealed = map.load(asChunkId(1n), record(8192, true))
  const replica = { server: asServerId(1), length: 8192, sealed: true, corrupt: false }
  t.equal(isValid(sealed, replica), true)
  t.equal(isValid(sealed, { ...replica, corrupt: true }), false)
  t.equal(isValid(sealed, { ...replica, length: 4096 }), false)
  t.equal(isValid(sealed, { ...replica, length: 12_288 }), false, 'sealed at another length')
  t.equal(isValid(sealed, { ...replica, length: 12_288, sealed: false }), true, 'not sealed yet')
  const open = map.load(asChunkId(2n), record(8192, false))
  t.equal(isValid(open, { ...replica, length: 12_288, sealed: false }), true)
  t.equal(isValid(open, { ...replica, length: 4096, sealed: false }), false)
})

t.test('random events: the counts and the line for repair are those of a count from scratch', async (t) => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = seededRandom(seed)
    const up = new Set([1, 2, 3, 4])
    const isUp = (id: ServerId): boolean => up.has(id)
    const map = new ChunkMap({ clock: manualClock(), isUp, isStaying: isUp, attention: () => {} })
    let next = 1n
    const ids: ChunkId[] = []
    for (let step = 0; step < 300; step++) {
      const id = ids.length > 0 ? random.pick(ids) : undefined
      const server = asServerId(1 + random.below(5))
      const dice = random.below(9)
      if (dice === 0 || id === undefined) {
        const fresh = asChunkId(next++)
        map.load(fresh, record(random.below(3) * 4096, random.below(2) === 0), [server])
        ids.push(fresh)
      } else if (dice === 1) {
        map.removed(id)
        ids.splice(ids.indexOf(id), 1)
      } else if (dice === 2) {
        const entry = map.get(id)!
        if (!entry.sealed) map.sealed(id, 4096 * (1 + random.below(2)))
      } else if (dice === 3) map.lost(id, server)
      else if (dice === 4) {
        if (!up.delete(server)) up.add(server)
        map.serverChanged(server)
      } else if (dice === 5) {
        map.appended([{ chunkId: id, length: 4096 * (1 + random.below(3)), serverIds: [1, 2] }])
      } else {
        const sealed = random.below(2) === 0
        map.report(server, {
          chunkId: random.below(10) === 0 ? 9999n : id,
          length: random.below(4) * 4096,
          sealed,
          corrupt: random.below(6) === 0,
          deleted: random.below(8) === 0,
          more: false,
        })
      }
    }
    const expected = { total: 0, open: 0, byValid: [] as number[], under: 0, over: 0, lost: 0 }
    const attentive = new Set(map.attentive())
    for (const entry of map.entries()) {
      const valid = entry.replicas.filter((replica) => up.has(replica.server) && isValid(entry, replica)).length
      if (!entry.sealed) expected.open++
      const clean = entry.replicas.every((replica) => replica.sealed && isValid(entry, replica))
      if (attentive.has(entry) !== (entry.sealed && (valid !== 3 || !clean))) t.fail(`seed=${seed} chunk ${entry.id}`)
      if (entry.length === 0) continue
      expected.total++
      expected.byValid[valid] = (expected.byValid[valid] ?? 0) + 1
      if (valid < 3) expected.under++
      if (valid > 3) expected.over++
      if (valid === 0) expected.lost++
    }
    const counts = map.counts()
    t.match({ ...counts, byValid: [] }, { ...expected, byValid: [] }, `seed=${seed}`)
    for (const [valid, count] of counts.byValid.entries()) {
      if (count !== (expected.byValid[valid] ?? 0)) t.fail(`seed=${seed}: ${count} chunks with ${valid} replicas`)
    }
  }
})

t.test('a full report replaces what was known of a server', async (t) => {
  const map = new ChunkMap({ clock: manualClock(), isUp: () => true, isStaying: () => true, attention: () => {} })
  const server = asServerId(1)
  const replica = { length: 4096, sealed: true, corrupt: false, deleted: false, more: false }
  for (const id of [1n, 2n]) {
    map.load(asChunkId(id), record(4096, true))
    map.report(server, { chunkId: id, ...replica })
  }
  map.report(server, { chunkId: 50n, ...replica })
  t.equal(map.serverCounts(server).replicas, 2)
  t.equal(map.unknownSince(0, 10).length, 1)
  map.reportBegins(server)
  map.report(server, { chunkId: 2n, ...replica })
  t.equal(map.reportEnds(server), 1)
  t.equal(map.serverCounts(server).replicas, 1)
  t.equal(map.get(asChunkId(1n))!.valid, 0)
  t.equal(map.get(asChunkId(2n))!.valid, 1)
  t.equal(map.unknownSince(0, 10).length, 0)
})

t.test('damage that was found outlasts a heartbeat from before, not a copy nor a new report', async (t) => {
  const map = new ChunkMap({ clock: manualClock(), isUp: () => true, isStaying: () => true, attention: () => {} })
  const server = asServerId(1)
  const chunk = asChunkId(1n)
  const entry = map.load(chunk, record(4096, true))
  const replica = { length: 4096, sealed: true, corrupt: false }
  const earlier = { chunkId: chunk, ...replica, deleted: false, more: false }
  map.update(chunk, { server, ...replica, corrupt: true })
  map.report(server, earlier)
  t.equal(entry.valid, 0)
  map.update(chunk, { server, ...replica })
  map.report(server, earlier)
  t.equal(entry.valid, 1, 'a copy')
  map.update(chunk, { server, ...replica, corrupt: true })
  map.reportBegins(server)
  map.report(server, earlier)
  map.reportEnds(server)
  t.equal(entry.valid, 1, 'it started anew')
})

t.test('unknown replicas on servers that are down do not hide those of others', async (t) => {
  const [down, up] = [asServerId(1), asServerId(2)]
  const isUp = (server: number): boolean => server === up
  const map = new ChunkMap({ clock: manualClock(), isUp, isStaying: isUp, attention: () => {} })
  for (const chunk of [1n, 2n, 3n]) map.holdsUnknown(down, asChunkId(chunk))
  map.holdsUnknown(up, asChunkId(4n))
  t.match(map.unknownSince(0, 2), [{ server: up, chunk: 4n }])
})

t.test('what a server has of an open chunk only grows, until it starts anew: a heartbeat may come late', async (t) => {
  const map = new ChunkMap({ clock: manualClock(), isUp: () => true, isStaying: () => true, attention: () => {} })
  const id = asChunkId(1n)
  const server = asServerId(1)
  const entry = map.load(id, record(0, false), [server])
  const told = (length: number, sealed = false): void =>
    map.report(server, { chunkId: id, length, sealed, corrupt: false, deleted: false, more: false })
  told(4096)
  map.appended([{ chunkId: id, length: 8192, serverIds: [server] }])
  told(4096)
  t.match(entry.replicas, [{ length: 8192 }])
  t.equal(entry.valid, 1)
  map.sealed(id, 8192)
  told(4096)
  t.equal(entry.valid, 1, 'whole, so it is sealed and not made anew')
  told(12_288)
  told(8192, true)
  t.match(entry.replicas, [{ length: 8192, sealed: true }])
  map.reportBegins(server)
  told(4096)
  map.reportEnds(server)
  t.match(entry.replicas, [{ length: 4096, sealed: false }], 'a loss of power took the rest')
  t.equal(entry.valid, 0)
})
