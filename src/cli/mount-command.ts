/**
 * `shoal mount`: mounts a cluster. Like mount(8) it returns when the directory can be used; the file system is then served by a
 * process in the background, which ends when the directory is unmounted.
 */
import { mkdir } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { Command, Option } from 'commander'
import { mountDrivers } from '../../mount/mount-options.ts'
import type { MountDriver } from '../../mount/mount-options.ts'
import { UsageError } from '../domain/errors.ts'
import { argument } from './failure.ts'
import { defaultMasterAddress, parseMountSource } from './address.ts'
import { startChild } from './child.ts'
import { durationOption } from './duration-option.ts'
import { splitFstabOptions } from './fstab-options.ts'
import { mountPointPath } from './mount-point.ts'
import { forgetServingProcess, rememberServingProcess } from './serving-process.ts'
import { serve, withServeOptions, type ServeOptions } from './serve.ts'

interface MountCommandOptions extends ServeOptions {
  options: string[]
  foreground?: boolean
  logFile?: string
  connectTimeout: number
  driver: MountDriver
}

const collect = (text: string, before: string[]): string[] => [
  ...before,
  ...text.split(',').filter((name) => name !== ''),
]

/** What -o subdir=DIR adds to the directory of the source. */
const subdirectory = (rootPath: string, subdir: string): string =>
  parseMountSource(`${defaultMasterAddress}${rootPath}/${subdir}`).rootPath

const defaultLogPath = (directory: string): string => {
  const state = process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local/state')
  const logs = process.getuid?.() === 0 ? '/var/log/shoal' : join(state, 'shoal')
  return join(logs, `mount-${directory.slice(1).replaceAll('/', '-') || 'root'}.log`)
}

const inForeground = async (sourceText: string, directory: string, options: MountCommandOptions): Promise<never> => {
  const { rest, subdir, connectTimeoutMs } = splitFstabOptions(options.options)
  const { master, rootPath } = parseMountSource(sourceText)
  return serve('mount', options, async (log) => {
    const { runMount } = await import('../main/mount.ts')
    const running = await runMount({
      master,
      rootPath: subdir === undefined ? rootPath : subdirectory(rootPath, subdir),
      source: sourceText,
      directory,
      options: rest,
      driver: options.driver,
      log,
      ...(options.metrics === undefined ? {} : { metrics: options.metrics }),
      connectMs: connectTimeoutMs ?? options.connectTimeout,
    })
    await rememberServingProcess(directory, process.pid)
    const closed = (async () => {
      try {
        await running.closed
      } finally {
        await forgetServingProcess(directory, process.pid)
      }
    })()
    return { address: running.address, closed, close: () => running.close().then(() => closed) }
  })
}

const inBackground = async (sourceText: string, directory: string, options: MountCommandOptions): Promise<void> => {
  const logPath = resolve(splitFstabOptions(options.options).logFile ?? options.logFile ?? defaultLogPath(directory))
  try {
    await mkdir(dirname(logPath), { recursive: true })
  } catch (caught) {
    throw new UsageError(`cannot make the directory of the log ${logPath}: ${(caught as Error).message}`)
  }
  const child = startChild({
    args: [
      'mount',
      '--foreground',
      '--log-level',
      options.logLevel,
      '--connect-timeout',
      `${options.connectTimeout}ms`,
      '--driver',
      options.driver,
      ...(options.metrics === undefined ? [] : ['--metrics', options.metrics]),
      ...options.options.flatMap((option) => ['-o', option]),
      '--',
      sourceText,
      directory,
    ],
    logPath,
    holdStdin: false,
  })
  await child.ready
  child.release()
}

export const mountCommand = (): Command =>
  withServeOptions(
    new Command('mount')
      .description('mount a cluster on a directory')
      .argument(
        '<host:port[/dir]>',
        'address of the master, and the directory of the cluster to mount',
        (text: string) => {
          argument(parseMountSource)(text)
          return text
        },
      )
      .argument('<dir>', 'where to mount; an existing directory')
      .addOption(
        new Option('-o, --options <list>', 'mount options, separated by commas, such as ro or allow_other')
          .argParser(collect)
          .default([], 'none'),
      )
      .option('-f, --foreground', 'serve from this process and log to standard error; Ctrl-C unmounts')
      .option(
        '--log-file <file>',
        'log of the serving process (default: /var/log/shoal/mount-DIR.log, or in ~/.local/state/shoal)',
      )
      .addOption(
        durationOption(
          '--connect-timeout <duration>',
          'how long to look for the master; a mount that exists waits for it for ever',
          '10s',
        ),
      ),
  )
    .addOption(
      new Option('--driver <name>', 'who speaks with the kernel; fuse-native is libfuse 2, which can do less')
        .choices(mountDrivers)
        .default('kernel' satisfies MountDriver),
    )
    .addHelpText(
      'after',
      `
Examples:
  shoal mount 127.0.0.1:9320 /mnt/shoal
  shoal mount 10.0.0.1:9320/projects/a /mnt/a -o ro
  shoal mount 10.0.0.1:9320 /mnt/b -o noatime,subdir=projects/b
  mount -t shoal 10.0.0.1:9320:/ /mnt/shoal      where deploy/install.sh has put /sbin/mount.shoal
  shoal mount --foreground 127.0.0.1:9320 /mnt/shoal

Besides the options of mount(8) there are: nonempty (hide the files of a directory that is not empty), nonamecache (for mounts inside the
mount), sync (each change is durable before the program goes on) and noleases (cache nothing); the last two cost speed.

--driver fuse-native is for comparison, and for systems where the driver of Shoal cannot run. It needs the npm package fuse-native and
libfuse 2 (Debian: libfuse2). Only the owner of the mount can use it, since it does not learn who calls. Its locks hold in this mount
alone. It has no ACLs, rename flags, fallocate, SEEK_HOLE, shared memory maps and interrupts, copy_file_range and readdirplus are done
the long way, times are in milliseconds from 1970 on, and names in UTF-8. docs/fuse.md has the list.

Root mounts for every user. Another user mounts on a directory of his own, for himself; with -o allow_other for everybody, where
/etc/fuse.conf has user_allow_other.

End it with: shoal umount DIR`,
    )
    .action(async (sourceText: string, directoryText: string, options: MountCommandOptions) => {
      const directory = await mountPointPath(directoryText)
      if (options.foreground === true) await inForeground(sourceText, directory, options)
      else await inBackground(sourceText, directory, options)
    })
