/** Completion for fish(1): one line for each thing that can be offered, with the command at which it can. */
import { allCommands, type CommandOutline, type ValueKind } from './command-outline.ts'

/** Within '…' of fish. */
const quoted = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

const keyOf = (outline: CommandOutline): string => outline.path.slice(1).join(' ')

const offer = (kind: ValueKind): string => {
  if (kind === 'file') return ' -F'
  if (kind === 'directory') return " -a '(__fish_complete_directories (commandline -ct))'"
  return kind === 'nothing' ? '' : ` -a ${quoted(kind.join(' '))}`
}

/** -x: a value has to follow, and no file is offered for it; -r: a value has to follow. */
const valueFlags = (kind: ValueKind | undefined): string => {
  if (kind === undefined) return ''
  return `${kind === 'file' ? ' -r' : ' -x'}${offer(kind)}`
}

const linesOf = (outline: CommandOutline): string[] => {
  const start = `complete -c shoal -n ${quoted(`__shoal_at ${quoted(keyOf(outline))}`)}`
  return [
    ...outline.commands.map(
      ({ path, description }) => `${start} -a ${quoted(path.at(-1) ?? '')} -d ${quoted(description)}`,
    ),
    ...outline.arguments.filter(({ value }) => value !== 'nothing').map(({ value }) => `${start}${offer(value)}`),
    ...[...outline.options, ...outline.globalOptions].map(({ names, summary, value }) => {
      const flags = names.map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`))
      return `${start} ${flags.join(' ')}${valueFlags(value)} -d ${quoted(summary)}`
    }),
  ]
}

export const fishCompletion = (program: CommandOutline): string => {
  const commands = allCommands(program)
  const deeper = commands
    .filter(({ path }) => path.length > 1)
    .map(
      (outline) =>
        `      case ${quoted(`${keyOf({ ...outline, path: outline.path.slice(0, -1) })}:${outline.path.at(-1)}`)}\n        set at ${quoted(keyOf(outline))}`,
    )
  return `# Completion of the command line of shoal for fish, made by: shoal completion fish
# Whether the words before the cursor are this command.
function __shoal_at
  set -l at ''
  for word in (commandline -opc)[2..-1]
    switch "$at:$word"
${deeper.join('\n')}
    end
  end
  test "$at" = "$argv[1]"
end
complete -c shoal -f
${commands.flatMap(linesOf).join('\n')}
`
}
