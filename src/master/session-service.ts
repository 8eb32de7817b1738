/**
 * The Session service: streams of clients, and what becomes of each request on them.
 *
 * Requests of one session run side by side; each is started in the order of arrival, see session-order.ts. One that comes again (same
 * id, on a new stream) while the first still runs is not run twice: the first one's reply goes out on whichever stream the session has
 * then.
 *
 * Invariant: the Welcome is the first message on a stream.
 * Invariant: a lease in a reply is the one that the session holds when the reply goes out, and it was not given up since the reply's
 * content was read: the client never holds more than the master knows.
 */
import { PosixError, UnavailableError } from '../domain/errors.ts'
import type { Ino, SessionId } from '../domain/ids.ts'
import { asChunkId, asIno, asServerId, asSessionId } from '../domain/ids.ts'
import { agreedVersion, versionRefusal, type ProtocolVersions } from '../domain/protocol-versions.ts'
import type { OperationObserver } from '../domain/operation-times.ts'
import type { LockWish } from '../domain/range-locks.ts'
import { lockEndMax } from '../domain/range-locks.ts'
import type { Clock } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { RequestLog } from '../platform/request-log.ts'
import type { StreamHandler } from '../platform/transport.ts'
import type {
  ClientMessage,
  FileLock,
  HeldLock,
  Hello,
  Lease,
  Request,
  ServerMessage,
  Welcome,
} from '../protocol/gen/shoal/v1/session.pb.ts'
import {
  LockKind,
  LockType,
  ReportReplicaRequest_Problem,
  SessionDefinition,
} from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { TypedHandlers, TypedStream } from '../protocol/rpc.ts'
import { streamHandler } from '../protocol/rpc.ts'
import { acquireLease } from './acquire-lease.ts'
import type { ChunkAllocation } from './chunk-allocation.ts'
import type { OpContext } from './context.ts'
import type { LeaseTable } from './leases.ts'
import { leaseModeOf, wireMode } from './leases.ts'
import type { LockTable } from './locks.ts'
import type { OpenTable } from './opens.ts'
import { executeRequest, failure, forgetResults, isRepeat } from './ops/index.ts'
import type { Result } from './ops/operation.ts'
import { Outbox } from './outbox.ts'
import type { ReplicaCheck } from './replica-check.ts'
import { resolveRoot } from './paths.ts'
import type { Sealing } from './sealing.ts'
import { masterSession } from './sessions.ts'
import type { Session, SessionTable } from './sessions.ts'
import type { Store } from './store.ts'

/** Requests of one session that are not answered yet; a client that has more is cut off, and comes back. */
export const requestsPerSessionMax = 8192
export const locatePerRequestMax = 1024
const nameLengthMax = 4096
/** Messages that may come between a Hello and its Welcome. */
const earlyMessagesMax = 64
const leaseRetriesMax = 8

export interface SessionServiceOptions {
  clock: Clock
  log: Log
  requestLog: RequestLog
  faults?: Faults | undefined
  store: Store
  sessions: SessionTable
  leases: LeaseTable
  locks: LockTable
  opens: OpenTable
  /** Nobody has these inodes open any more, of those who are back. */
  closed: (inos: readonly Ino[]) => void
  allocation: ChunkAllocation
  sealing: Sealing
  replicaCheck: ReplicaCheck
  /** Undefined: there is no such chunk. */
  locate: (chunk: bigint) => ServerAddress[] | undefined
  contextOf: (session: SessionId) => OpContext
  protocol: ProtocolVersions
  cluster: { id: string; copies: number; copiesMin: number; inlineBytesMax: number }
  servers: () => ServerAddress[]
  /** Told of every request that was answered. */
  operations?: OperationObserver | undefined
  /** A session has come back: it may have missed what it was to be told. */
  resumed: (session: SessionId) => void
}

type Connection =
  | { kind: 'hello' }
  | { kind: 'opening'; early: ClientMessage[] }
  | { kind: 'open'; session: Session }
  | { kind: 'closed' }

export const sessionHandler = (options: SessionServiceOptions): StreamHandler =>
  streamHandler(SessionDefinition.methods.connect, (stream, peer) => connection(options, stream, peer))

const connection = (
  options: SessionServiceOptions,
  stream: TypedStream<ServerMessage>,
  peer: string,
): TypedHandlers<ClientMessage> => {
  const { sessions, log } = options
  const outbox = new Outbox(stream)
  let state: Connection = { kind: 'hello' }

  const open = async (hello: Hello): Promise<void> => {
    let session: Session
    try {
      session = await openSession(options, hello)
    } catch (caught) {
      if (caught instanceof PosixError) {
        log.info('session refused', { peer, code: caught.code, message: caught.message })
        outbox.welcome(refusal(caught))
        outbox.end()
      } else {
        if (!(caught instanceof UnavailableError)) log.error('hello failed', { peer, cause: caught })
        outbox.abort('the master cannot open a session now')
      }
      state = { kind: 'closed' }
      return
    }
    if (state.kind !== 'opening') return
    if (session.state === 'ending') {
      // Its record waited for the disk for longer than a session may be silent; the client tries again.
      outbox.abort('the session has ended before it began')
      state = { kind: 'closed' }
      return
    }
    if (hello.attempt < session.attempt) {
      // What it says the client holds is what the client held then.
      outbox.abort('the client has connected again since')
      state = { kind: 'closed' }
      return
    }
    session.attempt = hello.attempt
    const { early } = state
    // From here to the end nothing waits: no reply can come before the welcome.
    outbox.welcome(welcome(options, session, hello))
    session.wantsLeases = !hello.noLeases
    const isRecovering = session.state === 'recovering'
    sessions.attach(session, outbox)
    resume(options, session, hello, isRecovering)
    if (hello.sessionId !== 0n) options.resumed(session.id)
    state = { kind: 'open', session }
    log.info(hello.sessionId === 0n ? 'session begun' : 'session resumed', {
      session: session.id,
      host: session.record.host,
      mountPoint: session.record.mountPoint,
    })
    for (const message of early) received(options, session, outbox, message)
  }

  return {
    message: (message) => {
      switch (state.kind) {
        case 'hello':
          if (!message.hello) {
            state = { kind: 'closed' }
            return outbox.abort('the first message has no hello')
          }
          state = { kind: 'opening', early: [] }
          void open(message.hello)
          return
        case 'opening':
          if (state.early.push(message) > earlyMessagesMax) {
            state = { kind: 'closed' }
            outbox.abort('too many messages before the welcome')
          }
          return
        case 'open':
          if (state.session.outbox === outbox) received(options, state.session, outbox, message)
          return
        case 'closed':
          return
      }
    },
    closed: () => {
      outbox.closed()
      if (state.kind === 'open') sessions.detach(state.session, outbox)
      state = { kind: 'closed' }
    },
  }
}

/** Makes or finds the session that a Hello asks for. */
const openSession = async (options: SessionServiceOptions, hello: Hello): Promise<Session> => {
  const { sessions, store, contextOf } = options
  if (agreedVersion(options.protocol, hello) === undefined) {
    throw new PosixError('EPROTO', versionRefusal(options.protocol, hello, 'client'))
  }
  const { host, mountPoint, pid } = hello
  if (host.length > nameLengthMax || mountPoint.length > nameLengthMax) {
    throw new PosixError('EINVAL', 'the name of the host or of the mount point is too long')
  }
  if (hello.sessionId !== 0n) return sessions.find(asSessionId(hello.sessionId), hello.sessionSecret)
  const root = await store.execute((tx) => resolveRoot(tx, hello.rootPath, contextOf(masterSession)))
  return sessions.create({ host, mountPoint, pid, root })
}

/** Takes over what a session that comes back says it holds, and sends what is recalled from it over its new stream. */
const resume = (options: SessionServiceOptions, session: Session, hello: Hello, isRecovering: boolean): void => {
  if (hello.sessionId === 0n) return
  const { leases, locks, opens, log } = options
  for (const { ino } of hello.openFiles) opens.open(session.id, asIno(ino))
  const declared: { ino: Ino; mode: 'read' | 'write'; grant: bigint }[] = []
  for (const { ino, mode, grant } of hello.leases) {
    const held = leaseModeOf(mode)
    if (held === 'read' || held === 'write') declared.push({ ino: asIno(ino), mode: held, grant })
  }
  leases.declare(session.id, declared)
  // While the master was up it knows the locks better: a reply that says more may be on its way.
  if (!isRecovering) return
  for (const held of hello.locks) {
    const wish = lockWish(session.id, held)
    if (!wish || wish.type === 'unlock') continue
    if (!locks.declare(asIno(held.ino), wish)) {
      log.warn('a declared lock is in conflict with another session', { session: session.id, ino: held.ino })
    }
  }
}

const welcome = (options: SessionServiceOptions, session: Session, hello: Hello): Welcome => ({
  failure: undefined,
  sessionId: session.id,
  sessionSecret: session.record.secret,
  leaseMs: options.sessions.leaseMs,
  clusterId: options.cluster.id,
  rootIno: session.record.root,
  inlineBytesMax: options.cluster.inlineBytesMax,
  copiesMin: options.cluster.copiesMin,
  copies: options.cluster.copies,
  servers: options.servers(),
  protocolVersion: agreedVersion(options.protocol, hello) ?? 0,
})

const refusal = ({ code, message }: PosixError): Welcome => ({
  failure: { code, message },
  sessionId: 0n,
  sessionSecret: Buffer.alloc(0),
  leaseMs: 0,
  clusterId: '',
  rootIno: 0n,
  inlineBytesMax: 0,
  copiesMin: 0,
  copies: 0,
  servers: [],
  protocolVersion: 0,
})

const received = (options: SessionServiceOptions, session: Session, outbox: Outbox, message: ClientMessage): void => {
  const { sessions, leases, opens, store } = options
  if (session.state === 'ending') return
  sessions.touch(session)
  if (message.hello) return outbox.abort('a second hello')
  for (const ino of message.opened) opens.open(session.id, asIno(ino))
  for (const { ino, mode, grant } of message.leaseReturns) {
    leases.returned(session.id, asIno(ino), leaseModeOf(mode) ?? 'none', grant)
  }
  if (message.answeredThrough > 0n) {
    forgetResults(store, session.id, message.answeredThrough)
    session.forgetAnswers(message.answeredThrough)
    options.closed(opens.answered(session.id, message.answeredThrough))
  }
  for (const request of message.requests) {
    if (request.id === 0n) return outbox.abort('a request without an id')
    if (session.running.has(request.id)) continue
    if (session.running.size + outbox.backlog >= requestsPerSessionMax) {
      return outbox.abort(`more than ${requestsPerSessionMax} requests at once`)
    }
    start(options, session, request)
  }
  // After the requests: what is sent again on a new stream may come together with its cancel.
  for (const id of message.cancels) session.running.get(id)?.abort.abort()
  if (message.activity) session.reported = message.activity
  if (message.heartbeat) outbox.heartbeat()
}

const start = (options: SessionServiceOptions, session: Session, request: Request): void => {
  const abort = new AbortController()
  let resolve!: () => void
  const done = new Promise<void>((settle) => {
    resolve = settle
  })
  session.running.set(request.id, { abort, done })
  const { clock, operations } = options
  const startMs = clock.nowMs()
  const turn = session.order.turn(request.op?.$case)
  const run = async (): Promise<void> => {
    try {
      if (turn.before !== undefined) await turn.before
      const result = await answer(options, session, request, { signal: abort.signal, applied: turn.done })
      operations?.observe(request.op?.$case ?? 'none', clock.nowMs() - startMs, {
        failed: result.$case === 'failure',
      })
      tellEnd(options.requestLog, session, request, startMs, result)
      session.running.delete(request.id)
      session.outbox?.reply({ id: request.id, result })
    } catch (caught) {
      session.running.delete(request.id)
      if (caught instanceof UnavailableError) {
        // No answer: the client sends it again when the master is back.
        session.outbox?.abort('the master stops')
      } else {
        const { id } = request
        options.log.error('request failed', { session: session.id, id, request: request.op?.$case, cause: caught })
        const message = `the master failed at request ${id} of session ${session.id}; its log says why`
        session.outbox?.reply({ id, result: failure(new PosixError('EIO', message)) })
      }
    } finally {
      turn.done()
      session.activity.add('other', 0, options.clock.nowMs() - startMs)
      resolve()
    }
  }
  void run()
}

/** A wait for a lock lasts as long as somebody has the lock. */
const tellEnd = (log: RequestLog, session: Session, { op, id }: Request, startMs: number, result: Result): void => {
  if (op?.$case === 'setlk' && op.value.wait) return
  const failure = result.$case === 'failure' ? result.value.code : undefined
  log.ended({ startMs, failure }, () => ({ request: op?.$case ?? 'none', session: session.id, id }))
}

interface Progress {
  /** The caller has gone. */
  readonly signal: AbortSignal
  readonly applied: () => void
}

const answer = async (
  options: SessionServiceOptions,
  session: Session,
  request: Request,
  progress: Progress,
): Promise<Result> => {
  const { sessions, store, log } = options
  const { signal } = progress
  try {
    if (sessions.isRecovering && request.op?.$case !== 'endSession') {
      // What was carried out in the last run is only told, and needs nothing that another session may hold.
      if (!(await isRepeat(store, session.id, request.id))) await recovered(sessions.recovered, signal)
    }
    if (session.state === 'ending') throw new PosixError('ESTALE', 'the session has ended')
    for (let tries = 1; ; tries++) {
      const result = await execute(options, session, request, progress)
      await options.faults?.point('master.request.answer')
      if (bringsItsLeases(options.leases, session.id, result)) return result
      // The lease was dropped while the reply was on its way here.
      if (request.op?.$case !== 'getExtents' && request.op?.$case !== 'acquireLease') return result
      if (tries >= leaseRetriesMax) {
        log.warn('a lease did not last until its reply', { session: session.id })
        return result
      }
    }
  } catch (caught) {
    if (caught instanceof PosixError) return failure(caught)
    throw caught
  }
}

/** The end of the grace period, or EINTR. */
const recovered = (promise: Promise<void>, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new PosixError('EINTR'))
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    void promise.then(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    })
  })

const execute = async (
  options: SessionServiceOptions,
  session: Session,
  request: Request,
  progress: Progress,
): Promise<Result> => {
  const { signal } = progress
  const { store, sealing, allocation, replicaCheck, sessions } = options
  const { op, id } = request
  switch (op?.$case) {
    case 'allocateChunk':
      return allocation.allocate(session.id, id, op.value, signal)
    case 'sealChunk':
      await sealing.seal(asChunkId(op.value.chunkId), session.id)
      return empty
    case 'reportReplica': {
      const { problem, chunkId, serverId } = op.value
      if (problem === ReportReplicaRequest_Problem.PROBLEM_UNSPECIFIED) throw new PosixError('EINVAL', 'no problem')
      replicaCheck.add(asChunkId(chunkId), asServerId(serverId))
      return empty
    }
    case 'locate': {
      const { chunkIds } = op.value
      if (chunkIds.length > locatePerRequestMax) throw new PosixError('EINVAL', 'too many chunks at once')
      const locations = chunkIds.flatMap((chunkId) => {
        const servers = options.locate(chunkId)
        return servers === undefined ? [] : [{ chunkId, servers }]
      })
      return { $case: 'locate', value: { locations } }
    }
    case 'acquireLease':
      return store.execute((tx) => acquireLease(tx, op.value, options.contextOf(session.id)), { signal })
    case 'endSession':
      await sessions.end(session, 'the client leaves', id)
      return empty
    case 'getlk':
      return getlk(options, session, op.value)
    case 'setlk': {
      const known = session.answers.get(id)
      if (known) return known
      const { ino, wait } = op.value
      const wish = lockWish(session.id, op.value)
      if (!wish) throw new PosixError('EINVAL', 'no lock')
      await options.locks.setlk(asIno(ino), wish, { wait, signal })
      session.keepAnswer(id, empty)
      return empty
    }
    default:
      return executeRequest(store, options.contextOf(session.id), request, progress)
  }
}

const empty: Result = { $case: 'empty', value: {} }

const getlk = (
  { locks }: SessionServiceOptions,
  session: Session,
  request: { ino: bigint; owner: bigint; kind: LockKind; lock: FileLock | undefined },
): Result => {
  const wish = lockWish(session.id, request)
  if (!wish) throw new PosixError('EINVAL', 'no lock')
  const conflict = locks.getlk(asIno(request.ino), wish)
  if (!conflict) return { $case: 'lock', value: { ...request.lock!, type: LockType.LOCK_TYPE_UNLOCK } }
  const { start, end, pid } = conflict
  const type = conflict.type === 'read' ? LockType.LOCK_TYPE_READ : LockType.LOCK_TYPE_WRITE
  return { $case: 'lock', value: { type, start, end, pid } }
}

/** undefined for what is no lock. */
const lockWish = (session: SessionId, request: Pick<HeldLock, 'owner' | 'kind' | 'lock'>): LockWish | undefined => {
  const { owner, lock } = request
  const kind =
    request.kind === LockKind.LOCK_KIND_POSIX
      ? 'posix'
      : request.kind === LockKind.LOCK_KIND_FLOCK
        ? 'flock'
        : undefined
  if (!kind || !lock || lock.start > lock.end) return undefined
  const whole = kind === 'flock'
  const range = {
    start: whole ? 0n : lock.start,
    // The kernel's "however far" may come as the greatest number of either sign.
    end: whole || lock.end > lockEndMax ? lockEndMax : lock.end,
  }
  if (range.start > lockEndMax) return undefined
  const type = lockTypeOf(lock.type)
  return type && { session, owner, kind, type, ...range, pid: lock.pid }
}

const lockTypeOf = (type: LockType): LockWish['type'] | undefined => {
  if (type === LockType.LOCK_TYPE_READ) return 'read'
  if (type === LockType.LOCK_TYPE_WRITE) return 'write'
  return type === LockType.LOCK_TYPE_UNLOCK ? 'unlock' : undefined
}

/** The leases in a result; the first is the one that was asked for, if any was. */
const leasesIn = (result: Result): (Lease | undefined)[] => {
  switch (result.$case) {
    case 'entry': {
      const { lease, parentLease, changed } = result.value
      return [lease, parentLease, ...changed.map((inode) => inode.lease)]
    }
    case 'changed':
      return result.value.inodes.map((inode) => inode.lease)
    case 'readdir':
      return [result.value.lease, ...result.value.entries.map((entry) => entry.lease)]
    case 'extents':
      return [result.value.lease, ...result.value.following.map((file) => file.lease)]
    case 'attributesAndLease':
    case 'copyFileRange':
      return [result.value.lease]
    default:
      return []
  }
}

/**
 * Brings the leases in a result up to date: a newer grant may be out, and a write lease may have become one for reading. One that was given
 * up becomes mode NONE. False when the one that was asked for is less than it was.
 */
const bringsItsLeases = (leases: LeaseTable, session: SessionId, result: Result): boolean => {
  let complete = true
  for (const [index, lease] of leasesIn(result).entries()) {
    const mode = lease && leaseModeOf(lease.mode)
    if (!lease || mode === undefined || mode === 'none') continue
    const current = leases.current(session, asIno(lease.ino), lease.grant)
    if (index === 0 && (!current || (mode === 'write' && current.mode === 'read'))) complete = false
    lease.mode = wireMode(current?.mode ?? 'none')
    lease.grant = current?.grant ?? 0n
  }
  return complete
}
