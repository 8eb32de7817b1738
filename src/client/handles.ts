/** The open files of this client, by their handles. Handles are never used again. */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import type { Handle } from './file-system.ts'
import type { Inode } from './inode.ts'
import { ReadAhead } from './read-ahead.ts'
import type { ErrorCursor } from './write-errors.ts'

export interface FileHandle {
  id: Handle
  inode: Inode
  /** As given to open(2). */
  flags: number
  errors: ErrorCursor
  readAhead: ReadAhead
  /** The file was locked when the session ended: others may have changed it since, under locks of their own. */
  locksLost: boolean
}

export class Handles {
  readonly #handles = new Map<Handle, FileHandle>()
  #last = 0n

  addFile(inode: Inode, flags: number): FileHandle {
    const handle: FileHandle = {
      id: ++this.#last,
      inode,
      flags,
      errors: inode.errors.cursor(),
      readAhead: new ReadAhead(),
      locksLost: false,
    }
    inode.handles++
    this.#handles.set(handle.id, handle)
    return handle
  }

  find(id: Handle): FileHandle | undefined {
    return this.#handles.get(id)
  }

  /** Whoever works on these files in the belief that they are locked is told: nothing but closing is possible any more. */
  loseLocks(inos: ReadonlySet<Ino>): void {
    for (const handle of this.#handles.values()) {
      if (inos.has(handle.inode.ino)) handle.locksLost = true
    }
  }

  /** EBADF; ESTALE when the file was lost with a session, EIO when locks of it were. */
  file(id: Handle): FileHandle {
    const file = this.#handles.get(id)
    if (file === undefined) throw new PosixError('EBADF')
    if (file.inode.stale) throw new PosixError('ESTALE', 'the file was removed while the master was away')
    checkLocks(file)
    return file
  }

  /** EBADF. The inode's count of handles is the caller's to take down. */
  removeFile(id: Handle): FileHandle {
    const file = this.#handles.get(id)
    if (file === undefined) throw new PosixError('EBADF')
    this.#handles.delete(id)
    return file
  }
}

/** Also after whatever was waited for. EIO. */
export const checkLocks = ({ locksLost }: FileHandle): void => {
  if (locksLost) throw new PosixError('EIO', 'the locks of the file were lost with the session; open it again')
}
