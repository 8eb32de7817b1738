/**
 * What changes size or layout of files at the master: truncation, fallocate, copy_file_range; and setattr, which may.
 *
 * Each flushes first, under the exclusive lock of the inodes concerned. The layout that was known goes when the outcome is known, also when
 * nobody waits for it any more. What the master refuses for inline files is tried once more with the
 * content committed as extents.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import { S_ISGID, S_ISUID } from '../domain/mode.ts'
import type { AttributesAndLease, SetattrRequest } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ByteBudget } from './byte-budget.ts'
import type { ClientCore } from './client-core.ts'
import type { FileIo } from './file-io.ts'
import type { FileReader } from './file-reader.ts'
import type { Context, Entry, Handle, SetattrChanges } from './file-system.ts'
import type { Flusher } from './flusher.ts'
import { checkLocks } from './handles.ts'
import type { FileHandle, Handles } from './handles.ts'
import type { Inode } from './inode.ts'
import { setattrRequest } from './inode-operations.ts'
import type { InodeOperations } from './inode-operations.ts'
import type { Operation } from './requests.ts'
import { orAborted } from './waiting.ts'

export interface FileChangesOptions {
  core: ClientCore
  handles: Handles
  budget: ByteBudget
  flusher: Flusher
  fileReader: FileReader
  fileIo: FileIo
  inodeOperations: InodeOperations
}

/** Keeps the exclusive locks until what it gives is called, once. */
type Hold = () => () => void

export class FileChanges {
  readonly #core: ClientCore
  readonly #handles: Handles
  readonly #budget: ByteBudget
  readonly #flusher: Flusher
  readonly #fileReader: FileReader
  readonly #fileIo: FileIo
  readonly #inodeOperations: InodeOperations

  constructor({ core, handles, budget, flusher, fileReader, fileIo, inodeOperations }: FileChangesOptions) {
    this.#core = core
    this.#handles = handles
    this.#budget = budget
    this.#flusher = flusher
    this.#fileReader = fileReader
    this.#fileIo = fileIo
    this.#inodeOperations = inodeOperations
  }

  setattr(context: Context, ino: Ino, changes: SetattrChanges, handle?: Handle): Promise<Entry> {
    return this.#core.run(context, async (signal) => {
      const file = changes.size === undefined || handle === undefined ? undefined : this.#handles.file(handle)
      const request = setattrRequest(context, ino, changes)
      if (changes.atime !== undefined) await this.#core.accessTimes.settle(ino)
      if (changes.size !== undefined)
        return this.#core.withInode(ino, (inode) => this.resize(inode, request, signal, file))
      const buffered = this.#core.inodes.get(ino)
      if (buffered?.buffered !== true || changes.mtime === undefined) {
        return this.#inodeOperations.change(request, signal)
      }
      if (buffered.batches.length === 0 && buffered.lock.free) {
        const here = this.#core.writeBehind.setattr(request)
        if (here !== undefined) {
          // As below.
          buffered.localTimes = undefined
          return this.#core.unbelievedEntry(here, 0)
        }
      }
      return this.#core.withInode(ino, async (inode) => {
        const release = await inode.lock.exclusive(signal)
        try {
          // From now on commits leave the times alone; those that are on their way come first.
          inode.localTimes = undefined
          await orAborted(this.#flusher.drain(inode), signal)
          return await this.#inodeOperations.change(request, signal)
        } finally {
          release()
        }
      })
    })
  }

  /** A setattr with a size; `file`: through what it was asked for. */
  async resize(inode: Inode, request: SetattrRequest, signal: AbortSignal, file?: FileHandle): Promise<Entry> {
    if (inode.batches.length === 0 && inode.lock.free) {
      const here = this.#core.writeBehind.setattr(request)
      if (here !== undefined) {
        this.#flusher.emptied(inode)
        return this.#core.unbelievedEntry(here, 0)
      }
    }
    return this.#exclusively([inode], signal, async (hold) => {
      if (file !== undefined) checkLocks(file)
      return this.#asExtentsIfNeeded(inode, signal, hold, () => this.#inodeOperations.change(request, signal, hold()))
    })
  }

  fallocate(context: Context, handle: Handle, mode: number, offset: bigint, length: bigint): Promise<void> {
    return this.#core.run(context, (signal) => {
      const file = this.#handles.file(handle)
      const { inode } = file
      return this.#exclusively([inode], signal, async (hold) => {
        checkLocks(file)
        await this.#killPrivileges(context, inode, signal)
        const request: Operation = { $case: 'fallocate', value: { ino: inode.ino, mode, offset, length } }
        await this.#asExtentsIfNeeded(inode, signal, hold, async () => {
          const end = this.#core.changesInFlight.begin([inode.ino])
          const letGo = hold()
          await this.#core.call(request, 'attributesAndLease', signal, {
            outcome: (result) => {
              end()
              if (result?.$case === 'attributesAndLease') this.#changed(inode.ino, result.value)
              letGo()
            },
          })
        })
      })
    })
  }

  lseek(context: Context, handle: Handle, offset: bigint, whence: number): Promise<bigint> {
    return this.#core.run(context, async (signal) => {
      const { inode } = this.#handles.file(handle)
      await orAborted(this.#flusher.flush(inode, { sync: false }), signal)
      return this.#core.call({ $case: 'lseek', value: { ino: inode.ino, offset, whence } }, 'offset', signal)
    })
  }

  copyFileRange(
    context: Context,
    source: { handle: Handle; offset: bigint },
    target: { handle: Handle; offset: bigint },
    length: bigint,
  ): Promise<bigint> {
    return this.#core.run(context, (signal) => {
      const files = [this.#handles.file(source.handle), this.#handles.file(target.handle)] as const
      const [{ inode: from }, { inode: to }] = files
      if (length === 0n) return Promise.resolve(0n)
      return this.#exclusively([from, to], signal, async (hold) => {
        for (const file of files) checkLocks(file)
        await this.#killPrivileges(context, to, signal)
        const request: Operation = {
          $case: 'copyFileRange',
          value: {
            source: from.ino,
            sourceOffset: source.offset,
            target: to.ino,
            targetOffset: target.offset,
            length,
          },
        }
        const copy = async (): Promise<bigint> => {
          // The target will share data that may not be on disk yet: its fsync has to see to that as well.
          for (const chunkId of from.unsynced) to.unsynced.add(chunkId)
          to.unsyncedComplete &&= from.unsyncedComplete
          const end = this.#core.changesInFlight.begin([to.ino])
          const letGo = hold()
          const { copied } = await this.#core.call(request, 'copyFileRange', signal, {
            outcome: (result) => {
              end()
              if (result?.$case === 'copyFileRange') this.#changed(to.ino, result.value)
              letGo()
            },
          })
          return copied
        }
        // Inline content cannot be shared: first the target's becomes extents, then the source's.
        return this.#asExtentsIfNeeded(to, signal, hold, () => this.#asExtentsIfNeeded(from, signal, hold, copy))
      })
    })
  }

  /** Of open(2), write(2) and truncation the front end says when set-id bits are to go; of what else changes content it does not. */
  async #killPrivileges(context: Context, { ino }: Inode, signal: AbortSignal): Promise<void> {
    if (context.uid === 0) return
    const { mode } = this.#core.known(ino) ?? (await this.#inodeOperations.ask(ino, signal))
    if ((mode & (S_ISUID | S_ISGID)) === 0) return
    await this.#inodeOperations.change(setattrRequest(context, ino, { killPrivileges: true }), signal)
  }

  #changed(ino: Ino, inode: AttributesAndLease): void {
    this.#core.inodes.get(ino)?.dropLayout()
    this.#core.learnChanged([inode])
  }

  async #asExtentsIfNeeded<T>(inode: Inode, signal: AbortSignal, hold: Hold, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (caught) {
      if (!(caught instanceof PosixError) || caught.code !== 'EOPNOTSUPP') throw caught
      if (!(await this.#makeExtents(inode, signal, hold))) throw caught
      return work()
    }
  }

  /**
   * Commits inline content as extents; false when it is not inline. Throws why it cannot be; nothing is lost then.
   * Under the exclusive lock, nothing is buffered.
   */
  async #makeExtents(inode: Inode, signal: AbortSignal, hold: Hold): Promise<boolean> {
    const rewriting: Inode['rewriting'] = { refused: undefined }
    const pin = await this.#fileIo.pinForWriting(inode, signal)
    try {
      if (inode.inline === undefined && inode.segments.size === 0) {
        await orAborted(this.#fileReader.learn(inode, 0n), signal)
      }
      const content = inode.inline
      if (content === undefined || content.length === 0) return false
      this.#budget.force(content.length)
      inode.rewriting = rewriting
      inode.planned = { kind: 'inline', content }
      inode.dirty.write(0n, content)
      inode.localSize = inode.size
      this.#flusher.freeze(inode, { sync: false })
    } finally {
      pin.release()
    }
    const letGo = hold()
    const flushed = this.#flusher.flush(inode, { sync: false }).finally(() => {
      inode.rewriting = undefined
      letGo()
    })
    await orAborted(flushed, signal)
    if (rewriting.refused !== undefined) throw rewriting.refused
    return true
  }

  /**
   * The locks stay until everything that `hold` gave is called: when the outcome of what was sent is known, also when nobody waits for it
   * any more. What is written before that would be placed by the old size.
   */
  async #exclusively<T>(inodes: readonly Inode[], signal: AbortSignal, work: (hold: Hold) => Promise<T>): Promise<T> {
    // In the order of their numbers, so that two such operations cannot wait for each other.
    const ordered = [...new Set(inodes)].toSorted((a, b) => (a.ino < b.ino ? -1 : 1))
    const releases: (() => void)[] = []
    for (const inode of ordered) inode.users++
    let holders = 1
    const letGo = (): void => {
      if (--holders > 0) return
      for (const release of releases) release()
      for (const inode of ordered) this.#core.inodes.release(inode)
    }
    try {
      for (const inode of ordered) releases.push(await inode.lock.exclusive(signal))
      await orAborted(Promise.all(ordered.map((inode) => this.#flusher.flush(inode, { sync: false }))), signal)
      return await work(() => {
        holders++
        return letGo
      })
    } finally {
      letGo()
    }
  }
}
