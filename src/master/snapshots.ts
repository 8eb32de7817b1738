/**
 * Consistent views of the whole store for backups and checks, read in pages while the master goes on. What a batch wrote is in a view
 * wholly or not at all.
 *
 * Invariant: at most `snapshotsMax` are open; one that nobody reads from is closed after `idleMs`, since it keeps old data alive.
 * Invariant: a snapshot serves at most one repair, and none that was taken before another repair does.
 */
import { PosixError } from '../domain/errors.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { KvEngine, KvSnapshot } from '../platform/kv-engine.ts'
import type { ReadSnapshotReply } from '../protocol/gen/shoal/v1/admin.pb.ts'

const snapshotsMax = 4
const idleMs = 60_000
const recordsPerRead = 256
const pageBytesTarget = 1024 * 1024

interface Open {
  snapshot: KvSnapshot
  busy: boolean
  timer: Timer
}

export class Snapshots {
  readonly #kv: KvEngine
  readonly #clock: Clock
  readonly #open = new Map<bigint, Open>()
  /** Begins elsewhere at each start of the master, so that a snapshot of a former run is none of this one's. */
  #next: bigint
  /** Snapshots up to this one cannot be repaired from. */
  #repairedThrough: bigint

  constructor(options: { kv: KvEngine; clock: Clock }) {
    this.#kv = options.kv
    this.#clock = options.clock
    const { seconds, nanos } = options.clock.wallTime()
    this.#next = seconds * 1_000_000_000n + BigInt(nanos)
    this.#repairedThrough = this.#next - 1n
  }

  /** EBUSY. */
  open(): bigint {
    if (this.#open.size >= snapshotsMax) {
      throw new PosixError('EBUSY', `${snapshotsMax} backups or checks are running already; try again later.`)
    }
    const id = this.#next++
    this.#open.set(id, { snapshot: this.#kv.openSnapshot(), busy: false, timer: this.#expiry(id) })
    return id
  }

  /** The next page. ENOENT, EBUSY. */
  async read(id: bigint): Promise<ReadSnapshotReply> {
    const open = this.#open.get(id)
    if (!open)
      throw new PosixError('ENOENT', 'That snapshot is closed: it was read to its end, or not read for a minute.')
    if (open.busy) throw new PosixError('EBUSY', 'A page of that snapshot is being read already.')
    open.busy = true
    open.timer.cancel()
    const reply: ReadSnapshotReply = { records: [], last: false }
    try {
      for (let bytes = 0; bytes < pageBytesTarget && !reply.last;) {
        const entries = await open.snapshot.read(recordsPerRead)
        for (const { key, value } of entries) {
          bytes += key.length + value.length
          reply.records.push({ key, value })
        }
        reply.last = entries.length < recordsPerRead
      }
    } catch (caught) {
      await this.#close(id)
      throw caught
    }
    open.busy = false
    if (reply.last) await this.#close(id)
    else open.timer = this.#expiry(id)
    return reply
  }

  /** ESTALE: what was found in it may have been mended since. */
  claimForRepair(id: bigint): void {
    if (id <= this.#repairedThrough || id >= this.#next) {
      throw new PosixError('ESTALE', 'Something was repaired since this check began; run it again.')
    }
    this.#repairedThrough = this.#next - 1n
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.keys()].map((id) => this.#close(id)))
  }

  #expiry(id: bigint): Timer {
    return this.#clock.after(idleMs, () => void this.#close(id))
  }

  async #close(id: bigint): Promise<void> {
    const open = this.#open.get(id)
    this.#open.delete(id)
    open?.timer.cancel()
    await open?.snapshot.close()
  }
}
