/**
 * The master: builds its parts around one store and serves them. What is in memory (leases, locks, open files, replica locations)
 * is told again by clients and chunk servers after a restart.
 */
import type { ChunkId, Ino, ServerId, SessionId } from '../domain/ids.ts'
import { asChunkId } from '../domain/ids.ts'
import { UsageError } from '../domain/errors.ts'
import type { OperationObserver } from '../domain/operation-times.ts'
import { protocolVersions, type ProtocolVersions } from '../domain/protocol-versions.ts'
import { version } from '../domain/version.ts'
import type { Clock } from '../platform/clock.ts'
import type { DiskSpace } from '../platform/disk.ts'
import type { Faults } from '../platform/faults.ts'
import type { KvEngine } from '../platform/kv-engine.ts'
import type { Log } from '../platform/log.ts'
import { RequestLog } from '../platform/request-log.ts'
import type { Random } from '../platform/random.ts'
import type { Listener, Transport } from '../platform/transport.ts'
import { SessionDefinition } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import { methodPath } from '../protocol/rpc.ts'
import { adminHandlers, statusOf } from './admin-service.ts'
import type { AdminServiceOptions } from './admin-service.ts'
import { ChunkAllocation, copiesPerChunkMax } from './chunk-allocation.ts'
import type { ChunkEntry } from './chunk-map.ts'
import { ChunkMap, isValid } from './chunk-map.ts'
import { chunkServers as chunkServersOver } from './chunk-servers.ts'
import { clusterHandlers } from './cluster-service.ts'
import type { ChunkGate, OpContext } from './context.ts'
import { Copies } from './copies.ts'
import { DiskReserve } from './disk-reserve.ts'
import { chunks as chunkTable, counters, servers as serverTable, tableBounds } from './keys.ts'
import { LeaseTable, quietMsDefault } from './leases.ts'
import { LockTable } from './locks.ts'
import { OpenTable } from './opens.ts'
import { storedEntries } from './ops/index.ts'
import { placementNamed } from './placement/policies.ts'
import { Reaper } from './reaper.ts'
import { Rebalance } from './rebalance.ts'
import { Reclaim } from './reclaim.ts'
import { ReplicaCheck } from './replica-check.ts'
import { ReplicaDeletion } from './replica-deletion.ts'
import { Repair } from './repair.ts'
import { Scrub } from './scrub.ts'
import { Sealing } from './sealing.ts'
import { ServerAdmin } from './server-admin.ts'
import type { KnownServer, NewServer, Server } from './servers.ts'
import { ServerTable, serversMax } from './servers.ts'
import { sessionHandler } from './session-service.ts'
import { SessionTable, masterSession } from './sessions.ts'
import { ShortChunks } from './short-chunks.ts'
import { Snapshots } from './snapshots.ts'
import { roomOf } from './space-left.ts'
import { cacheEntriesMaxDefault, Store } from './store.ts'
import type { WebOptions, WebServiceOptions } from './web-service.ts'
import { WebService } from './web-service.ts'

export interface MasterConfig {
  /** weighted, random or rendezvous. */
  placement?: string
  copies?: number
  copiesMin?: number
  inlineBytesMax?: number
  /** How long a session lives after its last message. */
  sessionLeaseMs?: number
  /** How long nobody is offered a read lease on an inode after one was recalled for a change. */
  leaseQuietMs?: number
  /** How long a chunk server may be away before its replicas are made anew. */
  repairDelayMs?: number
  repairBytesPerSecondMax?: number
  /** A replica of an unknown chunk is removed so long after it was first reported. */
  unknownReplicaDelayMs?: number
  /** How many records of its database the master keeps in memory. */
  cacheEntriesMax?: number
  /** Other versions of the protocol than this program's, for tests of mixed clusters. */
  protocol?: ProtocolVersions
}

export interface MasterOptions {
  /** Stays the caller's; it must not be closed before the master is. */
  kv: KvEngine
  clock: Clock
  random: Random
  rpc: Transport
  /** host:port. */
  listenAddress: string
  config?: MasterConfig
  log: Log
  faults?: Faults
  /** Of the disk that the store is on. */
  space?: () => Promise<DiskSpace>
  /** Told of every request of a session that was answered. */
  operations?: OperationObserver
  /** Resident memory of this process, for status. */
  rssBytes?: () => number
  /** The web page, if there is to be one. */
  web?: WebOptions & {
    /** The address was only taken because nobody named one: the master goes without a page when it is in use. */
    optional: boolean
  }
}

/** A started master; see main/running.ts. */
export interface RunningMaster {
  readonly address: string
  readonly closed: Promise<void>
  close(): Promise<void>
}

const inlineBytesMaxDefault = 4096
const recordsPerPage = 4096

/** UsageError: a configuration that cannot be, an address that cannot be listened on, a store of another format. */
export const startMaster = async (options: MasterOptions): Promise<RunningMaster> => {
  const { kv, clock, random, rpc, log, faults } = options
  const config = checked(options.config ?? {})
  const placement = placementNamed(config.placement, random)
  const startMs = clock.nowMs()

  let listener: Listener | undefined
  let settleClosed!: { resolve: () => void; reject: (error: Error) => void }
  const closed = new Promise<void>((resolve, reject) => {
    settleClosed = { resolve, reject }
  })
  // Whoever started the master looks at it when it suits him.
  closed.catch(() => undefined)

  const reserve = options.space && new DiskReserve({ clock, log, space: options.space })
  await reserve?.start()
  const store = await Store.open({
    kv,
    clock,
    random,
    log,
    onFatal: (error) => void stop(error),
    admitWrites: () => reserve?.admits() ?? true,
    cacheEntriesMax: config.cacheEntriesMax,
  })

  const restored = await restoredFacts(store)
  const servers: ServerTable = new ServerTable({
    clock,
    random,
    log,
    clusterId: store.clusterId,
    protocol: config.protocol,
    known: await knownServers(store),
    adoptBelow: restored.adoptBelow,
    enroll: (server) => enroll(store, server),
    nextChunkId: () => store.execute((tx) => tx.get(counters, 'nextChunk') ?? 1n),
    changed: (server) => serverChanged(server),
  })
  const chunks: ChunkMap = new ChunkMap({
    clock,
    isUp: (server) => servers.isUp(server),
    isStaying: (server) => servers.isStaying(server),
    isRestored: restored.isRestored,
    attention: () => repair.kick(),
  })
  const chunkServers = chunkServersOver({ rpc, servers })
  const repair: Repair = new Repair({
    clock,
    log,
    chunks,
    servers,
    placement,
    chunkServers,
    repairDelayMs: config.repairDelayMs,
    bytesPerSecondMax: config.repairBytesPerSecondMax,
  })
  const deadChunks = await loadChunks(store, chunks)
  const deletion = new ReplicaDeletion({
    clock,
    log,
    chunks,
    chunkServers,
    isUp: (server) => servers.isUp(server),
    unknownDelayMs: config.unknownReplicaDelayMs,
  })
  const removed = (holders: readonly ServerId[], chunk: bigint): void => deletion.add(holders, asChunkId(chunk))
  const reclaim: Reclaim = new Reclaim({
    store,
    clock,
    log,
    chunks,
    servers,
    chunkServers,
    repair,
    removed,
    askToSeal: (session, chunk) => sessions.get(session)?.outbox?.askToSeal(chunk),
    repairDelayMs: config.repairDelayMs,
  })
  const sealing = new Sealing({
    store,
    chunks,
    log,
    removed,
    sealed: (chunk, dead) => (dead ? reclaim.freed(chunk) : reclaim.sealed(chunk)),
  })
  const opens = new OpenTable({
    isAlive: (session) => sessions.isAlive(session),
    fence: (session, reason) => fence(session, reason),
  })
  const locks = new LockTable()
  const reaper = new Reaper({ store, opens, chunks: { freed: (chunk) => reclaim.freed(chunk) }, log })
  const closedByAll = (inos: readonly Ino[]): void => {
    // One that has not come back yet may have them open; the reaper looks for all of them later.
    if (!sessions.isRecovering) for (const ino of inos) reaper.kick(ino)
  }
  const leases: LeaseTable = new LeaseTable({
    clock,
    log,
    quietMs: config.leaseQuietMs,
    recall: (session, lease) => sessions.get(session)?.outbox?.recall(lease),
    isAlive: (session) => session === masterSession || sessions.isAlive(session),
    wantsOffers: (session) => sessions.get(session)?.wantsLeases !== false,
    fence: (session, reason) => fence(session, reason),
  })
  const fence = (session: SessionId, reason: string): void => {
    const found = sessions.get(session)
    if (found) void sessions.end(found, reason)
  }
  const answers = await storedEntries(store)
  const sessions: SessionTable = await SessionTable.open({
    store,
    clock,
    random,
    log,
    faults,
    leaseMs: config.sessionLeaseMs,
    release: (session) => {
      leases.dropSession(session)
      locks.dropSession(session)
      closedByAll(opens.dropSession(session))
    },
    sealChunks: (session) => sealing.sealAllOf(session),
  })
  for (const { session, request, ino } of answers) {
    if (sessions.isAlive(session)) opens.promise(session, request, ino)
  }

  const gate: ChunkGate = {
    locate: (chunk) => locate({ chunks, servers, repair }, chunk),
    appended: (results) => chunks.appended(results),
    freed: (chunk) => reclaim.freed(chunk),
    wanted: (chunk, number) => {
      if ((chunks.get(chunk)?.copies ?? number) < number) chunks.setCopies(chunk, number)
      copies.wanted(chunk, number)
    },
  }
  const cluster: OpContext['cluster'] = {
    copies: config.copies,
    copiesMin: config.copiesMin,
    inlineBytesMax: config.inlineBytesMax,
    statistics: () => statistics(servers, config.copies),
  }
  const contextOf = (session: SessionId): OpContext => ({
    session,
    leases,
    opens,
    chunks: {
      ...gate,
      // Nobody tells how long another one's chunks are.
      appended: (results) =>
        chunks.appended(results.filter(({ chunkId }) => chunks.get(asChunkId(chunkId))?.owner === session)),
    },
    cluster,
    reap: (ino) => reaper.kick(ino),
  })

  const serverChanged = (server: Server): void => {
    chunks.serverChanged(server.id)
    for (const session of sessions.all()) session.outbox?.servers(servers.addresses())
    if (server.state === 'up' || !servers.get(server.id)) reclaim.serverReturned(server.id)
    if (server.state === 'up') return repair.kick()
    if (server.state !== 'down') return
    for (const entry of chunks.openChunks()) if (isOn(entry, server.id)) askToSeal(entry)
  }
  /** What is being appended to a chunk goes on in another one. */
  const askToSeal = (entry: ChunkEntry): void => sessions.get(entry.owner)?.outbox?.askToSeal(entry.id)
  /** What a session was not told while it was away. */
  const resumed = (session: SessionId): void => {
    if (!repair.ready()) return
    for (const entry of chunks.openChunks()) {
      if (entry.owner !== session) continue
      for (const server of servers.all()) if (server.state === 'down' && isOn(entry, server.id)) askToSeal(entry)
    }
  }

  const sessionPath = methodPath(SessionDefinition, SessionDefinition.methods.connect)
  const allocation = new ChunkAllocation({
    store,
    clock,
    chunks,
    servers,
    placement,
    copiesMin: config.copiesMin,
    isAlive: (session) => sessions.isAlive(session),
  })
  const replicaCheck = new ReplicaCheck({ log, chunks, chunkServers, repair })
  const sessionService = sessionHandler({
    clock,
    log,
    requestLog: new RequestLog(log, clock),
    faults,
    store,
    sessions,
    leases,
    locks,
    opens,
    closed: closedByAll,
    allocation,
    sealing,
    replicaCheck,
    locate: (chunk) => (chunks.get(asChunkId(chunk)) === undefined ? undefined : gate.locate(asChunkId(chunk))),
    contextOf,
    protocol: config.protocol,
    cluster: { id: store.clusterId, ...config },
    servers: () => servers.addresses(),
    operations: options.operations,
    resumed,
  })

  const own = contextOf(masterSession)
  const rebalance = new Rebalance({ clock, log, chunks, servers, repair })
  const shortChunks = new ShortChunks({ clock, chunks, servers, repair, askToSeal })
  const scrub = new Scrub({ clock, log, chunks, servers, replicaCheck })
  const copies = new Copies({ store, clock, log, chunks, servers, context: own, askToSeal })
  const snapshots = new Snapshots({ kv, clock })
  const serverAdmin = new ServerAdmin({
    store,
    clock,
    log,
    servers,
    chunks,
    repair,
    copies: config.copies,
    askToSeal,
    changed: serverChanged,
  })

  const browse = { store, chunks, servers, context: own }
  const administration: AdminServiceOptions = {
    clock,
    store,
    version,
    copiesDefault: config.copies,
    copiesMin: config.copiesMin,
    startMs,
    servers,
    chunks,
    repair,
    reclaim,
    sessions,
    leases,
    opens,
    rssBytes: options.rssBytes ?? (() => 0),
    serverAdmin,
    rebalance,
    scrub,
    copies,
    snapshots,
    browse,
  }
  let web: WebService | undefined

  let stopped: Promise<void> | undefined
  const stop = (error?: Error): Promise<void> => {
    stopped ??= shutDown(error)
    return stopped
  }
  const shutDown = async (error: Error | undefined): Promise<void> => {
    reserve?.close()
    rebalance.close()
    shortChunks.close()
    scrub.stop()
    copies.close()
    servers.close()
    sessions.close()
    leases.close()
    repair.close()
    reclaim.close()
    deletion.close()
    await web?.close()
    await listener?.close()
    await snapshots.close()
    // A broken store stops its operations by itself; the reaper may be waiting for one.
    await store.close()
    await reaper.stop()
    if (error) settleClosed.reject(error)
    else settleClosed.resolve()
  }

  try {
    await reclaim.start(deadChunks)
    listener = await rpc.listen(options.listenAddress, {
      unary: new Map([...clusterHandlers({ servers, chunks, repair, log }), ...adminHandlers(administration)]),
      stream: new Map([[sessionPath, sessionService]]),
    })
    if (options.web) web = await startWeb(options.web, { clock, log, status: () => statusOf(administration), browse })
  } catch (caught) {
    await stop()
    throw caught
  }
  const background = async (): Promise<void> => {
    await sessions.finishEnds()
    await sessions.recovered
    // Chunks whose session is gone: its end was recorded, but not all that belongs to it.
    for (const entry of chunks.openChunks()) if (!sessions.get(entry.owner)) await sealing.seal(entry.id)
    await copies.start()
    await reaper.start()
  }
  background().catch((cause: unknown) => {
    if (!stopped) log.error('clearing up after the last run failed', { cause })
  })
  log.info('master started', { address: listener.address, cluster: store.clusterId, chunks: chunks.size })
  return { address: listener.address, closed, close: () => stop() }
}

const startWeb = async (
  { optional, ...web }: NonNullable<MasterOptions['web']>,
  shown: Omit<WebServiceOptions, keyof WebOptions>,
): Promise<WebService | undefined> => {
  try {
    return await WebService.start({ ...web, ...shown })
  } catch (caught) {
    if (!optional || !(caught instanceof UsageError)) throw caught
    shown.log.warn('no web page: its usual address is in use, and no other was named', { address: web.listenAddress })
    return undefined
  }
}

const checked = (config: MasterConfig): Required<MasterConfig> => {
  const full = {
    placement: config.placement ?? 'weighted',
    copies: config.copies ?? 3,
    copiesMin: config.copiesMin ?? Math.min(2, config.copies ?? 3),
    inlineBytesMax: config.inlineBytesMax ?? inlineBytesMaxDefault,
    sessionLeaseMs: config.sessionLeaseMs ?? 10_000,
    leaseQuietMs: config.leaseQuietMs ?? quietMsDefault,
    repairDelayMs: config.repairDelayMs ?? 10_000,
    repairBytesPerSecondMax: config.repairBytesPerSecondMax ?? 256 * 1024 * 1024,
    unknownReplicaDelayMs: config.unknownReplicaDelayMs ?? 60_000,
    cacheEntriesMax: config.cacheEntriesMax ?? cacheEntriesMaxDefault,
    protocol: config.protocol ?? protocolVersions,
  }
  const whole = (name: string, value: number, min: number, max: number): void => {
    if (Number.isInteger(value) && value >= min && value <= max) return
    throw new UsageError(`${name} is ${value}; it must be a whole number from ${min} to ${max}.`)
  }
  whole('The number of copies', full.copies, 1, copiesPerChunkMax)
  whole('The least number of copies', full.copiesMin, 1, full.copies)
  whole('The size of inline files', full.inlineBytesMax, 0, inlineBytesMaxDefault)
  whole('The session lease in ms', full.sessionLeaseMs, 100, 3_600_000)
  whole('The pause of leases in ms', full.leaseQuietMs, 0, 60_000)
  whole('The repair delay in ms', full.repairDelayMs, 0, 86_400_000)
  whole('The repair rate in bytes per second', full.repairBytesPerSecondMax, 1, Number.MAX_SAFE_INTEGER)
  whole('The delay for unknown replicas in ms', full.unknownReplicaDelayMs, 0, 86_400_000)
  whole('The number of records in memory', full.cacheEntriesMax, 1, 100_000_000)
  return full
}

const isOn = (entry: ChunkEntry, server: ServerId): boolean =>
  entry.allocated.includes(server) || entry.replicas.some((replica) => replica.server === server)

/**
 * Addresses of valid replicas; of an open chunk that has none yet, where it was placed. When a sealed chunk has no valid replica left, as
 * after a loss of power everywhere that took its unsynced end, the others are told: what was synced is in them, and readers check each block.
 * Not so while valid ones may be on servers that are away: readers would take for lost what is not in the others.
 */
const locate = (
  { chunks, servers, repair }: { chunks: ChunkMap; servers: ServerTable; repair: Pick<Repair, 'ready'> },
  chunk: bigint,
): ServerAddress[] => {
  const entry = chunks.get(asChunkId(chunk))
  if (!entry) return []
  const addresses = (ids: readonly ServerId[]): ServerAddress[] =>
    ids.filter((id) => servers.isUp(id)).map((id) => servers.get(id)!.address)
  const valid = entry.replicas.filter((replica) => isValid(entry, replica))
  if (valid.length > 0) return addresses(valid.map(({ server }) => server))
  if (!entry.sealed) return addresses(entry.allocated)
  if (!repair.ready()) return []
  const byUse = entry.replicas.toSorted((a, b) => Number(a.corrupt) - Number(b.corrupt) || b.length - a.length)
  return addresses(byUse.map(({ server }) => server))
}

const statistics = (servers: ServerTable, copies: number): { bytesTotal: bigint; bytesFree: bigint } => {
  const used = servers.up().reduce((sum, { usedBytes }) => sum + usedBytes, 0)
  const free = roomOf(servers.staying())
  return { bytesTotal: BigInt(Math.floor((used + free) / copies)), bytesFree: BigInt(Math.floor(free / copies)) }
}

const knownServers = async (store: Store): Promise<KnownServer[]> => {
  const found = await store.execute((tx) => tx.range(serverTable, tableBounds(serverTable), serversMax))
  return found.map(([id, record]) => ({ id, ...record }))
}

/** A store that was restored from a backup does not know the servers that were enrolled after the backup; their numbers are below this. */
const restoredFacts = (store: Store): Promise<{ isRestored: boolean; adoptBelow: number }> =>
  store.execute((tx) => {
    const [restores = 0n, nextServer = 1n] = tx.getMany(counters, ['restores', 'nextServer'])
    return { isRestored: restores > 0n, adoptBelow: restores === 0n ? 0 : Number(nextServer) }
  })

const enroll = (store: Store, { id: given, ...server }: NewServer): Promise<ServerId> =>
  store.execute(
    (tx) => {
      const next = tx.get(counters, 'nextServer') ?? 1n
      const id = given ?? (Number(next) as ServerId)
      if (given === undefined) tx.put(counters, 'nextServer', next + 1n)
      tx.put(serverTable, id, { ...server, label: '', rackGiven: '', draining: false, removed: false })
      return id
    },
    { mayUseReserve: true },
  )

/** Fills the chunk map from the store. Returns the sealed chunks in which nothing is live. */
const loadChunks = async (store: Store, chunks: ChunkMap): Promise<ChunkId[]> => {
  const dead: ChunkId[] = []
  const all = tableBounds(chunkTable)
  let { gte } = all
  for (;;) {
    const page = await store.execute((tx) => tx.range(chunkTable, { gte, lt: all.lt }, recordsPerPage))
    for (const [id, record] of page) {
      chunks.load(id, record)
      if (record.sealed && record.liveBlocks === 0) dead.push(id)
    }
    const last = page.at(-1)
    if (!last || page.length < recordsPerPage) return dead
    gte = `${chunkTable.encodeKey(last[0])}\0`
  }
}
