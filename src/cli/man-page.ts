/** Manual pages from the definitions of the command line, in the man macros of roff (groff_man(7)). Pure. */
import { version } from '../domain/version.ts'
import { allCommands, type CommandOutline } from './command-outline.ts'

/** "shoal-servers-drain", as other programs with subcommands name their pages. */
export const pageName = (outline: CommandOutline): string => outline.path.join('-')

/** A backslash, and a hyphen that a reader may want to copy, would be something else in roff. */
const escaped = (text: string): string => text.replaceAll('\\', '\\e').replaceAll('-', '\\-')

/** A line of text: not one of the macros. */
const line = (text: string): string => escaped(text).replace(/^([.'])/, '\\&$1')

const sentence = (text: string): string =>
  `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!]$/.test(text) ? '' : '.'}`

/** Terms with what they mean. */
const list = (items: readonly { term: string; description: string }[]): string[] =>
  items.flatMap(({ term, description }) => ['.TP', `.B ${line(term)}`, line(sentence(description))])

const section = (title: string, lines: readonly string[]): string[] =>
  lines.length === 0 ? [] : [`.SH ${title}`, ...lines]

/** The remarks of --help: indented lines stay as they are, others are paragraphs, and "Examples:" is a section of its own. */
const remarkSections = (remarks: readonly string[]): { text: string[]; examples: string[] } => {
  const text: string[] = []
  const examples: string[] = []
  let into = text
  let asIs = false
  for (const remark of remarks) {
    const indented = remark.startsWith('  ')
    if (asIs && !indented) into.push('.fi', '.RE')
    if (!asIs && indented) into.push('.PP', '.RS', '.nf')
    asIs = indented
    if (remark === 'Examples:') into = examples
    else if (remark === '') {
      into = text
      text.push('.PP')
    } else into.push(line(remark.trim()))
  }
  if (asIs) into.push('.fi', '.RE')
  return { text: text.filter((item, index) => item !== '.PP' || text[index + 1] !== '.PP'), examples }
}

const exitCodes = [
  { term: '0', description: 'It did what was asked' },
  { term: '1', description: 'It failed' },
  { term: '2', description: 'The command line was wrong' },
]

/** The page of one command. `parent` undefined: it is the program itself. */
const manPage = (outline: CommandOutline, parent: CommandOutline | undefined): string => {
  const { text, examples } = remarkSections(outline.remarks)
  const hasArguments = outline.arguments.some(({ description }) => description !== '')
  const related = [...(parent === undefined ? [] : [parent]), ...outline.commands].map(pageName)
  const lines = [
    `.TH ${line(pageName(outline).toUpperCase())} 1 "" "shoal ${version}" "Shoal"`,
    ...section('NAME', [`${line(pageName(outline))} \\- ${line(outline.description)}`]),
    ...section('SYNOPSIS', [`.B ${line(outline.usage)}`]),
    ...section('DESCRIPTION', [line(sentence(outline.description)), '.PP', ...text]),
    ...section('ARGUMENTS', hasArguments ? list(outline.arguments) : []),
    ...section(
      'COMMANDS',
      list(outline.commands.map(({ path, description }) => ({ term: path.at(-1) ?? '', description }))),
    ),
    ...section('OPTIONS', list([...outline.options, ...outline.globalOptions])),
    ...section(
      'EXIT STATUS',
      // Some commands say more exactly what theirs mean.
      list(outline.remarks.some((remark) => remark.startsWith('Exit codes:')) ? [] : exitCodes),
    ),
    ...section('EXAMPLES', examples),
    ...section(
      'SEE ALSO',
      related.map((name, index) => `.BR ${line(name)} (1)${index === related.length - 1 ? '' : ' ,'}`),
    ),
  ]
  // An empty paragraph before a section is no mistake of roff's, but one of its warnings.
  return `${lines.filter((item, index) => item !== '.PP' || !/^\.(SH|PP)/.test(lines[index + 1] ?? '.SH')).join('\n')}\n`
}

/** Every page, by the name of its file. */
export const manPages = (program: CommandOutline): Map<string, string> => {
  const pages = new Map<string, string>()
  for (const outline of allCommands(program)) {
    const parent = allCommands(program).find(({ commands }) => commands.includes(outline))
    pages.set(`${pageName(outline)}.1`, manPage(outline, parent))
  }
  return pages
}
