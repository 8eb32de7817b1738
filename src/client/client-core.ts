/**
 * What all parts of the client's file system share: the session, the leases and what is cached under them, the guard around each
 * operation, and how attributes in replies become knowledge.
 *
 * Attributes are kept only when they come with the present lease on their inode; of several the one with the greatest change number
 * counts. Every request that changes something answers with the attributes of all that it changed, so what is kept stays right although
 * the master does not recall a lease for what its own holder changes.
 */
import type { AccessTimePolicy } from '../domain/access-time.ts'
import { PosixError } from '../domain/errors.ts'
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import type { Timespec } from '../domain/time.ts'
import type { Clock } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import type { AttributesAndLease, Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Attributes as WireAttributes } from '../protocol/gen/shoal/v1/types.pb.ts'
import { AccessTimes } from './access-times.ts'
import type { Cached, KnownAttributes } from './cached.ts'
import type { Caching } from './caching.ts'
import { ChangesInFlight } from './changes-in-flight.ts'
import type { ChunkConnections } from './chunks/connections.ts'
import type { ChunkReader } from './chunks/reader.ts'
import type { ChunkWriter } from './chunks/writer.ts'
import type { Attributes, Context, Entry } from './file-system.ts'
import { FrontEnd } from './front-end.ts'
import { Inodes } from './inode.ts'
import type { Inode } from './inode.ts'
import { Journal } from './journal.ts'
import type { JournalFailure } from './journal.ts'
import { Leases } from './leases.ts'
import { Names } from './names.ts'
import { OperationGuard } from './operation-guard.ts'
import { Removals } from './removals.ts'
import { fateOf } from './requests.ts'
import type { Operation, Result, ResultName, ResultValue } from './requests.ts'
import type { Session } from './session.ts'
import { WriteBehind } from './write-behind.ts'

/** For how long a write lease that is being used is kept although it is recalled: a few times what it takes to get it back. */
const holdMs = 20

/** What is made once the session is open. */
export interface DataPath {
  session: Session
  connections: ChunkConnections
  writer: ChunkWriter
  reader: ChunkReader
}

export interface ClientCoreOptions {
  clock: Clock
  log: Log
  limits: { leasesMax: number; namesMax: number }
  accessTimes: AccessTimePolicy
  caching: Caching
  /** A lease is being given back: what is buffered is committed. What is cached goes with the lease. */
  reduce: (ino: Ino) => Promise<void>
  flush: (inode: Inode) => Promise<void>
  /** The file is gone and nobody has it open: nothing of it is to be stored any more. */
  abandon: (inode: Inode) => void
  /** These changes that had been answered were refused or lost. What was known of their inodes has been dropped. */
  failed: (failures: readonly JournalFailure[]) => void
}

export class ClientCore {
  readonly clock: Clock
  readonly log: Log
  readonly caching: Caching
  readonly leases: Leases
  readonly inodes: Inodes
  readonly names: Names
  readonly frontEnd: FrontEnd
  readonly guard: OperationGuard
  readonly accessTimes: AccessTimes
  readonly journal: Journal
  readonly changesInFlight = new ChangesInFlight()
  readonly writeBehind: WriteBehind
  readonly removals: Removals
  /** Closes and flushes that nobody waits for. */
  readonly background = new Set<Promise<void>>()
  /** Requests so far that may have changed something. */
  #changeRequests = 0
  readonly #reduce: ClientCoreOptions['reduce']
  readonly #failed: ClientCoreOptions['failed']
  /** What is buffered of a file is committed, in the order of the journal. */
  readonly flush: ClientCoreOptions['flush']
  readonly #abandon: ClientCoreOptions['abandon']
  #path: DataPath | undefined

  constructor({ clock, log, limits, accessTimes, caching, reduce, flush, abandon, failed }: ClientCoreOptions) {
    this.clock = clock
    this.log = log
    this.caching = caching
    this.#reduce = reduce
    this.#failed = failed
    this.flush = flush
    this.#abandon = abandon
    this.leases = new Leases(
      {
        nowMs: () => clock.nowMs(),
        after: (ms, work) => void clock.after(ms, work),
        isConfirmed: () => this.session.isConfirmed(),
        whenConfirmed: (signal) => this.session.whenConfirmed(signal),
        returnLease: (lease, options) => this.session.returnLease(lease, options),
      },
      {
        reduce: (ino, to, cached) => this.#giveUp(ino, to, cached),
        staysOpen: (ino) => this.inodes.get(ino)?.register() === true,
        gone: (ino, cached) => this.#gone(ino, cached),
      },
      { leasesMax: limits.leasesMax, keeps: caching.leases, holdMs },
    )
    this.inodes = new Inodes((ino) => this.leases.cached(ino))
    this.names = new Names({ namesMax: limits.namesMax })
    this.frontEnd = new FrontEnd({
      leases: this.leases,
      nowMs: () => clock.nowMs(),
      confirmedForMs: () => this.session.confirmedForMs(),
      later: (ms, work) => void clock.after(ms, work),
    })
    this.guard = new OperationGuard(clock, log)
    this.accessTimes = new AccessTimes({
      clock,
      policy: accessTimes,
      send: (ino, time) => this.#sendAccess(ino, time),
      changed: (ino) => void this.frontEnd.forgetAttributes(ino, this.leases.cached(ino)),
    })
    this.journal = new Journal({
      clock,
      send: (entries) =>
        this.session.call({ $case: 'journal', value: { entries } }, 'journal', { deadlineMs: Infinity }),
      failed: (failures) => this.#journalFailed(failures),
    })
    this.writeBehind = new WriteBehind(this)
    this.removals = new Removals(this)
  }

  /** Before the first operation. */
  start(path: DataPath): void {
    this.#path = path
  }

  get data(): DataPath {
    if (this.#path === undefined) throw new Error('the file system has not been started')
    return this.#path
  }

  get session(): Session {
    return this.data.session
  }

  get root(): Ino {
    return asIno(this.session.welcome.rootIno)
  }

  isMasterAway(): boolean {
    return this.session.state !== 'open'
  }

  /** An operation of the port. */
  run<T>(context: Context | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.guard.run(context?.signal, work)
  }

  call<Name extends ResultName>(
    operation: Operation,
    name: Name,
    signal?: AbortSignal,
    hooks: { late?: (result: Result) => void; outcome?: (result: Result | undefined) => void } = {},
  ): Promise<ResultValue<Name>> {
    this.#count(operation)
    this.journal.push()
    return this.session.call(operation, name, { signal, ...hooks })
  }

  /** A number that grows with everything of this client that may change what statfs tells; when it is asked for, not when it is done. */
  get statisticsChanges(): number {
    return this.#changeRequests + this.writeBehind.statisticsChanges
  }

  #count(operation: Operation): void {
    if (fateOf(operation) !== 'again') this.#changeRequests++
  }

  /** Everything that was done to these inodes here is durable at the master, or has failed. */
  async settled(ino: Ino): Promise<void> {
    const cached = this.leases.cached(ino)
    if (cached !== undefined) await this.journal.settled(cached.journaled)
  }

  /** A request of the client's own, which waits for as long as it takes. */
  persist<Name extends ResultName>(operation: Operation, name: Name): Promise<ResultValue<Name>> {
    this.#count(operation)
    if (operation.$case !== 'reserveInos') this.journal.push()
    return this.session.call(operation, name, { deadlineMs: Infinity })
  }

  inBackground(work: Promise<void>): void {
    const settled: Promise<void> = work
      .catch((cause: unknown) => this.log.debug('work in the background failed', { cause }))
      .finally(() => this.background.delete(settled))
    this.background.add(settled)
  }

  async withInode<T>(ino: Ino, work: (inode: Inode) => Promise<T>): Promise<T> {
    const inode = this.inodes.use(ino)
    try {
      return await work(inode)
    } finally {
      this.inodes.release(inode)
    }
  }

  /**
   * Takes note of attributes that came with this lease. Gives the newest that are known. EPROTO when there are none.
   * `under` is what was cached when the request was sent: while that lease is held without a break nobody else can have changed the
   * inode, so the answer counts also when it brought no lease, because the master is recalling it or has numbered a newer grant.
   */
  learn(attributes: WireAttributes | undefined, lease: Lease | undefined, under?: Cached): KnownAttributes {
    const checked = checkedAttributes(attributes)
    const cached = this.leases.cached(checked.ino)
    if (cached !== undefined && (cached === under || this.leases.current(checked.ino, lease)))
      return cached.learn(checked)
    const known = this.leases.usableCached(checked.ino)?.attributes
    return known !== undefined && known.change >= checked.change ? known : checked
  }

  /**
   * Takes note of what a request of this client has changed, before anybody gets its answer: older answers to the front end that are still
   * on their way are not to be believed after it.
   */
  learnChanged(changed: readonly AttributesAndLease[]): void {
    for (const { attributes, lease } of changed) {
      const { ino } = this.learn(attributes, lease)
      void this.frontEnd.forgetAttributes(ino, this.leases.cached(ino))
    }
  }

  /** The master has taken an inode without a name for open in this session. When it is not, it is closed. */
  keptOpen(ino: Ino): void {
    const inode = this.inodes.get(ino)
    if (inode !== undefined && (inode.handles > 0 || inode.opening > 0)) inode.register()
    else this.inBackground(this.#closeNameless(ino, inode))
  }

  /** An inode has lost its last name. What is buffered is of no use where no other client can have it open. */
  vanished(ino: Ino): void {
    const inode = this.inodes.get(ino)
    if (inode !== undefined && isUnused(inode) && this.leases.cached(ino)?.isUnseen === true) this.#abandon(inode)
  }

  /** Only the master knows whether this inode, which loses its last name, is open elsewhere; what is buffered here belongs to its content. */
  owesContent(ino: Ino): boolean {
    const inode = this.inodes.get(ino)
    return inode !== undefined && isUnused(inode) && this.leases.cached(ino)?.isUnseen !== true
  }

  /** Attributes without what is buffered, when they can be told without asking. */
  known(ino: Ino): KnownAttributes | undefined {
    return this.leases.usableCached(ino)?.attributes
  }

  /** As it looks with what is buffered here. */
  effective(attributes: Attributes): Attributes {
    return this.accessTimes.overlaid(this.inodes.get(attributes.ino)?.effective(attributes) ?? attributes)
  }

  /** The front end was given something of an inode to read. */
  wasRead(ino: Ino): void {
    const attributes = this.known(ino)
    if (attributes !== undefined) this.accessTimes.read(this.inodes.get(ino)?.effective(attributes) ?? attributes)
  }

  /** For how long the front end may believe these attributes. */
  attributesMs(attributes: Attributes): number {
    // The times and the space of what is buffered change once more when it is committed.
    if (this.inodes.get(attributes.ino)?.buffered === true) return 0
    return this.known(attributes.ino) === attributes ? this.frontEnd.attributesMs(attributes.ino) : 0
  }

  entry(attributes: KnownAttributes, entryMs: number): Entry {
    return {
      attributes: this.effective(attributes),
      validity: { entryMs, attributesMs: this.attributesMs(attributes) },
    }
  }

  /** An entry in an answer whose attributes the front end takes for new ones whatever was invalidated meanwhile (see `Invalidations`). */
  unbelievedEntry(attributes: KnownAttributes, entryMs: number): Entry {
    return { attributes: this.effective(attributes), validity: { entryMs, attributesMs: 0 } }
  }

  /** What is buffered is committed before: afterwards the master may free it. */
  async #closeNameless(ino: Ino, inode: Inode | undefined): Promise<void> {
    if (inode?.buffered === true) await this.withInode(ino, this.flush)
    // Somebody here may have opened it meanwhile, by its number.
    if (inode !== undefined && (inode.handles > 0 || inode.opening > 0)) inode.register()
    else await this.persist({ $case: 'close', value: { ino } }, 'empty')
  }

  async #giveUp(ino: Ino, to: 'none' | 'read', cached: Cached): Promise<void> {
    await this.#reduce(ino)
    await this.journal.settled(cached.journaled)
    if (to === 'read') return
    this.accessTimes.drop(ino)
    const isOpen = (this.inodes.get(ino)?.handles ?? 0) > 0
    await this.frontEnd.withdraw(ino, cached, { data: isOpen })
  }

  async #sendAccess(ino: Ino, time: Timespec): Promise<void> {
    const under = this.leases.cached(ino)
    if (under?.attributes?.nlink === 0) return
    // A time of access is nothing that an unmount should wait for a master for.
    if (!this.isMasterAway() && this.writeBehind.accessed(ino, time)) return
    const end = this.changesInFlight.begin([ino])
    try {
      const { attributes, lease } = await this.call(
        { $case: 'accessed', value: { ino, time } },
        'attributesAndLease',
        undefined,
        {
          outcome: (result) => {
            end()
            if (result?.$case === 'attributesAndLease') this.learnChanged([result.value])
          },
        },
      )
      this.learn(attributes, lease, under)
    } catch (cause) {
      this.log.debug('a time of access was lost', { ino, cause })
    }
  }

  #journalFailed(failures: readonly JournalFailure[]): void {
    for (const ino of new Set(failures.flatMap(({ entry }) => entry.inos))) {
      const cached = this.leases.cached(ino)
      if (cached === undefined) continue
      this.frontEnd.withdrawLost(ino, cached, { data: true })
      this.names.gone(ino, cached)
      cached.attributes = undefined
      cached.changeSeen = 0n
    }
    this.#failed(failures)
  }

  #gone(ino: Ino, cached: Cached): void {
    this.names.gone(ino, cached)
    const inode = this.inodes.get(ino)
    if (inode === undefined) return
    // Not before: until now a reply could bring more of it.
    inode.dropLayout()
    this.inodes.forgetIdle(inode)
  }
}

/** Nobody here has it open, but something of it is buffered. */
const isUnused = ({ handles, opening, buffered }: Inode): boolean => handles === 0 && opening === 0 && buffered

export const checkedAttributes = (attributes: WireAttributes | undefined): KnownAttributes => {
  if (attributes?.atime && attributes.mtime && attributes.ctime && attributes.btime) {
    return attributes as KnownAttributes
  }
  throw new PosixError('EPROTO', 'the master answered without attributes')
}
