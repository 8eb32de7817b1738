/** `shoal man`: the manual pages, made from the definitions of the command line. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { UsageError } from '../domain/errors.ts'
import { fileFailure } from './file-failure.ts'
import { outlineOf } from './command-outline.ts'
import { manPages } from './man-page.ts'

const writePages = async (directory: string, pages: ReadonlyMap<string, string>): Promise<void> => {
  try {
    await mkdir(directory, { recursive: true })
    for (const [name, text] of pages) await writeFile(join(directory, name), text)
  } catch (caught) {
    throw new UsageError(`cannot write the manual pages into ${directory}: ${fileFailure(caught)}`)
  }
}

export const manCommand = (): Command =>
  new Command('man')
    .description('print the manual page of a command')
    .argument('[command...]', 'the command; without one it is the page of shoal itself')
    .option('--directory <dir>', 'write the pages of all commands into this directory instead')
    .addHelpText(
      'after',
      `
deploy/install.sh installs the pages, so that man shoal-mount works.

Examples:
  shoal man mount | man -l -
  shoal man servers drain | man -l -
  shoal man --directory /usr/local/share/man/man1`,
    )
    .action(async (words: string[], { directory }: { directory?: string }, command: Command) => {
      if (command.parent === null) throw new Error('man is a command of shoal')
      const pages = manPages(outlineOf(command.parent))
      if (directory !== undefined) {
        if (words.length > 0) command.error('error: --directory writes the pages of all commands: name none')
        return writePages(directory, pages)
      }
      const page = pages.get(`${['shoal', ...words].join('-')}.1`)
      if (page === undefined) command.error(`error: unknown command '${words.join(' ')}'`)
      process.stdout.write(page)
    })
