/** Completion for zsh(1): a function for each command, which gives its definitions to _arguments (zshcompsys(1)). */
import { allCommands, type CommandOutline, type OptionOutline, type ValueKind } from './command-outline.ts'

const functionOf = (outline: CommandOutline): string => `_${outline.path.join('_').replaceAll('-', '_')}`

/** Within '…' of the shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** Within a specification of _arguments or _describe, where these characters mean something. */
const escaped = (text: string): string => text.replaceAll(/[\\:[\]]/g, '\\$&')

const actionOf = (kind: ValueKind): string => {
  if (kind === 'file') return '_files'
  if (kind === 'directory') return '_files -/'
  return kind === 'nothing' ? ' ' : `(${kind.join(' ')})`
}

const optionSpecs = ({ names, summary, value }: OptionOutline): string[] => {
  const after = value === undefined ? '' : `:${escaped(names[0]?.replace(/^-+/, '') ?? '')}:${actionOf(value)}`
  const takes = value === undefined ? '' : '+'
  return names.map((name) => {
    const spec = `${name}${name.startsWith('--') && value !== undefined ? '=' : takes}[${escaped(summary)}]${after}`
    return quoted(`(${names.join(' ')})${spec}`)
  })
}

const functionText = (outline: CommandOutline): string => {
  const specs = [...outline.options, ...outline.globalOptions].flatMap(optionSpecs)
  const lines = (all: readonly string[]): string => all.map((spec) => `    ${spec}`).join(' \\\n')
  if (outline.commands.length === 0) {
    const places = outline.arguments.map(({ name, term, value }, index) =>
      quoted(`${name.endsWith('...') || term.includes('...') ? '*' : index + 1}:${escaped(name)}:${actionOf(value)}`),
    )
    return `${functionOf(outline)}() {
  _arguments -s -S \\
${lines([...specs, ...places])}
}`
  }
  const described = outline.commands.map(({ path, description }) => quoted(`${path.at(-1)}:${escaped(description)}`))
  const cases = outline.commands.map((below) => `        ${below.path.at(-1)}) ${functionOf(below)} ;;`)
  return `${functionOf(outline)}() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C -s -S \\
${lines([...specs, "'1: :->command'", "'*:: :->rest'"])}
  case $state in
    command)
      local -a commands
      commands=(
${described.map((text) => `        ${text}`).join('\n')}
      )
      _describe command commands
      ;;
    rest)
      case $line[1] in
${cases.join('\n')}
      esac
      ;;
  esac
}`
}

export const zshCompletion = (program: CommandOutline): string => `#compdef shoal
# Completion of the command line of shoal for zsh, made by: shoal completion zsh
${allCommands(program).toReversed().map(functionText).join('\n')}
# Autoloaded, this file is the function; sourced, it has to be announced.
if [[ $funcstack[1] == _shoal ]]; then _shoal "$@"; else compdef _shoal shoal; fi
`
