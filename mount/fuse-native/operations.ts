/**
 * The operations of libfuse 2 as calls of the FileSystem port: paths become inodes, numbers become handles, results what the addon takes. No
 * semantics of files here.
 *
 * Left out, so that the kernel does the right thing: `create` (it does not tell its flags; without it the kernel makes the file by mknod,
 * which fails where there is one, and opens it with all flags), `access` (default_permissions), `opendir` (directories are read
 * without being opened).
 */
import type { Attributes, FileSystem, Handle } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import { giveBackBuffer } from '../../src/platform/buffer-pool.ts'
import type { Caller } from '../caller.ts'
import { modificationTimeOf } from './binding.ts'
import type { Locals } from './binding.ts'
import { bytesOf, Paths } from './paths.ts'
import { encodeListed, encodeStat, encodeStatfs, noStat, noStatfs, signedOf, timespecOf, unsignedOf } from './stat.ts'

export interface Call {
  caller: Caller
  locals: Locals
}

/** A count, or what goes along with success instead of what goes along with an error. */
type Answer = number | { out: readonly unknown[] } | void

export interface Operation {
  run(call: Call, args: readonly unknown[]): Promise<Answer>
  /** What goes along with an error, or with a count. */
  out(args: readonly unknown[]): readonly unknown[]
}

const openAppend = 0o2000
/** O_DSYNC, which O_SYNC includes. */
const openDsync = 0o10000
/** An id that chown(2) leaves as it is. */
const unchanged = 0xffff_ffff
const handleMax = 0x7fff_ffff
/** Access lists: libfuse 2 cannot have them applied, so they are not to be seen. */
const aclPrefix = 'system.posix_acl_'

const xattrName = (name: string): Buffer => {
  if (name.startsWith(aclPrefix)) throw new PosixError('EOPNOTSUPP')
  return bytesOf(name)
}

/** The arguments of an operation are what the addon passes for it. */
const operation = <Args extends readonly unknown[]>(
  run: (call: Call, ...args: Args) => Promise<Answer>,
  out: (args: NoInfer<Args>) => readonly unknown[] = () => [],
): Operation => ({
  run: (call, args) => run(call, ...(args as Args)),
  out: (args) => out(args as Args),
})

interface Open {
  ino: Ino
  handle: Handle
  append: boolean
  sync: boolean
}

/** Open files by numbers of 31 bits, which is what the addon keeps of a handle. 0 is none. */
class OpenFiles {
  readonly #files = new Map<number, Open>()
  #last = 0

  add(open: Open): number {
    do this.#last = this.#last === handleMax ? 1 : this.#last + 1
    while (this.#files.has(this.#last))
    this.#files.set(this.#last, open)
    return this.#last
  }

  get(number: number): Open {
    const open = this.#files.get(number)
    if (open === undefined) throw new PosixError('EBADF')
    return open
  }

  remove(number: number): Open {
    const open = this.get(number)
    this.#files.delete(number)
    return open
  }
}

/** By name. */
export const operationsOf = (fs: FileSystem): ReadonlyMap<string, Operation> => {
  const paths = new Paths(fs)
  const files = new OpenFiles()

  const statOf = (attributes: Attributes): Answer => ({ out: [encodeStat(attributes)] })

  /** Copies a value to where libfuse wants it; without room it asks for the length. */
  const answerSized = (room: Buffer, value: Buffer): number => {
    if (room.length > 0 && value.length > room.length) throw new PosixError('ERANGE')
    value.copy(room)
    return value.length
  }

  return new Map([
    [
      'getattr',
      operation(
        ({ caller }, path: string) =>
          paths.at(caller, path, async (ino, attributes) =>
            statOf(attributes ?? (await fs.getattr(caller, ino)).attributes),
          ),
        () => [noStat],
      ),
    ],
    [
      'fgetattr',
      operation(
        async ({ caller }, _path: string, number: number) => {
          const { ino, handle } = files.get(number)
          return statOf((await fs.getattr(caller, ino, handle)).attributes)
        },
        () => [noStat],
      ),
    ],
    [
      'chmod',
      operation(async ({ caller }, path: string, mode: number) => {
        await paths.at(caller, path, (ino) => fs.setattr(caller, ino, { mode }))
      }),
    ],
    [
      'chown',
      operation(async ({ caller }, path: string, uid: number, gid: number) => {
        const changes = { ...(uid === unchanged ? {} : { uid }), ...(gid === unchanged ? {} : { gid }) }
        await paths.at(caller, path, (ino) => fs.setattr(caller, ino, changes))
      }),
    ],
    [
      'truncate',
      operation(async ({ caller }, path: string, low: number, high: number) => {
        await paths.at(caller, path, (ino) => fs.setattr(caller, ino, { size: unsignedOf(low, high) }))
      }),
    ],
    [
      'ftruncate',
      operation(async ({ caller }, _path: string, number: number, low: number, high: number) => {
        const { ino, handle } = files.get(number)
        await fs.setattr(caller, ino, { size: unsignedOf(low, high) }, handle)
      }),
    ],
    [
      'utimens',
      operation(async ({ caller, locals }, path: string, low: number, high: number) => {
        const atimeMs = signedOf(low, high)
        const mtimeMs = modificationTimeOf(locals, atimeMs)
        if (mtimeMs === undefined) throw new PosixError('EOPNOTSUPP')
        const changes = { atime: timespecOf(atimeMs), mtime: timespecOf(mtimeMs) }
        await paths.at(caller, path, (ino) => fs.setattr(caller, ino, changes))
      }),
    ],

    [
      'readlink',
      operation(
        ({ caller }, path: string) =>
          paths.at(caller, path, async (ino) => {
            const target = await fs.readlink(caller, ino)
            const text = target.toString()
            if (!Buffer.from(text).equals(target)) throw new PosixError('EINVAL')
            return { out: [text] }
          }),
        () => [''],
      ),
    ],
    [
      'mknod',
      operation(async ({ caller }, path: string, mode: number, rdev: number) => {
        paths.forget(await paths.in(caller, path, (parent, name) => fs.mknod(caller, parent, name, mode, rdev)))
      }),
    ],
    [
      'mkdir',
      operation(async ({ caller }, path: string, mode: number) => {
        paths.forget(await paths.in(caller, path, (parent, name) => fs.mkdir(caller, parent, name, mode)))
      }),
    ],
    [
      'symlink',
      operation(async ({ caller }, target: string, path: string) => {
        const bytes = bytesOf(target)
        paths.forget(await paths.in(caller, path, (parent, name) => fs.symlink(caller, parent, name, bytes)))
      }),
    ],
    [
      'link',
      operation(async ({ caller }, source: string, target: string) => {
        const entry = await paths.at(caller, source, (ino) =>
          paths.in(caller, target, (parent, name) => fs.link(caller, ino, parent, name)),
        )
        paths.forget(entry)
      }),
    ],
    [
      'unlink',
      operation(({ caller }, path: string) =>
        paths.in(caller, path, (parent, name) => fs.unlink(caller, parent, name)),
      ),
    ],
    [
      'rmdir',
      operation(({ caller }, path: string) => paths.in(caller, path, (parent, name) => fs.rmdir(caller, parent, name))),
    ],
    [
      'rename',
      operation(({ caller }, from: string, to: string) =>
        paths.in(caller, from, (parent, name) =>
          paths.in(caller, to, (targetParent, targetName) =>
            fs.rename(caller, { parent, name }, { parent: targetParent, name: targetName }, 0),
          ),
        ),
      ),
    ],

    [
      'open',
      operation(
        ({ caller }, path: string, flags: number) =>
          paths.at(caller, path, async (ino) => {
            const { handle } = await fs.open(caller, ino, flags)
            const append = (flags & openAppend) !== 0
            const sync = (flags & openDsync) !== 0
            return { out: [files.add({ ino, handle, append, sync })] }
          }),
        () => [0],
      ),
    ],
    [
      'read',
      operation(
        async ({ caller }, _path: string, number: number, room: Buffer, length: number, low: number, high: number) => {
          const data = await fs.read(caller, files.get(number).handle, unsignedOf(low, high), length)
          const count = data.copy(room)
          giveBackBuffer(data)
          return count
        },
        ([, , room]) => [0, room.buffer],
      ),
    ],
    [
      'write',
      operation(
        async ({ caller }, _path: string, number: number, data: Buffer, length: number, low: number, high: number) => {
          const { handle, append, sync } = files.get(number)
          // libfuse does not tell that the kernel wants it (CAP_FSETID is missing), but who calls is who mounted.
          const killPrivileges = caller.uid !== 0
          await fs.write(caller, handle, unsignedOf(low, high), data, { killPrivileges, append, sync })
          return length
        },
        ([, , data]) => [0, data.buffer],
      ),
    ],
    [
      'flush',
      // Locks are the kernel's own, so no owner has any here.
      operation(({ caller }, _path: string, number: number) => fs.flush(caller, files.get(number).handle, 0n)),
    ],
    [
      'fsync',
      operation(({ caller }, _path: string, dataOnly: number, number: number) =>
        fs.fsync(caller, files.get(number).handle, dataOnly !== 0),
      ),
    ],
    ['release', operation((_call, _path: string, number: number) => fs.release(files.remove(number).handle))],

    [
      'readdir',
      operation(
        ({ caller }, path: string) =>
          paths.at(caller, path, async (ino) => {
            const names: string[] = []
            const stats: Uint32Array[] = []
            let cookie = 0n
            for (let before = -1; before < names.length;) {
              before = names.length
              await fs.readdir(caller, ino, cookie, { plus: false }, (entry) => {
                names.push(entry.name.toString())
                stats.push(encodeListed(entry.ino, entry.type))
                cookie = entry.cookie
                return true
              })
            }
            return { out: [names, stats] }
          }),
        () => [[], []],
      ),
    ],
    ['fsyncdir', operation(({ caller }, path: string) => paths.at(caller, path, (ino) => fs.fsyncdir(caller, ino)))],
    [
      'statfs',
      operation(
        async ({ caller }) => ({ out: [encodeStatfs(await fs.statfs(caller))] }),
        () => [noStatfs],
      ),
    ],

    [
      'getxattr',
      operation(
        async ({ caller }, path: string, name: string, room: Buffer) => {
          const bytes = xattrName(name)
          return answerSized(room, await paths.at(caller, path, (ino) => fs.getxattr(caller, ino, bytes)))
        },
        ([, , room]) => [room.buffer],
      ),
    ],
    [
      'listxattr',
      operation(
        async ({ caller }, path: string, room: Buffer) => {
          const found = await paths.at(caller, path, (ino) => fs.listxattr(caller, ino))
          const shown = found.filter((name) => !name.toString('latin1').startsWith(aclPrefix))
          return answerSized(room, Buffer.concat(shown.flatMap((name) => [name, Buffer.of(0)])))
        },
        ([, room]) => [room.buffer],
      ),
    ],
    [
      'setxattr',
      operation(
        async ({ caller }, path: string, name: string, value: Buffer, _position: number, flags: number) => {
          const bytes = xattrName(name)
          // What is stored must not be the memory of libfuse, which ends with the answer.
          const kept = Buffer.from(value)
          await paths.at(caller, path, (ino) => fs.setxattr(caller, ino, bytes, kept, { flags, killSgid: false }))
        },
        ([, , value]) => [value.buffer],
      ),
    ],
    [
      'removexattr',
      operation(async ({ caller }, path: string, name: string) => {
        const bytes = xattrName(name)
        await paths.at(caller, path, (ino) => fs.removexattr(caller, ino, bytes))
      }),
    ],
  ])
}
