/**
 * Which files are open: handles of this client, and what the master knows of them. An inode that has lost its last name is kept by the
 * master for the sessions that it knows to have it open.
 *
 * Opening under a lease tells the master nothing: whoever removes the last name needs that lease back, and the return says that the inode
 * is open (`Inode.register`). So does Hello. What this client removes itself says so before in the journal, or is kept open by the master
 * because of the lease (`ClientCore.keptOpen`). Without a lease the master is told of the first handle. Whatever it was told ends with
 * the last one.
 */
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { checkMutable, checkUnrestricted } from '../domain/inode-flags.ts'
import { opensUnderLeasesVersion } from '../domain/protocol-versions.ts'
import { isDirectory, isRegular, isSymlink, S_IFREG, S_IRUSR, S_IWUSR } from '../domain/mode.ts'
import type { OpenFile } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ClientCore } from './client-core.ts'
import type { FileChanges } from './file-changes.ts'
import type { FileLocks } from './file-locks.ts'
import { NoSuchName } from './file-system.ts'
import type { Context, Entry, Handle, Opened } from './file-system.ts'
import type { Flusher } from './flusher.ts'
import type { FileHandle, Handles } from './handles.ts'
import type { Inode } from './inode.ts'
import { setattrRequest } from './inode-operations.ts'
import type { InodeOperations } from './inode-operations.ts'
import type { Made, Namespace } from './namespace.ts'
import type { Place } from './names.ts'
import { openFlag } from './open-flags.ts'
import { callerOf, expectResult } from './requests.ts'
import type { Operation, Result } from './requests.ts'
import { orAborted } from './waiting.ts'

const createAttemptsMax = 10

export interface OpenFilesOptions {
  core: ClientCore
  handles: Handles
  flusher: Flusher
  fileChanges: FileChanges
  fileLocks: FileLocks
  inodeOperations: InodeOperations
  namespace: Namespace
}

export class OpenFiles {
  readonly #core: ClientCore
  readonly #handles: Handles
  readonly #flusher: Flusher
  readonly #fileChanges: FileChanges
  readonly #fileLocks: FileLocks
  readonly #inodeOperations: InodeOperations
  readonly #namespace: Namespace

  constructor({ core, handles, flusher, fileChanges, fileLocks, inodeOperations, namespace }: OpenFilesOptions) {
    this.#core = core
    this.#handles = handles
    this.#flusher = flusher
    this.#fileChanges = fileChanges
    this.#fileLocks = fileLocks
    this.#inodeOperations = inodeOperations
    this.#namespace = namespace
  }

  open(context: Context, ino: Ino, flags: number): Promise<Opened> {
    return this.#core.run(context, (signal) =>
      this.#core.withInode(ino, (inode) =>
        this.#opening(inode, signal, () => this.#newHandle(context, inode, flags, signal)),
      ),
    )
  }

  create(context: Context, place: Place, mode: number, flags: number): Promise<{ entry: Entry; opened: Opened }> {
    const { parent, name } = place
    const value = { parent, name, mode: S_IFREG | (mode & 0o7777), rdev: 0, caller: callerOf(context), open: true }
    const here = this.#createHere(context, place, value.mode, flags)
    if (here !== undefined) return Promise.resolve(here)
    return this.#core.run(context, async (signal) => {
      for (let attempt = 1; ; attempt++) {
        let made: Made
        try {
          made = await this.#namespace.make(place, [], { $case: 'mknod', value }, signal, this.#closeLate)
        } catch (caught) {
          const exists = caught instanceof PosixError && caught.code === 'EEXIST'
          if (!exists || (flags & openFlag.EXCL) !== 0 || attempt === createAttemptsMax) throw caught
          const existing = await this.#openExisting(context, place, flags, signal)
          if (existing !== undefined) return existing
          continue
        }
        const { attributes, entryMs } = made
        return this.#core.withInode(attributes.ino, async (inode) => {
          inode.opened = 'yes'
          // Nothing was ever written to it.
          inode.unsyncedComplete = true
          const opened = await this.#newHandle(context, inode, flags & ~openFlag.TRUNC, signal)
          return { entry: this.#core.entry(attributes, entryMs), opened }
        })
      }
    })
  }

  #createHere(
    context: Context,
    place: Place,
    mode: number,
    flags: number,
  ): { entry: Entry; opened: Opened } | undefined {
    const here = this.#core.writeBehind.make(context, place, { kind: 'mknod', mode, open: true })
    if (here === undefined) return undefined
    const { attributes, entryMs } = here.made
    const inode = this.#core.inodes.use(attributes.ino)
    inode.opened = 'yes'
    inode.creation = here.entry
    inode.unsyncedComplete = true
    const { id } = this.#handles.addFile(inode, flags & ~openFlag.TRUNC)
    const opened = { handle: id, keepCache: this.#keepsPages(inode.ino) }
    this.#core.inodes.release(inode)
    return { entry: this.#core.entry(attributes, entryMs), opened }
  }

  tmpfile(context: Context, parent: Ino, mode: number, flags: number): Promise<{ entry: Entry; opened: Opened }> {
    const value = { parent, mode: mode & 0o7777, caller: callerOf(context) }
    return this.#core.run(context, async (signal) => {
      const options = { late: this.#closeLate }
      const reply = await this.#core.call({ $case: 'tmpfile', value }, 'entry', signal, options)
      const { leases } = this.#core
      const attributes = this.#core.learn(reply.attributes, reply.lease)
      // It has no name by which anybody else could have come to it.
      if (leases.usable(attributes.ino, 'write')) leases.cached(attributes.ino)!.isUnseen = true
      return this.#core.withInode(attributes.ino, async (inode) => {
        inode.opened = 'yes'
        inode.unsyncedComplete = true
        const opened = await this.#newHandle(context, inode, flags & ~openFlag.TRUNC, signal)
        return { entry: this.#core.unbelievedEntry(attributes, 0), opened }
      })
    })
  }

  /** close(2) of one descriptor. */
  flush(handle: Handle, lockOwner: bigint): Promise<void> {
    const file = this.#handles.find(handle)
    if (file !== undefined && this.#isPlain(file, lockOwner)) {
      const { inode, errors } = file
      if (inode.dirty.empty) return Promise.resolve()
      return this.#flusher.close(inode).then(() => inode.errors.check(errors))
    }
    // A process that was killed closes its files, too, and its locks must be gone when it is: an interrupt is no reason to keep them.
    return this.#core.run(undefined, async (signal) => {
      const { inode, errors, flags } = this.#handles.find(handle) ?? this.#handles.file(handle)
      await this.#fileLocks.drop(inode.ino, lockOwner, 'posix', signal)
      this.#handles.file(handle)
      // What comes after a close(2) comes after the data, too; in a small file without waiting for anybody.
      if (inode.buffered) await orAborted(this.#flusher.close(inode), signal)
      // Who only reads is not told: he would take the error from those who rely on it.
      if ((flags & openFlag.ACCMODE) !== openFlag.RDONLY) inode.errors.check(errors)
    })
  }

  /** Closing it is nothing that could have to wait for the master. */
  #isPlain({ inode, errors, locksLost }: FileHandle, lockOwner: bigint): boolean {
    if (inode.stale || locksLost || inode.errors.isNews(errors) || (inode.buffered && this.#flusher.waitsAtClose))
      return false
    if (this.#fileLocks.held.holds(inode.ino, lockOwner, 'posix')) return false
    if (inode.dirty.empty) return true
    return inode.planned.kind !== 'unknown' || inode.inline !== undefined || inode.attributes?.size === 0n
  }

  release(handle: Handle, flockOwner?: bigint): Promise<void> {
    const file = flockOwner === undefined ? this.#handles.find(handle) : undefined
    if (file !== undefined) {
      const { inode } = this.#handles.removeFile(handle)
      inode.handles--
      if (inode.handles === 0) this.#core.inBackground(this.#closeAtMaster(inode))
      return Promise.resolve()
    }
    return this.#core.run(undefined, async (signal) => {
      const { inode } = this.#handles.removeFile(handle)
      inode.users++
      try {
        if (flockOwner !== undefined) await this.#fileLocks.drop(inode.ino, flockOwner, 'flock', signal)
      } finally {
        inode.handles--
        if (inode.handles === 0) this.#core.inBackground(this.#closeAtMaster(inode))
        this.#core.inodes.release(inode)
      }
    })
  }

  /** For Hello. */
  holdings(): OpenFile[] {
    const all = [...this.#core.inodes.all()]
    for (const inode of all) inode.register()
    return all
      .filter(({ opened, creation }) => opened === 'yes' && creation?.isSent !== false)
      .map(({ ino }) => ({ ino }))
  }

  /** In a new session files that are open here are opened again. One that is gone meanwhile gives ESTALE from now on. */
  reopen(): void {
    for (const inode of this.#core.inodes.all()) {
      if (inode.handles === 0 || inode.opened !== 'no') continue
      inode.opened = this.#sendOpen(inode)
      inode.opened.catch((cause: unknown) => {
        if (cause instanceof PosixError) inode.stale = true
        this.#core.log.warn('an open file could not be opened again', { ino: inode.ino, cause })
      })
    }
  }

  /** Opens at the master, then makes a handle; when there is none in the end, it is closed again. */
  async #opening<T>(inode: Inode, signal: AbortSignal, makeHandle: () => Promise<T>): Promise<T> {
    inode.opening++
    try {
      await orAborted(this.#openAtMaster(inode), signal)
      return await makeHandle()
    } finally {
      inode.opening--
      if (inode.handles === 0) this.#core.inBackground(this.#closeAtMaster(inode))
    }
  }

  /** It is kept for the session from now on. Shared by all who open it at the same time, so no signal. */
  async #openAtMaster(inode: Inode): Promise<void> {
    while (inode.closing !== undefined) await inode.closing
    if (inode.opened === 'no') {
      if (this.#isKeptByLease(inode.ino)) return
      inode.opened = this.#sendOpen(inode)
    }
    if (inode.opened !== 'yes') await inode.opened
  }

  #isKeptByLease(ino: Ino): boolean {
    if (this.#core.session.welcome.protocolVersion < opensUnderLeasesVersion) return false
    return (this.#core.known(ino)?.nlink ?? 0) > 0
  }

  async #sendOpen(inode: Inode): Promise<void> {
    inode.users++
    try {
      const { attributes, lease } = await this.#core.persist(
        { $case: 'open', value: { ino: inode.ino } },
        'attributesAndLease',
      )
      inode.opened = 'yes'
      this.#core.learn(attributes, lease)
      // Whoever wanted it may have gone meanwhile.
      if (inode.handles === 0 && inode.opening === 0) this.#core.inBackground(this.#closeAtMaster(inode))
    } catch (caught) {
      inode.opened = 'no'
      throw caught
    } finally {
      this.#core.inodes.release(inode)
    }
  }

  readonly #closeLate = (result: Result): void => {
    const { attributes } = expectResult(result, 'entry')
    if (attributes === undefined) return
    const operation: Operation = { $case: 'close', value: { ino: attributes.ino } }
    this.#core.inBackground(this.#core.persist(operation, 'empty').then(() => {}))
  }

  async #newHandle(context: Context, inode: Inode, flags: number, signal: AbortSignal): Promise<Opened> {
    await this.#checkFlags(inode.ino, flags, signal)
    const { id } = this.#handles.addFile(inode, flags)
    if ((flags & openFlag.TRUNC) !== 0) {
      try {
        await this.#fileChanges.resize(inode, setattrRequest(context, inode.ino, { size: 0n }), signal)
      } catch (caught) {
        await this.release(id)
        throw caught
      }
    }
    const keepCache = this.#keepsPages(inode.ino)
    // What is read of kept pages is never asked for here, so opening counts as reading.
    if (keepCache && (flags & (openFlag.ACCMODE | openFlag.NOATIME)) === openFlag.RDONLY) this.#core.wasRead(inode.ino)
    return { handle: id, keepCache }
  }

  /** Who opens a file to change it must be allowed to by its flags (chattr(1)), which the front end does not know. EPERM. */
  async #checkFlags(ino: Ino, flags: number, signal: AbortSignal): Promise<void> {
    if ((flags & openFlag.ACCMODE) === openFlag.RDONLY && (flags & openFlag.TRUNC) === 0) return
    const attributes = this.#core.known(ino) ?? (await this.#inodeOperations.ask(ino, signal))
    if ((flags & openFlag.APPEND) === 0 || (flags & openFlag.TRUNC) !== 0) checkUnrestricted(attributes)
    else checkMutable(attributes)
  }

  /**
   * The front end drops its pages of a file at an open unless it is told to keep them. They are right when they have been read under the
   * lease that is still held: those that it has after this open are.
   */
  #keepsPages(ino: Ino): boolean {
    const cached = this.#core.leases.usableCached(ino)
    if (cached === undefined) return false
    const keeps = cached.hasPages
    cached.hasPages = true
    return keeps
  }

  /**
   * Undefined when it vanished meanwhile. The kernel checks no permissions at a create, as it takes the file for a new one. So ESTALE for who
   * may not clearly open it: the kernel looks the name up once more then, and opens what it finds in the ordinary way.
   */
  async #openExisting(
    context: Context,
    { parent, name }: Place,
    flags: number,
    signal: AbortSignal,
  ): Promise<{ entry: Entry; opened: Opened } | undefined> {
    const found = await unlessGone(this.#namespace.find(parent, name, signal))
    if (found === undefined) return undefined
    const { attributes } = found
    if (isDirectory(attributes.mode)) throw new PosixError('EISDIR')
    if (isSymlink(attributes.mode)) throw new PosixError('ELOOP')
    if (!isRegular(attributes.mode)) throw new PosixError('ENXIO')
    if (!mayClearlyOpen(context, attributes, flags)) throw new PosixError('ESTALE', 'somebody else has made the file')
    const opening = this.#core.withInode(asIno(attributes.ino), (inode) =>
      this.#opening(inode, signal, async () => {
        const opened = await this.#newHandle(context, inode, flags, signal)
        try {
          // The name is looked up again when it is used again: what leads there may have changed while the file was being opened.
          const now = this.#core.known(inode.ino) ?? (await this.#inodeOperations.ask(inode.ino, signal))
          return { entry: this.#core.unbelievedEntry(now, 0), opened }
        } catch (caught) {
          await this.release(opened.handle)
          throw caught
        }
      }),
    )
    return unlessGone(opening)
  }

  async #closeAtMaster(inode: Inode): Promise<void> {
    inode.users++
    try {
      if (inode.attributes?.nlink === 0) this.#core.vanished(inode.ino)
      // What the master does not know of yet need not be told as open; its data follows.
      const isUntold = inode.creation?.isSent === false
      if (inode.buffered && !isUntold) await this.#flusher.closed(inode)
      const wanted = inode.handles > 0 || inode.opening > 0
      if (wanted || inode.opened !== 'yes' || inode.closing !== undefined) return
      inode.opened = 'no'
      inode.stale = false
      if (this.#core.writeBehind.closed(inode)) return
      inode.closing = this.#core.persist({ $case: 'close', value: { ino: inode.ino } }, 'empty').then(
        () => {},
        (cause: unknown) => this.#core.log.debug('a file could not be closed at the master', { ino: inode.ino, cause }),
      )
      await inode.closing
      inode.closing = undefined
    } finally {
      this.#core.inodes.release(inode)
    }
  }
}

/** Undefined for what vanished. */
const unlessGone = async <T>(promise: Promise<T>): Promise<T | undefined> => {
  try {
    return await promise
  } catch (caught) {
    if (caught instanceof NoSuchName || (caught instanceof PosixError && caught.code === 'ESTALE')) return undefined
    throw caught
  }
}

/** Without a look at groups, ACLs and the rights of all others. */
const mayClearlyOpen = ({ uid }: Context, attributes: { uid: number; mode: number }, flags: number): boolean => {
  if (uid === 0) return true
  const access = flags & openFlag.ACCMODE
  const reads = access === openFlag.WRONLY ? 0 : S_IRUSR
  const writes = access === openFlag.RDONLY && (flags & openFlag.TRUNC) === 0 ? 0 : S_IWUSR
  const needed = reads | writes
  return uid === attributes.uid && (attributes.mode & needed) === needed
}
