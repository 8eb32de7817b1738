/** Which directory a client sees as its root: a path of directories from the root of the namespace. ENOENT, ENOTDIR, ENAMETOOLONG. */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import { isDirectory } from '../domain/mode.ts'
import type { OpContext } from './context.ts'
import { resolvePath } from './paths.ts'
import type { Tx } from './store.ts'

export const resolveRoot = (tx: Tx, path: string, context: OpContext): Ino => {
  const { ino, inode } = resolvePath(tx, path, context)
  if (!isDirectory(inode.mode)) throw new PosixError('ENOTDIR', `${path} is not a directory in the file system`)
  return ino
}
