/**
 * Does on a FileSystem, without a kernel, what agent.py does with system calls in a directory: finds the inodes that paths lead to, keeps open
 * files under keys, and tells what came of each step in the same way. What the kernel decides before it asks a file system is decided here;
 * permissions are not: the caller is the superuser.
 */
import type { Attributes, FileSystem, Handle, SetattrChanges } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { fileType, isDirectory, isRegular, S_IFLNK, S_IFREG } from '../../src/domain/mode.ts'
import type { Came, Step } from './agent.ts'
import { caller } from './in-process-cluster.ts'

const open = { WRONLY: 1, RDWR: 2, CREAT: 0o100, EXCL: 0o200, TRUNC: 0o1000, APPEND: 0o2000 } as const
const SEEK_DATA = 3
const SEEK_HOLE = 4
const pageBytes = 4096
const linksFollowedMax = 40
const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

interface Place {
  parent: Ino
  name: Buffer
}

interface Held {
  ino: Ino
  handle: Handle
  append: boolean
}

export class LibraryAgent {
  readonly #fs: FileSystem
  readonly #files = new Map<string, Held>()

  constructor(fileSystem: FileSystem) {
    this.#fs = fileSystem
  }

  async all(steps: readonly Step[]): Promise<Came[]> {
    const came: Came[] = []
    for (const [name, ...args] of steps) {
      try {
        came.push({ is: (await this.#does(name, args as never[])) ?? null })
      } catch (caught) {
        if (!(caught instanceof PosixError)) throw caught
        came.push({ fails: caught.code })
      }
    }
    return came
  }

  #does(name: string, args: readonly never[]): unknown {
    const steps: Record<string, (...args: never[]) => unknown> = {
      kind: (path: string) => this.#kind(path),
      mtime: (path: string, nowFrom: number) => this.#mtime(path, nowFrom),
      read: (path: string) => this.#read(path),
      list: (path: string) => this.#list(path),
      readlink: async (path: string) => (await this.#fs.readlink(caller(), await this.#at(path))).toString('latin1'),
      getxattr: async (path: string, name: string) =>
        (await this.#fs.getxattr(caller(), await this.#to(path), bytes(name))).toString('latin1'),
      listxattr: async (path: string) =>
        (await this.#fs.listxattr(caller(), await this.#to(path))).map((name) => name.toString('latin1')).toSorted(),
      setxattr_flags: async (path: string, name: string, value: string, flags: number) =>
        this.#fs.setxattr(caller(), await this.#to(path), bytes(name), bytes(value), { flags, killSgid: false }),
      removexattr: async (path: string, name: string) =>
        this.#fs.removexattr(caller(), await this.#to(path), bytes(name)),
      create: (path: string, text: string) => this.#openWrite(path, text, open.WRONLY | open.CREAT | open.EXCL),
      write: (path: string, text: string) => this.#openWrite(path, text, open.WRONLY),
      rewrite: (path: string, text: string) => this.#openWrite(path, text, open.WRONLY | open.TRUNC),
      append: (path: string, text: string) => this.#openWrite(path, text, open.WRONLY | open.APPEND),
      unlink: (path: string) => this.#remove(path, 'unlink'),
      rmdir: (path: string) => this.#remove(path, 'rmdir'),
      rename_flags: (source: string, target: string, flags: number) => this.#rename(source, target, flags),
      mkdir: async (path: string) => {
        const { parent, name } = await this.#place(path)
        await this.#fs.mkdir(caller(), parent, name, 0o777)
      },
      link: async (source: string, target: string) => {
        const ino = await this.#at(source)
        const { parent, name } = await this.#place(target)
        await this.#fs.link(caller(), ino, parent, name)
      },
      symlink: async (target: string, path: string) => {
        const { parent, name } = await this.#place(path)
        await this.#fs.symlink(caller(), parent, name, bytes(target))
      },
      chmod: (path: string, mode: number) => this.#setattr(path, { mode }),
      chown: (path: string, uid: number, gid: number) => this.#setattr(path, { uid, gid }),
      utime: (path: string, nanoseconds: number) => {
        const time = { seconds: BigInt(Math.floor(nanoseconds / 1e9)), nanos: nanoseconds % 1e9 }
        return this.#setattr(path, { atime: time, mtime: time })
      },
      truncate: async (path: string, size: number) => {
        const { mode } = await this.#attributes(await this.#to(path))
        if (isDirectory(mode)) throw new PosixError('EISDIR')
        await this.#setattr(path, { size: BigInt(size), killPrivileges: false })
      },
      hold: (key: string, path: string, flags: number) => this.#hold(key, path, flags),
      hold_tmpfile: async (key: string, path: string) => {
        const { entry, opened } = await this.#fs.tmpfile(
          caller(),
          await this.#directory(path),
          S_IFREG | 0o600,
          open.RDWR,
        )
        this.#files.set(key, { ino: entry.attributes.ino, handle: opened.handle, append: false })
      },
      give_name: async (key: string, path: string) => {
        const { parent, name } = await this.#place(path)
        await this.#fs.link(caller(), this.#held(key).ino, parent, name)
      },
      let_go: async (key: string) => {
        const { handle } = this.#held(key)
        this.#files.delete(key)
        await this.#fs.flush(caller(), handle, 0n)
        await this.#fs.release(handle)
      },
      pread: async (key: string, length: number, offset: number) =>
        (await this.#fs.read(caller(), this.#held(key).handle, BigInt(offset), length)).toString('latin1'),
      pwrite: (key: string, text: string, offset: number) => this.#write(this.#held(key), text, offset),
      fsync: (key: string) => this.#fs.fsync(caller(), this.#held(key).handle, false),
      blocks: async (key: string) => Number((await this.#attributes(this.#held(key).ino)).allocated / 512n),
      fstat_size: async (key: string) => Number((await this.#attributes(this.#held(key).ino)).size),
      fstat_links: async (key: string) => (await this.#attributes(this.#held(key).ino)).nlink,
      ftruncate: (key: string, size: number) => {
        const { ino, handle } = this.#held(key)
        return this.#fs
          .setattr(caller(), ino, { size: BigInt(size), killPrivileges: false }, handle)
          .then(() => undefined)
      },
      fallocate: (key: string, mode: number, offset: number, length: number) =>
        this.#fs.fallocate(caller(), this.#held(key).handle, mode, BigInt(offset), BigInt(length)),
      copy_range: (source: string, target: string, length: number, offset: number, to: number) =>
        this.#copyRange(this.#held(source), this.#held(target), { length, offset, to }),
      holes: (key: string) => this.#holes(this.#held(key)),
    }
    const step = steps[name]
    if (step === undefined) throw new Error(`no step ${name}`)
    return step(...args)
  }

  #held(key: string): Held {
    const held = this.#files.get(key)
    if (held === undefined) throw new Error(`nothing is open as ${key}`)
    return held
  }

  async #attributes(ino: Ino): Promise<Attributes> {
    return (await this.#fs.getattr(caller(), ino)).attributes
  }

  /** Where a name is, or would be; links on the way are followed. */
  async #place(path: string, followed = 0): Promise<Place> {
    const names = path.split('/').filter((name) => name !== '')
    const last = names.pop()
    if (last === undefined) throw new Error('the root has no name')
    let parent = this.#fs.root
    for (const [index, name] of names.entries()) {
      const { attributes } = await this.#fs.lookup(caller(), parent, bytes(name))
      if (fileType(attributes.mode) === S_IFLNK) {
        if (followed >= linksFollowedMax) throw new PosixError('ELOOP')
        const target = (await this.#fs.readlink(caller(), attributes.ino)).toString('latin1')
        const behind = [...names.slice(0, index), target, ...names.slice(index + 1), last]
        return this.#place(behind.join('/'), followed + 1)
      }
      if (!isDirectory(attributes.mode)) throw new PosixError('ENOTDIR')
      parent = attributes.ino
    }
    return { parent, name: bytes(last) }
  }

  /** The inode that a name leads to, which may be a link. */
  async #at(path: string): Promise<Ino> {
    if (path === '.') return this.#fs.root
    const { parent, name } = await this.#place(path)
    return (await this.#fs.lookup(caller(), parent, name)).attributes.ino
  }

  /** The inode behind links. */
  async #to(path: string, followed = 0): Promise<Ino> {
    const ino = await this.#at(path)
    const { mode } = await this.#attributes(ino)
    if (fileType(mode) !== S_IFLNK) return ino
    if (followed >= linksFollowedMax) throw new PosixError('ELOOP')
    const target = (await this.#fs.readlink(caller(), ino)).toString('latin1')
    return this.#to([...path.split('/').slice(0, -1), target].join('/'), followed + 1)
  }

  async #directory(path: string): Promise<Ino> {
    const ino = await this.#to(path)
    if (!isDirectory((await this.#attributes(ino)).mode)) throw new PosixError('ENOTDIR')
    return ino
  }

  async #kind(path: string): Promise<unknown> {
    const { mode, nlink, uid, gid, size } = await this.#attributes(await this.#at(path))
    return [`0o${mode.toString(8)}`, nlink, uid, gid, isDirectory(mode) ? -1 : Number(size)]
  }

  async #mtime(path: string, nowFrom: number): Promise<unknown> {
    const { mtime } = await this.#attributes(await this.#at(path))
    return mtime.seconds < BigInt(nowFrom) ? Number(mtime.seconds) : 'now'
  }

  async #list(path: string): Promise<string[]> {
    const ino = await this.#directory(path)
    const names: string[] = []
    let cookie = 2n
    for (let before = -1; before < names.length;) {
      before = names.length
      await this.#fs.readdir(caller(), ino, cookie, { plus: false }, (entry) => {
        names.push(entry.name.toString('latin1'))
        cookie = entry.cookie
        return true
      })
    }
    return names.toSorted()
  }

  async #setattr(path: string, changes: SetattrChanges): Promise<void> {
    await this.#fs.setattr(caller(), await this.#to(path), changes)
  }

  async #remove(path: string, call: 'unlink' | 'rmdir'): Promise<void> {
    const { parent, name } = await this.#place(path)
    await this.#fs[call](caller(), parent, name)
  }

  async #rename(source: string, target: string, flags: number): Promise<number> {
    const [from, to] = [await this.#place(source), await this.#place(target)]
    await this.#fs.rename(caller(), from, to, flags)
    return 0
  }

  async #openAt(path: string, flags: number): Promise<Held> {
    const append = (flags & open.APPEND) !== 0
    if ((flags & open.CREAT) !== 0 && (flags & open.EXCL) !== 0) {
      const { parent, name } = await this.#place(path)
      const { entry, opened } = await this.#fs.create(caller(), parent, name, 0o644, flags)
      return { ino: entry.attributes.ino, handle: opened.handle, append }
    }
    const ino = await this.#to(path)
    const { mode } = await this.#attributes(ino)
    if (isDirectory(mode)) throw new PosixError('EISDIR')
    if (!isRegular(mode)) throw new Error('nothing but files is opened')
    return { ino, handle: (await this.#fs.open(caller(), ino, flags & ~open.CREAT)).handle, append }
  }

  async #hold(key: string, path: string, flags: number): Promise<void> {
    this.#files.set(key, await this.#openAt(path, flags))
  }

  async #write(held: Held, text: string, offset: number): Promise<number> {
    const options = { killPrivileges: false, append: held.append }
    if (text !== '') await this.#fs.write(caller(), held.handle, BigInt(offset), bytes(text), options)
    return text.length
  }

  async #openWrite(path: string, text: string, flags: number): Promise<void> {
    const held = await this.#openAt(path, flags)
    await this.#write(held, text, 0)
    await this.#fs.flush(caller(), held.handle, 0n)
    await this.#fs.release(held.handle)
  }

  async #read(path: string): Promise<string> {
    const { handle } = await this.#openAt(path, 0)
    const text = (await this.#fs.read(caller(), handle, 0n, 1 << 20)).toString('latin1')
    await this.#fs.release(handle)
    return text
  }

  /** The kernel refuses what is to be appended to, cuts the length off at the end of the source, and refuses ranges of one file that overlap. */
  async #copyRange(
    source: Held,
    target: Held,
    { length, offset, to }: { length: number; offset: number; to: number },
  ): Promise<number> {
    if (target.append) throw new PosixError('EBADF')
    const { size } = await this.#attributes(source.ino)
    const count = Math.max(0, Math.min(length, Number(size) - offset))
    if (source.ino === target.ino && offset + count > to && to + count > offset) throw new PosixError('EINVAL')
    if (count === 0) return 0
    const from = { handle: source.handle, offset: BigInt(offset) }
    const into = { handle: target.handle, offset: BigInt(to) }
    return Number(await this.#fs.copyFileRange(caller(), from, into, BigInt(count)))
  }

  async #holes({ ino, handle }: Held): Promise<number[][]> {
    const found: number[][] = []
    const { size } = await this.#attributes(ino)
    for (let at = 0n; at < size;) {
      let start: bigint
      try {
        start = await this.#fs.lseek(caller(), handle, at, SEEK_DATA)
      } catch (caught) {
        if (caught instanceof PosixError && caught.code === 'ENXIO') break
        throw caught
      }
      at = await this.#fs.lseek(caller(), handle, start, SEEK_HOLE)
      found.push([Math.floor(Number(start) / pageBytes), Math.ceil(Number(at) / pageBytes)])
    }
    return found
  }
}
