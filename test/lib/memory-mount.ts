/**
 * Mounts a memoryFileSystem at the directory given as the argument, and serves it until SIGTERM or an unmount from outside; a
 * program of its own, since a process must not touch a mount that it serves. Prints JSON lines: {"mounted":…} when it is ready and
 * {"ended":…} with what was left in the file system.
 *
 * Looking up the names in `troubles` fails in a special way. With VALIDITY_MS=Infinity the kernel caches for ever; looking up
 * "truncate:NAME" or "unlink:NAME" in the root then changes that file as another mount would, "tell:NAME" invalidates it.
 */
import { mountFileSystem } from '../../mount/mount.ts'
import type { Context } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import { asIno } from '../../src/domain/ids.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { realClock } from '../../src/platform/clock.ts'
import { stderrLog } from '../../src/platform/log.ts'
import { memoryFileSystem } from './memory-file-system.ts'

const print = (line: object): void => {
  process.stdout.write(
    `${JSON.stringify(line, (_key, value: unknown) => (typeof value === 'bigint' ? Number(value) : value))}\n`,
  )
}

const directory = process.argv[2]
if (directory === undefined) throw new Error('usage: memory-mount DIR [OPTION…]')

const fileSystem = memoryFileSystem({ validityMs: Number(process.env['VALIDITY_MS'] ?? 0) })
const troubles = new Map<string, Error>([
  ['trouble-bug', new TypeError('a bug, on purpose')],
  ['trouble-code', new PosixError('EXDEV')],
])
const lookup = fileSystem.lookup.bind(fileSystem)
/** The inodes that were changed, by name. */
const changed = new Map<string, Ino>()
const inoOf = async (context: Context, name: string): Promise<Ino> => {
  const { ino } = (await lookup(context, fileSystem.root, Buffer.from(name))).attributes
  fileSystem.forget(ino, 1n)
  return ino
}
const change = async (context: Context, what: string, name: string): Promise<void> => {
  const ino = changed.get(name) ?? (await inoOf(context, name))
  changed.set(name, ino)
  if (what === 'truncate') await fileSystem.setattr(context, ino, { size: 1n })
  if (what === 'unlink') await fileSystem.unlink(context, fileSystem.root, Buffer.from(name))
  if (what === 'tell') {
    void fileSystem.invalidations?.forgetAttributes(ino)
    void fileSystem.invalidations?.dropData(ino, { offset: 0n, length: -1n })
    if (fileSystem.invalidations?.canForgetNames === true) void fileSystem.invalidations.forgetNames(fileSystem.root)
    // What the kernel does not have is no error.
    void fileSystem.invalidations?.forgetAttributes(asIno(999_999n))
    void fileSystem.invalidations?.dropData(asIno(999_999n), { offset: 0n, length: 1n })
  }
}
fileSystem.lookup = async (context, parent, name) => {
  const [what, which] = name.toString().split(':')
  if (what !== undefined && which !== undefined) await change(context, what, which)
  const trouble = troubles.get(name.toString())
  if (trouble !== undefined) throw trouble
  return await lookup(context, parent, name)
}

try {
  const mounted = await mountFileSystem({
    driver: process.env['DRIVER'] === 'fuse-native' ? 'fuse-native' : 'kernel',
    fileSystem,
    mountPoint: directory,
    options: process.argv.slice(3),
    fsName: 'memory',
    log: stderrLog(process.env['LOG'] === 'debug' ? 'debug' : 'error', 'memory-mount'),
    clock: realClock,
  })
  print({ mounted: mounted.mountPoint, connection: mounted.connection })
  process.on('SIGTERM', () => void mounted.unmount())
  await mounted.done
  print({ ended: fileSystem.counts() })
} catch (caught) {
  print({ failed: (caught as Error).name, message: (caught as Error).message })
  process.exitCode = 1
}
