/**
 * The Disk of this machine, on node:fs.
 *
 * Node has neither flock(2) nor fallocate(2). The native addon punches holes; where it was not built, fallocate(1) of util-linux does,
 * in a short-lived process that inherits the descriptor. flock(1) locks in the same way: an flock belongs to the open file
 * description, which we share with that process. It stays ours when the process has ended, until our descriptor is closed, at the
 * latest by the end of this process, however it ends.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { mkdir, open, readFile, readdir, rename, stat, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { getSystemErrorName } from 'node:util'
import { PosixError, isErrnoName } from '../domain/errors.ts'
import { writeThenSync, type Disk, type DiskFile, type DiskSpace, type DiskWrite } from './disk.ts'
import { alignmentBytes, isAligned } from './buffer-pool.ts'
import { nativeDisk } from './native-disk.ts'

/** Only the user that runs the server reads and writes its files. */
const fileMode = 0o600
const directoryMode = 0o700
const lockName = 'LOCK'
/** IOV_MAX is 1024 on Linux. */
const piecesMax = 1024
/**
 * A write of at least this much, from aligned memory, goes right to the disk (O_DIRECT). The page cache would hold a copy on each
 * replica that mostly nobody reads, and filling it costs more processor time than everything else that is done with the bytes.
 */
const directBytesMin = 256 * 1024
/** The exit status that flock(1) is asked for when somebody else has the lock. */
const lockedStatus = 75

const asPosixError = (caught: unknown): PosixError => {
  if (caught instanceof PosixError) return caught
  const code = caught instanceof Error && 'code' in caught ? String(caught.code) : ''
  return new PosixError(isErrnoName(code) ? code : 'EIO', caught instanceof Error ? caught.message : String(caught))
}

const guarded = async <T>(act: () => Promise<T>): Promise<T> => {
  try {
    return await act()
  } catch (caught) {
    throw asPosixError(caught)
  }
}

const isMissing = (caught: unknown): boolean => caught instanceof Error && 'code' in caught && caught.code === 'ENOENT'

/** What file systems and disks answer that cannot write directly, or not in this way. */
const isUnsupported = (caught: unknown): boolean =>
  caught instanceof Error &&
  'code' in caught &&
  ['EINVAL', 'EOPNOTSUPP', 'ENOENT', 'EACCES'].includes(String(caught.code))

/** Runs a command of util-linux with a descriptor of ours as its number 3; resolves with its exit status. */
const run = (command: string, args: readonly string[], fd: number): Promise<{ status: number; errors: string }> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'ignore', 'pipe', fd],
      env: { ...process.env, LC_ALL: 'C' },
    })
    let errors = ''
    // There is none when the process has too many files open to make the pipe.
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    child.once('error', (cause) => {
      reject(new PosixError('ENOSYS', `the command ${command} of util-linux cannot be run: ${cause.message}`))
    })
    child.once('close', (status) => resolve({ status: status ?? -1, errors: errors.trim() }))
  })

/** One after another: punching is background work, and a crowd of processes would disturb what is urgent. */
let punching: Promise<unknown> = Promise.resolve()

const punchByProcess = (fd: number, offset: number, length: number): Promise<void> => {
  const act = async (): Promise<void> => {
    const range = ['--offset', String(offset), '--length', String(length)]
    const { status, errors } = await run('fallocate', ['--punch-hole', '--keep-size', ...range, '/proc/self/fd/3'], fd)
    if (status === 0) return
    const code = errors.includes('not supported') ? 'EOPNOTSUPP' : errors.includes('No space') ? 'ENOSPC' : 'EIO'
    throw new PosixError(code, `punching a hole failed: ${errors}`)
  }
  const done = punching.then(act)
  punching = done.catch(() => {})
  return done
}

const punchHole = async (fd: number, offset: number, length: number): Promise<void> => {
  if (nativeDisk === undefined) return punchByProcess(fd, offset, length)
  const result = await nativeDisk.punch(fd, offset, length)
  if (result !== 0) throw nativeFailure(result, 'punching a hole')
}

/** From -errno. */
const nativeFailure = (result: number, what: string): PosixError => {
  const name = getSystemErrorName(result)
  return new PosixError(isErrnoName(name) ? name : 'EIO', `${what} failed: ${name}`)
}

class RealFile implements DiskFile {
  private readonly handle: FileHandle
  /** The same file past the page cache, from the first write that is made for it; undefined: it cannot be done. */
  private direct: Promise<FileHandle | undefined> | undefined

  constructor(handle: FileHandle) {
    this.handle = handle
  }

  read(buffer: Buffer, position: number): Promise<number> {
    return guarded(async () => {
      let filled = 0
      while (filled < buffer.length) {
        const { bytesRead } = await this.handle.read(buffer, filled, buffer.length - filled, position + filled)
        if (bytesRead === 0) break
        filled += bytesRead
      }
      return filled
    })
  }

  write(buffers: readonly Buffer[], position: number): Promise<void> {
    return guarded(async () => {
      let rest = buffers.filter((buffer) => buffer.length > 0)
      let at = position
      const direct = directPrefix(rest, at)
      if (direct.length > 0) {
        const bytesWritten = await this.writeDirectly(direct, at)
        at += bytesWritten
        rest = without(rest, bytesWritten)
      }
      while (rest.length > 0) {
        const pieces = rest.slice(0, piecesMax)
        const { bytesWritten } =
          pieces.length === 1
            ? await this.handle.write(pieces[0]!, 0, pieces[0]!.length, at)
            : await this.handle.writev(pieces, at)
        // A short write is followed by another, which then says why.
        at += bytesWritten
        rest = without(rest, bytesWritten)
      }
    })
  }

  /** undefined where it cannot be done, and for now when, say, the process has too many files open. */
  private openDirectly(): Promise<FileHandle | undefined> {
    const path = `/proc/self/fd/${this.handle.fd}`
    return open(path, constants.O_WRONLY | constants.O_DIRECT).catch((caught: unknown) => {
      if (!isUnsupported(caught)) this.direct = undefined
      return undefined
    })
  }

  /** Returns the bytes written; 0 where the file system or the disk does not do that. */
  private async writeDirectly(buffers: Buffer[], position: number): Promise<number> {
    this.direct ??= this.openDirectly()
    const handle = await this.direct
    if (handle === undefined) return 0
    try {
      return (await handle.writev(buffers, position)).bytesWritten
    } catch (caught) {
      if (!isUnsupported(caught)) throw caught
      this.direct = Promise.resolve(undefined)
      await handle.close()
      return 0
    }
  }

  sync(): Promise<void> {
    return guarded(() => this.handle.datasync())
  }

  async writeAndSync(writes: readonly DiskWrite[]): Promise<Error | undefined> {
    if (nativeDisk === undefined) return writeThenSync(this, writes)
    const buffers: Buffer[] = []
    const positions: number[] = []
    for (const { buffers: parts, position } of writes) {
      let at = position
      for (const part of parts) {
        buffers.push(part)
        positions.push(at)
        at += part.length
      }
    }
    const result = await nativeDisk.writeAndSync(this.handle.fd, buffers, positions)
    if (result < 0) throw nativeFailure(result, 'writing')
    return result === 0 ? undefined : nativeFailure(-result, 'bringing data to disk')
  }

  truncate(length: number): Promise<void> {
    return guarded(() => this.handle.truncate(length))
  }

  punch({ offset, length }: { offset: number; length: number }): Promise<void> {
    return length === 0 ? Promise.resolve() : guarded(() => punchHole(this.handle.fd, offset, length))
  }

  stat(): Promise<{ size: number; allocatedBytes: number }> {
    return guarded(async () => {
      const { size, blocks } = await this.handle.stat()
      return { size, allocatedBytes: blocks * 512 }
    })
  }

  close(): Promise<void> {
    return guarded(async () => {
      const direct = await this.direct
      await direct?.close()
      await this.handle.close()
    })
  }
}

/** The buffers at the beginning that can be written past the page cache; none when they are too few to be worth it. */
const directPrefix = (buffers: readonly Buffer[], position: number): Buffer[] => {
  if (position % alignmentBytes !== 0) return []
  let count = 0
  let bytes = 0
  for (const buffer of buffers.slice(0, piecesMax)) {
    if (buffer.length % alignmentBytes !== 0 || !isAligned(buffer)) break
    count++
    bytes += buffer.length
  }
  return bytes >= directBytesMin ? buffers.slice(0, count) : []
}

/** The buffers after their first `bytes` bytes. */
const without = (buffers: Buffer[], bytes: number): Buffer[] => {
  let left = bytes
  for (const [index, buffer] of buffers.entries()) {
    if (left < buffer.length) return [buffer.subarray(left), ...buffers.slice(index + 1)]
    left -= buffer.length
  }
  return []
}

const syncDirectory = (path: string): Promise<void> =>
  guarded(async () => {
    const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
  })

/** Replacements of one path take turns, since they share the name of the temporary file. */
const replacing = new Map<string, Promise<void>>()

const replaceFile = async (path: string, content: Buffer): Promise<void> => {
  const temporary = `${path}.tmp`
  const handle = await open(temporary, 'w', fileMode)
  try {
    await handle.writeFile(content)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(temporary, path)
  await syncDirectory(dirname(path))
}

const lock = async (path: string): Promise<{ release(): Promise<void> }> => {
  const handle = await open(join(path, lockName), constants.O_RDWR | constants.O_CREAT, fileMode)
  try {
    const conflict = ['--conflict-exit-code', String(lockedStatus)]
    const { status, errors } = await run('flock', ['--exclusive', '--nonblock', ...conflict, '3'], handle.fd)
    if (status === lockedStatus) throw new PosixError('EBUSY', `${path} is in use by another process`)
    if (status !== 0) throw new PosixError('EIO', `${path} cannot be locked: ${errors}`)
  } catch (caught) {
    await handle.close()
    throw caught
  }
  locks.add(handle)
  let released: Promise<void> | undefined
  return {
    release: () => {
      locks.delete(handle)
      released ??= handle.close()
      return released
    },
  }
}

/** Keeps the handles from being collected as garbage, which would close them and give the locks away. */
const locks = new Set<FileHandle>()

export const realDisk: Disk = {
  open: (path, { create = false, exclusive = false } = {}) =>
    guarded(async () => {
      const make = create || exclusive ? constants.O_CREAT | (exclusive ? constants.O_EXCL : 0) : 0
      return new RealFile(await open(path, constants.O_RDWR | make, fileMode))
    }),
  readFile: (path) =>
    guarded(async () => {
      try {
        return await readFile(path)
      } catch (caught) {
        if (isMissing(caught)) return undefined
        throw caught
      }
    }),
  replaceFile: (path, content) => {
    const done = (replacing.get(path) ?? Promise.resolve()).then(() => guarded(() => replaceFile(path, content)))
    const turn = done
      .catch(() => {})
      .then(() => {
        if (replacing.get(path) === turn) replacing.delete(path)
      })
    replacing.set(path, turn)
    return done
  },
  mkdir: (path) =>
    guarded(async () => {
      await mkdir(path, { recursive: true, mode: directoryMode })
    }),
  list: (path) => guarded(() => readdir(path)),
  unlink: (path) =>
    guarded(async () => {
      try {
        await unlink(path)
      } catch (caught) {
        if (!isMissing(caught)) throw caught
      }
    }),
  rename: (source, target) => guarded(() => rename(source, target)),
  syncDirectory,
  space: (path): Promise<DiskSpace> =>
    guarded(async () => {
      const [{ blocks, bavail, bsize }, { dev }] = await Promise.all([statfs(path), stat(path)])
      return { fileSystem: String(dev), totalBytes: blocks * bsize, freeBytes: bavail * bsize }
    }),
  lock: (path) => guarded(() => lock(path)),
}
