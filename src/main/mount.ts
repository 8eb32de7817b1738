/**
 * Builds the real adapters of a mount, opens the file system and mounts it.
 *
 * Order at the end: unmount first, so that no new operation comes, then write out what is buffered and give everything back to the
 * master, then drop the connections. A mount that was unmounted from outside (umount(8)) ends the same way.
 */
import { hostname } from 'node:os'
import { openFileSystem } from '../client/open-file-system.ts'
import { UsageError } from '../domain/errors.ts'
import { realClock } from '../platform/clock.ts'
import { framedTransport } from '../platform/framed-transport.ts'
import { grpcTransport } from '../platform/grpc-transport.ts'
import type { Log } from '../platform/log.ts'
import { realRandom } from '../platform/random.ts'
import type { Transport } from '../platform/transport.ts'
import { serveMetrics } from '../platform/metrics.ts'
import { OperationHistogram } from '../platform/operation-histogram.ts'
import { parseMountOptions } from '../../mount/mount-options.ts'
import type { MountDriver } from '../../mount/mount-options.ts'
import { mountFileSystem } from '../../mount/mount.ts'
import { fetchStatus } from './master-status.ts'
import { measuredFileSystem, mountFigures } from './mount-figures.ts'
import type { Running } from './running.ts'

export interface MountOptions {
  /** host:port */
  master: string
  /** Directory of the namespace that becomes the root of the mount; "/" for all of it. */
  rootPath: string
  /** What the mount table shows as the source: as it was given, so that `mount -a` finds that it is mounted already. */
  source: string
  /** Absolute path of the mount point. */
  directory: string
  /** As after -o of mount(8). */
  options: readonly string[]
  driver: MountDriver
  log: Log
  /** host:port where Prometheus can ask. */
  metrics?: string
  /** How long to look for the master before giving up. Once mounted, a mount waits for its master for ever. */
  connectMs?: number
}

const connectMsDefault = 10_000
const retryMs = 250

/** Fails with one sentence when no master answers at this address; without it a typing error would be a mount that hangs. */
const findMaster = async (rpc: Transport, address: string, connectMs: number): Promise<void> => {
  const endMs = realClock.nowMs() + connectMs
  for (;;) {
    const leftMs = Math.max(1, endMs - realClock.nowMs())
    try {
      await fetchStatus(rpc, address, leftMs)
      return
    } catch (caught) {
      if (!(caught instanceof UsageError) || leftMs < retryMs) throw caught
    }
    await realClock.sleep(retryMs)
  }
}

export const runMount = async (options: MountOptions): Promise<Running> => {
  const { log } = options
  const { accessTimes, caching } = parseMountOptions(options.options)
  const rpc = grpcTransport({ log })
  const bulk = framedTransport({ log })
  const dropConnections = async (): Promise<void> => {
    await bulk.close()
    await rpc.close()
  }
  try {
    await findMaster(rpc, options.master, options.connectMs ?? connectMsDefault)
    const fileSystem = await openFileSystem({
      masterAddress: options.master,
      rootPath: options.rootPath,
      host: hostname(),
      mountPoint: options.directory,
      pid: process.pid,
      clock: realClock,
      random: realRandom,
      rpc,
      bulk,
      log,
      accessTimes,
      caching,
    })
    try {
      const operations = new OperationHistogram('shoal_fs', 'Operations of programs in this mount')
      const metrics =
        options.metrics === undefined
          ? undefined
          : await serveMetrics({
              listen: options.metrics,
              sources: [() => mountFigures(fileSystem.figures()), () => operations.figures()],
              log,
            })
      const mounted = await mountFileSystem({
        driver: options.driver,
        fileSystem: metrics === undefined ? fileSystem : measuredFileSystem(fileSystem, operations),
        mountPoint: options.directory,
        options: [...options.options],
        fsName: options.source,
        log,
        clock: realClock,
      })
      log.info('mounted', { directory: options.directory, master: options.master, rootPath: options.rootPath })
      const closed = (async () => {
        await mounted.done
        log.info('unmounted', { directory: options.directory })
        await fileSystem.close()
        await metrics?.close()
        await dropConnections()
      })()
      return {
        address: options.directory,
        closed,
        close: async () => {
          await mounted.unmount()
          await closed
        },
      }
    } catch (caught) {
      await fileSystem.close()
      throw caught
    }
  } catch (caught) {
    await dropConnections()
    throw caught
  }
}
