/**
 * All operations on the namespace and on files by the name that they have in a request, and how one request is carried out.
 *
 * The result of an operation that changes something is stored under (session, request id) in the same batch as the change. When the same
 * request comes again, after a lost reply or a restart, it gets that first answer. Refusals are not stored: a refused request has changed
 * nothing and may be tried again as if for the first time.
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { Ino, SessionId } from '../../domain/ids.ts'
import { Reply } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { Request } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { OpContext } from '../context.ts'
import { resultBounds, results, tableBounds } from '../keys.ts'
import type { ExecuteOptions, Store, StoreOperation } from '../store.ts'
import { accessed } from './accessed.ts'
import { close } from './close.ts'
import { commit } from './commit.ts'
import { copyFileRange } from './copy-file-range.ts'
import { fallocate } from './fallocate.ts'
import { getExtents } from './get-extents.ts'
import { getattr } from './getattr.ts'
import { getxattr } from './getxattr.ts'
import { journal } from './journal.ts'
import { link } from './link.ts'
import { listxattr } from './listxattr.ts'
import { lookup } from './lookup.ts'
import { lseek } from './lseek.ts'
import { mkdir } from './mkdir.ts'
import { mknod } from './mknod.ts'
import { open } from './open.ts'
import type { Operation, Result } from './operation.ts'
import { readdir } from './readdir.ts'
import { readlink } from './readlink.ts'
import { removexattr } from './removexattr.ts'
import { reserveInos } from './reserve-inos.ts'
import { rename } from './rename.ts'
import type { SessionResults } from './results.ts'
import { rmdir } from './rmdir.ts'
import { setattr } from './setattr.ts'
import { setxattr } from './setxattr.ts'
import { statfs } from './statfs.ts'
import { symlink } from './symlink.ts'
import { tmpfile } from './tmpfile.ts'
import { unlink } from './unlink.ts'

type RequestOp = NonNullable<Request['op']>
type OpName = RequestOp['$case']
type RequestOf<Name extends OpName> = Extract<RequestOp, { $case: Name }>['value']

interface Entry<Q> {
  run: Operation<Q>
  /** It changes records: its result is stored. */
  changes: boolean
  /** It frees something, so it goes on when the master's disk has only its reserve left. */
  frees?: boolean
}

const reading = <Q>(run: Operation<Q>): Entry<Q> => ({ run, changes: false })
const changing = <Q>(run: Operation<Q>): Entry<Q> => ({ run, changes: true })
const freeing = <Q>(run: Operation<Q>): Entry<Q> => ({ run, changes: true, frees: true })

/** The operations that are carried out here. The others (leases, locks, chunks, sessions) have their own homes. */
const operations = {
  lookup: reading(lookup),
  getattr: reading(getattr),
  setattr: changing(setattr),
  accessed: changing(accessed),
  readlink: reading(readlink),
  mknod: changing(mknod),
  tmpfile: changing(tmpfile),
  mkdir: changing(mkdir),
  symlink: changing(symlink),
  link: changing(link),
  unlink: freeing(unlink),
  rmdir: freeing(rmdir),
  rename: changing(rename),
  open: reading(open),
  close: reading(close),
  readdir: reading(readdir),
  getxattr: reading(getxattr),
  setxattr: changing(setxattr),
  listxattr: reading(listxattr),
  removexattr: freeing(removexattr),
  getExtents: reading(getExtents),
  commit: changing(commit),
  fallocate: changing(fallocate),
  copyFileRange: changing(copyFileRange),
  lseek: reading(lseek),
  statfs: reading(statfs),
  // The client was told that these have happened: the reserve is for them, too. Without new numbers it makes nothing more.
  journal: freeing(journal),
  reserveInos: changing(reserveInos),
} satisfies { [Name in OpName]?: Entry<RequestOf<Name>> }

export type NamespaceOpName = keyof typeof operations

export const isNamespaceOp = (name: OpName): name is NamespaceOpName => Object.hasOwn(operations, name)

export const failure = (error: PosixError): Result => ({
  $case: 'failure',
  value: { code: error.code, message: error.message },
})

/**
 * Carries out one request of the session in the context; the answer is durable when it resolves. A refusal is a result too (`failure`).
 * Rejects with UnavailableError when the store stopped, and with any other error for a bug: then nothing was changed.
 * The signal ends a wait for leases with EINTR; `applied` is called when the changes have been made, before they are durable.
 */
export const executeRequest = async (
  store: Store,
  context: OpContext,
  request: Request,
  { signal, applied }: Pick<ExecuteOptions, 'signal' | 'applied'> = {},
): Promise<Result> => {
  const { op } = request
  if (op === undefined || !isNamespaceOp(op.$case)) return failure(new PosixError('EPROTO', 'no such operation'))
  const { run, changes, frees } = operations[op.$case] as Entry<unknown>
  const operation: StoreOperation<Result> = (tx) => run(tx, op.value, context)
  try {
    if (!changes) return await store.execute(operation, { signal, applied })
    const result = await executeOnce(store, context.session, request.id, operation, {
      signal,
      applied,
      mayUseReserve: frees === true || (op.$case === 'setattr' && op.value.size === 0n),
    })
    // Open files live in memory: if the master was restarted in between, this one has to be opened again.
    const opens = op.$case === 'tmpfile' || (op.$case === 'mknod' && op.value.open)
    if (opens && result.$case === 'entry') {
      context.opens.open(context.session, asIno(result.value.attributes!.ino))
    }
    return result
  } catch (caught) {
    if (caught instanceof PosixError) return failure(caught)
    throw caught
  }
}

/**
 * Runs an operation that changes something, exactly once for this request: its result is stored with the changes, and a repeat gets
 * the stored one, also when the signal was aborted: EINTR says that nothing has happened. Rejects as Store.execute does.
 */
export const executeOnce = async (
  store: Store,
  session: SessionId,
  id: bigint,
  operation: StoreOperation<Result>,
  options: ExecuteOptions,
): Promise<Result> => {
  const known = await knownResults(store, session)
  const repeated = known.ids.has(id)
  const operationOnce: StoreOperation<Result> = (tx) => {
    const key = { session, request: id }
    if (known.ids.has(id)) {
      const stored = tx.get(results, key)
      if (stored !== undefined) return Reply.decode(stored).result!
    }
    const result = operation(tx)
    tx.put(results, key, Buffer.from(Reply.encode({ id, result }).finish()))
    for (const old of known.forgotten) tx.delete(results, { session, request: old })
    tx.onApply(() => {
      known.ids.add(id)
      known.forgotten = []
    })
    return result
  }
  return await store.execute(operationOnce, repeated ? { ...options, signal: undefined } : options)
}

/** The request has been carried out, and its result is stored. */
export const isRepeat = async (store: Store, session: SessionId, id: bigint): Promise<boolean> =>
  (await knownResults(store, session)).ids.has(id)

export interface StoredEntry {
  readonly session: SessionId
  readonly request: bigint
  readonly ino: Ino
}

/** The inodes that stored results tell of as entries: what was made, also by link. Of all sessions. */
export const storedEntries = async (store: Store): Promise<StoredEntry[]> => {
  const entries: StoredEntry[] = []
  const { gte, lt } = tableBounds(results)
  for (let from = gte; ;) {
    const bounds = { gte: from, lt }
    const found = await store.execute((tx) => tx.range(results, bounds, resultsPerStep))
    for (const [key, value] of found) {
      const { result } = Reply.decode(value)
      if (result?.$case !== 'entry') continue
      entries.push({ ...key, ino: asIno(result.value.attributes!.ino) })
    }
    if (found.length < resultsPerStep) return entries
    from = `${results.encodeKey(found.at(-1)![0])}\0`
  }
}

/** The client has every answer up to this id. The records go with the session's next change, or with its end. */
export const forgetResults = (store: Store, session: SessionId, throughId: bigint): void => {
  store.results.forget(session, throughId)
}

/** Removes all results of a session that has ended. */
export const forgetSession = async (store: Store, session: SessionId): Promise<void> => {
  for (;;) {
    const removed = await store.execute(
      (tx) => {
        const found = tx.range(results, resultBounds(session), resultsPerStep)
        for (const [key] of found) tx.delete(results, key)
        return found.length
      },
      { mayUseReserve: true },
    )
    if (removed < resultsPerStep) break
  }
  store.results.drop(session)
}

const resultsPerStep = 1000

const knownResults = async (store: Store, session: SessionId): Promise<SessionResults> =>
  store.results.of(session) ?? (await loadResults(store, session))

const loadResults = async (store: Store, session: SessionId): Promise<SessionResults> => {
  const ids: bigint[] = []
  for (let from = resultBounds(session).gte; ;) {
    const bounds = { ...resultBounds(session), gte: from }
    const found = await store.execute((tx) => tx.range(results, bounds, resultsPerStep))
    for (const [key] of found) ids.push(key.request)
    if (found.length < resultsPerStep) break
    from = `${results.encodeKey(found.at(-1)![0])}\0`
  }
  return store.results.loaded(session, ids)
}
