/**
 * Completion for bash(1): a function that walks the words before the cursor, and then offers what the definitions have at that place.
 * It needs nothing but bash 4.
 */
import { allCommands, type CommandOutline, type OptionOutline, type ValueKind } from './command-outline.ts'

/** The key of a command in the script: what is typed after "shoal". */
const keyOf = (outline: CommandOutline): string => outline.path.slice(1).join(' ')

const kindText = (kind: ValueKind): string => (typeof kind === 'string' ? kind : `words ${kind.join(' ')}`)

const optionsOf = (outline: CommandOutline): OptionOutline[] => [...outline.options, ...outline.globalOptions]

const patterns = (texts: readonly string[]): string => texts.map((text) => `'${text}'`).join(' | ')

export const bashCompletion = (program: CommandOutline): string => {
  const commands = allCommands(program)
  const deeper = commands
    .filter(({ path }) => path.length > 1)
    .map(
      (outline) =>
        `      ${patterns([`${keyOf({ ...outline, path: outline.path.slice(0, -1) })}:${outline.path.at(-1)}`])}) command='${keyOf(outline)}' place=0 ;;`,
    )
  const values = commands.flatMap((outline) =>
    optionsOf(outline).flatMap(({ names, value }) =>
      value === undefined
        ? []
        : [`      ${patterns(names.map((name) => `${keyOf(outline)}:${name}`))}) value='${kindText(value)}' ;;`],
    ),
  )
  const offers = commands.map((outline) => {
    const flags = optionsOf(outline).flatMap(({ names }) => names)
    return `    '${keyOf(outline)}') options='${flags.join(' ')}' commands='${outline.commands.map(({ path }) => path.at(-1)).join(' ')}' ;;`
  })
  const places = commands.flatMap((outline) =>
    outline.arguments.flatMap(({ value }, index) =>
      value === 'nothing' ? [] : [`    '${keyOf(outline)}:${index}') value='${kindText(value)}' ;;`],
    ),
  )
  return `# Completion of the command line of shoal for bash, made by: shoal completion bash
_shoal() {
  local current=\${COMP_WORDS[COMP_CWORD]} command='' place=0 value='' joined='' word index options='' commands=''
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=\${COMP_WORDS[index]}
    # Bash makes words of the ":" in HOST:PORT and of the "=" in --option=value.
    if [[ $word == : ]]; then joined=1; continue; fi
    if [[ -n $joined ]]; then joined=''; continue; fi
    if [[ $word == = ]]; then continue; fi
    if [[ -n $value ]]; then value=''; continue; fi
    case "$command:$word" in
${deeper.join('\n')}
${values.join('\n')}
      *:-*) ;;
      *) place=$((place + 1)) ;;
    esac
  done
  if [[ -n $joined || $current == : ]]; then return; fi
  if [[ $current == = ]]; then current=''; fi
  case $command in
${offers.join('\n')}
  esac
  if [[ -z $value && $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    return
  fi
  if [[ -z $value ]]; then
    value="words $commands"
    case "$command:$place" in
${places.map((text) => `  ${text}`).join('\n')}
    esac
  fi
  case $value in
    file | directory)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen "-\${value:0:1}" -- "$current")
      ;;
    words*) mapfile -t COMPREPLY < <(compgen -W "\${value#words}" -- "$current") ;;
  esac
}
complete -F _shoal shoal
`
}
