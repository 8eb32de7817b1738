/**
 * Changes of names and attributes that are carried out here at once and told to the master later, in order (see journal.ts).
 *
 * That is possible when this client holds the write lease of every inode that changes, knows their attributes and what the names lead to,
 * and nothing special is about them; then nobody else can see or change them before the lease is given back, which empties the journal
 * first. What the master will make of the change is computed from the same rules (src/domain/attribute-rules.ts), with the time stamp
 * that goes along. Whatever is in doubt, and every refusal, is the master's: each method gives undefined then and has done nothing.
 *
 * Invariant: a method checks, changes what is known, and adds to the journal within one turn of the event loop.
 * Invariant: the attributes that are known afterwards are exactly those that the master will have, `change` included: an older answer
 * of the master is told from a newer one by that.
 */
import { changedBySetattr, ownerOfNew } from '../domain/attribute-rules.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { blockBytes, linksMax, nameBytesMax, segmentBytes } from '../domain/limits.ts'
import { fileType, isDirectory, isRegular, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK } from '../domain/mode.ts'
import { compareTimespec, laterOf } from '../domain/time.ts'
import type { Timespec } from '../domain/time.ts'
import type {
  CommitRequest,
  JournalEntry as WireEntry,
  MknodRequest,
  SetattrRequest,
} from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Cached, KnownAttributes } from './cached.ts'
import type { ClientCore } from './client-core.ts'
import { noSuchName } from './directory-names.ts'
import type { Context } from './file-system.ts'
import type { Inode } from './inode.ts'
import type { JournalEntry } from './journal.ts'
import type { Made } from './namespace.ts'
import { isDots } from './names.ts'
import type { Place } from './names.ts'
import { callerOf } from './requests.ts'

/** No more than this is made here once the master's disk is full, for then it reserves no more. */
const reservedAtOnce = 1024
const reserveBelow = 512
const RENAME_NOREPLACE = 1
/** A time stamp of another machine may be ahead of ours by this much and is still not stepped back from. */
const skewSecondsMax = 1n

/** Files that are larger are emptied by the master at once. */
const emptiedBytesMax = BigInt(segmentBytes)

/** An inode whose write lease is held, with its attributes. */
interface Own {
  ino: Ino
  cached: Cached
  attributes: KnownAttributes
}

type Op = NonNullable<WireEntry['op']>

/** What is to be made. */
export type New =
  { kind: 'mknod'; mode: number; open: boolean } | { kind: 'mkdir'; mode: number } | { kind: 'symlink'; target: Buffer }

export class WriteBehind {
  readonly #core: ClientCore
  /** Numbers for new inodes. */
  #next = 0n
  #left = 0
  #reserving = false
  #statisticsChanges = 0

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** How many entries of the journal have changed what statfs tells, or may have. */
  get statisticsChanges(): number {
    return this.#statisticsChanges
  }

  /** EEXIST, ENOENT and all other refusals are the master's. `entry` of what was made can be refined until it is sent. */
  make(context: Context, place: Place, what: New): { made: Made; entry: JournalEntry } | undefined {
    const { leases, names, frontEnd } = this.#core
    const directory = this.#directory(place.parent)
    if (directory === undefined || directory.attributes.hasXattrs) return undefined
    if (what.kind === 'mknod' && !localTypes.has(fileType(what.mode))) return undefined
    if (this.#leadsTo(directory, place.name) !== noSuchName) return undefined
    const ino = this.#number()
    if (ino === undefined) return undefined
    const time = this.#now(directory)
    const caller = callerOf(context)
    const name = Buffer.from(place.name)
    const parent = place.parent
    const owner = ownerOfNew(directory.attributes, caller, modeOf(what, context.umask))
    const attributes: KnownAttributes = {
      ino,
      ...owner,
      nlink: what.kind === 'mkdir' ? 2 : 1,
      rdev: 0,
      size: what.kind === 'symlink' ? BigInt(what.target.length) : 0n,
      allocated: 0n,
      atime: time,
      mtime: time,
      ctime: time,
      btime: time,
      flags: 0,
      copies: directory.attributes.copies,
      change: 1n,
      hasXattrs: false,
    }
    const cached = leases.adopt(ino)
    cached.learn(attributes)
    if (what.kind === 'mkdir') names.beginEmpty(cached, parent)
    const target = what.kind === 'symlink' ? Buffer.from(what.target) : undefined
    cached.target = target
    this.#changed(directory, { mtime: time, ctime: time }, { steps: 1n, subdirectories: what.kind === 'mkdir' ? 1 : 0 })
    const op: Op =
      what.kind === 'mknod'
        ? { $case: 'mknod', value: { parent, name, mode: what.mode, rdev: 0, caller, open: what.open, ino } }
        : what.kind === 'mkdir'
          ? { $case: 'mkdir', value: { parent, name, mode: what.mode, caller, ino } }
          : { $case: 'symlink', value: { parent, name, target: target!, caller, ino } }
    const entry = this.#add(time, op, [directory, { ino, cached, attributes }], {
      maker: context.pid,
      bytes: name.length + (target?.length ?? 0),
    })
    names.put(parent, directory.cached, name, { ino, type: fileType(attributes.mode) })
    return { made: { attributes: cached.attributes!, entryMs: frontEnd.namesMs(parent) }, entry }
  }

  /** True: done. */
  remove({ pid }: Context, place: Place, kind: 'unlink' | 'rmdir'): boolean {
    const directory = this.#directory(place.parent)
    if (directory === undefined) return false
    const ino = this.#leadsTo(directory, place.name)
    const target = ino === undefined || ino === noSuchName ? undefined : this.#own(ino)
    if (target === undefined) return false
    const isSubdirectory = isDirectory(target.attributes.mode)
    if (isSubdirectory !== (kind === 'rmdir')) return false
    if (isSubdirectory && target.cached.names?.isEmpty !== true) return false
    if (this.#isAskedFor(target)) return false
    const time = this.#now(directory, target)
    const name = Buffer.from(place.name)
    this.#changed(directory, { mtime: time, ctime: time }, { steps: 1n, subdirectories: isSubdirectory ? -1 : 0 })
    this.#keepOpen(target, time)
    this.#unlinked(target, time)
    this.#add(time, { $case: kind, value: { parent: place.parent, name } }, [directory, target], {
      ino: target.ino,
      maker: pid,
      bytes: name.length,
    })
    this.#core.names.vanished(place.parent, directory.cached, name)
    return true
  }

  /** True: done. The moved file has nothing buffered. */
  rename({ pid }: Context, source: Place, target: Place, flags: number): boolean {
    if (flags !== 0 && flags !== RENAME_NOREPLACE) return false
    const from = this.#directory(source.parent)
    const to = this.#directory(target.parent)
    if (from === undefined || to === undefined) return false
    const isSame = source.parent === target.parent
    const movedIno = this.#leadsTo(from, source.name)
    const replacedIno = this.#leadsTo(to, target.name)
    if (movedIno === undefined || movedIno === noSuchName || replacedIno === undefined || movedIno === replacedIno) {
      return false
    }
    const moved = this.#own(movedIno)
    if (moved === undefined) return false
    const movesDirectory = isDirectory(moved.attributes.mode)
    // Whether a directory would come to be below itself is for the master to say.
    if (movesDirectory && !isSame) return false
    let replaced: Own | undefined
    if (replacedIno !== noSuchName) {
      replaced = this.#own(replacedIno)
      if (replaced === undefined || flags === RENAME_NOREPLACE) return false
      if (movesDirectory || isDirectory(replaced.attributes.mode) || this.#isAskedFor(replaced)) return false
    }
    const time = this.#now(from, to, moved, ...(replaced === undefined ? [] : [replaced]))
    const name = Buffer.from(source.name)
    const newName = Buffer.from(target.name)
    const times = { mtime: time, ctime: time }
    this.#changed(from, times, { steps: isSame ? 2n : 1n, subdirectories: 0 })
    if (!isSame) this.#changed(to, times, { steps: 1n, subdirectories: 0 })
    this.#changed(moved, { ctime: time })
    if (replaced !== undefined) {
      this.#keepOpen(replaced, time)
      this.#unlinked(replaced, time)
    }
    const changed = [from, moved, ...(isSame ? [] : [to]), ...(replaced === undefined ? [] : [replaced])]
    const value = { parent: source.parent, name, newParent: target.parent, newName, flags }
    this.#add(time, { $case: 'rename', value }, changed, {
      ino: movedIno,
      replaced: replacedIno,
      maker: pid,
      bytes: name.length + newName.length,
    })
    this.#core.names.vanished(source.parent, from.cached, name)
    const type = fileType(moved.attributes.mode)
    this.#core.names.put(target.parent, to.cached, newName, { ino: movedIno, type })
    this.#core.frontEnd.moved(source.parent, target.parent)
    return true
  }

  link({ pid }: Context, ino: Ino, place: Place): Made | undefined {
    const { names, frontEnd } = this.#core
    const directory = this.#directory(place.parent)
    if (directory === undefined || this.#leadsTo(directory, place.name) !== noSuchName) return undefined
    const target = this.#own(ino)
    if (target === undefined || isDirectory(target.attributes.mode)) return undefined
    const { nlink } = target.attributes
    if (nlink === 0 || nlink >= linksMax) return undefined
    const time = this.#now(directory, target)
    const name = Buffer.from(place.name)
    this.#changed(target, { nlink: nlink + 1, ctime: time })
    this.#changed(directory, { mtime: time, ctime: time }, { steps: 1n, subdirectories: 0 })
    const value = { ino, parent: place.parent, name }
    this.#add(time, { $case: 'link', value }, [directory, target], { maker: pid, bytes: name.length })
    names.put(place.parent, directory.cached, name, { ino, type: fileType(target.attributes.mode) })
    return { attributes: target.cached.attributes!, entryMs: frontEnd.namesMs(place.parent) }
  }

  /**
   * Everything but flags, numbers of copies, and sizes other than 0 (O_TRUNC). Nothing of the file may be on its way to the master; what is
   * known of the content, and what is dirty, is the caller's to drop.
   */
  setattr(request: SetattrRequest): KnownAttributes | undefined {
    if (request.flags !== undefined || request.copies !== undefined) return undefined
    const own = this.#own(asIno(request.ino))
    if (own === undefined) return undefined
    const isResized = request.size !== undefined
    if (isResized && (request.size !== 0n || !canBeEmptied(own))) return undefined
    // Whether an inode without a name is still there depends on who has it open.
    if (own.attributes.nlink === 0) return undefined
    if (own.attributes.hasXattrs && request.mode !== undefined) return undefined
    if ((this.#core.inodes.get(own.ino)?.batches.length ?? 0) > 0) return undefined
    const time = this.#now(own)
    const changes = { ctime: time, ...changedBySetattr(own.attributes, request, time) }
    this.#changed(own, isResized ? { mtime: time, ...changes, size: 0n, allocated: 0n } : changes)
    this.#add(time, { $case: 'setattr', value: request }, [own])
    return own.cached.attributes
  }

  /** It was read at this time, which nothing but its atime tells. */
  accessed(ino: Ino, atime: Timespec): boolean {
    const own = this.#own(ino)
    if (own === undefined || compareTimespec(atime, own.attributes.atime) <= 0) return false
    const none = { caller: undefined, mtime: undefined, atimeNow: false, mtimeNow: false, killPrivileges: false }
    return this.setattr({ ...none, ino, atime, ctime: own.attributes.ctime }) !== undefined
  }

  /** The whole content of a small file. False: the master is to be asked. */
  commit(request: CommitRequest): boolean {
    const { inlineData, mtime, ctime } = request
    if (inlineData === undefined) return false
    const own = this.#own(asIno(request.ino))
    const size = BigInt(inlineData.length)
    if (own === undefined || own.attributes.size > size) return false
    const time = this.#now(own)
    const blocks = Math.ceil(inlineData.length / blockBytes)
    this.#changed(own, {
      size,
      allocated: BigInt(blocks * blockBytes),
      mtime: mtime ?? own.attributes.mtime,
      ctime: ctime ?? time,
    })
    this.#add(time, { $case: 'commit', value: request }, [own], { bytes: inlineData.length })
    return true
  }

  /** The last handle of a file that the master knows as open, or will, is gone. False: it is to be told by a request. */
  closed(inode: Inode): boolean {
    const { journal, leases, clock, caching } = this.#core
    const { creation } = inode
    inode.creation = undefined
    if (creation !== undefined && !creation.isSent) {
      ;(creation.wire.op!.value as MknodRequest).open = false
      return true
    }
    // The ends of files that others use need no synced write. Of what is written here many go together, with other entries.
    const isOwn = caching.writeBehind && leases.usable(inode.ino, 'write')
    const isSettled = journal.isSettled(leases.cached(inode.ino)?.journaled ?? 0)
    if ((isSettled && !isOwn) || journal.isFull) return false
    const op: Op = { $case: 'close', value: { ino: inode.ino } }
    this.#statisticsChanges++
    const number = journal.add(entryOf(clock.wallTime(), op, { inos: [] }))
    // A return of the lease that says it is open again comes after this.
    const cached = leases.cached(inode.ino)
    if (cached !== undefined) cached.journaled = number
    return true
  }

  /** The write lease is held and can be used, and the attributes are known and not about to change. */
  #own(ino: Ino): Own | undefined {
    const { leases, changesInFlight, caching } = this.#core
    if (!caching.writeBehind || !leases.usable(ino, 'write') || changesInFlight.has(ino)) return undefined
    const cached = leases.cached(ino)!
    const { attributes } = cached
    // What flags forbid is for the master to say.
    return attributes?.flags === 0 ? { ino, cached, attributes } : undefined
  }

  /** A directory in which names may be changed. */
  #directory(ino: Ino): Own | undefined {
    if (this.#core.journal.isFull) return undefined
    const own = this.#own(ino)
    if (own === undefined) return undefined
    const { mode, nlink } = own.attributes
    return isDirectory(mode) && nlink > 0 ? own : undefined
  }

  #leadsTo({ cached }: Own, name: Buffer): Ino | undefined {
    if (name.length === 0 || name.length > nameBytesMax || isDots(name)) return undefined
    if (name.includes(0) || name.includes(0x2f)) return undefined
    return this.#core.names.get(cached, name)
  }

  #number(): Ino | undefined {
    if (this.#left < reserveBelow) this.#reserve()
    if (this.#left === 0) return undefined
    this.#left--
    return asIno(this.#next++)
  }

  #reserve(): void {
    if (this.#reserving) return
    this.#reserving = true
    const request = async (): Promise<void> => {
      try {
        const { first, count } = await this.#core.persist(
          { $case: 'reserveInos', value: { count: reservedAtOnce } },
          'inoRange',
        )
        // What is left of the old range is given up: one range is simpler than two, and numbers are plenty.
        this.#next = first
        this.#left = count
      } finally {
        this.#reserving = false
      }
    }
    this.#core.inBackground(request())
  }

  /** Not before anything that these were stamped with, unless that is far ahead. */
  #now(...of: readonly Own[]): Timespec {
    const now = this.#core.clock.wallTime()
    let time = now
    for (const { attributes } of of) {
      if (attributes.ctime.seconds - now.seconds <= skewSecondsMax) time = laterOf(time, attributes.ctime)
    }
    return time
  }

  #changed(
    own: Own,
    changes: Partial<KnownAttributes>,
    { steps, subdirectories }: { steps: bigint; subdirectories: number } = { steps: 1n, subdirectories: 0 },
  ): void {
    const { attributes, cached, ino } = own
    own.attributes = cached.learn({
      ...attributes,
      nlink: attributes.nlink + subdirectories,
      ...changes,
      change: attributes.change + steps,
    })
    void this.#core.frontEnd.forgetAttributes(ino, cached)
  }

  /** An inode that is about to lose a name may be open under nothing but its lease. */
  #keepOpen({ ino }: Own, time: Timespec): void {
    const { journal, inodes } = this.#core
    if (inodes.get(ino)?.register() !== true) return
    journal.add(entryOf(time, { $case: 'open', value: { ino } }, { inos: [ino] }))
  }

  /** Its last name goes while something is buffered that others may still read: the master has to keep it until that is committed. */
  #isAskedFor({ ino, attributes }: Own): boolean {
    return attributes.nlink === 1 && this.#core.owesContent(ino)
  }

  #unlinked(own: Own, ctime: Timespec): void {
    const { mode, nlink } = own.attributes
    this.#changed(own, { ctime, nlink: isDirectory(mode) ? 0 : nlink - 1 })
    if (own.attributes.nlink === 0) this.#core.vanished(own.ino)
  }

  #add(
    time: Timespec,
    op: Op,
    changed: readonly Own[],
    more: Omit<Described, 'inos' | 'directories'> = {},
  ): JournalEntry {
    const { journal, leases, names } = this.#core
    if (changesStatistics(op, changed)) this.#statisticsChanges++
    const inos = changed.map(({ ino }) => ino)
    const directories = changed.filter(({ attributes }) => isDirectory(attributes.mode)).map(({ ino }) => ino)
    const entry = entryOf(time, op, { inos, directories, ...more })
    const number = journal.add(entry)
    for (const { ino, cached } of changed) {
      cached.journaled = number
      leases.touch(ino)
    }
    // What was asked before this is older.
    names.begin(inos).end()
    return entry
  }
}

/** Another name, or one less of several, is no other inode. */
const changesStatistics = (op: Op, changed: readonly Own[]): boolean => {
  switch (op.$case) {
    case 'link':
      return false
    case 'setattr':
      return op.value.size !== undefined
    case 'unlink':
      return changed.some(({ attributes: { nlink } }) => nlink === 0)
    default:
      return true
  }
}

/** To give up much takes the master long, and what is in the journal is carried out in one run. */
const canBeEmptied = ({ attributes: { mode, size, allocated } }: Own): boolean =>
  isRegular(mode) && size <= emptiedBytesMax && allocated <= emptiedBytesMax

const entryBytes = 200
/** Devices are the master's: nobody makes many. */
const localTypes: ReadonlySet<number> = new Set([S_IFREG, S_IFIFO, S_IFSOCK])

interface Described {
  inos: readonly Ino[]
  directories?: readonly Ino[]
  ino?: Ino
  replaced?: Ino
  maker?: number
  bytes?: number
}

const entryOf = (
  time: Timespec,
  op: Op,
  { inos, directories, ino, replaced, maker, bytes }: Described,
): JournalEntry => ({
  wire: { time, ino: ino ?? 0n, replaced: replaced ?? 0n, op },
  inos,
  directories: directories ?? [],
  maker,
  bytes: entryBytes + (bytes ?? 0),
  isSent: false,
})

const modeOf = (what: New, umask: number): number => {
  if (what.kind === 'symlink') return S_IFLNK | 0o777
  const mode = (what.kind === 'mkdir' ? S_IFDIR : fileType(what.mode)) | (what.mode & 0o7777)
  return mode & ~(umask & 0o777)
}
