/**
 * What ties a chunk server to its master: it registers, reports all replicas, then tells each interval what changed.
 *
 * | state       | what it does                                     | becomes                                                       |
 * |-------------|--------------------------------------------------|---------------------------------------------------------------|
 * | registering | Register, again and again while there is no answer | reporting on an answer; refused when the master says no      |
 * | reporting   | ReportChunks, page by page                       | beating after the last page; registering when it fails        |
 * | beating     | Heartbeat each interval                          | registering when the master does not know the registration   |
 * | refused     | nothing more: a person must act                  |                                                               |
 *
 * Invariant: a change is told until a heartbeat that carried it, or a report that began after it, was answered.
 */
import { PosixError, UnavailableError, UsageError } from '../domain/errors.ts'
import { isSpoken, protocolVersions, versionsToSend, type ProtocolVersions } from '../domain/protocol-versions.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Transport } from '../platform/transport.ts'
import { ClusterDefinition, type RegisterReply } from '../protocol/gen/shoal/v1/cluster.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import { callUnary } from '../protocol/rpc.ts'
import type { Load } from './append-service.ts'
import type { ChunkStore } from './store.ts'

const pageReplicas = 4096
/** A master may wait for the sign of life of another server before it answers. */
const registerMs = 10_000
const callMs = 5000
const retryMs = 500
const intervalMsMin = 50
const intervalMsMax = 60_000

export interface MasterLinkOptions {
  store: ChunkStore
  rpc: Transport
  clock: Clock
  log: Log
  faults?: Faults | undefined
  load: Load
  masterAddress: string
  address: ServerAddress
  /** Other versions of the protocol than this program's, for tests of mixed clusters. */
  protocol?: ProtocolVersions | undefined
  /** The master refused this server for good. */
  refused(error: UsageError): void
}

export class MasterLink {
  readonly #options: MasterLinkOptions
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  /** Resolves when the first attempt to register and report ended in some way. */
  readonly attempted: Promise<void>
  #attempted: () => void = () => undefined
  #away = false

  constructor(options: MasterLinkOptions) {
    this.#options = options
    this.attempted = new Promise((resolve) => {
      this.#attempted = resolve
    })
    this.#running = this.#run()
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('the chunk server is stopping'))
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        const registration = await this.#register()
        await this.#options.faults?.point('chunk.report')
        await this.#report(registration)
        this.#answered()
        this.#attempted()
        await this.#beat(registration)
      } catch (caught) {
        if (this.#stop.signal.aborted) break
        if (caught instanceof UsageError) {
          this.#options.refused(caught)
          break
        }
        this.#unanswered(caught)
        this.#attempted()
        await this.#sleep(retryMs)
      }
    }
    this.#attempted()
  }

  async #register(): Promise<RegisterReply> {
    const { store, rpc, masterAddress, address, protocol = protocolVersions } = this.#options
    const { capacityBytes, usedBytes } = await store.figures()
    const { clusterId, serverId, storeId } = store.identity
    let reply: RegisterReply
    try {
      reply = await callUnary(
        rpc,
        masterAddress,
        ClusterDefinition,
        ClusterDefinition.methods.register,
        {
          ...versionsToSend(protocol),
          clusterId,
          serverId,
          storeId,
          address: { ...address, serverId },
          capacityBytes: BigInt(capacityBytes),
          usedBytes: BigInt(usedBytes),
          chunkIdMax: store.chunkIdMax,
        },
        { deadlineMs: registerMs, signal: this.#stop.signal },
      )
    } catch (caught) {
      if (caught instanceof PosixError && caught.code === 'EPERM') throw new UsageError(caught.message)
      throw caught
    }
    if (!isSpoken(protocol, reply.protocolVersion)) {
      throw new UsageError(
        `the master wants version ${reply.protocolVersion} of the protocol, which is not spoken here`,
      )
    }
    await store.adopt({ clusterId: reply.clusterId, serverId: reply.serverId })
    return reply
  }

  async #report({ registration }: RegisterReply): Promise<void> {
    const { store } = this.#options
    // All that is among the changes now is in the report as well; what changes from here on is told by heartbeats.
    store.takeChanges(Infinity)
    for (const replicas of store.replicas(pageReplicas)) await this.#sendPage({ registration, replicas, last: false })
    await this.#sendPage({ registration, replicas: [], last: true })
    const { serverId, clusterId } = store.identity
    this.#options.log.info('registered', { server: serverId, cluster: clusterId, chunks: store.chunkCount })
  }

  async #sendPage(page: {
    registration: bigint
    replicas: { chunkId: bigint; length: number; sealed: boolean; corrupt: boolean; deleted: boolean }[]
    last: boolean
  }): Promise<void> {
    const { rpc, masterAddress } = this.#options
    const options = { deadlineMs: callMs, signal: this.#stop.signal }
    await callUnary(rpc, masterAddress, ClusterDefinition, ClusterDefinition.methods.reportChunks, page, options)
  }

  /** Ends with an error when the master wants a registration; lives through a master that is away. */
  async #beat({ registration, intervalMs }: RegisterReply): Promise<void> {
    const pauseMs = Math.min(Math.max(intervalMs, intervalMsMin), intervalMsMax)
    for (;;) {
      await this.#sleep(pauseMs)
      if (this.#stop.signal.aborted) return
      try {
        await this.#heartbeat(registration)
        this.#answered()
      } catch (caught) {
        if (this.#stop.signal.aborted) return
        if (caught instanceof PosixError && caught.code === 'ENOENT') {
          this.#options.log.info('the master does not know this registration any more')
          return
        }
        if (!(caught instanceof UnavailableError || caught instanceof PosixError)) throw caught
        this.#unanswered(caught)
      }
    }
  }

  async #heartbeat(registration: bigint): Promise<void> {
    const { store, rpc, masterAddress, load } = this.#options
    const { host } = this.#options.address
    const { capacityBytes, usedBytes, freeBytes, fileSystem, fileSystemFreeBytes } = await store.figures()
    const changed = store.takeChanges(pageReplicas)
    try {
      await callUnary(
        rpc,
        masterAddress,
        ClusterDefinition,
        ClusterDefinition.methods.heartbeat,
        {
          registration,
          capacityBytes: BigInt(capacityBytes),
          usedBytes: BigInt(usedBytes),
          freeBytes: BigInt(freeBytes),
          load: load.count,
          changed,
          fileSystem: `${host}:${fileSystem}`,
          fileSystemFreeBytes: BigInt(fileSystemFreeBytes),
          activity: load.activity.totals(),
        },
        { deadlineMs: callMs, signal: this.#stop.signal },
      )
    } catch (caught) {
      store.changedAgain(changed)
      throw caught
    }
  }

  #answered(): void {
    if (this.#away) this.#options.log.info('the master answers again')
    this.#away = false
  }

  /** Said once, not with every attempt. */
  #unanswered(cause: unknown): void {
    if (this.#away) return
    this.#away = true
    this.#options.log.warn('the master does not answer; clients are served meanwhile', {
      master: this.#options.masterAddress,
      cause,
    })
  }

  async #sleep(ms: number): Promise<void> {
    await this.#options.clock.sleep(ms, this.#stop.signal).catch(() => undefined)
  }
}
