/**
 * Runs simulated clusters, seed after seed: npm run test:sim -- [--first SEED] [--seeds N] [--seconds S] [--jobs N] [--until-failure]
 * It stops after N seeds or S real seconds, whichever is first. Jobs: processes beside each other, as many as there are cores unless told;
 * 1: no process but this one. SIM_SEED=n: that seed alone, with its whole trace.
 */
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { runSeed } from './run-seed.ts'
import type { SeedResult } from './run-seed.ts'
import { SeedReport } from './seed-report.ts'
import { runInChildren, serveSeeds } from './seeds-in-children.ts'

const { values } = parseArgs({
  options: {
    first: { type: 'string', default: '1' },
    seeds: { type: 'string', default: 'Infinity' },
    seconds: { type: 'string', default: '120' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    'until-failure': { type: 'boolean', default: false },
    child: { type: 'boolean', default: false },
  },
})
const untilFailure = values['until-failure']
/** A line each so many seeds, about every five minutes. */
const progressSeeds = 1000

const runAll = async (): Promise<void> => {
  const report = new SeedReport()
  const ended = (result: SeedResult): void => {
    const failure = report.add(result)
    if (failure !== undefined) console.log(`${failure}\n  replay: SIM_SEED=${result.seed}`)
    if (report.ran % progressSeeds === 0) console.log(report.progress())
  }
  const only = process.env['SIM_SEED']
  if (only !== undefined) {
    const print = (line: string): void => void process.stdout.write(`${line}\n`)
    ended(await runSeed({ seed: Number(only), stopAtFirst: untilFailure, print }))
  } else {
    const first = Number(values.first)
    let given = 0
    const next = (): number | undefined =>
      given < Number(values.seeds) &&
      report.seconds < Number(values.seconds) &&
      !(untilFailure && report.failures.length > 0)
        ? first + given++
        : undefined
    const jobs = Math.min(Number(values.jobs), Number(values.seeds))
    if (jobs > 1) await runInChildren(fileURLToPath(import.meta.url), { jobs, stopAtFirst: untilFailure, next, ended })
    else {
      for (let seed = next(); seed !== undefined; seed = next()) {
        ended(await runSeed({ seed, stopAtFirst: untilFailure }))
      }
    }
  }
  console.log(report.summary())
  process.exitCode = report.failures.length > 0 ? 1 : 0
}

// Stacks cost time, and a replay has them.
if (process.env['SIM_SEED'] === undefined) Error.stackTraceLimit = 0
if (values.child) serveSeeds({ stopAtFirst: untilFailure })
else await runAll()
