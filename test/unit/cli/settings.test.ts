/** Configuration file, environment and flags: what wins, what is refused, and that every setting is documented. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import t from 'tap'
import { chunkServerCommand } from '../../../src/cli/chunkserver-command.ts'
import { parseConfig } from '../../../src/cli/config-file.ts'
import { masterCommand } from '../../../src/cli/master-command.ts'
import { mountCommand } from '../../../src/cli/mount-command.ts'
import { applySettings, knownSettings, settingsOf } from '../../../src/cli/settings.ts'
import { UsageError } from '../../../src/domain/errors.ts'
import { shoal } from '../../lib/cluster.ts'

const roles = [masterCommand(), chunkServerCommand(), mountCommand()]
const known = knownSettings(roles)
const parse = (text: string): ReturnType<typeof parseConfig> => parseConfig(text, 'f', known)

t.test('every setting says why, and its documented default is the one that counts', async (t) => {
  for (const role of roles) {
    for (const setting of settingsOf(role)) {
      t.ok(setting.why.length > 20 && setting.unit !== '', `${role.name()} ${setting.name}`)
      if (setting.option.defaultValue === undefined) continue
      const { parseArg } = setting.option
      const documented: unknown = parseArg === undefined ? setting.default : parseArg(setting.default ?? '', undefined)
      t.same(documented, setting.option.defaultValue, `${role.name()} ${setting.name}`)
    }
  }
})

t.test('a file', async (t) => {
  const file = parse('# all\n\n[master]\n copies = 2\r\ndata=/a b = c\n[mount]\n[master]\nlisten = [::1]:1\n')
  t.same(
    [...(file.get('master') ?? [])],
    [
      ['copies', { value: '2', where: 'f:4' }],
      ['data', { value: '/a b = c', where: 'f:5' }],
      ['listen', { value: '[::1]:1', where: 'f:8' }],
    ],
  )
  for (const [text, sentence] of [
    ['[slave]', /f:1: there is no section \[slave\]; there are master, chunkserver, mount/],
    ['[master]\ncopys = 2', /f:2: \[master\] has no option "copys"; it has .*copies/],
    ['copies = 2', /f:1: "copies" stands before the first \[section\]/],
    ['[master]\ncopies', /f:2: a line has to be "option = value"/],
    ['[master]\n= 3', /f:2: a line has to be/],
    ['[master]\ncopies =', /f:2: "copies" has no value/],
    ['[master]\ncopies = 2\ncopies = 3', /f:3: "copies" is given at f:2 already/],
    ['[mount]\noptions = ro', /has no option "options"/],
  ] as const) {
    t.throws(() => parse(text), { constructor: UsageError, message: sentence })
  }
})

const valueOf = (command: Command, args: readonly string[]): unknown => {
  command.action(() => undefined).parse(['--data', 'd', ...args], { from: 'user' })
  return command.opts()['copies']
}

t.test(
  'a flag goes before the environment, the environment before the file, the file before the default',
  async (t) => {
    const file = parse('[master]\ncopies = 4\n')
    const environment = { SHOAL_MASTER_COPIES: '5' }
    const master = (file: ReturnType<typeof parse>, environment: NodeJS.ProcessEnv): Command => {
      const command = masterCommand()
      applySettings(command, file, environment)
      return command
    }
    t.equal(valueOf(master(new Map(), {}), []), 3)
    t.equal(valueOf(master(file, {}), []), 4)
    t.equal(valueOf(master(file, environment), []), 5)
    t.equal(valueOf(master(file, environment), ['--copies', '6']), 6)
  },
)

t.test('the command', async (t) => {
  const path = join(t.testdir(), 'shoal.conf')
  const env = { ...process.env, SHOAL_CHUNKSERVER_RACK: 'b' }
  await writeFile(path, '[master]\ncopies = 4\n[chunkserver]\nrack = a\nmaster = m:1\n')
  const ran = await shoal(['config', '--json', '--config', path], { env })
  t.equal(ran.code, 0, ran.stderr)
  const lines = JSON.parse(ran.stdout) as { role: string; name: string; value: string | null; source: string }[]
  t.match(
    lines.filter(({ source }) => source !== 'default'),
    [
      { role: 'master', name: 'copies', value: '4', source: `${path}:2` },
      { role: 'chunkserver', name: 'master', value: 'm:1', source: `${path}:5` },
      { role: 'chunkserver', name: 'rack', value: 'b', source: 'SHOAL_CHUNKSERVER_RACK' },
    ],
  )

  const printed = await shoal(['config'], { env: { ...env, SHOAL_CONFIG: path } })
  const again = parse(printed.stdout)
  t.equal(again.get('master')?.get('copies')?.value, '4', 'what it prints is a configuration file')
  t.equal(again.get('chunkserver')?.get('rack')?.value, 'b')

  await writeFile(path, '[master]\ncopies = 99\n')
  for (const command of [['config'], ['master', '--data', path]]) {
    t.match(await shoal([...command, '--config', path]), {
      code: 1,
      stdout: '',
      stderr: `shoal: ${path}:2: copies = 99: It has to be a whole number from 1 to 16.\n`,
    })
  }
  t.match(await shoal(['master', '--data', path], { env: { ...process.env, SHOAL_MASTER_LISTEN: 'x' } }), {
    code: 1,
    stderr: 'shoal: SHOAL_MASTER_LISTEN = x: It has to be HOST:PORT',
  })
  t.match(await shoal(['config', '--config', `${path}/none`]), {
    code: 1,
    stderr: /^shoal: cannot read the configuration file .*none: [^\n]*\n$/,
  })
  t.match(await shoal(['status', '--config']), { code: 2 })
})
