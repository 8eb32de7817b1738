/**
 * Mounts a FileSystem at a directory, serves it in this process and unmounts it.
 *
 * - This process never touches the mount once it is there: a system call that waits for an answer that only this process can give
 *   would wait for ever. mount(8) and umount(8) run as children.
 * - The mount ends when it is unmounted from either side, or when its connection is aborted. The file system is the caller's: it is
 *   not closed here.
 *
 * Source: mount(8), umount(8), mount.fuse(8), Documentation/filesystems/fuse of Linux.
 */
import { mkdtempSync, readdirSync, realpathSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import type { FileSystem } from '../src/client/file-system.ts'
import { UsageError } from '../src/domain/errors.ts'
import type { Clock } from '../src/platform/clock.ts'
import type { Log } from '../src/platform/log.ts'
import { DirectoryPlaces } from './directory-places.ts'
import { openDevice } from './device.ts'
import { createDispatcher } from './dispatcher.ts'
import { serveFuseNative } from './fuse-native/serve.ts'
import { realCallers } from './mount-callers.ts'
import { parseMountOptions } from './mount-options.ts'
import type { MountDriver, MountOptions } from './mount-options.ts'
import { escapeOption, fusermount } from './mount-fusermount.ts'
import { run } from './mount-run.ts'
import { mountedAt } from './mount-table.ts'
import { DoubtfulListings } from './doubtful-listings.ts'
import { kernelInvalidations } from './kernel-invalidations.ts'
import { transferBytesMax } from './protocol.ts'
import { UntakenAnswers } from './untaken-answers.ts'

export interface MountFileSystemOptions {
  driver: MountDriver
  fileSystem: FileSystem
  mountPoint: string
  /** As after `-o`: ro, nosuid, … */
  options: readonly string[]
  /** What the mount table shows as the source. */
  fsName: string
  log: Log
  clock: Clock
}

export interface Mounted {
  /** Absolute, without symbolic links. */
  readonly mountPoint: string
  /** The number of the connection under /sys/fs/fuse/connections. */
  readonly connection: number
  /** Resolves when the mount is gone, whoever unmounted it. Never rejects. */
  readonly done: Promise<void>
  /** Unmounts: at once, lazily when it stays busy, and at last by breaking the connection. Resolves when the mount is gone. */
  unmount(): Promise<void>
}

const fileSystemType = 'fuse.shoal'
/** Read-ahead of the kernel: the largest READ. The kernel's own default is 128 KiB. */
const readAheadKiB = transferBytesMax / 1024
/** How long a busy mount is tried again before it is detached from the directory tree. */
const busyMs = 3000
const busyPollMs = 100
/** How long after its detachment programs may go on with what they have open. */
const detachedMs = 2000
const umountMsMax = 10_000
/** How long a mount that is in the way may take to show that it is alive. */
const aliveMs = 1000
const initializeMsMax = 10_000
const connections = '/sys/fs/fuse/connections'
const isRoot = process.getuid?.() === 0

const errorCode = (caught: unknown): string => (caught as NodeJS.ErrnoException).code ?? ''

const staleSentence = (directory: string): string =>
  `${directory} is a mount whose server has died; remove it with: umount -l ${directory}`

/** Refuses what is a mount point already. A child asks whether it is alive: the answer of a hanging server may never come. */
const refuseMounted = async (directory: string, clock: Clock): Promise<void> => {
  const mounted = mountedAt(directory)
  if (mounted === undefined) return
  if (mounted.type.startsWith('fuse')) {
    const asked = await Promise.race([run('stat', ['--', directory], { timeoutMs: aliveMs }), clock.sleep(aliveMs)])
    if (asked?.code === 1) throw new UsageError(staleSentence(directory))
  }
  throw new UsageError(
    `${directory} is in use: ${mounted.type} is mounted there; unmount it first (shoal umount ${directory}), or choose another directory`,
  )
}

/** The absolute path of a directory that can be mounted on. UsageError where it cannot. */
const checkMountPoint = async (
  mountPoint: string,
  { nonEmpty, clock }: { nonEmpty: boolean; clock: Clock },
): Promise<string> => {
  const given = resolve(mountPoint)
  try {
    // The last component is left out: if it is a mount, it is not to be touched.
    const directory = given === '/' ? '/' : join(realpathSync(dirname(given)), basename(given))
    await refuseMounted(directory, clock)
    const real = realpathSync(directory)
    if (real !== directory) await refuseMounted(real, clock)
    if (!statSync(real).isDirectory()) throw new UsageError(`${mountPoint} is not a directory`)
    if (!nonEmpty && readdirSync(real).length > 0) {
      throw new UsageError(
        `${mountPoint} is not empty, and a mount would hide what is in it; choose an empty directory, or use -o nonempty`,
      )
    }
    return real
  } catch (caught) {
    if (caught instanceof UsageError) throw caught
    const code = errorCode(caught)
    if (code === 'ENOENT')
      throw new UsageError(`${mountPoint} does not exist; create the directory first (mkdir -p ${mountPoint})`)
    if (code === 'ENOTDIR') throw new UsageError(`${mountPoint} is not a directory`)
    if (code === 'ENOTCONN') throw new UsageError(staleSentence(mountPoint))
    throw new UsageError(`${mountPoint} cannot be used as a mount point: ${(caught as Error).message}`)
  }
}

/** Best effort: a mount works with less read-ahead, too. */
const setReadAhead = (device: { major: number; minor: number }, log: Log): void => {
  try {
    writeFileSync(`/sys/class/bdi/${device.major}:${device.minor}/read_ahead_kb`, `${readAheadKiB}`)
  } catch (caught) {
    log.info('read-ahead stays at the default of the kernel', { cause: caught })
  }
}

/** Breaks a connection: everybody who waits in the mount gets ECONNABORTED. False where it cannot be done. */
const abortConnection = async (connection: number): Promise<boolean> => {
  const abortIn = (directory: string): boolean => {
    try {
      writeFileSync(`${directory}/${connection}/abort`, '1')
      return true
    } catch {
      return false
    }
  }
  if (abortIn(connections)) return true
  // In containers the control file system is often not mounted.
  let directory: string
  try {
    directory = mkdtempSync('/run/shoal-fusectl-')
  } catch {
    return false
  }
  const options = { timeoutMs: umountMsMax }
  const { code } = await run('mount', ['-i', '-t', 'fusectl', 'fusectl', directory], options)
  const aborted = code === 0 && abortIn(directory)
  if (code === 0) await run('umount', ['-i', '-l', directory], options)
  try {
    rmdirSync(directory)
  } catch {
    // It could not be unmounted. That costs an empty directory, and must not keep the mount from ending.
  }
  return aborted
}

interface Serving {
  /** The mount is gone. */
  done: Promise<void>
  /** Agreed with the kernel; rejects when that cannot be, or the mount is gone. */
  initialized: Promise<void>
  /** Ends it, as far as that is possible without unmounting. */
  close(): void
}

const within = async <T>(clock: Clock, ms: number, what: Promise<T>): Promise<T | 'late'> => {
  const stop = new AbortController()
  const late = clock.sleep(ms, stop.signal).then(
    () => 'late' as const,
    () => 'late' as const,
  )
  try {
    return await Promise.race([what, late])
  } finally {
    stop.abort()
  }
}

/** The kernel's INIT may have to be answered before mount(8) returns, so the device is being read already. */
const mountAsRoot = async (options: {
  fd: number
  mountPoint: string
  fsName: string
  forKernel: readonly string[]
}): Promise<void> => {
  const { fd, mountPoint, fsName, forKernel } = options
  const kernelOptions = [
    'fd=3',
    'rootmode=40000',
    'user_id=0',
    'group_id=0',
    'allow_other',
    'default_permissions',
    `max_read=${transferBytesMax}`,
    ...forKernel,
  ]
  const args = ['-i', '-t', fileSystemType, '-o', kernelOptions.join(','), '--', fsName, mountPoint]
  const ended = await run('mount', args, { fd })
  if (ended.code === 0) return
  const why = ended.stderr === '' ? `mount(8) ended with ${ended.code}` : ended.stderr
  throw new UsageError(`cannot mount on ${mountPoint}: ${why}`)
}

interface ServeOptions extends Omit<MountFileSystemOptions, 'options' | 'driver'> {
  options: MountOptions
}

/** Mounts, and serves the kernel's requests. */
const serveKernel = async ({ fileSystem, mountPoint, options, fsName, log, clock }: ServeOptions): Promise<Serving> => {
  const { forKernel, cacheNames, allowOther } = options
  const descriptor = isRoot
    ? undefined
    : await fusermount(mountPoint, [
        ...forKernel,
        ...(allowOther ? ['allow_other'] : []),
        'default_permissions',
        `max_read=${transferBytesMax}`,
        'subtype=shoal',
        `fsname=${escapeOption(fsName)}`,
      ])
  const device = openDevice({ clock, log, kind: process.env['SHOAL_FUSE_DEVICE'], descriptor })
  const listings = new UntakenAnswers()
  const made = new UntakenAnswers()
  const doubtful = new DoubtfulListings(device, clock, listings)
  const places = new DirectoryPlaces({
    clock,
    cacheNames,
    notify: (message, notified) => device.notify(message, notified),
  })
  const dispatcher = createDispatcher({
    fileSystem,
    channel: device,
    callers: realCallers(clock),
    listings,
    made,
    doubtful,
    places,
    log,
  })
  fileSystem.onInvalidate(kernelInvalidations({ device, dispatcher, listings, made, doubtful, clock, cacheNames }))
  const done = new Promise<void>((resolve) => {
    device.start({
      request: (message) => dispatcher.request(message),
      ended: () => {
        dispatcher.ended()
        device.close()
        resolve()
      },
    })
  })
  const close = (): void => device.close()
  try {
    if (isRoot) await mountAsRoot({ fd: device.fd, mountPoint, fsName, forKernel })
  } catch (caught) {
    close()
    throw caught
  }
  log.debug('reading the FUSE device', { device: device.kind })
  return { done, initialized: dispatcher.initialized, close }
}

/**
 * UsageError for what the person who mounts can mend. The kernel checks permissions. Root's mounts are for every user, an ordinary user's
 * for himself unless he says allow_other and the administrator allows it (user_allow_other in /etc/fuse.conf).
 */
export const mountFileSystem = async (options: MountFileSystemOptions): Promise<Mounted> => {
  const { driver, fileSystem, fsName, log, clock } = options
  const mountOptions = parseMountOptions(options.options)
  const mountPoint = await checkMountPoint(options.mountPoint, { nonEmpty: mountOptions.nonEmpty, clock })
  const serve = driver === 'kernel' ? serveKernel : serveFuseNative
  const serving: Serving = await serve({ fileSystem, mountPoint, options: mountOptions, fsName, log, clock })

  const isMounted = (): boolean => mountedAt(mountPoint)?.device.minor === connection
  const entry = mountedAt(mountPoint)
  const connection = entry?.device.minor ?? 0

  /** Detached already, or with programs in it that do not end: the connection goes. */
  const breakConnection = async (): Promise<void> => {
    log.warn('programs still use the mount: breaking its connection', { mountPoint })
    if (!(await abortConnection(connection))) serving.close()
    await within(clock, detachedMs, serving.done)
    serving.close()
  }

  const unmountNow = async (): Promise<void> => {
    const endMs = clock.nowMs() + busyMs
    while (isMounted()) {
      const lazily = clock.nowMs() >= endMs
      const { code } = isRoot
        ? await run('umount', ['-i', ...(lazily ? ['-l'] : []), '--', mountPoint], { timeoutMs: umountMsMax })
        : await run('fusermount3', ['-u', ...(lazily ? ['-z'] : []), '--', mountPoint], { timeoutMs: umountMsMax })
      if (code === 0) break
      if (lazily) {
        log.error('umount failed', { mountPoint, code })
        break
      }
      await clock.sleep(busyPollMs)
    }
    if ((await within(clock, detachedMs, serving.done)) === 'late') await breakConnection()
  }

  let unmounting: Promise<void> | undefined
  const mounted: Mounted = {
    mountPoint,
    connection,
    done: serving.done,
    unmount: async () => {
      unmounting ??= unmountNow()
      await unmounting
    },
  }

  try {
    const outcome = await within(clock, initializeMsMax, serving.initialized)
    if (outcome === 'late') throw new Error('the kernel did not start the FUSE session')
  } catch (caught) {
    await mounted.unmount()
    throw caught
  }
  if (entry !== undefined) setReadAhead(entry.device, log)
  log.debug('serving the mount', { mountPoint, driver, connection })
  return mounted
}
