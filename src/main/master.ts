/** Starts a master with the machine's own clock, disk, database and network. */
import { realClock } from '../platform/clock.ts'
import { listenHttp } from '../platform/http-listener.ts'
import { grpcTransport } from '../platform/grpc-transport.ts'
import type { LogLevel } from '../platform/log.ts'
import { stderrLog } from '../platform/log.ts'
import { readPackageFile } from '../platform/package-file.ts'
import { realRandom } from '../platform/random.ts'
import { realDisk } from '../platform/real-disk.ts'
import { openRocksDb } from '../platform/rocksdb-engine.ts'
import type { MasterConfig } from '../master/master.ts'
import { startMaster } from '../master/master.ts'
import { measured, type Watched } from '../platform/measured.ts'
import { serveMetrics } from '../platform/metrics.ts'
import { OperationHistogram } from '../platform/operation-histogram.ts'
import type { KvEngine } from '../platform/kv-engine.ts'
import { masterFigures } from './master-figures.ts'
import { fetchStatus } from './master-status.ts'
import { masterDiskFigures, rocksDbFigures } from './rocksdb-figures.ts'
import type { Running } from './running.ts'

const statusMsMax = 5000

export interface RunMasterOptions {
  /** Directory of the database; made when it is missing. */
  data: string
  /** host:port. */
  listen: string
  placement?: string
  copies?: number
  minCopies?: number
  repairDelayMs?: number
  sessionLeaseMs?: number
  /** host:port where Prometheus can ask. */
  metrics?: string
  /** host:port of the web page; undefined: the usual one if it is free; "off": none. */
  web?: string
  logLevel: LogLevel
}

const webAddressDefault = '127.0.0.1:9321'
const kvWatched: Watched<KvEngine> = { getMany: 'time', range: 'time', write: 'time' }

/** UsageError: a directory in use or of another format, an address that cannot be listened on, a number out of range. */
export const runMaster = async (options: RunMasterOptions): Promise<Running> => {
  const log = stderrLog(options.logLevel, 'master')
  const config: MasterConfig = {
    ...(options.placement !== undefined && { placement: options.placement }),
    ...(options.copies !== undefined && { copies: options.copies }),
    ...(options.minCopies !== undefined && { copiesMin: options.minCopies }),
    ...(options.repairDelayMs !== undefined && { repairDelayMs: options.repairDelayMs }),
    ...(options.sessionLeaseMs !== undefined && { sessionLeaseMs: options.sessionLeaseMs }),
  }
  const operations = new OperationHistogram('shoal_master', 'Requests of mounts to the master')
  const kvOperations = new OperationHistogram('shoal_rocksdb', 'Calls of the master into RocksDB')
  const opened = await openRocksDb(options.data)
  const isMeasured = options.metrics !== undefined
  const kv = isMeasured ? measured(opened, kvWatched, kvOperations, () => realClock.nowMs()) : opened
  const rpc = grpcTransport({ log })
  const release = async (): Promise<void> => {
    await rpc.close()
    await kv.close()
  }
  try {
    const master = await startMaster({
      kv,
      clock: realClock,
      random: realRandom,
      rpc,
      listenAddress: options.listen,
      config,
      log,
      space: () => realDisk.space(options.data),
      ...(isMeasured && { operations }),
      rssBytes: () => process.memoryUsage.rss(),
      ...(options.web !== 'off' && {
        web: {
          listenAddress: options.web ?? webAddressDefault,
          optional: options.web === undefined,
          listen: listenHttp,
          file: readPackageFile,
        },
      }),
    })
    const metrics =
      options.metrics === undefined
        ? undefined
        : await serveMetrics({
            listen: options.metrics,
            sources: [
              async () => masterFigures(await fetchStatus(rpc, master.address, statusMsMax)),
              () => operations.figures(),
              () => kvOperations.figures(),
              () => rocksDbFigures(opened),
              async () => masterDiskFigures(await realDisk.space(options.data)),
            ],
            log,
          }).catch(async (caught: unknown) => {
            await master.close()
            throw caught
          })
    const closed = (async () => {
      try {
        await master.closed
      } finally {
        await metrics?.close()
        await release()
      }
    })()
    // Whoever runs the master looks at it when it suits him.
    closed.catch(() => undefined)
    return {
      address: master.address,
      closed,
      close: async () => {
        await master.close()
        await closed
      },
    }
  } catch (caught) {
    await release()
    throw caught
  }
}
