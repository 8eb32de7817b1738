/**
 * Runs simulated clusters, seed after seed: npm run test:sim -- [--first SEED] [--seeds N] [--seconds S] [--until-failure]
 * It stops after N seeds or S real seconds, whichever is first. SIM_SEED=n: that seed alone, with its whole trace.
 */
import { parseArgs } from 'node:util'
import { runSeed } from './run-seed.ts'
import { SeedReport } from './seed-report.ts'

const { values } = parseArgs({
  options: {
    first: { type: 'string', default: '1' },
    seeds: { type: 'string', default: 'Infinity' },
    seconds: { type: 'string', default: '120' },
    'until-failure': { type: 'boolean', default: false },
  },
})

const report = new SeedReport()
const run = async (seed: number, print?: (line: string) => void): Promise<void> => {
  const failures = report.failures.length
  report.add(await runSeed({ seed, stopAtFirst: values['until-failure'], ...(print && { print }) }))
  for (const failure of report.failures.slice(failures)) console.log(`${failure}\n  replay: SIM_SEED=${seed}`)
}

const only = process.env['SIM_SEED']
// Stacks cost time, and a replay has them.
if (only === undefined) Error.stackTraceLimit = 0
if (only !== undefined) {
  await run(Number(only), (line) => void process.stdout.write(`${line}\n`))
} else {
  const first = Number(values.first)
  for (let seed = first; seed < first + Number(values.seeds) && report.seconds < Number(values.seconds); seed++) {
    await run(seed)
    if (values['until-failure'] && report.failures.length > 0) break
  }
}
console.log(report.summary())
process.exitCode = report.failures.length > 0 ? 1 : 0
