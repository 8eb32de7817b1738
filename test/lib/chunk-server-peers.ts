/** Those around a chunk server, as a test plays them: the master that it talks to, and a client that appends and reads. */
import type { Test } from 'tap'
import { blockChecksums } from '../../src/domain/checksum.ts'
import type { PosixError } from '../../src/domain/errors.ts'
import { realClock } from '../../src/platform/clock.ts'
import type { Listener, Transport } from '../../src/platform/transport.ts'
import { openAppend, openRead } from '../../src/protocol/bulk.ts'
import type { AppendReply, ReadReply } from '../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import {
  ClusterDefinition,
  type HeartbeatRequest,
  type RegisterRequest,
  type Replica,
} from '../../src/protocol/gen/shoal/v1/cluster.pb.ts'
import { methodPath, unaryHandler } from '../../src/protocol/rpc.ts'

export interface FakeMaster {
  address: string
  registrations: RegisterRequest[]
  /** What reports and heartbeats have told since the last registration, by server. */
  replicas: Map<bigint, Replica>
  reports: number
  heartbeats: HeartbeatRequest[]
  /** Answers instead of the usual ones. */
  refuse: { register?: PosixError; heartbeat?: PosixError }
  close(): Promise<void>
}

/** Answers every 50 ms; refuses what `refuse` says. */
export const startMaster = async (
  t: Test,
  rpc: Transport,
  options: { listen?: string; clusterId?: string } = {},
): Promise<FakeMaster> => {
  const { methods } = ClusterDefinition
  const serverIds = new Map<string, number>()
  let listener: Listener | undefined
  const master: FakeMaster = {
    address: '',
    registrations: [],
    replicas: new Map(),
    reports: 0,
    heartbeats: [],
    refuse: {},
    close: async () => {
      await listener?.close()
      listener = undefined
    },
  }
  const take = (replicas: readonly Replica[]): void => {
    for (const replica of replicas) {
      if (replica.deleted) master.replicas.delete(replica.chunkId)
      else master.replicas.set(replica.chunkId, replica)
    }
  }
  listener = await rpc.listen(options.listen ?? '127.0.0.1:0', {
    stream: new Map(),
    unary: new Map([
      [
        methodPath(ClusterDefinition, methods.register),
        unaryHandler(methods.register, async (request) => {
          master.registrations.push(request)
          if (master.refuse.register) throw master.refuse.register
          if (!serverIds.has(request.storeId)) serverIds.set(request.storeId, serverIds.size + 1)
          const serverId = request.serverId || serverIds.get(request.storeId)!
          return {
            clusterId: options.clusterId ?? 'cluster',
            serverId,
            intervalMs: 50,
            registration: BigInt(master.registrations.length),
            protocolVersion: request.protocolVersion,
          }
        }),
      ],
      [
        methodPath(ClusterDefinition, methods.reportChunks),
        unaryHandler(methods.reportChunks, async (request) => {
          take(request.replicas)
          if (request.last) master.reports++
          return {}
        }),
      ],
      [
        methodPath(ClusterDefinition, methods.heartbeat),
        unaryHandler(methods.heartbeat, async (request) => {
          if (master.refuse.heartbeat) throw master.refuse.heartbeat
          master.heartbeats.push(request)
          take(request.changed)
          return {}
        }),
      ],
    ]),
  })
  master.address = listener.address
  t.teardown(() => master.close())
  return master
}

export const until = async (condition: () => boolean, what: string): Promise<void> => {
  for (let tries = 0; tries < 500; tries++) {
    if (condition()) return
    await realClock.sleep(10)
  }
  throw new Error(`waited in vain until ${what}`)
}

/** A client of one server: appends and reads, one answer each; an append whose stream breaks rejects. */
export const client = (
  t: Test,
  transport: Transport,
  address: string,
): {
  append(request: { chunkId: bigint; offset: number; data: Buffer; sync?: boolean }): Promise<AppendReply>
  read(request: { chunkId: bigint; offset: number; length: number }): Promise<ReadReply>
} => {
  let requestId = 0
  const appends = new Map<number, Answer<AppendReply>>()
  const reads = new Map<number, Answer<ReadReply>>()
  const settling = <Reply extends { requestId: number }>(waiting: Map<number, Answer<Reply>>) => ({
    message: (reply: Reply) => {
      waiting.get(reply.requestId)?.resolve(reply)
      waiting.delete(reply.requestId)
    },
    closed: () => {
      for (const { reject } of waiting.values()) reject(new Error('the stream was closed'))
      waiting.clear()
    },
  })
  const appendStream = openAppend(transport, address, settling(appends))
  const readStream = openRead(transport, address, settling(reads))
  t.teardown(() => {
    appendStream.end()
    readStream.end()
  })
  return {
    append: ({ sync = false, ...request }) =>
      new Promise((resolve, reject) => {
        appends.set(++requestId, { resolve, reject })
        const checksums = blockChecksums(request.data)
        appendStream.send({ requestId, create: request.offset === 0, sync, checksums, ...request })
      }),
    read: (request) =>
      new Promise((resolve, reject) => {
        reads.set(++requestId, { resolve, reject })
        readStream.send({ requestId, ...request })
      }),
  }
}

interface Answer<Reply> {
  resolve: (reply: Reply) => void
  reject: (error: Error) => void
}
