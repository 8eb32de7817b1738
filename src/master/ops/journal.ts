/**
 * journal: what a client has carried out on its own, in its order, as one run: all of it is in one batch, and its result is stored with
 * it, so a repeat changes nothing more.
 *
 * Each entry is an ordinary operation, seen through a context in which the session may change only what it holds the write lease of, or has
 * made in this journal. So nothing in here ever waits for others, and what was buffered under a lease that is gone is refused (ESTALE)
 * and not carried out late. An entry that was refused has changed nothing; those after it go on, unless they name something that is not
 * what the client believed (ESTALE).
 *
 * EINVAL: malformed entries. Replies journal.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { Ino, SessionId } from '../../domain/ids.ts'
import type { Timespec } from '../../domain/time.ts'
import type { JournalEntry, JournalFailure, JournalRequest, Lease } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { LeaseMode } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { LeaseGate, OpContext, OpenGate } from '../context.ts'
import { dentries, inodes } from '../keys.ts'
import type { Bounds, DentryKey, Table } from '../keys.ts'
import { readTogether } from '../store.ts'
import type { Tx } from '../store.ts'
import { close } from './close.ts'
import { commit } from './commit.ts'
import { link } from './link.ts'
import { mkdir } from './mkdir.ts'
import { mknod } from './mknod.ts'
import { open } from './open.ts'
import { checkTime } from './operation.ts'
import type { Operation } from './operation.ts'
import { rename } from './rename.ts'
import { rmdir } from './rmdir.ts'
import { setattr } from './setattr.ts'
import { symlink } from './symlink.ts'
import { unlink } from './unlink.ts'

export const journalEntriesMax = 1024

type EntryOp = NonNullable<JournalEntry['op']>
type OperationsByName = { [Name in EntryOp['$case']]: Operation<Extract<EntryOp, { $case: Name }>['value']> }

const operations: OperationsByName = {
  setattr,
  mknod,
  mkdir,
  symlink,
  link,
  unlink,
  rmdir,
  rename,
  commit,
  close,
  open,
}

export const journal: Operation<JournalRequest> = (tx, { entries }, context) => {
  if (entries.length === 0 || entries.length > journalEntriesMax) throw new PosixError('EINVAL')
  load(tx, entries)
  const inner = new JournalContext(context)
  const failures: JournalFailure[] = []
  for (const [index, entry] of entries.entries()) {
    try {
      carryOut(tx, entry, inner)
    } catch (caught) {
      if (!(caught instanceof PosixError)) throw caught
      failures.push({ index, failure: { code: caught.code, message: caught.message } })
    }
  }
  return { $case: 'journal', value: { failures } }
}

/** Everything that the entries name, in one load: one by one each would cost a run of all entries. */
const load = (tx: Tx, entries: readonly JournalEntry[]): void => {
  const names: DentryKey[] = []
  const inos = new Set<Ino>()
  for (const { op, ino, replaced } of entries) {
    if (ino !== 0n) inos.add(asIno(ino))
    if (replaced !== 0n) inos.add(asIno(replaced))
    switch (op?.$case) {
      case 'mknod':
      case 'mkdir':
      case 'symlink':
        if (op.value.ino !== undefined) inos.add(asIno(op.value.ino))
        names.push({ parent: asIno(op.value.parent), name: op.value.name })
        break
      case 'link':
        inos.add(asIno(op.value.ino))
        names.push({ parent: asIno(op.value.parent), name: op.value.name })
        break
      case 'unlink':
      case 'rmdir':
        names.push({ parent: asIno(op.value.parent), name: op.value.name })
        break
      case 'rename':
        names.push({ parent: asIno(op.value.parent), name: op.value.name })
        names.push({ parent: asIno(op.value.newParent), name: op.value.newName })
        break
      case 'setattr':
      case 'commit':
      case 'close':
      case 'open':
        inos.add(asIno(op.value.ino))
        break
      case undefined:
        break
    }
  }
  for (const { parent } of names) inos.add(parent)
  readTogether(
    () => tx.getMany(dentries, names),
    () => tx.getMany(inodes, [...inos]),
  )
}

const carryOut = (tx: Tx, entry: JournalEntry, context: JournalContext): void => {
  const { op, time } = entry
  if (op === undefined || time === undefined)
    throw new PosixError('EINVAL', 'a journal entry without a time or an operation')
  checkTime(time)
  // A commit of extents may fail when part of it is done; it has a request of its own.
  if (op.$case === 'commit' && op.value.segments.length > 0) throw new PosixError('EINVAL', 'extents in a journal')
  checkExpected(tx, entry)
  const run = operations[op.$case] as Operation<unknown>
  run(new TxAt(tx, time), op.value, context)
  if (op.$case === 'mknod' && op.value.open) context.opens.now(asIno(op.value.ino ?? 0n), true)
  if (op.$case === 'open') context.opens.now(asIno(op.value.ino), true)
  if (op.$case === 'close') context.opens.now(asIno(op.value.ino), false)
}

/** Names lead where the client believed: what an entry before it should have brought about may have been refused. */
const checkExpected = (tx: Tx, { op, ino, replaced }: JournalEntry): void => {
  const leadsTo = (parent: bigint, name: Buffer): bigint => tx.get(dentries, { parent: asIno(parent), name })?.ino ?? 0n
  const check = (is: bigint, wanted: bigint): void => {
    if (is !== wanted) throw new PosixError('ESTALE', `a name leads to inode ${is} instead of ${wanted}`)
  }
  switch (op?.$case) {
    case 'unlink':
    case 'rmdir':
      return check(leadsTo(op.value.parent, op.value.name), ino)
    case 'rename':
      check(leadsTo(op.value.parent, op.value.name), ino)
      return check(leadsTo(op.value.newParent, op.value.newName), replaced)
    case 'mknod':
    case 'mkdir':
    case 'symlink':
      if (op.value.ino === undefined) throw new PosixError('EINVAL', 'a journal makes an inode without a number')
      return
    default:
      return
  }
}

/** The same transaction at another time. */
class TxAt implements Tx {
  readonly now: Timespec
  readonly #tx: Tx

  constructor(tx: Tx, now: Timespec) {
    this.#tx = tx
    this.now = now
  }

  get<K, V>(table: Table<K, V>, key: K): V | undefined {
    return this.#tx.get(table, key)
  }

  getMany<K, V>(table: Table<K, V>, keys: readonly K[]): (V | undefined)[] {
    return this.#tx.getMany(table, keys)
  }

  put<K, V>(table: Table<K, V>, key: K, value: V): void {
    this.#tx.put(table, key, value)
  }

  delete<K, V>(table: Table<K, V>, key: K): void {
    this.#tx.delete(table, key)
  }

  range<K, V>(table: Table<K, V>, bounds: Bounds, limit: number): [K, V][] {
    return this.#tx.range(table, bounds, limit)
  }

  onApply(callback: () => void): void {
    this.#tx.onApply(callback)
  }

  afterCommit(callback: () => void): void {
    this.#tx.afterCommit(callback)
  }
}

class JournalContext implements OpContext {
  readonly session: SessionId
  readonly leases: LeaseGate
  readonly opens: JournalOpens
  readonly chunks: OpContext['chunks']
  readonly cluster: OpContext['cluster']
  readonly reap: OpContext['reap']

  constructor({ session, leases, opens, chunks, cluster, reap }: OpContext) {
    this.session = session
    this.leases = journalLeases(session, leases)
    this.opens = new JournalOpens(session, opens)
    this.chunks = chunks
    this.cluster = cluster
    this.reap = reap
  }
}

const journalLeases = (session: SessionId, leases: LeaseGate): LeaseGate => {
  const made = new Set<Ino>()
  const none = (ino: Ino): Lease => ({ ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 0n })
  const held: LeaseGate['held'] = (_session, ino) => (made.has(ino) ? 'write' : leases.held(session, ino))
  /** Only for what an operation has just made: of a directory that changes the session has the write lease already. */
  const own: LeaseGate['offerWrite'] = (_session, ino, onApply) => {
    if (held(session, ino) === 'write') return none(ino)
    made.add(ino)
    onApply(() => leases.made(session, ino))
    return none(ino)
  }
  return {
    reduceOthers: (_session, ino) => {
      if (held(session, ino) === 'write') return undefined
      throw new PosixError('ESTALE', `no write lease on inode ${ino}`)
    },
    leave: () => undefined,
    hurryOthers: () => undefined,
    writtenByOther: () => false,
    grant: (_session, ino, _mode, onApply) => own(session, ino, onApply!),
    offer: (_session, ino, onApply) => (onApply === undefined ? none(ino) : own(session, ino, onApply)),
    offerWrite: own,
    made: leases.made,
    holding: (_session, ino) => none(ino),
    held,
  }
}

/** Opens and closes of this journal take effect when it does; the entries after them see them all the same. */
class JournalOpens implements OpenGate {
  readonly #session: SessionId
  readonly #opens: OpenGate
  readonly #now = new Map<Ino, boolean>()

  constructor(session: SessionId, opens: OpenGate) {
    this.#session = session
    this.#opens = opens
  }

  now(ino: Ino, isOpen: boolean): void {
    this.#now.set(ino, isOpen)
  }

  open(session: SessionId, ino: Ino): void {
    this.#opens.open(session, ino)
  }

  close(session: SessionId, ino: Ino): void {
    this.#opens.close(session, ino)
  }

  isOpen(ino: Ino, except?: SessionId): boolean {
    const here = this.#now.get(ino)
    if (here === undefined) return this.#opens.isOpen(ino, except)
    return (here && except !== this.#session) || this.#opens.isOpen(ino, this.#session)
  }
}
