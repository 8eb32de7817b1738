/** statfs: when the master is asked, and when an answer is told again. */
import t from 'tap'
import { Statistics, statisticsAgeMs } from '../../../src/client/statistics.ts'
import { S_IFREG } from '../../../src/domain/mode.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const { signal } = new AbortController()

const start = () => {
  const clock = manualClock()
  const state = { asked: 0n, changes: 0, isAway: false, answers: true }
  const statistics = new Statistics({
    clock,
    ask: () =>
      state.answers
        ? Promise.resolve({ bytesTotal: 0n, bytesFree: 0n, inodesUsed: ++state.asked })
        : new Promise(() => undefined),
    isAway: () => state.isAway,
    changes: () => state.changes,
  })
  const used = async (): Promise<bigint> => (await statistics.tell(signal)).inodesUsed
  return { clock, state, statistics, used }
}

t.test('an answer is told again while it is young', async (t) => {
  const { clock, used } = start()
  t.equal(await used(), 1n)
  t.equal(await used(), 1n)
  await clock.advance(statisticsAgeMs - 1)
  t.equal(await used(), 1n)
  await clock.advance(1)
  t.equal(await used(), 2n)
})

t.test('but not after a change, also one that was made while the master answered', async (t) => {
  const { state, used } = start()
  t.equal(await used(), 1n)
  state.changes++
  t.equal(await used(), 2n)
  state.changes++
  const asked = used()
  state.changes++
  t.equal(await asked, 3n)
  t.equal(await used(), 4n)
})

t.test('while the master is away it is what was last seen', async (t) => {
  const { clock, state, used } = start()
  t.equal(await used(), 1n)
  state.changes++
  state.isAway = true
  state.answers = false
  const asked = used()
  await clock.advance(5000)
  t.equal(await asked, 1n)
})

t.test('each change of a client counts at once', async (t) => {
  const cluster = await startInProcessCluster(t)
  const fs = await cluster.mount()
  const used = async (): Promise<bigint> => (await fs.statfs(caller())).inodesUsed
  const before = await used()
  for (let i = 1n; i <= 20n; i++) {
    await fs.mkdir(caller(), fs.root, Buffer.from(`d${i}`), 0o755)
    t.equal(await used(), before + i)
  }
  for (let i = 20n; i >= 1n; i--) {
    await fs.rmdir(caller(), fs.root, Buffer.from(`d${i}`))
    t.equal(await used(), before + i - 1n)
  }
  const { attributes } = await fs.mknod(caller(), fs.root, Buffer.from('f'), S_IFREG | 0o644, 0)
  t.equal(await used(), before + 1n)
  await fs.link(caller(), attributes.ino, fs.root, Buffer.from('g'))
  t.equal(await used(), before + 1n)
  await fs.unlink(caller(), fs.root, Buffer.from('f'))
  t.equal(await used(), before + 1n)
  await fs.unlink(caller(), fs.root, Buffer.from('g'))
  t.equal(await used(), before)
})
