/**
 * The chunk servers: who they are (kept in the store: a server's number belongs to its data directory for ever), where they are and
 * how they do (in memory, from registrations and heartbeats).
 *
 * | state   | means                                                                   | becomes                                    |
 * |---------|-------------------------------------------------------------------------|--------------------------------------------|
 * | down    | not heard of for `downAfterMs`, or not since the master's start         | joining when it registers                  |
 * | joining | registered, its report of replicas is not complete                      | up with the last page; down without a sign |
 * | up      | reads and new chunks may go there                                       | joining when it registers again; down      |
 *
 * Invariant: a server id belongs to one store id, and a store id to one server id.
 * Invariant: of the servers that are not down no two have one address: what is sent to either would come to the same disk.
 */
import { PosixError } from '../domain/errors.ts'
import type { ServerId } from '../domain/ids.ts'
import { asServerId } from '../domain/ids.ts'
import { agreedVersion, versionRefusal, type ProtocolVersions } from '../domain/protocol-versions.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import type { HeartbeatRequest, RegisterReply, RegisterRequest } from '../protocol/gen/shoal/v1/cluster.pb.ts'
import type { Activity } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { ServerRecord } from './keys.ts'

export const heartbeatIntervalMs = 1000
export const downAfterMs = 5000
/** How long a server that registers with another one's number or address must wait for a sign of life of that one. */
const takeoverMs = 2500
const checkIntervalMs = 500
const storeIdLengthMax = 256
const nameLengthMax = 1024
/** Numbers of servers are never used again; this many in the store are more than any cluster has. */
export const serversMax = 100_000

export type ServerState = 'down' | 'joining' | 'up'

export interface Server {
  readonly id: ServerId
  readonly storeId: string
  /** With the rack that counts. */
  address: ServerAddress
  /** What the server itself says. */
  ownRack: string
  /** Empty: the server's own rack counts. */
  rackGiven: string
  label: string
  /** Nothing new goes there, and what is there is moved away. */
  draining: boolean
  state: ServerState
  /** 0n: not registered since the master's start. */
  registration: bigint
  capacityBytes: number
  usedBytes: number
  freeBytes: number
  /** Servers with the same one share its space. */
  fileSystem: string
  fileSystemFreeBytes: number
  load: number
  activity: Activity | undefined
  /** Since the master's start: its replicas are known, at least as they were when it was here last. */
  hasReported: boolean
  /** By the master's clock; its start when the server was not seen since. */
  lastSeenMs: number
}

/** What is kept in the store. */
export type KnownServer = ServerRecord & { id: ServerId }

export interface NewServer {
  storeId: string
  rack: string
  host: string
  /** The number that it has already. */
  id: ServerId | undefined
}

export interface ServerTableOptions {
  clock: Clock
  random: Random
  log: Log
  clusterId: string
  protocol: ProtocolVersions
  known: readonly KnownServer[]
  /** Durably makes a number for a new store id. */
  enroll: (server: NewServer) => Promise<ServerId>
  /** The store was restored from a backup: a server that it does not know may have been enrolled since, under a number below this one. */
  adoptBelow: number
  /** The next chunk id that this master will give out. */
  nextChunkId: () => Promise<bigint>
  /** The state or the address of a server changed. */
  changed: (server: Server) => void
}

export class ServerTable {
  readonly #options: ServerTableOptions
  readonly #servers = new Map<ServerId, Server>()
  readonly #byStoreId = new Map<string, Server>()
  readonly #byRegistration = new Map<bigint, Server>()
  /** Numbers of servers that were taken out of the cluster, by store id. */
  readonly #removed = new Map<string, ServerId>()
  /** Numbers that are being given, by store id: a registration may come again while the first one waits for the disk. */
  readonly #enrolling = new Map<string, Promise<ServerId>>()
  #check: Timer
  #lastCheckMs: number

  constructor(options: ServerTableOptions) {
    this.#options = options
    const now = options.clock.nowMs()
    for (const known of options.known) {
      const { id, storeId, rack, rackGiven, host, label, draining, removed } = known
      if (removed) {
        this.#removed.set(storeId, id)
        continue
      }
      const server = this.#add(id, storeId, { serverId: id, address: '', bulkAddress: '', rack, host }, now)
      this.set(server, { label, rackGiven, draining })
    }
    this.#lastCheckMs = now
    this.#check = options.clock.after(checkIntervalMs, () => this.#checkAll())
  }

  /** PosixError EPERM with a sentence for people: this server must not take part. */
  async register(request: RegisterRequest): Promise<RegisterReply> {
    this.#checkAllowed(request)
    if (request.chunkIdMax >= (await this.#options.nextChunkId())) {
      throw new PosixError(
        'EPERM',
        `This master runs on an old copy of its data: the chunk server holds chunk ${request.chunkIdMax}, which this master has not ` +
          'given out yet. Start the master on its newest data.',
      )
    }
    const address = request.address!
    const { storeId } = request
    await this.#waitForOtherAt(address, storeId)
    let server = this.#byStoreId.get(storeId)
    if (server) await this.#waitForOtherOwner(server, address)
    // It may have been removed meanwhile.
    this.#checkAllowed(request)
    if (!server) {
      const adopted = request.serverId === 0 ? undefined : asServerId(request.serverId)
      const id = await this.#enroll({ storeId, rack: address.rack, host: address.host, id: adopted })
      // The same registration sent twice may have come first.
      server =
        this.#byStoreId.get(storeId) ??
        this.#add(id, storeId, { ...address, serverId: id }, this.#options.clock.nowMs())
    }
    this.#byRegistration.delete(server.registration)
    server.registration = newRegistration(this.#options.random)
    this.#byRegistration.set(server.registration, server)
    server.ownRack = address.rack
    server.address = { ...address, serverId: server.id, rack: rackOf(server) }
    this.#displaceOthers(server)
    server.capacityBytes = Number(request.capacityBytes)
    server.usedBytes = Number(request.usedBytes)
    server.freeBytes = Math.max(0, server.capacityBytes - server.usedBytes)
    server.lastSeenMs = this.#options.clock.nowMs()
    this.#become(server, 'joining', 'it registered')
    return {
      clusterId: this.#options.clusterId,
      serverId: server.id,
      intervalMs: heartbeatIntervalMs,
      registration: server.registration,
      protocolVersion: agreedVersion(this.#options.protocol, request) ?? 0,
    }
  }

  /** The server of a registration that is still the newest of its server; ENOENT: register again. */
  registered(registration: bigint): Server {
    const server = this.#byRegistration.get(registration)
    if (!server) throw new PosixError('ENOENT', 'this registration is not known; register again')
    return server
  }

  heartbeat(request: HeartbeatRequest): Server {
    const server = this.registered(request.registration)
    server.lastSeenMs = this.#options.clock.nowMs()
    server.capacityBytes = Number(request.capacityBytes)
    server.usedBytes = Number(request.usedBytes)
    server.freeBytes = Number(request.freeBytes)
    server.fileSystem = request.fileSystem
    server.fileSystemFreeBytes = Number(request.fileSystemFreeBytes)
    server.load = request.load
    server.activity = request.activity
    if (server.state === 'down') {
      // It was silent for so long that its replicas were given up; what it holds now only a new report can tell.
      this.#byRegistration.delete(server.registration)
      server.registration = 0n
      throw new PosixError('ENOENT', 'the server was taken for dead; register again')
    }
    return server
  }

  /** A page of a report is a sign of life; the last one makes the server up. */
  reported(server: Server, last: boolean): void {
    server.lastSeenMs = this.#options.clock.nowMs()
    if (!last) return
    server.hasReported = true
    this.#become(server, 'up', 'its report is complete')
  }

  get(id: ServerId): Server | undefined {
    return this.#servers.get(id)
  }

  isUp(id: ServerId): boolean {
    return this.#servers.get(id)?.state === 'up'
  }

  /** What the administrator says of a server. */
  set(server: Server, given: { label?: string; rackGiven?: string; draining?: boolean }): void {
    Object.assign(server, given)
    server.address = { ...server.address, rack: rackOf(server) }
  }

  /** The server does not belong to the cluster any more, and is refused when it comes back. */
  remove(server: Server): void {
    this.#servers.delete(server.id)
    this.#byStoreId.delete(server.storeId)
    this.#byRegistration.delete(server.registration)
    this.#removed.set(server.storeId, server.id)
    this.#become(server, 'down', 'it was removed from the cluster')
  }

  /** Up, and here to stay: replicas there count, and new ones may go there. */
  isStaying(id: ServerId): boolean {
    const server = this.#servers.get(id)
    return server?.state === 'up' && !server.draining
  }

  staying(): Server[] {
    return this.up().filter(({ draining }) => !draining)
  }

  all(): Iterable<Server> {
    return this.#servers.values()
  }

  up(): Server[] {
    return [...this.#servers.values()].filter(({ state }) => state === 'up')
  }

  /** Addresses of the servers that are up, for clients. */
  addresses(): ServerAddress[] {
    return this.up().map(({ address }) => address)
  }

  /** Every server of which the store knows has been heard of since the master's start. */
  complete(): boolean {
    for (const { state } of this.#servers.values()) if (state !== 'up') return false
    return true
  }

  close(): void {
    this.#check.cancel()
  }

  #checkAllowed(request: RegisterRequest): void {
    const refusal = this.#refusal(request)
    if (refusal !== undefined) throw new PosixError('EPERM', refusal)
  }

  #refusal(request: RegisterRequest): string | undefined {
    const { address, storeId, clusterId, serverId } = request
    const { protocol } = this.#options
    if (agreedVersion(protocol, request) === undefined) return versionRefusal(protocol, request, 'chunk server')
    if (!address || address.address === '' || storeId === '' || storeId.length > storeIdLengthMax) {
      return 'The chunk server sent no address or no store id.'
    }
    if ([address.address, address.bulkAddress, address.rack, address.host].some((s) => s.length > nameLengthMax)) {
      return `The chunk server sent a name of more than ${nameLengthMax} characters.`
    }
    if (clusterId !== '' && clusterId !== this.#options.clusterId) {
      return (
        `The chunk server's data directory belongs to cluster ${clusterId}, this master to cluster ${this.#options.clusterId}. ` +
        'Give the chunk server the address of its own master, or an empty data directory.'
      )
    }
    const removed = this.#removed.get(storeId)
    if (removed !== undefined) {
      return (
        `Server number ${removed} was removed from the cluster, and this is its data directory. To let the machine take part again, ` +
        'give the chunk server an empty data directory.'
      )
    }
    const known = this.#byStoreId.get(storeId)
    if (serverId === 0) {
      if (!known && this.#servers.size >= serversMax) return `A cluster has at most ${serversMax} chunk servers.`
      return undefined
    }
    if (known?.id === serverId) return undefined
    const isFree =
      !this.#servers.has(asServerId(serverId)) && ![...this.#removed.values()].includes(asServerId(serverId))
    if (isFree && serverId < this.#options.adoptBelow) return undefined
    return this.#servers.has(asServerId(serverId))
      ? `Server number ${serverId} belongs to another data directory. Give the chunk server an empty data directory.`
      : `This master runs on an old copy of its data: it has never given out server number ${serverId}. Start the master on its newest data.`
  }

  /**
   * A server that comes back from another address is the usual thing. Two of them at once are a copied data directory: when the one
   * that is there gives a sign of life after the other one came, the other one is refused.
   */
  async #waitForOtherOwner(server: Server, address: ServerAddress): Promise<void> {
    if (server.state === 'down' || server.address.address === address.address) return
    const since = this.#options.clock.nowMs()
    await this.#options.clock.sleep(takeoverMs)
    if (server.lastSeenMs > since && server.address.address !== address.address) {
      throw new PosixError(
        'EPERM',
        `Server number ${server.id} is running at ${server.address.address} already. Each chunk server needs a data directory of its own.`,
      )
    }
  }

  /**
   * Another data directory at an address is the usual thing after a disk was lost. Two servers at once are a mistake: when the one that was there
   * gives a sign of life after the other one came, the other one is refused.
   */
  async #waitForOtherAt({ address }: ServerAddress, storeId: string): Promise<void> {
    const others = (): Server[] => this.#runningAt(address).filter((other) => other.storeId !== storeId)
    if (others().length === 0) return
    const since = this.#options.clock.nowMs()
    await this.#options.clock.sleep(takeoverMs)
    const alive = others().find(({ lastSeenMs }) => lastSeenMs > since)
    if (alive === undefined) return
    throw new PosixError(
      'EPERM',
      `Server number ${alive.id} is running at ${address} already. Each chunk server needs an address of its own.`,
    )
  }

  #enroll(server: NewServer): Promise<ServerId> {
    const { storeId } = server
    const enrolling =
      this.#enrolling.get(storeId) ??
      this.#options.enroll(server).finally(() => {
        this.#enrolling.delete(storeId)
      })
    this.#enrolling.set(storeId, enrolling)
    return enrolling
  }

  #displaceOthers(server: Server): void {
    for (const other of this.#runningAt(server.address.address)) {
      if (other === server) continue
      this.#byRegistration.delete(other.registration)
      other.registration = 0n
      this.#become(other, 'down', `server ${server.id} is at its address now`)
    }
  }

  #runningAt(address: string): Server[] {
    return [...this.#servers.values()].filter((server) => server.state !== 'down' && server.address.address === address)
  }

  #add(id: ServerId, storeId: string, address: ServerAddress, nowMs: number): Server {
    const server: Server = {
      id,
      storeId,
      address,
      ownRack: address.rack,
      rackGiven: '',
      label: '',
      draining: false,
      state: 'down',
      registration: 0n,
      capacityBytes: 0,
      usedBytes: 0,
      freeBytes: 0,
      fileSystem: '',
      fileSystemFreeBytes: 0,
      load: 0,
      activity: undefined,
      hasReported: false,
      lastSeenMs: nowMs,
    }
    this.#servers.set(id, server)
    this.#byStoreId.set(storeId, server)
    return server
  }

  #become(server: Server, state: ServerState, reason: string): void {
    const changed = server.state !== state
    server.state = state
    if (changed)
      this.#options.log.info(`chunk server ${state}`, { server: server.id, address: server.address.address, reason })
    this.#options.changed(server)
  }

  #checkAll(): void {
    const now = this.#options.clock.nowMs()
    // After a pause of this process itself, heartbeats wait in its sockets: they are heard before anybody is taken for dead.
    const paused = now - this.#lastCheckMs > 4 * checkIntervalMs
    this.#lastCheckMs = now
    this.#check = this.#options.clock.after(checkIntervalMs, () => this.#checkAll())
    if (paused) return
    for (const server of this.#servers.values()) {
      if (server.state !== 'down' && now - server.lastSeenMs >= downAfterMs) {
        this.#become(server, 'down', `no sign of life for ${downAfterMs / 1000} seconds`)
      }
    }
  }
}

const rackOf = ({ rackGiven, ownRack }: Server): string => (rackGiven === '' ? ownRack : rackGiven)

const newRegistration = (random: Random): bigint => random.bytes(8).readBigUInt64LE() | 1n
