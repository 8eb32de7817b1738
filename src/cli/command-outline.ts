/**
 * The command line as data, for the manual pages and the completion of shells: what --help shows, and what kind of thing each value
 * is. Hidden options and the implicit `help` command are not in it.
 */
import type { Argument, Command, Option } from 'commander'

/** What can be offered for a value: names of files, names of directories, one of these words, or nothing. */
export type ValueKind = 'file' | 'directory' | 'nothing' | readonly string[]

export interface OptionOutline {
  /** "-o, --options <list>" */
  term: string
  /** "--options" and "-o". */
  names: readonly string[]
  /** What it does. */
  summary: string
  /** The same with its default, choices and environment variable. */
  description: string
  /** Undefined: it takes no value. */
  value: ValueKind | undefined
}

export interface ArgumentOutline {
  /** "[dir]" */
  term: string
  name: string
  description: string
  value: ValueKind
}

export interface CommandOutline {
  /** ["shoal", "servers", "drain"] */
  path: readonly string[]
  /** "shoal servers drain [options] <id>" */
  usage: string
  description: string
  arguments: readonly ArgumentOutline[]
  options: readonly OptionOutline[]
  /** Those of the commands above, which are taken here as well. */
  globalOptions: readonly OptionOutline[]
  commands: readonly CommandOutline[]
  /** What --help shows below its lists, in lines. */
  remarks: readonly string[]
}

/** The names that values have in the definitions say what they are. */
const kindOf = (placeholder: string, choices: readonly string[] | undefined): ValueKind => {
  if (choices !== undefined) return choices
  if (placeholder === 'dir') return 'directory'
  return placeholder === 'file' || placeholder === 'path' ? 'file' : 'nothing'
}

const optionOutline = (option: Option, { term, description }: { term: string; description: string }): OptionOutline => {
  const placeholder = /[<[]([^>\]]+)[>\]]/.exec(option.flags)?.[1]
  return {
    term,
    names: [option.long, option.short].filter((name) => name !== undefined && name !== null),
    summary: option.description,
    description,
    value: placeholder === undefined ? undefined : kindOf(placeholder, option.argChoices),
  }
}

const termOf = (argument: Argument): string => (argument.required ? `<${argument.name()}>` : `[${argument.name()}]`)

/** What addHelpText('after', …) has been given: commander tells it to nobody, but prints it behind its own lists. */
const remarksOf = (command: Command): string[] => {
  const before = command.configureOutput()
  let text = ''
  command.configureOutput({ ...before, writeOut: (more) => (text += more) }).outputHelp()
  command.configureOutput(before)
  return text.slice(command.helpInformation().length).trim().split('\n')
}

export const outlineOf = (command: Command, above: readonly string[] = []): CommandOutline => {
  const help = command.createHelp()
  help.showGlobalOptions = true
  const path = [...above, command.name()]
  const outline = (option: Option): OptionOutline =>
    optionOutline(option, { term: help.optionTerm(option), description: help.optionDescription(option) })
  return {
    path,
    usage: help.commandUsage(command),
    description: command.description(),
    arguments: command.registeredArguments.map((argument) => ({
      term: termOf(argument),
      name: argument.name(),
      description: help.argumentDescription(argument),
      value: kindOf(argument.name(), argument.argChoices),
    })),
    options: help.visibleOptions(command).map(outline),
    globalOptions: help
      .visibleGlobalOptions(command)
      .filter((option) => option.long !== '--version')
      .map(outline),
    commands: command.commands.map((below) => outlineOf(below, path)),
    remarks: remarksOf(command),
  }
}

/** A command and all below it. */
export const allCommands = (outline: CommandOutline): CommandOutline[] => [
  outline,
  ...outline.commands.flatMap(allCommands),
]
