/**
 * A chunk server without bytes: keeps which replicas it has and how long they are, registers, reports and sends heartbeats, and does
 * what the master asks.
 */
import { PosixError } from '../../src/domain/errors.ts'
import { protocolVersions, versionsToSend } from '../../src/domain/protocol-versions.ts'
import type { Clock, Timer } from '../../src/platform/clock.ts'
import type { Listener, Transport, UnaryHandler } from '../../src/platform/transport.ts'
import type { ByteRange } from '../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import { ChunkStoreDefinition } from '../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import type { RegisterReply, RegisterRequest, Replica } from '../../src/protocol/gen/shoal/v1/cluster.pb.ts'
import { ClusterDefinition } from '../../src/protocol/gen/shoal/v1/cluster.pb.ts'
import { callUnary, methodPath, unaryHandler } from '../../src/protocol/rpc.ts'

export interface HeldReplica {
  length: number
  sealed: boolean
  corrupt: boolean
  more?: boolean
  punched: ByteRange[]
}

export interface ReplicaServerOptions {
  transport: Transport
  clock: Clock
  masterAddress: string
  storeId: string
  rack?: string
  capacityBytes?: number
  /** Default: one of its own. */
  fileSystem?: { name: string; freeBytes: number }
}

export interface ReplicaServer {
  readonly replicas: Map<bigint, HeldReplica>
  /** What the master asked for, as "seal 1 8192". */
  readonly asked: string[]
  readonly address: string
  serverId: number
  freeBytes: number
  /** Registers and reports; rejects with the master's refusal. */
  join(overrides?: Partial<RegisterRequest>): Promise<RegisterReply>
  /** One heartbeat with the replicas that changed. */
  heartbeat(changed?: Replica[]): Promise<void>
  /** Heartbeats each second of the clock from now on. */
  beat(): void
  /** Nothing of it is heard any more; it keeps its replicas. */
  stop(): Promise<void>
  /** What was stopped is there again. */
  start(): Promise<void>
  set(chunk: bigint, replica: Partial<HeldReplica>): void
  /** Comes between a registration and its report. */
  registered?: () => Promise<void>
  /** Comes between a look into a replica and its answer. */
  verified?: () => Promise<void>
  /** Comes between a punch and its answer. */
  punched?: () => Promise<void>
  /** Comes between a deletion and its answer. */
  deleted?: () => Promise<void>
}

const callOptions = { deadlineMs: 5000 }

export const replicaServer = async (options: ReplicaServerOptions): Promise<ReplicaServer> => {
  const { transport, clock, masterAddress } = options
  const replicas = new Map<bigint, HeldReplica>()
  const asked: string[] = []
  let registration = 0n
  let clusterId = ''
  let timer: Timer | undefined
  let stopped = false
  const capacityBytes = options.capacityBytes ?? 1024 ** 3
  const existing = (id: bigint): HeldReplica => {
    const replica = replicas.get(id)
    if (!replica) throw new PosixError('ENOENT')
    return replica
  }
  const { methods } = ChunkStoreDefinition
  const unary = new Map<string, UnaryHandler>([
    [
      methodPath(ChunkStoreDefinition, methods.seal),
      unaryHandler(methods.seal, async ({ chunkId, length }) => {
        asked.push(`seal ${chunkId} ${length}`)
        const replica = existing(chunkId)
        if (replica.length < length) throw new PosixError('ERANGE')
        replica.length = length
        replica.sealed = true
        return {}
      }),
    ],
    [
      methodPath(ChunkStoreDefinition, methods.copy),
      unaryHandler(methods.copy, async ({ chunkId, length, sources }) => {
        asked.push(`copy ${chunkId} ${length} from ${sources.map(({ serverId }) => serverId).join(',')}`)
        replicas.set(chunkId, { length, sealed: true, corrupt: false, punched: [] })
        return {}
      }),
    ],
    [
      methodPath(ChunkStoreDefinition, methods.punch),
      unaryHandler(methods.punch, async ({ chunkId, ranges }) => {
        asked.push(`punch ${chunkId} ${ranges.map(({ offset, length }) => `${offset}+${length}`).join(' ')}`)
        existing(chunkId).punched.push(...ranges)
        await server.punched?.()
        return {}
      }),
    ],
    [
      methodPath(ChunkStoreDefinition, methods.delete),
      unaryHandler(methods.delete, async ({ chunkIds }) => {
        asked.push(`delete ${chunkIds.join(' ')}`)
        for (const id of chunkIds) replicas.delete(id)
        await server.deleted?.()
        return {}
      }),
    ],
    [
      methodPath(ChunkStoreDefinition, methods.verify),
      unaryHandler(methods.verify, async ({ chunkId }) => {
        asked.push(`verify ${chunkId}`)
        const { length, sealed, corrupt } = existing(chunkId)
        await server.verified?.()
        return { length, sealed, corrupt: corrupt ? [{ offset: 0, length: 4096 }] : [] }
      }),
    ],
  ])
  const services = { unary, stream: new Map() }
  let listener: Listener | undefined = await transport.listen('127.0.0.1:0', services)
  const { address } = listener
  const reported = (): Replica[] =>
    [...replicas].map(([chunkId, { length, sealed, corrupt, more = false }]) => ({
      chunkId,
      length,
      sealed,
      corrupt,
      deleted: false,
      more,
    }))
  const { register, reportChunks, heartbeat } = ClusterDefinition.methods

  const server: ReplicaServer = {
    replicas,
    asked,
    address,
    serverId: 0,
    freeBytes: capacityBytes,
    join: async (overrides = {}) => {
      const reply = await callUnary(
        transport,
        masterAddress,
        ClusterDefinition,
        register,
        {
          ...versionsToSend(protocolVersions),
          clusterId,
          serverId: server.serverId,
          storeId: options.storeId,
          address: { serverId: 0, address, bulkAddress: '', rack: options.rack ?? '', host: options.storeId },
          capacityBytes: BigInt(capacityBytes),
          usedBytes: 0n,
          chunkIdMax: [...replicas.keys()].reduce((max, id) => (id > max ? id : max), 0n),
          ...overrides,
        },
        callOptions,
      )
      registration = reply.registration
      clusterId = reply.clusterId
      server.serverId = reply.serverId
      await server.registered?.()
      await callUnary(
        transport,
        masterAddress,
        ClusterDefinition,
        reportChunks,
        { registration, replicas: reported(), last: true },
        callOptions,
      )
      return reply
    },
    heartbeat: async (changed = []) => {
      await callUnary(
        transport,
        masterAddress,
        ClusterDefinition,
        heartbeat,
        {
          registration,
          capacityBytes: BigInt(capacityBytes),
          usedBytes: BigInt(capacityBytes - server.freeBytes),
          freeBytes: BigInt(server.freeBytes),
          load: 0,
          changed,
          fileSystem: options.fileSystem?.name ?? options.storeId,
          fileSystemFreeBytes: BigInt(options.fileSystem?.freeBytes ?? server.freeBytes),
          activity: undefined,
        },
        callOptions,
      )
    },
    beat: () => {
      if (stopped) return
      timer = clock.after(1000, () => server.beat())
      server.heartbeat(reported()).catch(() => undefined)
    },
    stop: async () => {
      stopped = true
      timer?.cancel()
      await listener?.close()
      listener = undefined
    },
    start: async () => {
      listener = await transport.listen(address, services)
      stopped = false
      await server.join()
      server.beat()
    },
    set: (chunk, replica) => {
      const old = replicas.get(chunk) ?? { length: 0, sealed: false, corrupt: false, punched: [] }
      replicas.set(chunk, { ...old, ...replica })
    },
  }
  return server
}
