/** Starts a chunk server with the real adapters. */
import { hostname } from 'node:os'
import { startChunkServer, type ChunkServerFigures } from '../chunkserver/chunk-server.ts'
import type { OperationObserver } from '../domain/operation-times.ts'
import { realClock } from '../platform/clock.ts'
import type { Disk, DiskFile, DiskWrite } from '../platform/disk.ts'
import { framedTransport } from '../platform/framed-transport.ts'
import { grpcTransport } from '../platform/grpc-transport.ts'
import { stderrLog, type LogLevel } from '../platform/log.ts'
import { measured, type Watched } from '../platform/measured.ts'
import { counter, gauge, serveMetrics, type Figure } from '../platform/metrics.ts'
import { OperationHistogram } from '../platform/operation-histogram.ts'
import { realRandom } from '../platform/random.ts'
import { realDisk } from '../platform/real-disk.ts'
import type { Running } from './running.ts'

export interface RunChunkServerOptions {
  /** Directory of the chunks; made if missing. */
  data: string
  /** host:port */
  master: string
  /** host:port; port 0 is any free one. */
  listen: string
  rack?: string
  /** Bytes. */
  capacity?: number
  /** host:port where Prometheus can ask. */
  metrics?: string
  logLevel: LogLevel
}

const bytesRead = (_args: unknown[], result: unknown): number => Number(result)
const bytesWritten = (args: unknown[]): number =>
  (args[0] as readonly Buffer[]).reduce((sum, { length }) => sum + length, 0)
const bytesSynced = (args: unknown[]): number =>
  (args[0] as readonly DiskWrite[]).reduce((sum, { buffers }) => sum + bytesWritten([buffers]), 0)
const fileWatched: Watched<DiskFile> = {
  read: bytesRead,
  write: bytesWritten,
  sync: 'time',
  writeAndSync: bytesSynced,
  punch: 'time',
}

/** The disk with its files measured. */
const measuredDisk = (operations: OperationObserver): Disk => ({
  ...realDisk,
  open: async (path, options) =>
    measured(await realDisk.open(path, options), fileWatched, operations, () => realClock.nowMs()),
})

const figuresOf = (figures: ChunkServerFigures): Figure[] => [
  gauge('shoal_chunkserver_chunks', 'Replicas on this server.', figures.chunks),
  gauge('shoal_chunkserver_capacity_bytes', 'What this server may hold.', figures.capacityBytes),
  gauge('shoal_chunkserver_used_bytes', 'What its chunks occupy.', figures.usedBytes),
  gauge('shoal_chunkserver_free_bytes', 'What it can still take.', figures.freeBytes),
  gauge('shoal_chunkserver_requests_running', 'Appends and reads that are being carried out.', figures.requestsRunning),
  counter('shoal_scrub_chunks_total', 'Chunks read and checked by the scrub.', figures.scrub.chunks),
  counter('shoal_scrub_bytes_total', 'Bytes read and checked by the scrub.', figures.scrub.bytes),
  counter('shoal_scrub_damaged_total', 'Damaged chunks that the scrub found.', figures.scrub.damaged),
  counter('shoal_scrub_passes_total', 'Times that the scrub came to the end of all chunks.', figures.scrub.passes),
]

export const runChunkServer = async (options: RunChunkServerOptions): Promise<Running> => {
  const log = stderrLog(options.logLevel, 'chunkserver')
  const operations = new OperationHistogram('shoal_disk', 'Calls of the chunk server on files of chunks')
  const rpc = grpcTransport({ log })
  const bulk = framedTransport()
  const closeTransports = async (): Promise<void> => {
    await bulk.close()
    await rpc.close()
  }
  try {
    const running = await startChunkServer({
      dataDirectory: options.data,
      masterAddress: options.master,
      listenAddress: options.listen,
      rack: options.rack ?? '',
      host: hostname(),
      ...(options.capacity === undefined ? {} : { capacityBytes: options.capacity }),
      clock: realClock,
      random: realRandom,
      disk: options.metrics === undefined ? realDisk : measuredDisk(operations),
      rpc,
      bulk,
      log,
    })
    const metrics =
      options.metrics === undefined
        ? undefined
        : await serveMetrics({
            listen: options.metrics,
            sources: [async () => figuresOf(await running.figures()), () => operations.figures()],
            log,
          }).catch(async (caught: unknown) => {
            await running.close()
            throw caught
          })
    const closeAll = async (): Promise<void> => {
      await metrics?.close()
      await closeTransports()
    }
    const closed = running.closed.then(closeAll, async (error: unknown) => {
      await closeAll()
      throw error
    })
    // Whoever cares has its own handler.
    closed.catch(() => undefined)
    return {
      address: running.address,
      closed,
      close: async () => {
        await running.close()
        await closed.catch(() => undefined)
      },
    }
  } catch (error) {
    await closeTransports()
    throw error
  }
}
