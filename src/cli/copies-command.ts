/** `shoal copies`: how many copies a file or directory has, and is to have. */
import { Command } from 'commander'
import type { GetCopiesReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { follow, json, print, resolveClusterPath, withAdminOptions, withMaster } from './administration.ts'
import { argument } from './failure.ts'
import { formatCount, parseCount } from './quantity.ts'

const pathText = 'a path in a mount, or one of the cluster that begins with /'

/** "default" is 0: the cluster's number. */
const parseCopies = (text: string): number => (text === 'default' ? 0 : parseCount({ min: 1, max: 16 })(text))

const sentence = (path: string, { copies, isDefault, directory }: GetCopiesReply): string => {
  const what = directory ? 'what is made in it has' : 'it has'
  return `${path}: ${what} ${copies} ${copies === 1 ? 'copy' : 'copies'}${isDefault ? ', as the cluster has by default' : ''}`
}

const get = (): Command =>
  withAdminOptions(
    new Command('get').description('show the number of copies of a file or directory').argument('<path>', pathText),
  ).action(async (given: string, options: AdminOptions) => {
    const { path, master } = await resolveClusterPath(given, options.master)
    await withMaster({ ...options, ...(master === undefined ? {} : { master }) }, async (call) => {
      const reply = await call('getCopies', { path })
      if (options.json === true) process.stdout.write(json({ path, ...reply }))
      else print([sentence(path, reply)])
    })
  })

interface SetOptions extends AdminOptions {
  wait?: boolean
}

const set = (): Command =>
  withAdminOptions(
    new Command('set')
      .description('change the number of copies of a file, or of all that is in a directory and will be made there')
      .argument('<path>', pathText)
      .argument('<n>', 'copies, 1 to 16, or "default"', argument(parseCopies))
      .option(
        '--wait',
        'wait until every file below knows its number; the copies themselves are made in the background',
      ),
  )
    .addHelpText(
      'after',
      `
The change is carried out in the background, also when the master is restarted meanwhile; shoal status shows the copies being made.
A chunk holds data of several files and has as many copies as the most demanding of them.

Examples:
  shoal copies set /mnt/shoal/scratch 1
  shoal copies set /mnt/shoal/archive 3 --wait
  shoal copies set /mnt/shoal/archive default`,
    )
    .action(async (given: string, copies: number, options: SetOptions) => {
      const { path, master } = await resolveClusterPath(given, options.master)
      await withMaster({ ...options, ...(master === undefined ? {} : { master }) }, async (call) => {
        const reply = await call('setCopies', { path, copies })
        if (options.wait === true) {
          await follow(async () => (await call('status', {})).copiesJobs.filter(({ ino }) => ino === reply.ino), {
            line: ([job]) => `${formatCount(job?.inodesDone ?? 0n)} files and directories`,
            isOver: (jobs) => jobs.length === 0,
          })
        }
        if (options.json === true) process.stdout.write(json({ path, ...reply }))
        else print([sentence(path, reply)])
      })
    })

export const copiesCommand = (): Command =>
  new Command('copies')
    .description('show and change how many copies files have')
    .addHelpText(
      'after',
      `
Examples:
  shoal copies get /mnt/shoal/archive
  shoal copies set /mnt/shoal/scratch 1`,
    )
    .addCommand(get())
    .addCommand(set())
