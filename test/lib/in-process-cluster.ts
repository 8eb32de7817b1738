/**
 * A whole cluster in one process: the real master, real chunk servers and real clients over a network in memory, the master's store in
 * memory, the chunk servers' data in a temporary directory. Parts can be stopped, started again and cut off.
 *
 * Fault model: that of memory-transport.ts and memory-kv.ts. Stopping a part is orderly for its files (what it had acknowledged is
 * there), but its peers see nothing but broken streams.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startChunkServer } from '../../src/chunkserver/chunk-server.ts'
import type { Caching } from '../../src/client/caching.ts'
import type { AccessTimePolicy } from '../../src/domain/access-time.ts'
import type { ClientFileSystem, FileSystemLimits } from '../../src/client/client-file-system.ts'
import type { Context, FileSystem } from '../../src/client/file-system.ts'
import { openFileSystem } from '../../src/client/open-file-system.ts'
import { startMaster } from '../../src/master/master.ts'
import type { MasterConfig } from '../../src/master/master.ts'
import { realClock } from '../../src/platform/clock.ts'
import type { ProtocolVersions } from '../../src/domain/protocol-versions.ts'
import { silentLog, stderrLog } from '../../src/platform/log.ts'
import { realRandom } from '../../src/platform/random.ts'
import { realDisk } from '../../src/platform/real-disk.ts'
import { memoryKv } from './memory-kv.ts'
import type { MemoryKv } from './memory-kv.ts'
import { memoryNetwork } from './memory-transport.ts'
import type { MemoryNetwork } from './memory-transport.ts'

interface Part {
  readonly address: string
  close(): Promise<void>
}

export interface InProcessCluster {
  readonly network: MemoryNetwork
  readonly masterAddress: string
  /** The master's store. */
  readonly kv: MemoryKv
  /** Opens the file system from a host of its own, "client1", "client2", … */
  mount(options?: {
    limits?: Partial<FileSystemLimits>
    rootPath?: string
    caching?: Caching
    accessTimes?: AccessTimePolicy
    protocol?: ProtocolVersions
  }): Promise<FileSystem & Pick<ClientFileSystem, 'figures'>>
  stopMaster(): Promise<void>
  /** `protocol`: as if it were another release. */
  startMaster(protocol?: ProtocolVersions): Promise<void>
  stopServer(index: number): Promise<void>
  startServer(index: number, protocol?: ProtocolVersions): Promise<void>
  close(): Promise<void>
}

interface Teardown {
  teardown(work: () => Promise<void>): unknown
}

const masterAddress = 'master:7000'
const log = process.env['SHOAL_TEST_LOG'] === undefined ? silentLog : stderrLog('debug', 'test')

export const startInProcessCluster = async (
  t: Teardown,
  options: { servers?: number; config?: MasterConfig } = {},
): Promise<InProcessCluster> => {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-in-process-'))
  const network = memoryNetwork()
  const kv = memoryKv()
  const fileSystems: FileSystem[] = []
  const servers: (Part | undefined)[] = []
  let master: Part | undefined
  const common = { clock: realClock, random: realRandom, log }

  const cluster: InProcessCluster = {
    network,
    masterAddress,
    kv,
    mount: async ({ limits, rootPath, caching, accessTimes, protocol } = {}) => {
      const host = `client${fileSystems.length + 1}`
      const transport = network.transport(host)
      const fileSystem = await openFileSystem({
        ...common,
        masterAddress,
        host,
        mountPoint: `/mnt/${host}`,
        pid: process.pid,
        rpc: transport,
        bulk: transport,
        connectMs: 5000,
        ...(limits === undefined ? {} : { limits }),
        ...(rootPath === undefined ? {} : { rootPath }),
        ...(caching === undefined ? {} : { caching }),
        ...(accessTimes === undefined ? {} : { accessTimes }),
        ...(protocol === undefined ? {} : { protocol }),
      })
      fileSystems.push(fileSystem)
      return fileSystem
    },
    stopMaster: async () => {
      await master?.close()
      master = undefined
    },
    startMaster: async (protocol) => {
      master = await startMaster({
        ...common,
        kv,
        rpc: network.transport('master'),
        listenAddress: masterAddress,
        config: {
          sessionLeaseMs: 2000,
          repairDelayMs: 1000,
          ...options.config,
          ...(protocol === undefined ? {} : { protocol }),
        },
      })
    },
    stopServer: async (index) => {
      await servers[index]?.close()
      servers[index] = undefined
    },
    startServer: async (index, protocol) => {
      const host = `server${index}`
      const transport = network.transport(host)
      servers[index] = await startChunkServer({
        ...common,
        dataDirectory: join(directory, host),
        masterAddress,
        listenAddress: `${host}:${7100 + index}`,
        rack: '',
        host,
        disk: realDisk,
        rpc: transport,
        bulk: transport,
        ...(protocol === undefined ? {} : { protocol }),
      })
    },
    close: async () => {
      for (const fileSystem of fileSystems) await fileSystem.close()
      await master?.close()
      await Promise.all(servers.map(async (server) => server?.close()))
      await rm(directory, { recursive: true, force: true })
    },
  }
  t.teardown(() => cluster.close())
  await cluster.startMaster()
  for (let index = 0; index < (options.servers ?? 3); index++) await cluster.startServer(index)
  return cluster
}

/** An ordinary caller. */
export const caller = (
  signal: AbortSignal = new AbortController().signal,
  { pid = process.pid }: { pid?: number } = {},
): Context => ({
  uid: 0,
  gid: 0,
  pid,
  umask: 0o022,
  signal,
})
