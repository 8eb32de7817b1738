/**
 * What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)): reading it touches no mount, so it never hangs on a
 * dead one, as stat(2) would.
 */
import { readFile, realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'

export interface MountEntry {
  mountPoint: string
  /** File system type, such as "fuse" or "fuse.shoal". */
  type: string
  source: string
  /** Minor number of the device: the name of the connection in /sys/fs/fuse/connections. */
  minor: number
}

const unescape = (text: string): string =>
  Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    'latin1',
  ).toString('utf8')

/** Entries in the order of mounting: of several at one place the last one is what is seen. */
export const parseMountInfo = (text: string): MountEntry[] => {
  const entries: MountEntry[] = []
  for (const line of text.split('\n')) {
    const [head, tail] = line.split(' - ')
    const fields = head?.split(' ') ?? []
    const [type, source] = tail?.split(' ') ?? []
    const [, , device, , mountPoint] = fields
    if (device === undefined || mountPoint === undefined || type === undefined) continue
    entries.push({
      mountPoint: unescape(mountPoint),
      type,
      source: unescape(source ?? ''),
      minor: Number(device.split(':')[1]),
    })
  }
  return entries
}

/** The absolute path of a directory that may be a mount point, without touching what is mounted there. */
export const mountPointPath = async (directory: string): Promise<string> => {
  const absolute = resolve(directory)
  if (absolute === '/') return absolute
  try {
    return join(await realpath(dirname(absolute)), basename(absolute))
  } catch {
    return absolute
  }
}

/** What is mounted at exactly this path (of mountPointPath); undefined when nothing is. */
export const mountedAt = async (path: string): Promise<MountEntry | undefined> => {
  // latin1 keeps every byte, so that unescape can put UTF-8 names together again.
  const text = await readFile('/proc/self/mountinfo', 'latin1')
  return parseMountInfo(text).findLast((entry) => entry.mountPoint === path)
}

export const isShoal = (entry: MountEntry): boolean => entry.type === 'fuse.shoal' || /^shoal\b/.test(entry.source)
