/** Whole clusters, simulated: one order of events from one seed, and what some seeds bring about. */
import t from 'tap'
import { runSeed } from './run-seed.ts'
import { SeedReport } from './seed-report.ts'

/** How many, so that every machine runs the same ones; npm run test:sim runs others. */
const seeds = 10
const shortMs = 5_000

t.test('the same seed gives the same trace, byte for byte', async (t) => {
  const first = await runSeed({ seed: 2, durationMs: shortMs })
  const second = await runSeed({ seed: 2, durationMs: shortMs })
  const other = await runSeed({ seed: 3, durationMs: shortMs })
  t.equal(second.digest, first.digest)
  t.equal(second.events, first.events)
  t.not(other.digest, first.digest)
  t.ok(first.lines > 1000, 'there is something to compare')
})

t.test('no seed breaks a promise', async (t) => {
  const report = new SeedReport()
  for (let seed = 1; seed <= seeds; seed++) report.add(await runSeed({ seed }))
  t.comment(report.summary())
  t.same(report.failures, [], 'replay with SIM_SEED=n npm run test:sim')
})
