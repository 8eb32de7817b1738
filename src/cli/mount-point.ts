/** Directories as people name them, for what may be mounted there. */
import { realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'

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
