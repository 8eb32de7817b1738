/**
 * The command line of `shoal`, a subcommand per file. What --help shows, the manual pages and the completion of shells are all made
 * from what is defined here.
 */
import { Command } from 'commander'
import { version } from '../domain/version.ts'
import { abortCommand } from './abort-command.ts'
import { chunkServerCommand } from './chunkserver-command.ts'
import { completionCommand } from './completion-command.ts'
import { configCommand } from './config-command.ts'
import { readConfig } from './config-file.ts'
import { copiesCommand } from './copies-command.ts'
import { dfCommand } from './df-command.ts'
import { fsckCommand } from './fsck-command.ts'
import { locateCommand } from './locate-command.ts'
import { manCommand } from './man-command.ts'
import { masterCommand } from './master-command.ts'
import { mountCommand } from './mount-command.ts'
import { rebalanceCommand } from './rebalance-command.ts'
import { restoreCommand } from './restore-command.ts'
import { scrubCommand } from './scrub-command.ts'
import { serversCommand } from './servers-command.ts'
import { snapshotMetadataCommand } from './snapshot-metadata-command.ts'
import { applySettings, configOption, knownSettings, withEnvironment } from './settings.ts'
import { statusCommand } from './status-command.ts'
import { topCommand } from './top-command.ts'
import { umountCommand } from './umount-command.ts'
import { upCommand } from './up-command.ts'

const pathOf = (command: Command): string =>
  command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`

/** Commander says what is wrong in one sentence and what would be right in another one. */
const oneSentence = (text: string): string =>
  text
    .replace(/^error: (command-argument value )?/, '')
    .trimEnd()
    .replace(
      /((?: is invalid| for ')[^.]*)\. (\w)/,
      (_, wrong: string, first: string) => `${wrong}: ${first.toLowerCase()}`,
    )
    .replace(/\.$/, '')
    .replace('\n(Did you mean', ' (did you mean')

/** Commander's own words, with our name in front and where to look behind. */
const withSentences = (command: Command): Command => {
  for (const below of command.commands) withSentences(below)
  return command
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({
      outputError: (text, write) => {
        write(`shoal: ${oneSentence(text)}; see ${pathOf(command)} --help\n`)
      },
    })
}

/** The whole command line, not yet used. */
export const buildProgram = (): Command => {
  // What runs for long and has settings.
  const roles = [masterCommand(), chunkServerCommand(), mountCommand()].map(withEnvironment)
  const program = withSentences(new Command('shoal'))
    .description('Shoal, a distributed file system that you mount.')
    .version(version)
    .addOption(configOption())
    .hook('preSubcommand', async (program, command) => {
      if (!roles.includes(command)) return
      const path = program.opts<{ config?: string }>().config
      applySettings(command, await readConfig(path, knownSettings(roles)), process.env)
    })
    .addHelpText(
      'after',
      `
Examples:
  shoal up ./mnt                         a whole cluster on this machine, mounted at ./mnt
  shoal status                           how it is
  shoal mount 10.0.0.1:9320 /mnt/shoal   mount a cluster of other machines

Exit codes: 0 done, 1 failed, 2 the command line was wrong. SHOAL_DEBUG=1 shows where an unexpected failure came from.`,
    )
  for (const command of [
    upCommand(),
    ...roles,
    umountCommand(),
    abortCommand(),
    statusCommand(),
    configCommand(roles),
    serversCommand(),
    dfCommand(),
    locateCommand(),
    copiesCommand(),
    scrubCommand(),
    rebalanceCommand(),
    fsckCommand(),
    snapshotMetadataCommand(),
    restoreCommand(),
    topCommand(),
    completionCommand(),
    manCommand(),
  ]) {
    program.addCommand(withSentences(command))
  }
  return program
}
