/** Attributes, link targets and extended attributes. What is known under leases is answered from here. */
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { checkXattrName, isTrustedName } from '../domain/xattr-names.ts'
import type { SetattrRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { KnownAttributes } from './cached.ts'
import type { ClientCore } from './client-core.ts'
import type { Context, Entry, SetattrChanges } from './file-system.ts'
import { LastSeen } from './last-seen.ts'
import { callerOf } from './requests.ts'
import type { Operation } from './requests.ts'

/** Made once, and not thrown: it is the answer for each file that is written. */
const noData = new PosixError('ENODATA')

export class InodeOperations {
  readonly #core: ClientCore
  readonly #root: LastSeen<KnownAttributes>

  constructor(core: ClientCore) {
    this.#core = core
    this.#root = new LastSeen(core.clock, () => core.isMasterAway())
  }

  getattr(context: Context, ino: Ino): Promise<Entry> {
    const known = this.#core.known(ino)
    if (known !== undefined) {
      this.#core.leases.touch(ino)
      return Promise.resolve(this.#core.entry(known, 0))
    }
    return this.#core.run(context, async (signal) => {
      const end = this.#core.frontEnd.asks(ino)
      try {
        const attributes = ino === this.#core.root ? this.lookAtRoot(signal) : this.ask(ino, signal)
        return this.#core.entry(await attributes, 0)
      } finally {
        end()
      }
    })
  }

  lookAtRoot(signal: AbortSignal): Promise<KnownAttributes> {
    return this.#root.look(this.ask(this.#core.root, signal))
  }

  /** The attributes as the master has them now. */
  async ask(ino: Ino, signal: AbortSignal): Promise<KnownAttributes> {
    const { attributes, lease } = await this.#core.call(
      { $case: 'getattr', value: { ino } },
      'attributesAndLease',
      signal,
    )
    return this.#core.learn(attributes, lease)
  }

  /** Changes attributes at the master. What is buffered is the caller's business. `known`: its outcome is, however late. */
  async change(request: SetattrRequest, signal: AbortSignal, known?: () => void): Promise<Entry> {
    const here = this.#core.writeBehind.setattr(request)
    if (here !== undefined) {
      if (request.size !== undefined) this.#core.inodes.get(asIno(request.ino))?.dropLayout()
      known?.()
      return this.#core.unbelievedEntry(here, 0)
    }
    const operation: Operation = { $case: 'setattr', value: request }
    const ino = asIno(request.ino)
    const under = this.#core.leases.cached(ino)
    const end = this.#core.changesInFlight.begin([ino])
    const { attributes, lease } = await this.#core.call(operation, 'attributesAndLease', signal, {
      outcome: (result) => {
        end()
        if (result?.$case === 'attributesAndLease') {
          if (request.size !== undefined) this.#core.inodes.get(ino)?.dropLayout()
          this.#core.learnChanged([result.value])
        }
        known?.()
      },
    })
    return this.#core.unbelievedEntry(this.#core.learn(attributes, lease, under), 0)
  }

  readlink(context: Context, ino: Ino): Promise<Buffer> {
    const known = this.#core.leases.usableCached(ino)?.target
    if (known !== undefined) {
      this.#core.wasRead(ino)
      return Promise.resolve(Buffer.from(known))
    }
    return this.#core.run(context, async (signal) => {
      const target = await this.#core.call({ $case: 'readlink', value: { ino } }, 'value', signal)
      // A target never changes.
      const cached = this.#core.leases.cached(ino)
      if (cached !== undefined) cached.target = Buffer.from(target)
      this.#core.wasRead(ino)
      return target
    })
  }

  async getxattr(context: Context, ino: Ino, name: Buffer): Promise<Buffer> {
    checkXattrName(name)
    // The kernel asks for security.capability before the first write to each file, and for the access list to check permissions.
    if (this.#core.known(ino)?.hasXattrs === false) return Promise.reject(noData)
    return this.#core.run(context, (signal) =>
      this.#core.call({ $case: 'getxattr', value: { ino, name } }, 'value', signal),
    )
  }

  setxattr(
    context: Context,
    ino: Ino,
    name: Buffer,
    value: Buffer,
    { flags, killSgid }: { flags: number; killSgid: boolean },
  ): Promise<void> {
    const request = { ino, name, value, flags, caller: callerOf(context), killSgid }
    return this.#changeXattrs(context, ino, { $case: 'setxattr', value: request })
  }

  listxattr(context: Context, ino: Ino): Promise<Buffer[]> {
    if (this.#core.known(ino)?.hasXattrs === false) return Promise.resolve([])
    return this.#core.run(context, async (signal) => {
      const { names } = await this.#core.call({ $case: 'listxattr', value: { ino } }, 'names', signal)
      return context.uid === 0 ? names : names.filter((name) => !isTrustedName(name))
    })
  }

  removexattr(context: Context, ino: Ino, name: Buffer): Promise<void> {
    return this.#changeXattrs(context, ino, { $case: 'removexattr', value: { ino, name } })
  }

  /** The kernel has forgotten the inode. A lease on what is gone is of no use to anybody. */
  forgotten(ino: Ino): void {
    const { leases, inodes, journal } = this.#core
    const inode = inodes.get(ino)
    if (inode !== undefined) inodes.forgetIdle(inode)
    const cached = leases.cached(ino)
    if (cached?.attributes?.nlink !== 0) return
    if (inode !== undefined && (inode.handles > 0 || inode.opening > 0)) return
    // Nobody is in a hurry: the lease must not push out of the journal what goes with it.
    if (journal.isSettled(cached.journaled)) leases.giveBack(ino)
    else this.#core.inBackground(journal.settledByItself(cached.journaled).then(() => this.forgotten(ino)))
  }

  #changeXattrs(context: Context, ino: Ino, operation: Operation): Promise<void> {
    return this.#core.run(context, async (signal) => {
      const end = this.#core.changesInFlight.begin([ino])
      await this.#core.call(operation, 'changed', signal, {
        outcome: (result) => {
          end()
          if (result?.$case === 'changed') this.#core.learnChanged(result.value.inodes)
        },
      })
    })
  }
}

export const setattrRequest = (context: Context, ino: Ino, changes: SetattrChanges): SetattrRequest => {
  const { atime, mtime, ctime, killPrivileges, mode, uid, gid, size, flags, copies } = changes
  return {
    ino,
    caller: callerOf(context),
    atime: atime === 'now' ? undefined : atime,
    mtime: mtime === 'now' ? undefined : mtime,
    atimeNow: atime === 'now',
    mtimeNow: mtime === 'now',
    ctime,
    killPrivileges: killPrivileges ?? false,
    ...(mode === undefined ? {} : { mode }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
    ...(size === undefined ? {} : { size }),
    ...(flags === undefined ? {} : { flags }),
    ...(copies === undefined ? {} : { copies }),
  }
}
