/** Unmounting with umount(8), or fusermount3(1) for an ordinary user's own mounts, and by force where that does not work. */
import { execFile } from 'node:child_process'
import { mkdtemp, rmdir, writeFile } from 'node:fs/promises'
import type { MountEntry } from '../../mount/mount-table.ts'

const isRoot = process.getuid?.() === 0

/** Runs a program of 15 seconds at most; undefined when it worked, its complaint otherwise. */
const complaintOf = (program: string, args: readonly string[]): Promise<string | undefined> =>
  new Promise((resolve) => {
    execFile(program, args, { timeout: 15_000 }, (error, _stdout, stderr) => {
      if (error === null) resolve(undefined)
      else resolve(stderr.trim().replace(/^(umount|fusermount3): /, '') || error.message)
    })
  })

/** Undefined when it worked, a complaint otherwise. `lazy`: detaches it also while it is in use. */
export const umount = (directory: string, { lazy = false } = {}): Promise<string | undefined> =>
  isRoot
    ? // -i: no helper program; -n is not given, so /run/mount/utab stays right.
      complaintOf('umount', ['-i', ...(lazy ? ['-l'] : []), directory])
    : complaintOf('fusermount3', ['-u', ...(lazy ? ['-z'] : []), directory])

/**
 * Makes every operation in a FUSE mount fail at once, so that nobody who hangs in it holds it. For root and the one who mounted it.
 * Undefined when it worked, a complaint otherwise.
 */
export const abortConnection = async (entry: MountEntry): Promise<string | undefined> => {
  const abortIn = (directory: string): Promise<string | undefined> =>
    writeFile(`${directory}/${entry.device.minor}/abort`, '1').then(
      () => undefined,
      (caught: NodeJS.ErrnoException) =>
        caught.code === 'EACCES'
          ? 'only its owner and root may'
          : caught.code === 'ENOENT'
            ? 'the control file system is not mounted (mount -t fusectl fusectl /sys/fs/fuse/connections)'
            : caught.message,
    )
  const complaint = await abortIn('/sys/fs/fuse/connections')
  if (complaint === undefined || !isRoot) return complaint
  // In containers the control file system is often not mounted.
  let directory: string
  try {
    directory = await mkdtemp('/run/shoal-fusectl-')
  } catch {
    return complaint
  }
  const unmounted = await complaintOf('mount', ['-i', '-t', 'fusectl', 'fusectl', directory])
  const second = unmounted ?? (await abortIn(directory))
  if (unmounted === undefined) await complaintOf('umount', ['-i', '-l', directory])
  await rmdir(directory).catch(() => undefined)
  return second
}
