/**
 * A mount of a real cluster that counts the operations which the kernel asks of it; a program of its own. Arguments: the master's
 * address and the directory. Prints JSON lines: {"mounted":…} when it is ready, and the counts for each line that it reads. Unmounts when its
 * input ends.
 */
import { hostname } from 'node:os'
import { createInterface } from 'node:readline'
import { mountFileSystem } from '../../mount/mount.ts'
import type { FileSystem } from '../../src/client/file-system.ts'
import { openFileSystem } from '../../src/client/open-file-system.ts'
import { realClock } from '../../src/platform/clock.ts'
import { framedTransport } from '../../src/platform/framed-transport.ts'
import { grpcTransport } from '../../src/platform/grpc-transport.ts'
import { stderrLog } from '../../src/platform/log.ts'
import { realRandom } from '../../src/platform/random.ts'

const [masterAddress, directory] = process.argv.slice(2)
if (masterAddress === undefined || directory === undefined) throw new Error('usage: counting-mount MASTER DIR')

const log = stderrLog('warn', 'counting-mount')
const rpc = grpcTransport({ log })
const bulk = framedTransport({ log })
const fileSystem = await openFileSystem({
  masterAddress,
  host: hostname(),
  mountPoint: directory,
  pid: process.pid,
  clock: realClock,
  random: realRandom,
  rpc,
  bulk,
  log,
})

const counts: Record<string, number> = {}
const counted = new Proxy(fileSystem, {
  get: (target, key) => {
    const value = target[key as keyof FileSystem] as unknown
    if (typeof value !== 'function') return value
    return (...args: unknown[]): unknown => {
      counts[String(key)] = (counts[String(key)] ?? 0) + 1
      return Reflect.apply(value as (...args: unknown[]) => unknown, target, args)
    }
  },
})

const mounted = await mountFileSystem({
  driver: 'kernel',
  fileSystem: counted,
  mountPoint: directory,
  options: [],
  fsName: 'counting',
  log,
  clock: realClock,
})
process.stdout.write(`${JSON.stringify({ mounted: directory })}\n`)
const lines = createInterface(process.stdin)
lines.on('line', () => process.stdout.write(`${JSON.stringify(counts)}\n`))
lines.on('close', () => void mounted.unmount())
await mounted.done
await fileSystem.close()
await bulk.close()
await rpc.close()
process.exit(0)
