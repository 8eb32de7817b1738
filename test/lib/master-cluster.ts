/** A master over memory and a manual clock, with chunk servers that have no bytes and clients that do only what a test says. */
import type { Test } from 'tap'
import { PosixError } from '../../src/domain/errors.ts'
import { S_IFREG } from '../../src/domain/mode.ts'
import { rootIno } from '../../src/domain/ids.ts'
import type { AdminCall } from '../../src/main/admin-client.ts'
import { adminClient } from '../../src/main/admin-client.ts'
import type { MasterConfig, RunningMaster } from '../../src/master/master.ts'
import { startMaster } from '../../src/master/master.ts'
import type { Faults } from '../../src/platform/faults.ts'
import { silentLog } from '../../src/platform/log.ts'
import { AdminDefinition } from '../../src/protocol/gen/shoal/v1/admin.pb.ts'
import type { StatusReply } from '../../src/protocol/gen/shoal/v1/admin.pb.ts'
import { LeaseMode } from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { Hello } from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import { callUnary } from '../../src/protocol/rpc.ts'
import type { ManualClock } from './manual-clock.ts'
import { manualClock } from './manual-clock.ts'
import { seededRandom } from './master-store.ts'
import { memoryKv } from './memory-kv.ts'
import type { MemoryKv } from './memory-kv.ts'
import { memoryNetwork } from './memory-transport.ts'
import type { ReplicaServer, ReplicaServerOptions } from './replica-server.ts'
import { replicaServer } from './replica-server.ts'
import type { Result, SessionClient } from './session-client.ts'
import { sessionClient } from './session-client.ts'

export interface MasterCluster {
  readonly clock: ManualClock
  readonly servers: ReplicaServer[]
  readonly kv: MemoryKv
  readonly address: string
  /** Ends the master, with or without good order, and starts a new one on the same store and address. */
  restart(config?: MasterConfig): Promise<void>
  addServer(options?: Pick<ReplicaServerOptions, 'rack' | 'capacityBytes' | 'fileSystem'>): Promise<ReplicaServer>
  client(hello?: Partial<Hello>, firstId?: bigint): SessionClient
  status(): Promise<StatusReply>
  /** What an administrator asks. */
  readonly admin: AdminCall
  /** Moves the time until the condition holds; fails the test after so many seconds of the clock. */
  until(what: string, condition: () => boolean | Promise<boolean>, seconds?: number): Promise<void>
}

export const masterCluster = async (
  t: Test,
  options: {
    servers?: number
    racks?: string[]
    config?: MasterConfig
    kv?: MemoryKv
    space?: () => { total: number; free: number }
    faults?: Faults
  } = {},
): Promise<MasterCluster> => {
  const clock = manualClock()
  const network = memoryNetwork()
  const kv = options.kv ?? memoryKv()
  const masterHost = network.transport('master')
  let listenAddress = '127.0.0.1:0'
  const start = (config: MasterConfig): Promise<RunningMaster> =>
    startMaster({
      kv,
      clock,
      random: seededRandom(7),
      rpc: masterHost,
      listenAddress,
      config,
      log: silentLog,
      ...(options.faults && { faults: options.faults }),
      ...(options.space && {
        space: async () => ({
          fileSystem: 'test',
          totalBytes: options.space!().total,
          freeBytes: options.space!().free,
        }),
      }),
    })
  let master = await start(options.config ?? {})
  listenAddress = master.address
  const servers: ReplicaServer[] = []
  const clientHost = network.transport('client')
  t.teardown(async () => {
    await master.close()
    for (const server of servers) await server.stop()
  })
  const cluster: MasterCluster = {
    clock,
    servers,
    kv,
    address: listenAddress,
    restart: async (config = options.config ?? {}) => {
      await master.close()
      master = await start(config)
    },
    addServer: async (serverOptions = {}) => {
      const number = servers.length + 1
      const server = await replicaServer({
        transport: network.transport(`chunk${number}`),
        clock,
        masterAddress: listenAddress,
        storeId: `store-${number}`,
        ...serverOptions,
      })
      await server.join()
      server.beat()
      servers.push(server)
      return server
    },
    admin: adminClient(clientHost, listenAddress, 5000),
    client: (hello, firstId) => sessionClient(clientHost, listenAddress, hello, firstId),
    status: () =>
      callUnary(clientHost, listenAddress, AdminDefinition, AdminDefinition.methods.status, {}, { deadlineMs: 5000 }),
    until: async (what, condition, seconds = 60) => {
      for (let waited = 0; waited < seconds * 1000; waited += 100) {
        if (await condition()) return
        await clock.advance(100)
      }
      throw new Error(`it did not come to this: ${what}`)
    },
  }
  for (let i = 0; i < (options.servers ?? 0); i++) {
    const rack = options.racks?.[i]
    await cluster.addServer(rack === undefined ? {} : { rack })
  }
  return cluster
}

/** The value of a result of this kind; throws PosixError for a failure. */
export const expect = <Case extends Result['$case']>(
  result: Result,
  $case: Case,
): Extract<Result, { $case: Case }>['value'] => {
  const { $case: kind, value }: { $case: string; value: unknown } = result
  if (result.$case === 'failure') throw new PosixError(result.value.code as 'EIO', result.value.message)
  if (kind !== $case) throw new Error(`the result is ${kind}, not ${$case}`)
  return value as never
}

export const codeOf = (result: Result): string => (result.$case === 'failure' ? result.value.code : result.$case)

const caller = { uid: 0, gid: 0, pid: 1, umask: 0o022 }

export const createFile = async (client: SessionClient, name: string, open = true): Promise<bigint> => {
  const result = await client.request({
    $case: 'mknod',
    value: { parent: rootIno, name: Buffer.from(name), mode: S_IFREG | 0o644, rdev: 0, caller, open },
  })
  return expect(result, 'entry').attributes!.ino
}

export const acquire = (client: SessionClient, ino: bigint, mode: 'read' | 'write'): Promise<Result> =>
  client.request({
    $case: 'acquireLease',
    value: { ino, mode: mode === 'read' ? LeaseMode.LEASE_MODE_READ : LeaseMode.LEASE_MODE_WRITE },
  })

/** A file of this many bytes in a chunk of its own, acknowledged by every server that the chunk was placed on; returns ino and chunk. */
export const writeFile = async (
  cluster: MasterCluster,
  client: SessionClient,
  name: string,
  length: number,
  serversExcluded: number[] = [],
): Promise<{ ino: bigint; chunk: bigint; servers: number[] }> => {
  const ino = await createFile(client, name)
  const allocated = expect(
    await client.request({ $case: 'allocateChunk', value: { copies: 3, serversExcluded } }),
    'allocateChunk',
  )
  const servers = allocated.servers.map(({ serverId }) => serverId)
  const blocks = Math.ceil(length / 4096) * 4096
  for (const server of cluster.servers) {
    if (servers.includes(server.serverId)) server.set(allocated.chunkId, { length: blocks })
  }
  expect(await acquire(client, ino, 'write'), 'attributesAndLease')
  const committed = await client.request({
    $case: 'commit',
    value: {
      ino,
      segments: [{ index: 0n, extents: [{ offset: 0, length, chunkId: allocated.chunkId, chunkOffset: 0 }] }],
      size: BigInt(length),
      mtime: undefined,
      ctime: undefined,
      appended: [{ chunkId: allocated.chunkId, length: blocks, serverIds: servers }],
      killPrivileges: false,
      inlineData: undefined,
    },
  })
  expect(committed, 'attributesAndLease')
  return { ino, chunk: allocated.chunkId, servers }
}
