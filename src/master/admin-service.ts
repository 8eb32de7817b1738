/** The Admin service: how the cluster does, and what an administrator may do to it. */
import type { ActivityTotals } from '../domain/activity.ts'
import { PosixError } from '../domain/errors.ts'
import type { Clock } from '../platform/clock.ts'
import type { UnaryHandler } from '../platform/transport.ts'
import type { DrainStatus, ServerStatus, SessionStatus, StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { AdminDefinition, ScrubRequest_Action } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { methodPath, unaryHandler } from '../protocol/rpc.ts'
import type { BrowseOptions } from './browse.ts'
import { chunksAfter, list, locatePath, replicaPlaces } from './browse.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { Copies } from './copies.ts'
import { applyFix } from './fsck-repair.ts'
import { counters } from './keys.ts'
import type { LeaseTable } from './leases.ts'
import type { OpenTable } from './opens.ts'
import type { Rebalance } from './rebalance.ts'
import { fillOf } from './rebalance.ts'
import type { Reclaim } from './reclaim.ts'
import type { Repair } from './repair.ts'
import type { Scrub } from './scrub.ts'
import type { ServerAdmin } from './server-admin.ts'
import type { Server, ServerTable } from './servers.ts'
import type { Session, SessionTable } from './sessions.ts'
import type { Snapshots } from './snapshots.ts'
import type { Store } from './store.ts'

export interface AdminServiceOptions {
  clock: Clock
  store: Store
  version: string
  copiesDefault: number
  copiesMin: number
  startMs: number
  servers: ServerTable
  chunks: ChunkMap
  repair: Repair
  reclaim: Reclaim
  sessions: SessionTable
  leases: LeaseTable
  opens: OpenTable
  rssBytes: () => number
  serverAdmin: ServerAdmin
  rebalance: Rebalance
  scrub: Scrub
  copies: Copies
  snapshots: Snapshots
  browse: BrowseOptions
}

const chunksPerPageMax = 4096
const fixesMax = 1000

export const adminHandlers = (options: AdminServiceOptions): [string, UnaryHandler][] => {
  const { serverAdmin, rebalance, scrub, copies, snapshots, browse, store, clock } = options
  const { methods } = AdminDefinition
  const path = (method: { name: string }): string => methodPath(AdminDefinition, method)
  return [
    [path(methods.status), unaryHandler(methods.status, () => statusOf(options))],
    [
      path(methods.setServer),
      unaryHandler(methods.setServer, async ({ serverId, label, rack }) => {
        await serverAdmin.set(serverId, { label, rack })
        return {}
      }),
    ],
    [
      path(methods.drainServer),
      unaryHandler(methods.drainServer, async ({ serverId, cancel }) => {
        if (cancel) await serverAdmin.cancelDrain(serverId)
        else await serverAdmin.drain(serverId)
        return {}
      }),
    ],
    [
      path(methods.removeServer),
      unaryHandler(methods.removeServer, ({ serverId, force, loseData }) =>
        serverAdmin.remove(serverId, { force, loseData }),
      ),
    ],
    [path(methods.locatePath), unaryHandler(methods.locatePath, async (request) => locatePath(browse, request))],
    [path(methods.list), unaryHandler(methods.list, async (request) => list(browse, request))],
    [path(methods.getCopies), unaryHandler(methods.getCopies, (request) => copies.get(request.path))],
    [path(methods.setCopies), unaryHandler(methods.setCopies, (request) => copies.set(request.path, request.copies))],
    [
      path(methods.scrub),
      unaryHandler(methods.scrub, async ({ action, serverId }) => {
        if (action === ScrubRequest_Action.ACTION_START) scrub.start(serverId)
        if (action === ScrubRequest_Action.ACTION_STOP) scrub.stop()
        return scrub.status()
      }),
    ],
    [
      path(methods.rebalance),
      unaryHandler(methods.rebalance, async ({ start }) => {
        if (start) rebalance.start()
        return rebalance.status()
      }),
    ],
    [
      path(methods.openSnapshot),
      unaryHandler(methods.openSnapshot, async () => ({
        snapshotId: snapshots.open(),
        clusterId: store.clusterId,
        version: options.version,
        takenMs: clock.wallTime().seconds * 1000n,
      })),
    ],
    [path(methods.readSnapshot), unaryHandler(methods.readSnapshot, ({ snapshotId }) => snapshots.read(snapshotId))],
    [
      path(methods.listChunks),
      unaryHandler(methods.listChunks, async ({ afterChunkId, chunksMax }) => {
        if (chunksMax < 1 || chunksMax > chunksPerPageMax) {
          throw new PosixError('EINVAL', `A page has 1 to ${chunksPerPageMax} chunks.`)
        }
        const { chunks, servers } = options
        const page = chunksAfter(chunks, afterChunkId, chunksMax)
        return {
          chunks: page.map((entry) => ({
            chunkId: entry.id,
            length: entry.length,
            copies: entry.copies,
            sealed: entry.sealed,
            replicas: replicaPlaces(entry, servers),
          })),
          end: page.length < chunksMax,
          serversAway: [...servers.all()].filter(({ state }) => state !== 'up').length,
        }
      }),
    ],
    [
      path(methods.repair),
      unaryHandler(methods.repair, async ({ snapshotId, fixes }) => {
        if (fixes.length > fixesMax) throw new PosixError('EINVAL', `At most ${fixesMax} fixes go at once.`)
        snapshots.claimForRepair(snapshotId)
        const refused: string[] = []
        for (const fix of fixes) refused.push(await applyFix(store, browse.context, fix))
        return { refused }
      }),
    ],
  ]
}

export const statusOf = async (options: AdminServiceOptions): Promise<StatusReply> => {
  const { clock, store, servers, chunks, repair, reclaim, sessions, leases } = options
  const totals = await store.execute((tx) => {
    const [inodes = 0n, liveBytes = 0n, orphans = 0n] = tx.getMany(counters, ['inodes', 'liveBytes', 'orphans'])
    return { inodes, liveBytes, orphans }
  })
  const now = clock.nowMs()
  const counts = chunks.counts()
  const leaseStatistics = leases.statistics()
  const drains = options.serverAdmin.drainStatuses()
  return {
    clusterId: store.clusterId,
    version: options.version,
    uptimeMs: BigInt(Math.floor(now - options.startMs)),
    servers: [...servers.all()].map((server) => serverStatus(options, server, drains.get(server.id), now)),
    chunks: {
      total: BigInt(counts.total),
      open: BigInt(counts.open),
      byValidReplicas: counts.byValid.map(BigInt),
      underReplicated: BigInt(counts.under),
      overReplicated: BigInt(counts.over),
      lost: BigInt(counts.lost),
    },
    repair: repair.status(),
    sessions: [...sessions.all()].map((session) => sessionStatus(options, session, now)),
    inodes: totals.inodes,
    liveBytes: totals.liveBytes,
    orphans: totals.orphans,
    punchesPending: BigInt(reclaim.pending),
    copies: options.copiesDefault,
    copiesMin: options.copiesMin,
    recalls: BigInt(leaseStatistics.recalls),
    recallsPerSecond: leaseStatistics.recallsPerSecond,
    recallMsMax: leaseStatistics.recallMsMax,
    leases: BigInt(leaseStatistics.leases),
    rssBytes: BigInt(options.rssBytes()),
    rebalance: options.rebalance.status(),
    scrub: options.scrub.status(),
    copiesJobs: options.copies.status(),
  }
}

const serverStatus = (
  { chunks }: AdminServiceOptions,
  server: Server,
  drain: DrainStatus | undefined,
  nowMs: number,
): ServerStatus => {
  const { replicas, corrupt } = chunks.serverCounts(server.id)
  return {
    serverId: server.id,
    address: server.address.address,
    rack: server.address.rack,
    host: server.address.host,
    state: server.state === 'up' ? 'up' : 'down',
    capacityBytes: BigInt(Math.round(server.capacityBytes)),
    usedBytes: BigInt(Math.round(server.usedBytes)),
    freeBytes: BigInt(Math.round(server.freeBytes)),
    replicas: BigInt(replicas),
    corruptReplicas: BigInt(corrupt),
    lastSeenMsAgo: BigInt(Math.max(0, Math.floor(nowMs - server.lastSeenMs))),
    label: server.label,
    drain,
    activity: server.activity,
    fillPermille: Math.round(fillOf(server) * 1000),
  }
}

/** Reads and writes as the mount tells them, and its requests to the master. */
const activityOf = (session: Session): ActivityTotals => {
  const { others, otherMicros } = session.activity.totals()
  const { reported } = session
  return {
    reads: reported?.reads ?? 0n,
    readBytes: reported?.readBytes ?? 0n,
    readMicros: reported?.readMicros ?? 0n,
    writes: reported?.writes ?? 0n,
    writeBytes: reported?.writeBytes ?? 0n,
    writeMicros: reported?.writeMicros ?? 0n,
    others,
    otherMicros,
  }
}

const sessionStatus = ({ opens, leases }: AdminServiceOptions, session: Session, nowMs: number): SessionStatus => ({
  sessionId: session.id,
  host: session.record.host,
  mountPoint: session.record.mountPoint,
  pid: session.record.pid,
  state: session.state === 'connected' ? 'connected' : 'away',
  openFiles: BigInt(opens.countOf(session.id)),
  leases: BigInt(leases.countOf(session.id)),
  lastSeenMsAgo: BigInt(Math.max(0, Math.floor(nowMs - session.lastSeenMs))),
  activity: activityOf(session),
})
