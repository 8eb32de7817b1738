/** Opens the file system that a master serves: the session, the data path, and the FileSystem over both. */
import { relatime } from '../domain/access-time.ts'
import type { AccessTimePolicy } from '../domain/access-time.ts'
import { UsageError } from '../domain/errors.ts'
import type { ProtocolVersions } from '../domain/protocol-versions.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import type { Transport } from '../platform/transport.ts'
import { fullCaching } from './caching.ts'
import type { Caching } from './caching.ts'
import { chunkMaster } from './chunk-master.ts'
import { ChunkConnections } from './chunks/connections.ts'
import { ChunkReader } from './chunks/reader.ts'
import { ChunkWriter } from './chunks/writer.ts'
import { ClientFileSystem, defaultLimits } from './client-file-system.ts'
import type { FileSystemLimits } from './client-file-system.ts'
import { Locations } from './locations.ts'
import { Session } from './session.ts'

const connectMsDefault = 15_000

export interface OpenFileSystemOptions {
  /** host:port */
  masterAddress: string
  /** Directory of the namespace that becomes the root; default all of it. */
  rootPath?: string
  /** For people, and to find near replicas: name of this machine, where it is mounted, which process serves it. */
  host: string
  mountPoint: string
  pid: number
  rack?: string
  clock: Clock
  random: Random
  /** gRPC: the session, and chunk servers without a bulk lane. */
  rpc: Transport
  /** Framed TCP to chunk servers. */
  bulk: Transport
  log: Log
  faults?: Faults
  limits?: Partial<FileSystemLimits>
  /** Which readings are noted as atime; default: relatime. */
  accessTimes?: AccessTimePolicy
  /** Default: all of it. */
  caching?: Caching
  /** How long to wait for the first welcome. */
  connectMs?: number
  /** Other versions of the protocol than this program's, for tests of mixed clusters. */
  protocol?: ProtocolVersions
}

/**
 * Resolves when the master has welcomed this client. UsageError, one sentence: no master answers, or it refuses.
 * The transports stay the caller's; close them after the file system.
 */
export const openFileSystem = async (options: OpenFileSystemOptions): Promise<ClientFileSystem> => {
  const { masterAddress, host, mountPoint, pid, rack, clock, random, rpc, bulk, log } = options
  const caching = options.caching ?? fullCaching
  const locations = new Locations()
  const limits = { ...defaultLimits, ...options.limits }
  const fileSystem = new ClientFileSystem({
    clock,
    log,
    limits,
    accessTimes: options.accessTimes ?? relatime,
    caching,
    locations,
    faults: options.faults,
  })
  const giveUp = new AbortController()
  const timer = clock.after(options.connectMs ?? connectMsDefault, () => giveUp.abort())
  let session: Session
  try {
    session = await Session.open(
      {
        masterAddress,
        rootPath: options.rootPath ?? '/',
        wantsLeases: caching.leases,
        host,
        mountPoint,
        pid,
        clock,
        random,
        transport: rpc,
        log,
        protocol: options.protocol,
      },
      fileSystem.hooks,
      giveUp.signal,
    )
  } catch (caught) {
    if (giveUp.signal.aborted) {
      throw new UsageError(`no Shoal master answers at ${masterAddress}; check the address and that the master runs`)
    }
    throw caught
  } finally {
    timer.cancel()
  }
  const connections = new ChunkConnections({ rpc, bulk, clock, log })
  const master = chunkMaster(session, locations, log)
  const { chunkBytesMax } = limits
  const copiesMin = (): number => session.welcome.copiesMin
  const writer = new ChunkWriter({ connections, master, clock, log, copiesMin, chunkBytesMax })
  const reader = new ChunkReader({ connections, master, clock, log, place: { host, rack: rack ?? '' } })
  fileSystem.start({ session, connections, writer, reader })
  return fileSystem
}
