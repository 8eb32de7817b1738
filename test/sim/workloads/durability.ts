/**
 * What fsync has promised, for the moment when everything loses power at once: names and slots of files that were synced and not touched since
 * are there afterwards, byte for byte. What was written later may be lost, torn or unreadable. That it would be so is looked at on the disks
 * whenever an fsync returns, and now and then later.
 */
import type { Ino } from '../../../src/domain/ids.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { SyncedCheck } from '../checkers/synced-data.ts'
import type { SimulatedClient } from '../simulated-cluster.ts'

const slots = 8
const slotBytes = 6000
const filesMax = 12

interface File {
  name: string
  ino: Ino | undefined
  /** What is there for certain; undefined: something was written since the last sync. */
  synced: (Buffer | undefined)[]
  /** What was written last, and is promised with the next sync; undefined: not known. */
  latest: (Buffer | undefined)[]
  /** The name is there for certain. */
  named: boolean
}

export class Durability implements Workload {
  readonly name = 'durability'
  readonly #files = new Map<number, File[]>()
  readonly #prefix: string
  readonly #tiny: boolean
  readonly #unsafe: SyncedCheck
  readonly #complaints = new Set<string>()

  /** The prefix is that of its files' names: several such programs run beside each other. */
  constructor(options: { prefix: string; tiny: boolean; unsafe: SyncedCheck }) {
    this.#prefix = options.prefix
    this.#tiny = options.tiny
    this.#unsafe = options.unsafe
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
      const unknown = Array<undefined>(slots).fill(undefined)
      const name = `${this.#prefix}-${mount.name}-${files.length}`
      const file: File = { name, ino: undefined, synced: unknown, latest: unknown, named: false }
      files.push(file)
      const { handle } = await mount.create(mount.root, file.name, openFlags.readWrite)
      await mount.close(handle)
    }
    const file = files[random.below(Math.max(1, files.length))]
    if (file === undefined) return
    const ino = (await mount.lookup(mount.root, file.name)).attributes.ino
    file.ino = ino
    await this.#write(mount, file, ino)
    for (const each of files) this.#lookAtDisks(each, 'later')
    if (random.below(4) === 0) await this.#look(mount)
  }

  /** What was not synced may be gone with its client. */
  lost(client: SimulatedClient): void {
    for (const file of this.#files.get(client.index) ?? []) file.latest = [...file.synced]
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    const found = [...this.#complaints]
    for (const mount of mounts) {
      for (const file of [...this.#files.values()].flat()) found.push(...(await this.#compare(mount, file)))
    }
    return found
  }

  async #write(mount: Mount, file: File, ino: Ino): Promise<void> {
    const bytes = this.#tiny ? 200 : slotBytes
    const handle = await mount.open(ino, openFlags.readWrite)
    for (let count = mount.random.below(3) + 1; count > 0; count--) {
      // A file that grows at its end is what logs do.
      const next = file.latest.indexOf(undefined)
      const slot = next < 0 || mount.random.below(3) === 0 ? mount.random.below(slots) : next
      const data = Buffer.alloc(bytes, mount.random.bytes(61))
      file.synced = file.synced.with(slot, undefined)
      file.latest = file.latest.with(slot, undefined)
      await mount.write(handle, slot * bytes, data)
      file.latest = file.latest.with(slot, data)
    }
    if (mount.random.below(2) === 0) {
      // Long enough, now and then, that everything has been sent to the chunk servers before, unsynced.
      if (mount.random.below(4) === 0) await mount.think(2000)
      const losses = mount.client.sessionsLost
      const { latest } = file
      await mount.fsync(handle)
      if (losses === mount.client.sessionsLost && mount.life.alive && latest === file.latest) {
        file.synced = latest
        file.named = true
        this.#lookAtDisks(file, 'when its fsync returned')
      }
    }
    await mount.close(handle)
  }

  /** Everything that is promised of a file would survive a loss of power everywhere, now. */
  #lookAtDisks({ name, ino, synced }: File, when: string): void {
    if (ino === undefined) return
    for (const [slot, data] of synced.entries()) {
      if (data === undefined) continue
      const why = this.#unsafe({ ino, offset: slot * data.length, data })
      if (why !== undefined) this.#complaints.add(`${name} slot ${slot} was not on the disks ${when}: ${why}`)
    }
  }

  /** At a file of any client, which makes its writer send what it has buffered, unsynced. */
  async #look(mount: Mount): Promise<void> {
    const files = [...this.#files.values()].flat()
    const { name } = files[mount.random.below(files.length)]!
    const ino = (await mount.lookup(mount.root, name)).attributes.ino
    const handle = await mount.open(ino, openFlags.readWrite)
    await mount.read(handle, 0, this.#tiny ? 200 : slotBytes)
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
