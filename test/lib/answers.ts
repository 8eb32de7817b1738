/** What came of calls of the FileSystem port, in the form in which tests compare it. */
import { PosixError } from '../../src/domain/errors.ts'
import type { FileSystem } from '../../src/client/file-system.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { caller } from './in-process-cluster.ts'

/** The name of the error, or "none". */
export const code = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise
    return 'none'
  } catch (caught) {
    return caught instanceof PosixError ? caught.code : String(caught)
  }
}

/** The names of a directory without "." and "..". */
export const list = async (fs: FileSystem, directory: Ino): Promise<string[]> => {
  const names: string[] = []
  for (let cookie = 0n; ;) {
    const before = names.length
    await fs.readdir(caller(), directory, cookie, { plus: false }, (entry) => {
      cookie = entry.cookie
      names.push(entry.name.toString())
      return true
    })
    if (names.length === before) break
  }
  return names.filter((text) => text !== '.' && text !== '..')
}
