/**
 * The mount table of this process, from /proc/self/mountinfo. Reading it touches no file system, so it answers for dead mounts too, where
 * stat(2) would hang.
 * Source: proc_pid_mountinfo(5).
 */
import { readFileSync } from 'node:fs'

export interface MountEntry {
  /** Absolute, as the kernel has it; it may not be UTF-8. */
  mountPoint: Buffer
  /** "fuse.shoal", "ext4", … */
  type: string
  source: string
  /** st_dev: major:minor; minor is the name of a FUSE connection in /sys/fs/fuse/connections. */
  device: { major: number; minor: number }
}

/** Spaces, tabs, newlines and backslashes are written as \ and three octal digits; the field is latin1, byte for byte. */
const unescape = (field: string): Buffer =>
  Buffer.from(
    field.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8))),
    'latin1',
  )

/** In the order of mounting: of several at one place the last one is what is seen. The text is latin1. */
export const parseMountInfo = (text: string): MountEntry[] => {
  const entries: MountEntry[] = []
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ')
    const [, , device, , mountPoint] = left?.split(' ') ?? []
    const [type, source] = right?.split(' ') ?? []
    const [major, minor] = device?.split(':') ?? []
    if (mountPoint === undefined || type === undefined || minor === undefined) continue
    entries.push({
      mountPoint: unescape(mountPoint),
      type,
      source: unescape(source ?? '').toString(),
      device: { major: Number(major), minor: Number(minor) },
    })
  }
  return entries
}

export const mountTable = (): MountEntry[] => parseMountInfo(readFileSync('/proc/self/mountinfo', 'latin1'))

/** What is mounted on top at exactly this path, if it is a mount point. */
export const mountedAt = (path: string): MountEntry | undefined => {
  const name = Buffer.from(path)
  return mountTable().findLast((entry) => entry.mountPoint.equals(name))
}

export const isShoal = (entry: MountEntry): boolean => entry.type === 'fuse.shoal' || /^shoal\b/.test(entry.source)
