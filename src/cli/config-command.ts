/** `shoal config`: every setting of every role, what it is on this machine, where that comes from, and why its default is what it is. */
import { Command, Option } from 'commander'
import { defaultConfigPath, readConfig, type ConfigFile } from './config-file.ts'
import { applySettings, knownSettings, settingsOf } from './settings.ts'

interface ConfigLine {
  role: string
  name: string
  value: string | null
  /** "default", the environment variable, or FILE:LINE. */
  source: string
  default: string | null
  environment: string
  unit: string
  why: string
}

const linesOf = (role: Command, file: ConfigFile): ConfigLine[] =>
  settingsOf(role).map(({ name, environment, default: byDefault, unit, why }) => {
    const fromEnvironment = process.env[environment]
    const fromFile = file.get(role.name())?.get(name)
    const [value, source] =
      fromEnvironment !== undefined
        ? [fromEnvironment, environment]
        : fromFile !== undefined
          ? [fromFile.value, fromFile.where]
          : [byDefault ?? null, 'default']
    return { role: role.name(), name, value, source, default: byDefault ?? null, environment, unit, why }
  })

const text = (lines: readonly ConfigLine[]): string => {
  const out: string[] = []
  for (const [index, line] of lines.entries()) {
    if (line.role !== lines[index - 1]?.role) out.push(`${index === 0 ? '' : '\n'}[${line.role}]`)
    const from = line.source === 'default' ? 'the default' : `from ${line.source}`
    out.push(
      line.value === null
        ? `# ${line.name} is not given`
        : `${line.source === 'default' ? '# ' : ''}${line.name} = ${line.value}`,
      `#     ${from}; ${line.unit}; ${line.environment}`,
      `#     ${line.why}`,
    )
  }
  return `${out.join('\n')}\n`
}

export const configCommand = (roles: readonly Command[]): Command =>
  new Command('config')
    .description('show every setting, where its value comes from, and why the default is what it is')
    .addOption(new Option('--role <role>', 'only this one').choices(roles.map((role) => role.name())))
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      `
A flag goes before the environment, the environment before the configuration file, the file before the default. What is printed
is itself a configuration file.

Examples:
  shoal config
  shoal config --role master > ${defaultConfigPath}
  shoal --config ./shoal.conf config --json | jq '.[] | select(.source != "default")'`,
    )
    .action(async ({ role, json }: { role?: string; json?: boolean }, command: Command) => {
      const path = command.optsWithGlobals()['config'] as string | undefined
      const file = await readConfig(path, knownSettings(roles))
      // What a role would refuse is refused here too.
      for (const each of roles) applySettings(each, file, process.env)
      const lines = roles
        .filter((each) => role === undefined || each.name() === role)
        .flatMap((each) => linesOf(each, file))
      process.stdout.write(json === true ? `${JSON.stringify(lines, null, 2)}\n` : text(lines))
    })
