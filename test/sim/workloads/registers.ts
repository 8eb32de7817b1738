/**
 * Slots of files as registers: several clients write and read them, in and across blocks, with and without fsync, through handles that stay
 * open and handles of the moment. Each write has a value of its own, repeated over the slot, so a read also shows a torn write.
 *
 * What was written without fsync may be lost with its client; then nobody else may ever have seen it go.
 */
import type { Handle } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import type { Life } from '../../lib/simulated-time.ts'
import { registerViolation } from '../checkers/register.ts'
import type { RegisterOperation } from '../checkers/register.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { SimulatedClient } from '../simulated-cluster.ts'

const directory = 'registers'
const unitBytes = 16
const zero = '0'.repeat(unitBytes)

interface Slot {
  file: number
  offset: number
  bytes: number
}

interface Access extends RegisterOperation {
  client: number
  life: Life
  file: number
  synced: boolean
  /** Whether its call is still waited for. */
  isUnderWay: boolean
  /** When what its client had buffered was lost for the last time. */
  lostAt: number
}

export class Registers implements Workload {
  readonly name = 'registers'
  readonly #slots: Slot[]
  readonly #inos: Ino[] = []
  readonly #histories: Access[][]
  readonly #handles = new Map<Mount, Map<number, Handle>>()
  readonly #complaints: string[] = []
  /** Writes by client that no fsync covers yet. */
  readonly #unsynced = new Map<number, Access[]>()
  #now = 0
  #values = 0

  constructor(options: { files: number }) {
    this.#slots = []
    for (let file = 0; file < options.files; file++) {
      // The second one crosses the end of the first 64 MiB.
      let offset = file === 1 ? 64 * 1024 * 1024 - 5000 : 0
      for (const bytes of [16, 2000, 4096, 10_000]) {
        this.#slots.push({ file, offset, bytes })
        offset += bytes
      }
    }
    this.#histories = this.#slots.map(() => [])
  }

  async setUp(mount: Mount): Promise<void> {
    const parent = await mount.mkdir(mount.root, directory)
    for (let file = 0; file <= this.#slots.at(-1)!.file; file++) {
      const { ino, handle } = await mount.create(parent, `f${file}`, openFlags.readWrite)
      const slots = this.#slots.filter((slot) => slot.file === file)
      for (const { offset, bytes } of slots)
        await mount.write(handle, offset, Buffer.from(zero.repeat(bytes / unitBytes)))
      await mount.fsync(handle)
      await mount.close(handle)
      this.#inos.push(ino)
    }
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(250)
    const index = mount.random.below(this.#slots.length)
    const { file } = this.#slots[index]!
    const handle = await this.#handle(mount, file)
    try {
      const choice = mount.random.below(10)
      if (choice < 5) await this.#read(mount, handle, index)
      else if (choice < 9) await this.#write(mount, handle, index)
      else await this.#sync(mount, handle, file)
      if (mount.random.below(20) === 0) {
        this.#handles.get(mount)?.delete(file)
        await mount.close(handle)
      }
    } catch (caught) {
      if (isErrno(caught, 'EBADF', 'ESTALE', 'EIO', 'ENOENT')) this.#handles.get(mount)?.delete(file)
      throw caught
    }
  }

  /** Reads a slot of the last file, without patience: who waits for the master sees nothing of what a client still answers by itself. */
  async glance(mount: Mount): Promise<void> {
    const { file } = this.#slots.at(-1)!
    const handle = await this.#handle(mount, file)
    const index = this.#slots.length - 1 - mount.random.below(this.#slots.filter((slot) => slot.file === file).length)
    await this.#read(mount, handle, index, { patienceMs: 20 })
  }

  lost(client: SimulatedClient): void {
    const now = this.#now++
    const own = this.#unsynced.get(client.index) ?? []
    for (const access of own) access.lostAt = now
    // What waited for the master is carried out in the next session, and may be lost with that one.
    const waiting = own.filter(({ isUnderWay, life }) => isUnderWay && life.alive)
    this.#unsynced.set(client.index, waiting)
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    for (const mount of mounts) {
      for (const index of this.#slots.keys()) {
        await this.#read(mount, await this.#handle(mount, this.#slots[index]!.file), index)
      }
      for (const handle of this.#handles.get(mount)?.values() ?? []) await mount.closeAtLast(handle)
      this.#handles.delete(mount)
    }
    const found = [...this.#complaints]
    for (const [index, history] of this.#histories.entries()) {
      const { file, offset, bytes } = this.#slots[index]!
      const violation = registerViolation(withoutLost(history), zero)
      if (violation !== undefined) found.push(`file ${this.#inos[file]!} at ${offset}+${bytes}: ${violation}`)
    }
    return found
  }

  async #handle(mount: Mount, file: number): Promise<Handle> {
    let handles = this.#handles.get(mount)
    if (handles === undefined) this.#handles.set(mount, (handles = new Map()))
    const known = handles.get(file)
    if (known !== undefined) return known
    const parent = await mount.walk(directory)
    const { attributes } = await mount.lookup(parent, `f${file}`)
    const handle = await mount.open(attributes.ino, openFlags.readWrite)
    const other = handles.get(file)
    if (other === undefined) handles.set(file, handle)
    return handle
  }

  async #read(mount: Mount, handle: Handle, index: number, patience: { patienceMs?: number } = {}): Promise<void> {
    const { offset, bytes } = this.#slots[index]!
    const start = this.#now++
    const content = (await mount.read(handle, offset, bytes, patience)).toString('latin1')
    const value = content.slice(0, unitBytes)
    const who = `${mount.life.name} reading`
    if (content !== value.repeat(bytes / unitBytes)) {
      const parts = new Set(content.match(/.{1,16}/gs))
      this.#complaints.push(`${who} ${index} at ${start} got ${content.length} bytes of ${[...parts].join('|')}`)
      return
    }
    this.#histories[index]!.push({
      kind: 'read',
      value,
      start,
      end: this.#now++,
      who,
      client: mount.client.index,
      life: mount.life,
      file: this.#slots[index]!.file,
      synced: true,
      isUnderWay: false,
      lostAt: Infinity,
    })
  }

  async #write(mount: Mount, handle: Handle, index: number): Promise<void> {
    const { file, offset, bytes } = this.#slots[index]!
    const value = `${mount.client.index}-${++this.#values}`.padEnd(unitBytes, '.')
    const access: Access = {
      kind: 'write',
      value,
      start: this.#now++,
      end: Infinity,
      who: mount.life.name,
      client: mount.client.index,
      life: mount.life,
      file,
      synced: false,
      isUnderWay: true,
      lostAt: Infinity,
    }
    this.#histories[index]!.push(access)
    const own = this.#unsynced.get(mount.client.index)
    if (own) own.push(access)
    else this.#unsynced.set(mount.client.index, [access])
    try {
      await mount.write(handle, offset, Buffer.from(value.repeat(bytes / unitBytes)))
      access.end = this.#now++
    } finally {
      access.isUnderWay = false
    }
  }

  /** fsync covers what was written before it, by this client, through any handle. */
  async #sync(mount: Mount, handle: Handle, file: number): Promise<void> {
    const losses = mount.client.sessionsLost
    const own = this.#unsynced.get(mount.client.index) ?? []
    const covered = own.filter((access) => access.file === file && access.end < Infinity)
    await mount.fsync(handle)
    if (mount.client.sessionsLost !== losses || !mount.life.alive) return
    for (const access of covered) access.synced = true
    this.#unsynced.set(
      mount.client.index,
      (this.#unsynced.get(mount.client.index) ?? []).filter(({ synced }) => !synced),
    )
  }
}

/** Without the writes that were lost with their client before anybody else saw them, and that client's own reads of them. */
const withoutLost = (history: readonly Access[]): RegisterOperation[] => {
  const kept: RegisterOperation[] = []
  const gone = new Set<string>()
  const changed = new Map<string, Access>()
  for (const write of history) {
    if (write.kind !== 'write' || write.lostAt === Infinity) continue
    const seen = history.some(
      (read) =>
        read.kind === 'read' &&
        read.value === write.value &&
        (read.client !== write.client || read.start > write.lostAt),
    )
    if (seen) changed.set(write.value, { ...write, end: Infinity })
    else gone.add(write.value)
  }
  for (const access of history) {
    if (gone.has(access.value)) continue
    kept.push(access.kind === 'write' ? (changed.get(access.value) ?? access) : access)
  }
  return kept
}
