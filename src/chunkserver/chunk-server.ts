/**
 * A chunk server: a store, its services on two listeners (gRPC for everything, a framed lane for bulk bytes), its link to the
 * master and its scrubber. It serves clients whether or not the master is there.
 */
import { Activity } from '../domain/activity.ts'
import { UsageError } from '../domain/errors.ts'
import type { Running } from '../domain/running.ts'
import type { ProtocolVersions } from '../domain/protocol-versions.ts'
import { formatAddress, parseAddress, parseListenAddress } from '../platform/address.ts'
import type { Clock } from '../platform/clock.ts'
import type { Disk } from '../platform/disk.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import { RequestLog } from '../platform/request-log.ts'
import type { Listener, Services, Transport } from '../platform/transport.ts'
import { appendService, type Load } from './append-service.ts'
import { chunkStoreService } from './chunk-store-service.ts'
import { MasterLink } from './master-link.ts'
import { readService } from './read-service.ts'
import { Scrubber, scrubBytesPerSecondDefault } from './scrubber.ts'
import type { SpaceFigures } from './space.ts'
import { ChunkStore } from './store.ts'

/** How long a start waits for the master: a refusal is then a failure to start, and "ready" mostly means registered. */
const firstContactMs = 5000

export interface ChunkServerOptions {
  dataDirectory: string
  masterAddress: string
  /** host:port; the host is what others are told, so it must be one that they can reach. */
  listenAddress: string
  /** Empty: none. */
  rack: string
  /** Name of the machine. */
  host: string
  capacityBytes?: number
  scrubBytesPerSecond?: number
  clock: Clock
  random: Random
  disk: Disk
  rpc: Transport
  bulk: Transport
  log: Log
  faults?: Faults
  /** Other versions of the protocol than this program's, for tests of mixed clusters. */
  protocol?: ProtocolVersions
}

/** For monitoring. */
export interface ChunkServerFigures extends SpaceFigures {
  chunks: number
  requestsRunning: number
  /** Since the start. */
  scrub: { chunks: number; damaged: number; bytes: number; passes: number }
}

export interface RunningChunkServer extends Running {
  figures(): Promise<ChunkServerFigures>
}

/** UsageError: the data directory, an address or the master does not fit. The transports stay the caller's to close. */
export const startChunkServer = async (options: ChunkServerOptions): Promise<RunningChunkServer> => {
  const { dataDirectory, clock, random, disk, rpc, bulk, log, faults } = options
  const { host } = parseListenAddress(options.listenAddress)
  if (host === '0.0.0.0' || host === '::') {
    throw new UsageError(
      `cannot listen on ${options.listenAddress}: mounts and the master are told this address, so give the one that they can reach`,
    )
  }
  const store = await ChunkStore.open({
    directory: dataDirectory,
    capacityBytes: options.capacityBytes,
    disk,
    clock,
    random,
    log,
  })
  const listeners: Listener[] = []
  const stopServing = async (): Promise<void> => {
    for (const listener of listeners) await listener.close()
  }
  try {
    const load: Load = { count: 0, activity: new Activity(), clock }
    const forClients = { store, load, log, requestLog: new RequestLog(log, clock), faults }
    const stream: Services['stream'] = new Map([appendService(forClients), readService(forClients)])
    const unary = chunkStoreService({ store, rpc, bulk, clock, log, faults })
    const rpcListener = await rpc.listen(options.listenAddress, { unary, stream })
    listeners.push(rpcListener)
    const bulkListener = await bulk.listen(formatAddress({ host, port: 0 }), { unary: new Map(), stream })
    listeners.push(bulkListener)
    const advertised = (listener: Listener): string =>
      formatAddress({ host, port: parseAddress(listener.address)?.port ?? 0 })

    let ended = false
    let settle: { resolve(): void; reject(error: Error): void } | undefined
    const closed = new Promise<void>((resolve, reject) => {
      settle = { resolve, reject }
    })
    // Whoever cares has its own handler; without one a refusal is no unhandled rejection.
    closed.catch(() => undefined)

    const end = async (error?: Error): Promise<void> => {
      if (ended) return
      ended = true
      try {
        await link.close()
        await scrubber.close()
        await stopServing()
        await store.close()
        if (error) settle?.reject(error)
        else settle?.resolve()
      } catch (cause) {
        settle?.reject(cause instanceof Error ? cause : new Error(String(cause)))
      }
    }
    let refusal: UsageError | undefined
    const link = new MasterLink({
      store,
      rpc,
      clock,
      log,
      faults,
      load,
      masterAddress: options.masterAddress,
      protocol: options.protocol,
      address: {
        serverId: 0,
        address: advertised(rpcListener),
        bulkAddress: advertised(bulkListener),
        rack: options.rack,
        host: options.host,
      },
      refused: (error) => {
        refusal = error
        log.error('the master refuses this chunk server', { cause: error })
        // Not from within the link itself, which waits for nobody.
        queueMicrotask(() => void end(error))
      },
    })
    const scrubber = new Scrubber({
      store,
      directory: dataDirectory,
      disk,
      clock,
      log,
      bytesPerSecond: options.scrubBytesPerSecond ?? scrubBytesPerSecondDefault,
    })
    const waited = new AbortController()
    await Promise.race([link.attempted, clock.sleep(firstContactMs, waited.signal).catch(() => undefined)])
    waited.abort()
    if (refusal) {
      await closed.catch(() => undefined)
      throw refusal
    }
    log.info('serves', { address: advertised(rpcListener), bulk: advertised(bulkListener) })
    return {
      address: advertised(rpcListener),
      closed,
      figures: async () => ({
        ...(await store.figures()),
        chunks: store.chunkCount,
        requestsRunning: load.count,
        scrub: { ...scrubber.statistics },
      }),
      close: async () => {
        await end()
        // A refusal was told already; what went wrong while stopping is the caller's to know.
        await closed.catch((error: unknown) => {
          if (!(error instanceof UsageError)) throw error
        })
      },
    }
  } catch (error) {
    await stopServing()
    await store.close()
    throw error
  }
}
