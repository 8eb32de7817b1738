/**
 * Applies one mutation after the other to a copy of the compiled simulation and says how many seeds each lives: it must be caught. As many at
 * a time as there are cores.
 *
 * usage: npm run test:sim:mutations -- [--seeds N] [--only TEXT] [--jobs N]      default: 40 seeds each
 */
import { execFile } from 'node:child_process'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import ts from 'typescript'
import { mutations } from './mutations.ts'
import type { Mutation } from './mutations.ts'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '40' },
    only: { type: 'string', default: '' },
    jobs: { type: 'string', default: String(availableParallelism()) },
  },
})
const built = 'build/sim'
const failure = /seed=(\d+): (.*)/
const printedBytesMax = 64 * 1024 * 1024

const compiled = (text: string): string =>
  ts.transpileModule(text, {
    compilerOptions: {
      module: ts.ModuleKind.ESNext,
      target: ts.ScriptTarget.ES2023,
      rewriteRelativeImportExtensions: true,
      verbatimModuleSyntax: true,
    },
  }).outputText

/** What a program prints, however it ends. */
const printed = (program: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> =>
  new Promise((resolve) => {
    execFile(program, args, { maxBuffer: printedBytesMax }, (_error, stdout, stderr) => resolve({ stdout, stderr }))
  })

/** True: it was caught. Several may run side by side, each with a copy of its own. */
const isCaught = async ({ name, file, find, replace }: Mutation, copy: string): Promise<boolean> => {
  const text = readFileSync(file, 'utf8')
  if (text.split(find).length !== 2) {
    console.log(`| ${name} | does not fit ${file} any more | |`)
    return false
  }
  rmSync(copy, { recursive: true, force: true })
  cpSync(built, copy, { recursive: true })
  writeFileSync(join(copy, file.replace(/\.ts$/, '.js')), compiled(text.replace(find, () => replace)))
  const limits = ['--seeds', values.seeds, '--seconds', '100000', '--jobs', '1', '--until-failure']
  const { stdout, stderr } = await printed(process.execPath, [
    '--no-warnings',
    join(copy, 'test/sim/sim.js'),
    ...limits,
  ])
  rmSync(copy, { recursive: true, force: true })
  const found = failure.exec(stdout)
  const first = (found?.[2] ?? '').replaceAll('|', '/').slice(0, 110)
  const seed = found === null ? `survives ${values.seeds} seeds ${stderr.slice(0, 200)}` : found[1]
  console.log(`| ${name} | ${seed} | ${first} |`)
  return found !== null
}

let survivors = 0
const waiting = mutations.filter(({ name }) => name.includes(values.only)).values()
const work = async (job: number): Promise<void> => {
  for (const mutation of waiting) if (!(await isCaught(mutation, `build/mutant-${job}`))) survivors++
}
await Promise.all(Array.from({ length: Number(values.jobs) }, (_, job) => work(job)))
process.exitCode = survivors > 0 ? 1 : 0
