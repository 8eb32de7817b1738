/**
 * Files on a local disk, as the chunk server needs them. Failures are PosixError with the system's code (ENOSPC, EIO, ENOENT, …).
 * What was written survives a crash of the process; it survives power loss once sync (and for a new name syncDirectory) returned.
 */

/** Buffers that go one after another to a file, from this position. */
export interface DiskWrite {
  readonly buffers: readonly Buffer[]
  readonly position: number
}

export interface DiskFile {
  /** Fills the buffer from this position; returns the bytes read, fewer only at the end of the file. */
  read(buffer: Buffer, position: number): Promise<number>
  /** Writes all of the buffers one after another from this position. */
  write(buffers: readonly Buffer[], position: number): Promise<void>
  /** fdatasync(2). */
  sync(): Promise<void>
  /**
   * Several writes and, when all of them succeeded, a sync, as one call; for a little data that is to be on disk at once. Rejects when a
   * write failed: then some of it may be written. Resolves with what the sync failed with, if it did.
   */
  writeAndSync(writes: readonly DiskWrite[]): Promise<Error | undefined>
  truncate(length: number): Promise<void>
  /** Frees the blocks of a range; it reads as zeros afterwards and the file keeps its size. */
  punch(range: { offset: number; length: number }): Promise<void>
  stat(): Promise<{ size: number; allocatedBytes: number }>
  /** Only when no other call is under way. */
  close(): Promise<void>
}

export interface DiskSpace {
  /** Names the file system on this machine: two directories with the same one share their space. */
  fileSystem: string
  totalBytes: number
  /** What an ordinary user may still write. */
  freeBytes: number
}

export interface Disk {
  /** Opens for reading and writing; `create` makes it if missing, `exclusive` fails with EEXIST if it is there. */
  open(path: string, options?: { create?: boolean; exclusive?: boolean }): Promise<DiskFile>
  /** A whole small file; undefined when there is none. */
  readFile(path: string): Promise<Buffer | undefined>
  /** Replaces a whole small file atomically and durably: temporary file, sync, rename, sync of the directory. */
  replaceFile(path: string, content: Buffer): Promise<void>
  /** Makes it with its missing parents; that it is there already is fine. */
  mkdir(path: string): Promise<void>
  /** Names in a directory, unsorted; ENOENT when it is missing. */
  list(path: string): Promise<string[]>
  /** Missing is fine. */
  unlink(path: string): Promise<void>
  rename(source: string, target: string): Promise<void>
  syncDirectory(path: string): Promise<void>
  space(path: string): Promise<DiskSpace>
  /** Exclusive use of a directory until the process ends or `release`; EBUSY when another process has it. */
  lock(path: string): Promise<{ release(): Promise<void> }>
}

/** writeAndSync by its single calls. */
export const writeThenSync = async (
  file: Pick<DiskFile, 'write' | 'sync'>,
  writes: readonly DiskWrite[],
): Promise<Error | undefined> => {
  const outcomes = await Promise.allSettled(writes.map(({ buffers, position }) => file.write(buffers, position)))
  const failed = outcomes.find((outcome) => outcome.status === 'rejected')
  if (failed !== undefined) throw failed.reason
  try {
    await file.sync()
    return undefined
  } catch (caught) {
    return caught instanceof Error ? caught : new Error(String(caught))
  }
}
