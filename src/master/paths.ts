/** Paths of the namespace as people type them, from its root. Symbolic links are not followed. */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import { rootIno } from '../domain/ids.ts'
import { isDirectory } from '../domain/mode.ts'
import type { OpContext } from './context.ts'
import { dentries, inodes } from './keys.ts'
import type { Inode } from './keys.ts'
import { checkName, readable } from './ops/operation.ts'
import type { Tx } from './store.ts'

const pathLengthMax = 4096

/**
 * ENOENT, ENOTDIR, ENAMETOOLONG, each with a sentence. What mounts have done to the names on the way is asked back first; what they have
 * buffered of the inode itself is the caller's business.
 */
export const resolvePath = (tx: Tx, path: string, context: OpContext): { ino: Ino; inode: Inode } => {
  if (path.length > pathLengthMax) throw new PosixError('ENAMETOOLONG', 'The path is too long.')
  let ino = rootIno
  for (const component of path.split('/')) {
    if (component === '' || component === '.') continue
    const parent = tx.get(inodes, ino)
    if (!parent || !isDirectory(parent.mode)) throw new PosixError('ENOTDIR', `A part of ${path} is not a directory.`)
    if (component === '..') {
      ino = parent.parent
      continue
    }
    const name = Buffer.from(component)
    checkName(name)
    readable(context, ino)
    const entry = tx.get(dentries, { parent: ino, name })
    if (!entry) throw new PosixError('ENOENT', `There is no ${path} in the cluster.`)
    ino = entry.ino
  }
  const inode = tx.get(inodes, ino)
  if (!inode) throw new PosixError('EIO', `The name ${path} leads to nothing; run shoal fsck.`)
  return { ino, inode }
}

/** The directory that a client sees as its root. ENOENT, ENOTDIR, ENAMETOOLONG. */
export const resolveRoot = (tx: Tx, path: string, context: OpContext): Ino => {
  const { ino, inode } = resolvePath(tx, path, context)
  if (!isDirectory(inode.mode)) throw new PosixError('ENOTDIR', `${path} is not a directory in the file system`)
  return ino
}
