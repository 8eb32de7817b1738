/** The steps of agent.py on a client in this process, with paths: behind the model of a kernel that believes all that it is told. */
import { openFlag } from '../../src/client/open-flags.ts'
import type { FileSystem, Handle, SetattrChanges } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import type { Timespec } from '../../src/domain/time.ts'
import type { Came, Step } from './agent.ts'
import type { Actor } from './file-model.ts'
import { caller } from './in-process-cluster.ts'
import { KernelModel } from './kernel-model.ts'

const O_WRONLY = 1
const O_RDWR = 2
const readBytesMax = 1 << 20
const noKill = { killPrivileges: false }
const S_IFLNK = 0o120000
const S_IFMT = 0o170000

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')
const nanosOf = ({ seconds, nanos }: Timespec): number => Number(seconds * 1_000_000_000n + BigInt(nanos))
const timeOf = (nanos: number): Timespec => ({
  seconds: BigInt(Math.floor(nanos / 1e9)),
  nanos: Math.round(nanos % 1e9),
})

interface Place {
  parent: Ino
  name: string
}

export class InProcessActor implements Actor {
  readonly #fileSystem: FileSystem
  readonly #kernel: KernelModel
  readonly #held = new Map<string, { handle: Handle; ino: Ino }>()

  constructor(fileSystem: FileSystem) {
    this.#fileSystem = fileSystem
    this.#kernel = new KernelModel(fileSystem, caller)
  }

  async does(...step: Step): Promise<Came> {
    try {
      return { is: (await this.#take(step)) ?? null }
    } catch (caught) {
      if (!(caught instanceof PosixError)) throw caught
      return { fails: caught.code }
    }
  }

  async #take([name, ...args]: Step): Promise<unknown> {
    const fs = this.#fileSystem
    const kernel = this.#kernel
    const [first, second, third] = args
    const path = String(first)
    const text = String(second ?? '')
    switch (name) {
      case 'create': {
        const { parent, name: file } = await this.#place(path)
        if ((await kernel.name(parent, file)) !== undefined) throw new PosixError('EEXIST')
        let handle: Handle | undefined
        const ino = await kernel.make(parent, file, async () => {
          const flags = O_WRONLY | openFlag.EXCL
          const { entry, opened } = await fs.create(caller(), parent, bytes(file), 0o644, flags)
          handle = opened.handle
          return entry
        })
        return this.#writeAndClose({ ino, handle: handle! }, text, 0)
      }
      case 'write':
        return this.#writeAndClose(await this.#open(path, O_WRONLY), text, 0)
      case 'rewrite':
        return this.#writeAndClose(await this.#open(path, O_WRONLY | openFlag.TRUNC), text, 0)
      case 'append':
        return this.#writeAndClose(await this.#open(path, O_WRONLY | openFlag.APPEND), text, 'end')
      case 'mkdir': {
        const { parent, name: file } = await this.#place(path)
        await kernel.make(parent, file, () => fs.mkdir(caller(), parent, bytes(file), 0o777))
        return
      }
      case 'symlink': {
        const { parent, name: file } = await this.#place(text)
        await kernel.make(parent, file, () => fs.symlink(caller(), parent, bytes(file), bytes(path)))
        return
      }
      case 'link': {
        const ino = await this.#look(path)
        const { parent, name: file } = await this.#place(text)
        if ((await kernel.name(parent, file)) !== undefined) throw new PosixError('EEXIST')
        await kernel.make(parent, file, () => fs.link(caller(), ino, parent, bytes(file)))
        return
      }
      case 'unlink':
      case 'rmdir': {
        await this.#look(path)
        const { parent, name: file } = await this.#place(path)
        await kernel.remove(parent, file, () => fs[name](caller(), parent, bytes(file)))
        return
      }
      case 'rename':
        await this.#look(path)
        await kernel.rename(await this.#place(path), await this.#place(text), false)
        return
      case 'chmod':
        return this.#setattr(path, { mode: Number(second) })
      case 'chown':
        return this.#setattr(path, { uid: Number(second), gid: Number(third) })
      case 'utime':
        return this.#setattr(path, { atime: timeOf(Number(second)), mtime: timeOf(Number(second)) })
      case 'truncate': {
        const ino = await this.#follow(path)
        if (((await kernel.attributes(ino)).mode & S_IFMT) === 0o040000) throw new PosixError('EISDIR')
        return kernel.setattr(ino, { size: BigInt(text) })
      }
      case 'setxattr': {
        const ino = await this.#follow(path)
        await fs.setxattr(caller(), ino, bytes(text), bytes(String(third)), { flags: 0, killSgid: false })
        kernel.changed(ino)
        return
      }
      case 'removexattr': {
        const ino = await this.#follow(path)
        await fs.removexattr(caller(), ino, bytes(text))
        kernel.changed(ino)
        return
      }
      case 'stat': {
        const { ino, mode, nlink, uid, gid, size, mtime, ctime } = await kernel.attributes(await this.#look(path))
        return [Number(ino), mode, nlink, uid, gid, Number(size), nanosOf(mtime), nanosOf(ctime)]
      }
      case 'exists': {
        const { parent, name: file } = await this.#place(path)
        return (await kernel.name(parent, file)) !== undefined
      }
      case 'read': {
        const { handle } = await this.#open(path, 0)
        try {
          return await this.#read(handle, readBytesMax, 0)
        } finally {
          await fs.release(handle)
        }
      }
      case 'readlink': {
        const ino = await this.#look(path)
        if (((await kernel.attributes(ino)).mode & S_IFMT) !== S_IFLNK) throw new PosixError('EINVAL')
        return (await fs.readlink(caller(), ino)).toString('latin1')
      }
      case 'list':
        return kernel.list(await this.#follow(path))
      case 'getxattr':
        return (await fs.getxattr(caller(), await this.#follow(path), bytes(text))).toString('latin1')
      case 'listxattr':
        return (await fs.listxattr(caller(), await this.#follow(path))).map(String).toSorted()
      case 'hold':
        this.#held.set(path, await this.#open(text, O_RDWR))
        return
      case 'let_go':
        await fs.release(this.#held.get(path)!.handle)
        this.#held.delete(path)
        return
      case 'pread':
        return this.#read(this.#held.get(path)!.handle, Number(second), Number(third))
      case 'pwrite': {
        const { handle, ino } = this.#held.get(path)!
        await fs.write(caller(), handle, BigInt(third!), bytes(text), noKill)
        kernel.changed(ino)
        return text.length
      }
      case 'fstat_size':
        return Number((await kernel.attributes(this.#held.get(path)!.ino)).size)
      case 'fstat_links':
        return (await kernel.attributes(this.#held.get(path)!.ino)).nlink
      default:
        throw new Error(`no step ${name}`)
    }
  }

  /** Of "directory/name", or of a name in the root. */
  async #place(path: string): Promise<Place> {
    const slash = path.indexOf('/')
    const { root } = this.#fileSystem
    if (slash < 0) return { parent: root, name: path }
    const parent = await this.#kernel.name(root, path.slice(0, slash))
    if (parent === undefined) throw new PosixError('ENOENT')
    return { parent, name: path.slice(slash + 1) }
  }

  async #look(path: string): Promise<Ino> {
    const { parent, name } = await this.#place(path)
    const ino = await this.#kernel.name(parent, name)
    if (ino === undefined) throw new PosixError('ENOENT')
    return ino
  }

  /** All symbolic links lead nowhere. */
  async #follow(path: string): Promise<Ino> {
    const ino = await this.#look(path)
    if (((await this.#kernel.attributes(ino)).mode & S_IFMT) === S_IFLNK) throw new PosixError('ENOENT')
    return ino
  }

  async #open(path: string, flags: number): Promise<{ ino: Ino; handle: Handle }> {
    const ino = await this.#follow(path)
    if (((await this.#kernel.attributes(ino)).mode & S_IFMT) === 0o040000) throw new PosixError('EISDIR')
    const { handle } = await this.#fileSystem.open(caller(), ino, flags)
    if ((flags & openFlag.TRUNC) !== 0) this.#kernel.changed(ino)
    return { ino, handle }
  }

  async #writeAndClose({ ino, handle }: { ino: Ino; handle: Handle }, text: string, at: number | 'end'): Promise<void> {
    const fs = this.#fileSystem
    if (text !== '') {
      await fs.write(caller(), handle, BigInt(at === 'end' ? 0 : at), bytes(text), { ...noKill, append: at === 'end' })
      this.#kernel.changed(ino)
    }
    await fs.flush(caller(), handle, 1n)
    await fs.release(handle)
  }

  async #read(handle: Handle, length: number, offset: number): Promise<string> {
    return (await this.#fileSystem.read(caller(), handle, BigInt(offset), length)).toString('latin1')
  }

  async #setattr(path: string, changes: SetattrChanges): Promise<void> {
    await this.#kernel.setattr(await this.#follow(path), changes)
  }
}
