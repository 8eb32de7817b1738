/**
 * The mount table of this process, from /proc/self/mountinfo. Reading it touches no file system, so it answers for dead mounts too.
 * Source: proc_pid_mountinfo(5).
 */
import { readFileSync } from 'node:fs'

export interface MountEntry {
  /** Absolute, as the kernel has it. */
  mountPoint: Buffer
  /** "fuse.shoal", "ext4", … */
  type: string
  /** st_dev: major:minor. */
  device: { major: number; minor: number }
}

/** Spaces, tabs, newlines and backslashes are written as \ and three octal digits. */
const unescape = (field: string): Buffer =>
  Buffer.from(
    field.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8))),
    'latin1',
  )

/** In the order of mounting. The text is latin1, so that names survive that are not UTF-8. */
export const parseMountInfo = (text: string): MountEntry[] => {
  const entries: MountEntry[] = []
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ')
    const [, , device, , mountPoint] = left?.split(' ') ?? []
    const type = right?.split(' ')[0]
    const [major, minor] = device?.split(':') ?? []
    if (mountPoint === undefined || type === undefined || minor === undefined) continue
    entries.push({ mountPoint: unescape(mountPoint), type, device: { major: Number(major), minor: Number(minor) } })
  }
  return entries
}

/** What is mounted on top at a path, if it is a mount point. */
export const mountedAt = (path: string): MountEntry | undefined => {
  const name = Buffer.from(path)
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'latin1')).findLast((entry) =>
    entry.mountPoint.equals(name),
  )
}
