/**
 * What a kernel does with names, attributes and listings of a FileSystem: believes them for as long as it was told, forgets them when it is
 * told to, and takes note of what it changes itself. After fs/fuse/dir.c and readdir.c of Linux, without their concurrency.
 */
import type { Attributes, Context, Entry, FileSystem } from '../../src/client/file-system.ts'
import { NoSuchName } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { compareTimespec } from '../../src/domain/time.ts'

export interface Looked {
  ino: Ino
  mode: number
  nlink: number
  size: bigint
}

interface Dentry {
  ino: Ino | undefined
  untilMs: number
  epoch: number
}

interface Listing {
  names: string[]
  mtime: Attributes['mtime']
}

interface Node {
  attributes: Attributes
  untilMs: number
}

export class KernelModel {
  readonly fileSystem: FileSystem
  readonly #context: () => Context
  readonly #nowMs: () => number
  readonly #dentries = new Map<string, Dentry>()
  readonly #nodes = new Map<Ino, Node>()
  readonly #listings = new Map<Ino, Listing>()
  #epoch = 1
  /** Looks that were answered without asking. */
  hits = 0
  asked = 0

  constructor(fileSystem: FileSystem, context: () => Context, nowMs: () => number = () => performance.now()) {
    this.fileSystem = fileSystem
    this.#context = context
    this.#nowMs = nowMs
    fileSystem.onInvalidate({
      canForgetNames: true,
      forgetNames: () => void this.#epoch++,
      forgetAttributes: (ino) => {
        this.#stale(ino)
        return undefined
      },
      forgetListing: (ino) => {
        this.#listings.delete(ino)
        return undefined
      },
      dropData: () => Promise.resolve(),
    })
  }

  /** The inode that a name leads to and its attributes; undefined when there is no such name. */
  async look(parent: Ino, name: string): Promise<Looked | undefined> {
    const ino = await this.name(parent, name)
    return ino === undefined ? undefined : this.stat(ino)
  }

  /** The inode that a name leads to; undefined when there is no such name. */
  async name(parent: Ino, name: string): Promise<Ino | undefined> {
    const dentry = this.#dentries.get(keyOf(parent, name))
    let ino: Ino | undefined
    if (dentry !== undefined && dentry.epoch === this.#epoch && this.#nowMs() < dentry.untilMs) {
      this.hits++
      ino = dentry.ino
    } else {
      this.asked++
      const epoch = this.#epoch
      try {
        const entry = await this.fileSystem.lookup(this.#context(), parent, Buffer.from(name))
        ino = entry.attributes.ino
        this.#believe(parent, name, { ino, untilMs: this.#nowMs() + entry.validity.entryMs, epoch })
        this.#learn(entry)
      } catch (caught) {
        if (!(caught instanceof NoSuchName)) throw caught
        this.#believe(parent, name, { ino: undefined, untilMs: this.#nowMs() + caught.entryMs, epoch })
      }
    }
    return ino
  }

  async stat(ino: Ino): Promise<Looked> {
    const { mode, nlink, size } = await this.attributes(ino)
    return { ino, mode, nlink, size }
  }

  async attributes(ino: Ino): Promise<Attributes> {
    const node = this.#nodes.get(ino)
    if (node !== undefined && this.#nowMs() < node.untilMs) {
      this.hits++
      return node.attributes
    }
    this.asked++
    return this.#learn(await this.fileSystem.getattr(this.#context(), ino))
  }

  /** Something was made: mknod, mkdir, symlink, link, create. */
  async make(parent: Ino, name: string, make: () => Promise<Entry>): Promise<Ino> {
    const epoch = this.#epoch
    const entry = await make()
    const { ino } = entry.attributes
    this.#believe(parent, name, { ino, untilMs: this.#nowMs() + entry.validity.entryMs, epoch })
    this.#learn(entry)
    this.#changedNames(parent)
    return ino
  }

  async remove(parent: Ino, name: string, remove: () => Promise<void>): Promise<void> {
    const ino = this.#dentries.get(keyOf(parent, name))?.ino
    try {
      await remove()
    } catch (caught) {
      if (caught instanceof PosixError && (caught.code === 'EINTR' || caught.code === 'ENOENT')) {
        this.#dentries.delete(keyOf(parent, name))
      }
      throw caught
    }
    this.#dentries.delete(keyOf(parent, name))
    this.#changedNames(parent)
    if (ino !== undefined) this.#stale(ino)
  }

  async rename(
    source: { parent: Ino; name: string },
    target: { parent: Ino; name: string },
    exchange: boolean,
  ): Promise<void> {
    // The kernel looks both up first.
    const ino = (await this.look(source.parent, source.name))?.ino
    const other = (await this.look(target.parent, target.name))?.ino
    await this.fileSystem.rename(
      this.#context(),
      { parent: source.parent, name: Buffer.from(source.name) },
      { parent: target.parent, name: Buffer.from(target.name) },
      exchange ? 2 : 0,
    )
    for (const parent of [source.parent, target.parent]) this.#changedNames(parent)
    for (const changed of [ino, other]) if (changed !== undefined) this.#stale(changed)
    // Both names of one inode: nothing has happened.
    if (ino === other) return
    // A dentry takes what is believed of it along.
    const moved = this.#dentries.get(keyOf(source.parent, source.name))
    const replaced = this.#dentries.get(keyOf(target.parent, target.name))
    this.#dentries.delete(keyOf(source.parent, source.name))
    if (moved !== undefined) this.#believe(target.parent, target.name, moved)
    if (exchange && replaced !== undefined) this.#believe(source.parent, source.name, replaced)
  }

  async setattr(ino: Ino, changes: Parameters<FileSystem['setattr']>[2]): Promise<void> {
    this.#learn(await this.fileSystem.setattr(this.#context(), ino, changes))
  }

  /** The kernel has changed the inode in another way. */
  changed(ino: Ino): void {
    this.#stale(ino)
  }

  async list(ino: Ino): Promise<string[]> {
    const context = this.#context()
    const kept = this.#listings.get(ino)
    if (kept !== undefined && compareTimespec((await this.attributes(ino)).mtime, kept.mtime) === 0) {
      this.hits++
      return kept.names
    }
    const mtime = this.#nodes.get(ino)?.attributes.mtime
    const names: string[] = []
    let cookie = 0n
    let isKept = mtime !== undefined
    for (let before = -1; before < names.length;) {
      before = names.length
      const mayKeep = await this.fileSystem.readdir(context, ino, cookie, { plus: true }, (entry) => {
        names.push(entry.name.toString())
        cookie = entry.cookie
        if (entry.entry !== undefined) this.#learn(entry.entry)
        return true
      })
      // A mount has the kernel drop it before it could be used.
      isKept &&= mayKeep
    }
    const listed = names.slice(2).toSorted()
    if (isKept && mtime !== undefined) this.#listings.set(ino, { names: listed, mtime })
    return listed
  }

  #believe(parent: Ino, name: string, dentry: Dentry): void {
    this.#dentries.set(keyOf(parent, name), dentry)
  }

  #learn({ attributes, validity }: Entry): Attributes {
    this.#nodes.set(attributes.ino, { attributes, untilMs: this.#nowMs() + validity.attributesMs })
    return attributes
  }

  #changedNames(directory: Ino): void {
    this.#listings.delete(directory)
    this.#stale(directory)
  }

  #stale(ino: Ino): void {
    const node = this.#nodes.get(ino)
    if (node !== undefined) node.untilMs = 0
  }
}

const keyOf = (parent: Ino, name: string): string => `${parent}/${name}`
