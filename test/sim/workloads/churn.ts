/**
 * Each client makes, fills, overwrites, truncates, punches, copies, renames, links and removes files in a directory of its own, and compares
 * all that it reads with a model in memory. At the end everything is removed: nothing may stay behind on any disk.
 *
 * After its client was lost, the model forgets what was not synced: the file's content may be any of its past.
 */
import type { Handle } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import type { SyncedCheck } from '../checkers/synced-data.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { SimulatedClient } from '../simulated-cluster.ts'

const filesMax = 8
const writeBytesMax = 40_000
const sizeMax = 200_000
const punchHole = 3

interface File {
  name: string
  ino: Ino
  /** Undefined: not known any more. */
  content: Buffer | undefined
  /** The content is what the last fsync left. */
  synced: boolean
  /** A call about it has no outcome yet. */
  busy: boolean
}

interface Own {
  directory: Ino | undefined
  files: Map<string, File>
}

export class Churn implements Workload {
  readonly name = 'churn'
  readonly #own = new Map<number, Own>()
  readonly #complaints: string[] = []
  readonly #unsafe: SyncedCheck
  #made = 0

  constructor(options: { unsafe: SyncedCheck }) {
    this.#unsafe = options.unsafe
  }

  async setUp(): Promise<void> {
    // Each client begins by itself.
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(300)
    const own = await this.#ownOf(mount)
    const files = [...own.files.values()]
    const { random } = mount
    const choice = random.below(10)
    if (files.length === 0 || (choice === 0 && files.length < filesMax)) return this.#create(mount, own)
    const file = files[random.below(files.length)]!
    if (choice === 1) return this.#remove(mount, own, file)
    if (choice === 2) return this.#rename(mount, own, file)
    return this.#change(mount, own, file)
  }

  lost(client: SimulatedClient): void {
    const own = this.#own.get(client.index)
    if (own === undefined) return
    // Names that were made, moved or removed may be back where they were. A comparison that is under way knows nothing any more.
    for (const file of own.files.values()) file.content = undefined
    own.files.clear()
    own.directory = undefined
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    for (const mount of mounts) {
      for (const own of this.#own.values()) {
        for (const file of own.files.values()) await this.#compare(mount, file)
      }
    }
    const [mount] = mounts
    for (const own of this.#own.values()) {
      if (own.directory === undefined || mount === undefined) continue
      for (const name of await mount.list(own.directory)) await mount.unlink(own.directory, name)
    }
    return this.#complaints
  }

  async #ownOf(mount: Mount): Promise<Own & { directory: Ino }> {
    let own = this.#own.get(mount.client.index)
    if (own === undefined) this.#own.set(mount.client.index, (own = { directory: undefined, files: new Map() }))
    if (own.directory === undefined) {
      const name = `churn-${mount.name}`
      try {
        own.directory = await mount.mkdir(mount.root, name)
      } catch (caught) {
        if (!isErrno(caught, 'EEXIST')) throw caught
        own.directory = await mount.walk(name)
      }
    }
    return own as Own & { directory: Ino }
  }

  async #create(mount: Mount, own: Own & { directory: Ino }): Promise<void> {
    const name = `f${++this.#made}`
    const { ino, handle } = await mount.create(own.directory, name, openFlags.readWrite | openFlags.exclusive)
    own.files.set(name, { name, ino, content: Buffer.alloc(0), synced: false, busy: false })
    await mount.close(handle)
  }

  async #remove(mount: Mount, own: Own & { directory: Ino }, file: File): Promise<void> {
    own.files.delete(file.name)
    await mount.unlink(own.directory, file.name)
  }

  async #rename(mount: Mount, own: Own & { directory: Ino }, file: File): Promise<void> {
    const files = [...own.files.values()]
    const over = files[mount.random.below(files.length)]!
    const name = mount.random.below(2) === 0 && over !== file ? over.name : `f${++this.#made}`
    own.files.delete(file.name)
    own.files.delete(name)
    const losses = mount.client.sessionsLost
    await mount.rename({ parent: own.directory, name: file.name }, { parent: own.directory, name }, 0)
    // Neither name had the file when it would have been forgotten with the others.
    if (losses !== mount.client.sessionsLost) file.content = undefined
    own.files.set(name, { ...file, name })
  }

  async #change(mount: Mount, own: Own & { directory: Ino }, file: File): Promise<void> {
    const { random } = mount
    const handle = await mount.open(file.ino, openFlags.readWrite)
    try {
      for (let count = random.below(4) + 1; count > 0; count--) {
        await this.#changeOnce(mount, own, file, handle)
      }
      if (random.below(3) === 0) {
        const losses = mount.client.sessionsLost
        const { content } = file
        await mount.fsync(handle)
        if (losses === mount.client.sessionsLost && mount.life.alive && content === file.content) {
          file.synced = true
          const why = content && this.#unsafe({ ino: file.ino, offset: 0, data: content })
          if (why !== undefined)
            this.#complaints.push(`${file.name} was not on the disks when its fsync returned: ${why}`)
        }
      }
    } catch (caught) {
      file.content = undefined
      throw caught
    } finally {
      if (mount.life.alive) await mount.close(handle)
    }
  }

  async #changeOnce(mount: Mount, own: Own & { directory: Ino }, file: File, handle: Handle): Promise<void> {
    const { random } = mount
    const offset = random.below(sizeMax)
    const length = 1 + random.below(random.below(2) === 0 ? 100 : writeBytesMax)
    const before = file.content
    const put = (content: Buffer | undefined, data: Buffer, at: number): Buffer | undefined => {
      if (content === undefined) return undefined
      const grown = Buffer.alloc(Math.max(content.length, at + data.length))
      content.copy(grown)
      data.copy(grown, at)
      return grown
    }
    const changed = async (after: Buffer | undefined, act: Promise<unknown>): Promise<void> => {
      file.synced = false
      file.busy = true
      file.content = after
      try {
        await act
      } finally {
        file.busy = false
      }
    }
    switch (random.below(6)) {
      case 0:
      case 1: {
        const at = random.below(3) === 0 ? offset : random.below(Math.min(sizeMax, (before?.length ?? 0) + 1))
        const data = Buffer.alloc(length, random.bytes(61))
        return changed(put(before, data, at), mount.write(handle, at, data))
      }
      case 2: {
        const size = random.below(sizeMax)
        const after =
          before && Buffer.concat([before.subarray(0, size), Buffer.alloc(Math.max(0, size - before.length))])
        return changed(
          after,
          mount.call(`truncate ${file.ino} to ${size}`, (fs, context) =>
            fs.setattr(context, file.ino, { size: BigInt(size) }, handle),
          ),
        )
      }
      case 3: {
        const end = before === undefined ? 0 : Math.min(before.length, offset + length)
        const after = before && Buffer.from(before)
        if (end > offset) after?.fill(0, offset, end)
        return changed(
          after,
          mount.call(`punch ${file.ino} ${offset}+${length}`, (fs, context) =>
            fs.fallocate(context, handle, punchHole, BigInt(offset), BigInt(length)),
          ),
        )
      }
      case 4: {
        const sources = [...own.files.values()].filter((other) => other !== file)
        const source = sources[random.below(Math.max(1, sources.length))]
        if (source === undefined) return
        return this.#copy(mount, source, file, handle, random.below(sizeMax / 2))
      }
      default:
        await this.#compare(mount, file, handle)
    }
  }

  async #copy(mount: Mount, source: File, target: File, handle: Handle, offset: number): Promise<void> {
    const from = await mount.open(source.ino, openFlags.readWrite)
    try {
      const { content } = source
      const before = target.content
      target.synced = false
      target.content = undefined
      const copied = await mount.call(`copy ${source.ino} to ${target.ino} at ${offset}`, (fs, context) =>
        fs.copyFileRange(context, { handle: from, offset: 0n }, { handle, offset: BigInt(offset) }, BigInt(sizeMax)),
      )
      if (content === undefined || before === undefined || source.content !== content) return
      const part = content.subarray(0, Number(copied))
      const after = Buffer.alloc(Math.max(before.length, copied === 0n ? 0 : offset + part.length))
      before.copy(after)
      part.copy(after, offset)
      target.content = after
    } finally {
      if (mount.life.alive) await mount.close(from)
    }
  }

  async #compare(mount: Mount, file: File, opened?: Handle): Promise<void> {
    const handle = opened ?? (await mount.open(file.ino, openFlags.readWrite))
    try {
      const { content } = file
      const { attributes } = await mount.call(`getattr ${file.ino}`, (fs, context) =>
        fs.getattr(context, file.ino, handle),
      )
      const read = await mount.read(handle, 0, sizeMax * 2)
      if (content === undefined || file.content !== content) return
      if (attributes.size !== BigInt(content.length)) {
        this.#complaints.push(`${mount.name}: ${file.name} has ${attributes.size} bytes instead of ${content.length}`)
      }
      if (read.equals(content)) return
      const at = content.findIndex((byte, index) => byte !== read[index])
      this.#complaints.push(
        `${mount.name}: inode ${file.ino} ${file.name} reads ${read.length} bytes of ${content.length}, the first wrong one is ${at}`,
      )
    } finally {
      if (opened === undefined && mount.life.alive) await mount.closeAtLast(handle)
    }
  }
}
