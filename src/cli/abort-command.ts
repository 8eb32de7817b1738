/** `shoal abort`: for a mount that hangs: whoever waits in it gets an error at once. Nothing is unmounted, no file system is touched. */
import { Command } from 'commander'
import { UsageError } from '../domain/errors.ts'
import { isShoal, mountedAt } from '../../mount/mount-table.ts'
import { mountPointPath } from './mount-point.ts'
import { abortConnection } from './unmount.ts'

export const abortCommand = (): Command =>
  new Command('abort')
    .description('fail everything that waits in a mount that hangs, and end it; what it has buffered is lost')
    .argument('<dir>', 'the mount point')
    .addHelpText(
      'after',
      `
Programs in the mount get ECONNABORTED or ENOTCONN from now on. What was written there without fsync and is not stored yet is lost. Then:
  shoal umount --lazy DIR

Examples:
  shoal abort /mnt/shoal`,
    )
    .action(async (directoryText: string) => {
      const directory = await mountPointPath(directoryText)
      const entry = mountedAt(directory)
      if (entry === undefined) throw new UsageError(`nothing is mounted at ${directory}`)
      if (!isShoal(entry)) throw new UsageError(`what is mounted at ${directory} is ${entry.type}, not Shoal`)
      const complaint = await abortConnection(entry)
      if (complaint !== undefined) throw new UsageError(`cannot abort the mount at ${directory}: ${complaint}`)
    })
