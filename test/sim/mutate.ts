/**
 * Applies one mutation after the other to a copy of the compiled simulation and says how many seeds each lives: it must be caught.
 *
 * usage: npm run test:sim:mutations -- [--seeds N] [--only TEXT]      default: 40 seeds each
 */
import { spawnSync } from 'node:child_process'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import ts from 'typescript'
import { mutations } from './mutations.ts'

const { values } = parseArgs({
  options: { seeds: { type: 'string', default: '40' }, only: { type: 'string', default: '' } },
})
const built = 'build/sim'
const copy = 'build/mutant'
/** A mutant that runs for so long goes round in circles without time passing. */
const endlessMs = 600_000
const failure = /seed=(\d+): (.*)/

let survivors = 0
for (const { name, file, find, replace } of mutations.filter((each) => each.name.includes(values.only))) {
  const text = readFileSync(file, 'utf8')
  if (text.split(find).length !== 2) {
    console.log(`| ${name} | does not fit ${file} any more | |`)
    survivors++
    continue
  }
  rmSync(copy, { recursive: true, force: true })
  cpSync(built, copy, { recursive: true })
  const { outputText } = ts.transpileModule(
    text.replace(find, () => replace),
    {
      compilerOptions: {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2023,
        rewriteRelativeImportExtensions: true,
        verbatimModuleSyntax: true,
      },
    },
  )
  writeFileSync(join(copy, file.replace(/\.ts$/, '.js')), outputText)
  const run = spawnSync(
    process.execPath,
    [
      '--no-warnings',
      join(copy, 'test/sim/sim.js'),
      '--seeds',
      values.seeds,
      '--seconds',
      '100000',
      '--jobs',
      '1',
      '--until-failure',
    ],
    { encoding: 'utf8', timeout: endlessMs },
  )
  const found = failure.exec(run.stdout)
  const first = (found?.[2] ?? '').replaceAll('|', '/').slice(0, 110)
  if (found === null) survivors++
  console.log(
    `| ${name} | ${found === null ? `survives ${values.seeds} seeds ${run.stderr.slice(0, 200)}` : found[1]} | ${first} |`,
  )
}
rmSync(copy, { recursive: true, force: true })
process.exitCode = survivors > 0 ? 1 : 0
