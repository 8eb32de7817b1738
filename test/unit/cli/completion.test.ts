/** Shells really complete the command line as it is defined: bash for every command, fish where it is installed; zsh reads its file. */
import { join } from 'node:path'
import { writeFile } from 'node:fs/promises'
import t from 'tap'
import { allCommands, outlineOf } from '../../../src/cli/command-outline.ts'
import { bashCompletion } from '../../../src/cli/completion-bash.ts'
import { fishCompletion } from '../../../src/cli/completion-fish.ts'
import { zshCompletion } from '../../../src/cli/completion-zsh.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { shoal } from '../../lib/cluster.ts'
import { missing } from '../../lib/needs.ts'
import { check } from '../../lib/sh.ts'

const program = outlineOf(buildProgram())

/** What bash offers for each line, split into words as bash splits it; the cursor is at its end. */
const offeredByBash = async (cases: readonly (readonly string[])[], cwd: string): Promise<string[][]> => {
  const asks = cases.map((words) => `ask ${words.map((word) => `'${word}'`).join(' ')}`)
  const script = `${bashCompletion(program)}
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shoal; echo "\${COMPREPLY[*]}"; }
${asks.join('\n')}`
  const lines = (await check('bash', ['--norc', '-c', script], { cwd })).split('\n')
  return cases.map((_, index) => (lines[index] ?? '').split(' ').filter((word) => word !== ''))
}

const optionNames = (words: readonly string[]): string[] => {
  const outline = allCommands(program).find(({ path }) => path.join(' ') === words.join(' '))
  return [...(outline?.options ?? []), ...(outline?.globalOptions ?? [])].flatMap(({ names }) => [...names])
}

t.test('bash offers the options and subcommands of each command', async (t) => {
  const commands = allCommands(program)
  const options = await offeredByBash(
    commands.map(({ path }) => [...path, '-']),
    '/',
  )
  for (const [index, { path }] of commands.entries()) t.same(options[index], optionNames(path), path.join(' '))
  const groups = commands.filter((outline) => outline.commands.length > 0)
  const below = await offeredByBash(
    groups.map(({ path }) => [...path, '']),
    '/',
  )
  for (const [index, outline] of groups.entries()) {
    t.same(
      below[index],
      outline.commands.map(({ path }) => path.at(-1)),
    )
  }
})

t.test('bash offers values', async (t) => {
  const cwd = t.testdir({ folder: {}, file: '' })
  const cases: [string, string[]][] = [
    ['shoal mo', ['mount']],
    ['shoal mount 10.0.0.1 : 9320 f', ['folder']],
    ['shoal mount -o ro --metrics 9341 10.0.0.1 : 9320 f', ['folder']],
    ['shoal mount f', []],
    ['shoal mount 10.0.0.1 : 93', []],
    ['shoal --config f', ['file', 'folder']],
    ['shoal --config file serv', ['servers']],
    ['shoal restore f', ['file', 'folder']],
    ['shoal restore file f', []],
    ['shoal restore --data = f', ['folder']],
    ['shoal master --placement r', ['random', 'rendezvous']],
    ['shoal servers drain --timeout 5s --ba', ['--background']],
    ['shoal completion f', ['fish']],
  ]
  const offered = await offeredByBash(
    cases.map(([line]) => line.split(' ')),
    cwd,
  )
  for (const [index, [line, expected]] of cases.entries()) t.same(offered[index]?.toSorted(), expected, line)
})

t.test('fish offers the same', async (t) => {
  if ((await missing({ programs: ['fish'] })).length > 0) return t.comment('fish is not here to try it')
  const file = join(t.testdir(), 'shoal.fish')
  await writeFile(file, fishCompletion(program))
  const offered = async (line: string): Promise<string[]> => {
    const said = await check('fish', ['--no-config', '-c', `source ${file}; complete -C '${line}'`])
    return said
      .split('\n')
      .map((each) => each.split('\t')[0] ?? '')
      .filter((word) => word !== '')
  }
  t.same(
    await offered('shoal servers '),
    program.commands
      .find(({ path }) => path.at(-1) === 'servers')
      ?.commands.map(({ path }) => path.at(-1))
      .toSorted(),
  )
  t.same(
    await offered('shoal mount --'),
    optionNames(['shoal', 'mount'])
      .filter((name) => name.startsWith('--'))
      .toSorted(),
  )
  t.same(await offered('shoal master --placement r'), ['random', 'rendezvous'])
})

t.test('zsh can read its file', async (t) => {
  if ((await missing({ programs: ['zsh'] })).length > 0) return t.comment('zsh is not here to read it')
  const file = join(t.testdir(), '_shoal')
  await writeFile(file, zshCompletion(program))
  await check('zsh', ['-f', '-n', file])
})

t.test('the command prints them', async (t) => {
  t.equal((await shoal(['completion', 'bash'])).stdout, bashCompletion(program))
  t.match(await shoal(['completion', 'tcsh']), { code: 2, stderr: 'allowed choices are bash, zsh, fish' })
})
