/** `shoal umount`: unmounts, and waits until everything that was written is stored. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { UsageError } from '../domain/errors.ts'
import { durationOption } from './duration-option.ts'
import { isShoal, mountedAt } from '../../mount/mount-table.ts'
import { mountPointPath } from './mount-point.ts'
import { servingProcess } from './serving-process.ts'
import { abortConnection, umount } from './unmount.ts'

interface UmountCommandOptions {
  lazy?: boolean
  force?: boolean
  wait: number
}

const waitForEnd = async (directory: string, waitMs: number): Promise<void> => {
  const startMs = performance.now()
  let told = false
  for (;;) {
    const pid = await servingProcess(directory)
    if (pid === undefined) return
    const elapsedMs = performance.now() - startMs
    if (elapsedMs > waitMs) {
      throw new UsageError(
        `${directory} is unmounted, but process ${pid} still writes out what was buffered (is the master away?); data is lost if it is killed`,
      )
    }
    if (elapsedMs > 2000 && !told) {
      told = true
      process.stderr.write(`writing out what was buffered …\n`)
    }
    await sleep(50)
  }
}

export const umountCommand = (): Command =>
  new Command('umount')
    .description('unmount a directory, and wait until what was written there is stored')
    .argument('<dir>', 'the mount point')
    .option('-l, --lazy', 'detach now, even if programs still use it; it ends when they do')
    .option(
      '-f, --force',
      'for a mount that hangs: fail every operation in progress, then detach; loses what is buffered',
    )
    .addOption(durationOption('--wait <duration>', 'how long to wait for buffered data', '1m', '0'))
    .addHelpText(
      'after',
      `
Examples:
  shoal umount /mnt/shoal
  shoal umount --force /mnt/shoal`,
    )
    .action(async (directoryText: string, options: UmountCommandOptions) => {
      const directory = await mountPointPath(directoryText)
      const entry = mountedAt(directory)
      if (entry === undefined) throw new UsageError(`nothing is mounted at ${directory}`)
      if (!isShoal(entry))
        throw new UsageError(`what is mounted at ${directory} is ${entry.type}, not Shoal: use umount`)
      if (options.force === true) await abortConnection(entry)
      const complaint = await umount(directory, { lazy: options.lazy === true || options.force === true })
      if (complaint !== undefined) {
        const busy = /busy/.test(complaint)
        throw new UsageError(
          busy
            ? `programs still use ${directory} (see: fuser -vm ${directory}); end them, or use --lazy`
            : `cannot unmount: ${complaint}`,
        )
      }
      if (options.lazy !== true) await waitForEnd(directory, options.wait)
    })
