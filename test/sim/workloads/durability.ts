/**
 * What fsync has promised, for the moment when everything loses power at once: names and slots of files that were synced and not touched since
 * are there afterwards, byte for byte. What was written later may be lost, torn or unreadable.
 */
import type { Ino } from '../../../src/domain/ids.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'

const slots = 4
const slotBytes = 6000
const filesMax = 12

interface File {
  name: string
  /** What is there for certain; undefined: something was written since the last sync. */
  synced: (Buffer | undefined)[]
  /** The name is there for certain. */
  named: boolean
}

export class Durability implements Workload {
  readonly name = 'durability'
  readonly #files = new Map<number, File[]>()
  readonly #tiny: boolean

  constructor(options: { tiny: boolean }) {
    this.#tiny = options.tiny
  }

  async setUp(): Promise<void> {
    // Each client makes its own.
  }

  /** How many slots are promised. */
  get promised(): number {
    return [...this.#files.values()].flat().flatMap(({ synced }) => synced.filter((slot) => slot !== undefined)).length
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(100)
    const { random } = mount
    let files = this.#files.get(mount.client.index)
    if (files === undefined) this.#files.set(mount.client.index, (files = []))
    if (files.length < filesMax && random.below(3) === 0) {
      const file: File = { name: `${mount.name}-${files.length}`, synced: Array(slots).fill(undefined), named: false }
      files.push(file)
      const { handle } = await mount.create(mount.root, file.name, openFlags.readWrite)
      await mount.close(handle)
    }
    const file = files[random.below(Math.max(1, files.length))]
    if (file === undefined) return
    const ino = (await mount.lookup(mount.root, file.name)).attributes.ino
    await this.#write(mount, file, ino)
  }

  lost(): void {
    // Only what was synced counts.
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    const found: string[] = []
    for (const mount of mounts) {
      for (const file of [...this.#files.values()].flat()) found.push(...(await this.#compare(mount, file)))
    }
    return found
  }

  async #write(mount: Mount, file: File, ino: Ino): Promise<void> {
    const bytes = this.#tiny ? 200 : slotBytes
    const handle = await mount.open(ino, openFlags.readWrite)
    const written = [...file.synced]
    for (let count = mount.random.below(3) + 1; count > 0; count--) {
      // A file that grows at its end is what logs do.
      const next = written.indexOf(undefined)
      const slot = next < 0 || mount.random.below(3) === 0 ? mount.random.below(slots) : next
      const data = Buffer.alloc(bytes, mount.random.bytes(61))
      written[slot] = data
      file.synced[slot] = undefined
      await mount.write(handle, slot * bytes, data)
    }
    if (mount.random.below(4) > 0) {
      const losses = mount.client.sessionsLost
      await mount.fsync(handle)
      if (losses === mount.client.sessionsLost && mount.life.alive) {
        file.synced = written
        file.named = true
      }
    }
    await mount.close(handle)
  }

  async #compare(mount: Mount, { name, synced, named }: File): Promise<string[]> {
    const bytes = this.#tiny ? 200 : slotBytes
    let ino: Ino
    try {
      ;({
        attributes: { ino },
      } = await mount.lookup(mount.root, name))
    } catch (caught) {
      if (!isErrno(caught, 'ENOENT')) throw caught
      return named ? [`${name} was synced and is gone`] : []
    }
    const found: string[] = []
    const handle = await mount.open(ino, openFlags.readWrite)
    for (const [slot, expected] of synced.entries()) {
      if (expected === undefined) continue
      try {
        const read = await mount.read(handle, slot * bytes, bytes)
        if (!read.equals(expected)) found.push(`${name} slot ${slot} was synced and reads otherwise on ${mount.name}`)
      } catch (caught) {
        found.push(`${name} slot ${slot} was synced and cannot be read on ${mount.name}: ${String(caught)}`)
      }
    }
    await mount.closeAtLast(handle)
    return found
  }
}
