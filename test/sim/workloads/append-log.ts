/**
 * One log that all clients append to with O_APPEND. At the end it has whole records only, each at most once, those of one client in their
 * order, and all that were acknowledged, unless they were not synced and their client was lost.
 */
import type { Handle } from '../../../src/client/file-system.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { SimulatedClient } from '../simulated-cluster.ts'

const recordBytes = 24

interface Record {
  client: number
  text: string
  acknowledged: boolean
  synced: boolean
  lost: boolean
}

export class AppendLog implements Workload {
  readonly name = 'append-log'
  readonly #records: Record[] = []
  readonly #handles = new Map<Mount, Handle>()

  async setUp(mount: Mount): Promise<void> {
    const { handle } = await mount.create(mount.root, 'log', openFlags.readWrite)
    await mount.close(handle)
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(400)
    try {
      let handle = this.#handles.get(mount)
      if (handle === undefined) {
        handle = await mount.open(await mount.walk('log'), openFlags.readWrite | openFlags.append)
        this.#handles.set(mount, handle)
      }
      if (mount.random.below(5) === 0) await this.#sync(mount, handle)
      else await this.#append(mount, handle)
    } catch (caught) {
      if (isErrno(caught, 'EBADF', 'ESTALE', 'EIO')) this.#handles.delete(mount)
      throw caught
    }
  }

  lost(client: SimulatedClient): void {
    for (const record of this.#records) if (record.client === client.index && !record.synced) record.lost = true
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    const found: string[] = []
    let first: string | undefined
    for (const mount of mounts) {
      const own = this.#handles.get(mount)
      if (own !== undefined) await mount.closeAtLast(own)
      const handle = await mount.open(await mount.walk('log'), openFlags.readWrite)
      const size = Number((await mount.lookup(mount.root, 'log')).attributes.size)
      const content = (await mount.read(handle, 0, size)).toString('latin1')
      await mount.closeAtLast(handle)
      if (first !== undefined && first !== content) found.push(`${mount.name} reads another log than the first client`)
      first ??= content
    }
    const texts = first?.match(/.{1,24}/gs) ?? []
    const known = new Map(this.#records.map((record, index) => [record.text, { record, index }]))
    const latest = new Map<number, number>()
    const seen = new Set<string>()
    for (const [at, text] of texts.entries()) {
      const entry = known.get(text)
      if (entry === undefined) {
        found.push(`record ${at} is no record: ${JSON.stringify(text)}`)
        continue
      }
      if (seen.has(text)) found.push(`record ${at} is there twice: ${text}`)
      seen.add(text)
      const { client } = entry.record
      if (entry.index < (latest.get(client) ?? -1)) found.push(`record ${at} is out of order: ${text}`)
      latest.set(client, entry.index)
    }
    for (const { text, acknowledged, synced, lost } of this.#records) {
      if (acknowledged && (synced || !lost) && !seen.has(text))
        found.push(`record ${text} was acknowledged and is missing`)
    }
    return found
  }

  async #append(mount: Mount, handle: Handle): Promise<void> {
    const text = `${mount.client.index}:${this.#records.length}`.padEnd(recordBytes - 1, ' ') + '\n'
    const record: Record = { client: mount.client.index, text, acknowledged: false, synced: false, lost: false }
    this.#records.push(record)
    await mount.append(handle, Buffer.from(text))
    record.acknowledged = true
  }

  async #sync(mount: Mount, handle: Handle): Promise<void> {
    const losses = mount.client.sessionsLost
    const covered = this.#records.filter(
      ({ client, acknowledged, lost }) => client === mount.client.index && acknowledged && !lost,
    )
    await mount.fsync(handle)
    if (mount.client.sessionsLost === losses && mount.life.alive) for (const record of covered) record.synced = true
  }
}
