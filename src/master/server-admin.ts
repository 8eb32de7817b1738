/**
 * What an administrator does with chunk servers: names them, puts them into racks, drains and removes them.
 *
 * Draining keeps the server in use as a source; nothing new goes there, and repair moves what is there to the others (repair.ts).
 *
 * Invariant: a server is removed only when every chunk has all its copies on others, or the administrator has said that copies, or
 * data, may be lost with it; and only when it is down or drained, so that nothing is being written there.
 */
import { PosixError } from '../domain/errors.ts'
import type { ServerId } from '../domain/ids.ts'
import { asServerId } from '../domain/ids.ts'
import type { Clock } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { DrainStatus, RemoveServerReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { placementFreeBytesMin } from './chunk-allocation.ts'
import type { ChunkEntry, ChunkMap } from './chunk-map.ts'
import { isValid } from './chunk-map.ts'
import { servers as serverTable } from './keys.ts'
import type { ServerRecord } from './keys.ts'
import type { Repair } from './repair.ts'
import type { Server, ServerTable } from './servers.ts'
import { roomOf } from './space-left.ts'
import type { Store } from './store.ts'

const nameLengthMax = 255
/** Control characters would spoil every table that shows them. */
const isName = (text: string): boolean => text.length <= nameLengthMax && !/\p{Cc}/u.test(text)

export interface ServerAdminOptions {
  store: Store
  clock: Clock
  log: Log
  servers: ServerTable
  chunks: ChunkMap
  repair: Repair
  /** Copies of new files. */
  copies: number
  /** What is appended to this chunk is to go on in another one. */
  askToSeal: (entry: ChunkEntry) => void
  /** Of this server something changed that others know. */
  changed: (server: Server) => void
}

interface Drain {
  sinceMs: number
  bytesTotal: number
}

export class ServerAdmin {
  readonly #options: ServerAdminOptions
  readonly #drains = new Map<ServerId, Drain>()

  constructor(options: ServerAdminOptions) {
    this.#options = options
  }

  /** ENOENT, EINVAL. */
  async set(id: number, given: { label: string | undefined; rack: string | undefined }): Promise<void> {
    const server = this.#server(id)
    for (const [what, text] of Object.entries(given)) {
      if (text !== undefined && !isName(text)) {
        throw new PosixError('EINVAL', `A ${what} has at most ${nameLengthMax} characters and no control characters.`)
      }
    }
    const { label, rack } = given
    await this.#update(server, {
      ...(label === undefined ? {} : { label }),
      ...(rack === undefined ? {} : { rackGiven: rack }),
    })
    this.#options.changed(server)
  }

  /** ENOENT; EBUSY when the other servers cannot hold what is there. Draining again is fine. */
  async drain(id: number): Promise<void> {
    const { chunks, log, askToSeal, changed } = this.#options
    const server = this.#server(id)
    if (server.draining) return
    this.#checkOthersCanHold(server)
    await this.#update(server, { draining: true }, () => this.#checkOthersCanHold(server))
    log.info('draining a chunk server', { server: server.id })
    for (const entry of chunks.openChunks()) if (isOn(entry, server.id)) askToSeal(entry)
    changed(server)
  }

  /** Its replicas count again. */
  async cancelDrain(id: number): Promise<void> {
    const server = this.#server(id)
    if (!server.draining) throw new PosixError('EINVAL', `Server ${id} is not being drained.`)
    await this.#update(server, { draining: false })
    this.#drains.delete(server.id)
    this.#options.log.info('draining was called off', { server: server.id })
    this.#options.changed(server)
  }

  /** ENOENT; EBUSY with what would be lost. */
  async remove(id: number, options: { force: boolean; loseData: boolean }): Promise<RemoveServerReply> {
    const { store, servers, chunks, log } = this.#options
    const server = this.#server(id)
    const reply = await store.execute(
      (tx) => {
        const record = tx.get(serverTable, server.id)
        if (!record || record.removed) throw new PosixError('ENOENT', `There is no server ${id}.`)
        const loss = this.#checkRemoval(server, options)
        tx.put(serverTable, server.id, { ...record, draining: false, removed: true })
        tx.onApply(() => {
          servers.remove(server)
          chunks.serverRemoved(server.id)
        })
        return loss
      },
      { mayUseReserve: true },
    )
    this.#drains.delete(server.id)
    log.warn('a chunk server was removed from the cluster', { server: server.id, ...reply })
    return reply
  }

  /** How far each draining server is. */
  drainStatuses(): Map<ServerId, DrainStatus> {
    const { servers, chunks, clock } = this.#options
    const left = new Map<ServerId, { replicas: number; bytes: number; open: number }>()
    for (const server of servers.all()) if (server.draining) left.set(server.id, { replicas: 0, bytes: 0, open: 0 })
    if (left.size === 0) return new Map()
    for (const entry of chunks.entries()) {
      for (const { server } of entry.replicas) {
        const tally = left.get(server)
        if (!tally) continue
        tally.replicas++
        tally.bytes += entry.length
      }
      for (const server of entry.allocated) {
        const tally = left.get(server)
        if (tally) tally.open++
      }
    }
    const now = clock.nowMs()
    const statuses = new Map<ServerId, DrainStatus>()
    for (const [id, { replicas, bytes, open }] of left) {
      const drain = this.#drains.get(id) ?? { sinceMs: now, bytesTotal: bytes }
      drain.bytesTotal = Math.max(drain.bytesTotal, bytes)
      this.#drains.set(id, drain)
      const bytesPerMs = (drain.bytesTotal - bytes) / Math.max(1, now - drain.sinceMs)
      statuses.set(id, {
        replicasLeft: BigInt(replicas),
        bytesLeft: BigInt(bytes),
        bytesTotal: BigInt(drain.bytesTotal),
        etaMs: bytesPerMs > 0 ? BigInt(Math.ceil(bytes / bytesPerMs)) : undefined,
        done: replicas === 0 && open === 0,
      })
    }
    return statuses
  }

  #server(id: number): Server {
    const server = this.#options.servers.get(asServerId(id))
    if (!server) throw new PosixError('ENOENT', `There is no server ${id}.`)
    return server
  }

  /** `check` runs again in the run that changes the record. */
  async #update(
    server: Server,
    given: Partial<Pick<ServerRecord, 'label' | 'rackGiven' | 'draining'>>,
    check: () => void = () => {},
  ): Promise<void> {
    const { store, servers } = this.#options
    await store.execute(
      (tx) => {
        const record = tx.get(serverTable, server.id)
        if (!record || record.removed) throw new PosixError('ENOENT', `There is no server ${server.id}.`)
        check()
        tx.put(serverTable, server.id, { ...record, ...given })
        tx.onApply(() => servers.set(server, given))
      },
      { mayUseReserve: true },
    )
  }

  #checkOthersCanHold(server: Server): void {
    const { servers, chunks, copies } = this.#options
    const others = servers.staying().filter((other) => other !== server && other.freeBytes >= placementFreeBytesMin)
    let needed = copies
    let bytes = 0
    for (const entry of chunks.entries()) {
      if (!isOn(entry, server.id)) continue
      needed = Math.max(needed, entry.copies)
      const elsewhere = entry.staying - (servers.isStaying(server.id) && holdsValid(entry, server.id) ? 1 : 0)
      if (elsewhere < entry.copies) bytes += entry.length
    }
    if (others.length < needed) {
      throw new PosixError(
        'EBUSY',
        `Server ${server.id} cannot be drained: ${needed} copies need ${needed} other servers that are up, not drained and not full, ` +
          `and there ${others.length === 1 ? 'is 1' : `are ${others.length}`}; add ${needed - others.length} first.`,
      )
    }
    const room = roomOf(others)
    if (bytes > room) {
      throw new PosixError(
        'EBUSY',
        `Server ${server.id} cannot be drained: ${bytes} bytes have to move and the other servers have room for ${room}; ` +
          `${bytes - room} bytes are missing.`,
      )
    }
  }

  #checkRemoval(server: Server, { force, loseData }: { force: boolean; loseData: boolean }): RemoveServerReply {
    const { chunks, repair, servers } = this.#options
    const { id } = server
    if (server.state !== 'down' && !server.draining) {
      throw new PosixError('EBUSY', `Server ${id} is up: drain it first (shoal servers drain ${id}).`)
    }
    if (!repair.ready()) {
      throw new PosixError(
        'EBUSY',
        'The master has just started and does not know yet where all copies are; try again soon.',
      )
    }
    // Of a server that has not reported wholly since the master's start not all is known: every chunk may be there.
    const mayHoldAnything = server.registration === 0n || !server.hasReported
    let open = 0
    let short = 0
    let lost = 0
    for (const entry of chunks.entries()) {
      const isHere = isOn(entry, id)
      if (!entry.sealed && isHere && server.state !== 'down') open++
      if (entry.length === 0 || (!isHere && !mayHoldAnything)) continue
      if (entry.staying >= entry.copies) continue
      short++
      if (entry.valid - (servers.isUp(id) && holdsValid(entry, id) ? 1 : 0) === 0) lost++
    }
    if (open > 0) {
      throw new PosixError(
        'EBUSY',
        `Server ${id} still takes data of ${count(open, 'open chunk')}; it is drained in a moment.`,
      )
    }
    if (short > 0 && (!force || server.state !== 'down')) {
      throw new PosixError(
        'EBUSY',
        `Removing server ${id} would lose a copy: ${count(short, 'chunk')} on it ${short === 1 ? 'has' : 'have'} too few copies elsewhere` +
          (server.state === 'down'
            ? ', and --force removes it all the same.'
            : `; wait until it is drained (shoal servers drain ${id}).`),
      )
    }
    if (lost > 0 && !loseData) {
      throw new PosixError(
        'EBUSY',
        `Removing server ${id} would lose data: of ${count(lost, 'chunk')} no other copy is known. Bring the server back, or add ` +
          '--lose-data to give the data up.',
      )
    }
    return { chunksShort: BigInt(short), chunksLost: BigInt(lost) }
  }
}

const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? '' : 's'}`

const isOn = (entry: ChunkEntry, server: ServerId): boolean =>
  entry.allocated.includes(server) || entry.replicas.some((replica) => replica.server === server)

const holdsValid = (entry: ChunkEntry, server: ServerId): boolean =>
  entry.replicas.some((replica) => replica.server === server && isValid(entry, replica))
