/**
 * The client's session with the master: one stream that carries requests, replies and pushes, kept alive by heartbeats and opened
 * again for as long as the client lives.
 *
 * | state      | what happens in it                                            | leaves it for                                           |
 * |------------|---------------------------------------------------------------|---------------------------------------------------------|
 * | connecting | Hello was sent on a stream, its Welcome is awaited            | open; away (stream closed, silence); ended (refused)    |
 * | open       | requests and replies travel                                   | away (stream closed, no echo in time); ended (close)    |
 * | away       | no stream; a timer runs to the next attempt; requests wait    | connecting; ended (close)                               |
 * | ended      | every call fails                                              | -                                                       |
 *
 * Requests that are made in one turn of the event loop travel in one message. A request that found no reply on a stream is sent again
 * under its id when the session is resumed, and the master gives its first answer. When the master has ended the session, a new
 * one begins: `lost` is called first (everything that was held is gone), then requests are sent in the new session, fail, or are
 * settled, as requests.ts says for each.
 *
 * Invariant: the ids of one session grow by one in the order of sending.
 * Invariant: `isConfirmed()` is true only while the master cannot have ended the session, as long as the two clocks' rates differ by
 * less than a tenth.
 */
import { Activity } from '../domain/activity.ts'
import { PosixError, UnavailableError, UsageError } from '../domain/errors.ts'
import { isSpoken, protocolVersions, versionsToSend, type ProtocolVersions } from '../domain/protocol-versions.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Log } from '../platform/log.ts'
import { RequestLog } from '../platform/request-log.ts'
import type { Random } from '../platform/random.ts'
import type { Transport } from '../platform/transport.ts'
import { openStream } from '../protocol/rpc.ts'
import type { TypedStream } from '../protocol/rpc.ts'
import { SessionDefinition } from '../protocol/gen/shoal/v1/session.pb.ts'
import type {
  ClientMessage,
  HeldLock,
  Lease,
  OpenFile,
  Push,
  ServerMessage,
  Welcome,
} from '../protocol/gen/shoal/v1/session.pb.ts'
import { bytesEstimate, expectResult, fateOf, leasesOf, waitsForLock } from './requests.ts'
import type { Operation, Result, ResultName, ResultValue } from './requests.ts'
import { Event, interrupted } from './waiting.ts'

export const requestDeadlineMs = 60_000
const reconnectMsMin = 50
const reconnectMsMax = 1_000
const welcomeMsMax = 10_000
/** How long an interrupted request waits for the master to say whether it took effect. */
const interruptMsMax = 2_000
const messageRequestsMax = 256
/** Requests without an answer; the master cuts off who has many more. */
const inFlightMax = 4096
const messageBytesTarget = 1024 * 1024
/** The part of the lease that counts: the rest is for clocks that run at different rates. */
const leaseShare = 0.9

/** What the owner of the session holds and does. */
export interface SessionHooks {
  /** For Hello when the session is resumed. */
  holdings(): { openFiles: OpenFile[]; leases: Lease[]; locks: HeldLock[] }
  /** A lease that came with a reply; called before the request's outcome is told. */
  granted(lease: Lease): void
  /** The master has seen everything that was sent before this moment, and what it had answered until then has arrived. */
  echoed(sentMs: number): void
  pushed(push: NonNullable<Push['push']>): void
  /** The session has ended at the master; nothing of what was held counts any more. True: something that had been answered is lost with it. */
  lost(): boolean
  /** The session goes on over a new stream: the master knows exactly what `holdings` gave. */
  resumed(): void
  /** A new session has begun after one was lost. */
  renewed(): void
}

export interface SessionOptions {
  masterAddress: string
  rootPath: string
  /** False: the master offers none. */
  wantsLeases: boolean
  host: string
  mountPoint: string
  pid: number
  clock: Clock
  random: Random
  transport: Transport
  log: Log
  /** Other versions of the protocol than this program's, for tests of mixed clusters. */
  protocol?: ProtocolVersions | undefined
}

export interface CallOptions {
  /** Cancels: the request is answered EINTR unless it takes effect. */
  signal?: AbortSignal | undefined
  /** Infinity for what the client does on its own account. */
  deadlineMs?: number
  /** Called with the result when it comes after the caller was told that there is none. */
  late?: (result: Result) => void
  /** Called once, in the order of the replies, when the result arrives, however late; undefined when there will never be one. */
  outcome?: (result: Result | undefined) => void
}

interface Pending {
  operation: Operation
  /** 0: not sent in this session. */
  id: bigint
  startedMs: number
  deadlineMs: number
  /** Undefined once the caller has gone. */
  settle: ((outcome: Result | Error) => void) | undefined
  late: ((result: Result) => void) | undefined
  outcome: ((result: Result | undefined) => void) | undefined
  /** When its caller was interrupted. */
  interruptedMs: number | undefined
}

interface Identity {
  id: bigint
  secret: Buffer
}

type State =
  | { kind: 'connecting'; stream: TypedStream<ClientMessage>; sinceMs: number; fresh: boolean }
  | { kind: 'open'; stream: TypedStream<ClientMessage>; writable: boolean }
  | { kind: 'away'; timer: Timer }
  | { kind: 'ended'; error: Error }

export class Session {
  readonly #options: SessionOptions
  readonly #hooks: SessionHooks
  readonly #clock: Clock
  readonly #log: Log
  readonly #requestLog: RequestLog
  readonly #protocol: ProtocolVersions
  #state: State
  #identity: Identity | undefined
  #welcome: Welcome | undefined
  /** Sent and not answered, in the order of their ids; all but those that wait for a lock. */
  #inFlight = new Map<bigint, Pending>()
  /** Sent and not answered: waits for locks, which may last for ever, so that they neither use up room nor hold back what was answered. */
  #lockWaits = new Map<bigint, Pending>()
  /** Not sent yet. */
  #outbox: Pending[] = []
  #returns: Lease[] = []
  #openedUnderLeases: bigint[] = []
  #cancels: bigint[] = []
  #nextId = 1n
  #attempt = 0n
  #flushing = false
  #generation = 1
  #attempts = 0
  #confirmedUntilMs = -Infinity
  /** When the heartbeats that were not echoed yet were sent. */
  #heartbeatsMs: number[] = []
  #heartbeatDueMs = 0
  /** Reads and writes of the programs, for the master to see. */
  readonly activity = new Activity()
  #ticker: Timer | undefined
  readonly #confirmed = new Event()
  readonly #opened = new Event()
  #refusal: Error | undefined
  /** The refusal that was logged last: it comes again with each attempt. */
  #refusalLogged = ''

  private constructor(options: SessionOptions, hooks: SessionHooks) {
    this.#options = options
    this.#hooks = hooks
    this.#clock = options.clock
    this.#log = options.log
    this.#requestLog = new RequestLog(options.log, options.clock)
    this.#protocol = options.protocol ?? protocolVersions
    this.#state = { kind: 'away', timer: options.clock.after(0, () => {}) }
  }

  /** Resolves when the first session is open. UsageError when the master refuses it. */
  static async open(options: SessionOptions, hooks: SessionHooks, signal?: AbortSignal): Promise<Session> {
    const session = new Session(options, hooks)
    session.#connect()
    session.#tick()
    try {
      while (session.#welcome === undefined && session.#refusal === undefined) await session.#opened.wait(signal)
    } catch (caught) {
      session.#end(new UnavailableError('given up', { maybeCommitted: false }))
      throw caught
    }
    if (session.#refusal !== undefined) throw session.#refusal
    return session
  }

  /** What the master said of the cluster when it last welcomed the client. */
  get welcome(): Welcome {
    if (this.#welcome === undefined) throw new Error('the session is not open yet')
    return this.#welcome
  }

  /** Grows with each session that was lost. */
  get generation(): number {
    return this.#generation
  }

  get state(): State['kind'] {
    return this.#state.kind
  }

  /** Leases count. */
  isConfirmed(): boolean {
    return this.#clock.nowMs() < this.#confirmedUntilMs
  }

  /** For how long leases count, whatever happens. */
  confirmedForMs(): number {
    return Math.max(0, this.#confirmedUntilMs - this.#clock.nowMs())
  }

  /** Resolves when leases count again; rejects with EINTR, or with the reason when the session is over. */
  async whenConfirmed(signal?: AbortSignal): Promise<void> {
    const startedMs = this.#clock.nowMs()
    while (!this.isConfirmed()) {
      if (this.#state.kind === 'ended') throw this.#state.error
      if (this.#clock.nowMs() - startedMs > requestDeadlineMs) throw noAnswer('the master')
      await this.#confirmed.wait(signal)
    }
  }

  /**
   * Sends a request and gives the value of its result. PosixError: the master's answer, or EINTR. UnavailableError: no answer by the
   * deadline, or the session was lost and it is not known whether the request took effect.
   */
  async call<Name extends ResultName>(
    operation: Operation,
    name: Name,
    options: CallOptions = {},
  ): Promise<ResultValue<Name>> {
    return expectResult(await this.#request(operation, options), name)
  }

  /**
   * Tells the master that a lease is reduced. What was buffered under it has been committed. `opened`: what it covered is open, which the
   * master does not know.
   */
  returnLease(lease: Lease, { opened }: { opened: boolean }): void {
    // Without a stream there is nobody to tell: on resuming, Hello names what is still held. What is returned after it follows the Welcome.
    if (this.#state.kind !== 'open' && this.#state.kind !== 'connecting') return
    this.#returns.push(lease)
    if (opened) this.#openedUnderLeases.push(lease.ino)
    this.#flushSoon()
  }

  /** Ends the session in good order; afterwards every call fails. */
  async close(options: { deadlineMs: number }): Promise<void> {
    if (this.#state.kind === 'ended') return
    try {
      // A master that is away learns it when the session's lease runs out.
      if (this.#state.kind === 'open') await this.call({ $case: 'endSession', value: {} }, 'empty', options)
    } catch (caught) {
      this.#log.debug('the master did not answer the end of the session', { cause: caught })
    }
    const state = this.#state
    if (state.kind === 'open' || state.kind === 'connecting') state.stream.end()
    this.#end(new UnavailableError('the file system is closed', { maybeCommitted: false }))
  }

  #request(operation: Operation, options: CallOptions): Promise<Result> {
    const { signal } = options
    if (this.#state.kind === 'ended' || signal?.aborted === true) {
      options.outcome?.(undefined)
      return Promise.reject(this.#state.kind === 'ended' ? this.#state.error : interrupted())
    }
    return new Promise((resolve, reject) => {
      const pending: Pending = {
        operation,
        id: 0n,
        startedMs: this.#clock.nowMs(),
        deadlineMs: options.deadlineMs ?? requestDeadlineMs,
        settle: (outcome) => {
          signal?.removeEventListener('abort', onAbort)
          pending.settle = undefined
          if (outcome instanceof Error) reject(outcome)
          else resolve(outcome)
        },
        late: options.late,
        outcome: options.outcome,
        interruptedMs: undefined,
      }
      const onAbort = (): void => this.#interrupt(pending)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#outbox.push(pending)
      this.#flushSoon()
    })
  }

  /** The caller has gone. The answer tells whether the request took effect, so it is awaited for a moment. */
  #interrupt(pending: Pending): void {
    if (pending.settle === undefined) return
    if (pending.id === 0n) {
      this.#outbox = this.#outbox.filter((other) => other !== pending)
      pending.outcome?.(undefined)
      pending.settle(interrupted())
      return
    }
    pending.interruptedMs = this.#clock.nowMs()
    if (this.#state.kind !== 'open') {
      pending.settle(interrupted())
      return
    }
    this.#cancels.push(pending.id)
    this.#flushSoon()
    this.#clock.after(interruptMsMax, () => pending.settle?.(interrupted()))
  }

  #flushSoon(): void {
    if (this.#flushing) return
    this.#flushing = true
    queueMicrotask(() => {
      this.#flushing = false
      this.#flush()
    })
  }

  #flush(): void {
    while (this.#state.kind === 'open' && this.#state.writable) {
      const room = Math.min(messageRequestsMax, inFlightMax - this.#inFlight.size)
      const nothing = this.#outbox.length === 0 || room <= 0
      if (nothing && this.#returns.length === 0 && this.#cancels.length === 0) return
      const message = this.#message()
      let bytes = 0
      let count = 0
      while (count < this.#outbox.length && count < room && bytes < messageBytesTarget) {
        const pending = this.#outbox[count++]!
        pending.id = this.#nextId++
        const sent = waitsForLock(pending.operation) ? this.#lockWaits : this.#inFlight
        sent.set(pending.id, pending)
        message.requests.push({ id: pending.id, op: pending.operation })
        bytes += bytesEstimate(pending.operation)
      }
      this.#outbox.splice(0, count)
      message.answeredThrough = this.#answeredThrough()
      this.#takeReturns(message)
      message.cancels = this.#cancels
      this.#cancels = []
      this.#send(message)
    }
  }

  #send(message: ClientMessage): void {
    const state = this.#state
    if (state.kind !== 'open') return
    if (state.stream.send(message)) return
    state.writable = false
    void state.stream.drained().then(() => {
      state.writable = true
      if (this.#state === state) this.#flush()
    })
  }

  #message(): ClientMessage {
    return {
      hello: undefined,
      requests: [],
      answeredThrough: this.#answeredThrough(),
      leaseReturns: [],
      cancels: [],
      heartbeat: false,
      activity: undefined,
      opened: [],
    }
  }

  #takeReturns(message: ClientMessage): void {
    message.leaseReturns = this.#returns
    message.opened = this.#openedUnderLeases
    this.#returns = []
    this.#openedUnderLeases = []
  }

  /** In the order of their ids. */
  #sent(): Pending[] {
    const sent = [...this.#inFlight.values()]
    if (this.#lockWaits.size === 0) return sent
    return [...sent, ...this.#lockWaits.values()].toSorted((a, b) => (a.id < b.id ? -1 : 1))
  }

  /** Waits for locks do not count: see waitsForLock. */
  #answeredThrough(): bigint {
    for (const id of this.#inFlight.keys()) return id - 1n
    return this.#nextId - 1n
  }

  #connect(): void {
    const { masterAddress, rootPath, wantsLeases, host, mountPoint, pid, transport } = this.#options
    const fresh = this.#identity === undefined
    const holdings = fresh ? { openFiles: [], leases: [], locks: [] } : this.#hooks.holdings()
    this.#returns = []
    this.#openedUnderLeases = []
    const stream: TypedStream<ClientMessage> = openStream(
      transport,
      masterAddress,
      SessionDefinition,
      SessionDefinition.methods.connect,
      {
        message: (message) => this.#received(stream, message),
        closed: (error) => this.#closed(stream, error),
      },
    )
    this.#state = { kind: 'connecting', stream, sinceMs: this.#clock.nowMs(), fresh }
    stream.send({
      ...this.#message(),
      answeredThrough: 0n,
      hello: {
        ...versionsToSend(this.#protocol),
        sessionId: this.#identity?.id ?? 0n,
        sessionSecret: this.#identity?.secret ?? Buffer.alloc(0),
        host,
        mountPoint,
        pid,
        rootPath,
        noLeases: !wantsLeases,
        attempt: ++this.#attempt,
        ...holdings,
      },
    })
  }

  #received(stream: TypedStream<ClientMessage>, message: ServerMessage): void {
    const state = this.#state
    if ((state.kind !== 'open' && state.kind !== 'connecting') || state.stream !== stream) return
    if (state.kind === 'connecting') {
      if (message.welcome === undefined) {
        stream.abort('the first message has no welcome')
        return
      }
      this.#welcomed(state, message.welcome)
      if (this.#state.kind !== 'open') return
    }
    // Replies first: a recall in the same message names a grant that came with one of them, or an earlier one.
    for (const { id, result } of message.replies) if (result !== undefined) this.#replied(id, result)
    for (const { push } of message.pushes) if (push !== undefined) this.#hooks.pushed(push)
    if (message.heartbeat) {
      const sentMs = this.#heartbeatsMs.shift()
      if (sentMs === undefined) return
      this.#confirm(sentMs)
      this.#hooks.echoed(sentMs)
    }
  }

  #replied(id: bigint, result: Result): void {
    const pending = this.#inFlight.get(id) ?? this.#lockWaits.get(id)
    if (pending === undefined) return
    this.#inFlight.delete(id)
    this.#lockWaits.delete(id)
    if (this.#outbox.length > 0) this.#flushSoon()
    this.#tellEnd(pending, result.$case === 'failure' ? { failure: result.value.code } : {})
    for (const lease of leasesOf(result)) if (lease !== undefined) this.#hooks.granted(lease)
    pending.outcome?.(result)
    if (pending.settle !== undefined) pending.settle(result)
    else if (result.$case !== 'failure') pending.late?.(result)
  }

  #welcomed(state: State & { kind: 'connecting' }, welcome: Welcome): void {
    const { failure } = welcome
    if (failure !== undefined) {
      state.stream.end()
      if (failure.code === 'ESTALE' && this.#identity !== undefined) {
        this.#lost()
        this.#connect()
      } else if (this.#welcome === undefined) {
        this.#refuse(new UsageError(failure.message || `the master refuses this mount: ${failure.code}`))
      } else {
        if (this.#refusalLogged !== failure.message) {
          this.#log.warn('the master refuses the session', { code: failure.code, message: failure.message })
        }
        this.#refusalLogged = failure.message
        this.#goAway()
      }
      return
    }
    if (!isSpoken(this.#protocol, welcome.protocolVersion)) {
      return state.stream.abort(`the master wants version ${welcome.protocolVersion} of the protocol`)
    }
    const renewed = state.fresh && this.#welcome !== undefined
    if (this.#attempts > 1) this.#log.info('the master is back', { session: welcome.sessionId })
    this.#attempts = 0
    this.#refusalLogged = ''
    this.#identity = { id: welcome.sessionId, secret: welcome.sessionSecret }
    this.#welcome = welcome
    this.#state = { kind: 'open', stream: state.stream, writable: true }
    this.#heartbeatsMs = []
    this.#heartbeatDueMs = this.#clock.nowMs() + welcome.leaseMs / 4
    this.#cancels = []
    this.#confirm(state.sinceMs)
    if (renewed) this.#hooks.renewed()
    else if (!state.fresh) this.#hooks.resumed()
    this.#resend()
    this.#flushSoon()
    this.#opened.fire()
  }

  /** What was sent on an earlier stream of this session and not answered. */
  #resend(): void {
    let message = this.#message()
    let bytes = 0
    for (const pending of this.#sent()) {
      message.requests.push({ id: pending.id, op: pending.operation })
      bytes += bytesEstimate(pending.operation)
      if (pending.interruptedMs !== undefined) message.cancels.push(pending.id)
      if (message.requests.length < messageRequestsMax && bytes < messageBytesTarget) continue
      this.#send(message)
      message = this.#message()
      bytes = 0
    }
    if (message.requests.length > 0) this.#send(message)
  }

  #confirm(sentMs: number): void {
    this.#confirmedUntilMs = Math.max(this.#confirmedUntilMs, sentMs + this.welcome.leaseMs * leaseShare)
    this.#confirmed.fire()
  }

  #closed(stream: TypedStream<ClientMessage>, error: Error | undefined): void {
    const state = this.#state
    if ((state.kind !== 'open' && state.kind !== 'connecting') || state.stream !== stream) return
    if (error instanceof PosixError && this.#welcome === undefined) {
      this.#refuse(new UsageError(`the master refuses this mount: ${error.message}`))
      return
    }
    if (state.kind === 'open') this.#log.warn('the master is away', { cause: error })
    this.#goAway()
  }

  #goAway(): void {
    const ceilingMs = Math.min(reconnectMsMin * 2 ** this.#attempts, reconnectMsMax)
    this.#attempts++
    // Half of it random, so that the clients of a master that restarts do not come all at once.
    const delayMs = ceilingMs / 2 + this.#options.random.below(Math.ceil(ceilingMs / 2) + 1)
    this.#state = { kind: 'away', timer: this.#clock.after(delayMs, () => this.#connect()) }
  }

  /** The master has ended the session: nothing that was held counts, and a new session must begin. */
  #lost(): void {
    this.#log.error('the session was ended by the master', { session: this.#identity?.id })
    this.#identity = undefined
    this.#confirmedUntilMs = -Infinity
    this.#generation++
    const sent = this.#sent()
    this.#inFlight = new Map()
    this.#lockWaits = new Map()
    this.#nextId = 1n
    const isLoss = this.#hooks.lost()
    const again: Pending[] = []
    for (const pending of sent) {
      const fate = fateOf(pending.operation)
      if (fate === 'again' && pending.settle !== undefined) {
        pending.id = 0n
        again.push(pending)
        continue
      }
      pending.outcome?.(undefined)
      pending.settle?.(goneOutcome(pending.operation, fate === 'again' ? 'unknown' : fate))
    }
    const unsent = this.#outbox.filter((pending) => {
      const fate = fateOf(pending.operation)
      if (fate === 'again' || (fate === 'unknown' && !isLoss)) return true
      pending.outcome?.(undefined)
      pending.settle?.(goneOutcome(pending.operation, fate))
      return false
    })
    this.#outbox = [...again, ...unsent]
  }

  #refuse(error: Error): void {
    this.#refusal = error
    this.#end(error)
  }

  #end(error: Error): void {
    const state = this.#state
    if (state.kind === 'away') state.timer.cancel()
    this.#ticker?.cancel()
    this.#state = { kind: 'ended', error }
    this.#confirmedUntilMs = -Infinity
    if (state.kind === 'connecting' || state.kind === 'open') state.stream.end()
    const left = [...this.#sent(), ...this.#outbox]
    this.#inFlight.clear()
    this.#lockWaits.clear()
    this.#outbox = []
    for (const pending of left) {
      pending.outcome?.(undefined)
      pending.settle?.(error)
    }
    this.#opened.fire()
    this.#confirmed.fire()
  }

  /** Heartbeats, deadlines, and streams that have fallen silent. */
  #tick(): void {
    const state = this.#state
    if (state.kind === 'ended') return
    const now = this.#clock.nowMs()
    const leaseMs = this.#welcome?.leaseMs ?? 10_000
    if (state.kind === 'connecting' && now - state.sinceMs > welcomeMsMax) {
      state.stream.abort('no welcome')
      if (this.#state === state) this.#goAway()
    } else if (state.kind === 'open') {
      const oldestMs = this.#heartbeatsMs[0]
      if (oldestMs !== undefined && now - oldestMs > leaseMs / 2) {
        this.#log.warn('the master is silent', { forMs: Math.round(now - oldestMs) })
        state.stream.abort('no echo of a heartbeat')
        if (this.#state === state) this.#goAway()
      } else if (now >= this.#heartbeatDueMs) {
        this.#heartbeatDueMs = now + leaseMs / 4
        this.#heartbeatsMs.push(now)
        // What is returned goes first or with it: the echo tells that the master has seen it.
        const activity = this.activity.totals()
        const message = { ...this.#message(), heartbeat: true, activity }
        this.#takeReturns(message)
        this.#send(message)
      }
    }
    for (const pending of this.#inFlight.values()) this.#checkDeadline(pending, now)
    if (this.#outbox.length > 0) {
      for (const pending of this.#outbox) this.#checkDeadline(pending, now)
      this.#outbox = this.#outbox.filter((pending) => {
        if (pending.settle === undefined) pending.outcome?.(undefined)
        return pending.settle !== undefined
      })
    }
    // Whoever waits for the master looks at its own deadline.
    if (this.#confirmed.waiting) this.#confirmed.fire()
    this.#ticker = this.#clock.after(Math.min(1_000, leaseMs / 8), () => this.#tick())
  }

  #checkDeadline(pending: Pending, now: number): void {
    if (pending.settle === undefined || now - pending.startedMs <= pending.deadlineMs) return
    if (pending.id !== 0n && this.#state.kind === 'open') {
      this.#cancels.push(pending.id)
      this.#flushSoon()
    }
    const error = noAnswer(pending.operation.$case)
    this.#tellEnd(pending, { noAnswer: error.message })
    pending.settle(error)
  }

  /** A wait for a lock lasts as long as somebody has the lock. */
  #tellEnd({ operation, id, startedMs }: Pending, end: { failure?: string; noAnswer?: string }): void {
    if (waitsForLock(operation)) return
    this.#requestLog.ended({ startMs: startedMs, ...end }, () => ({
      request: operation.$case,
      session: this.#identity?.id,
      id,
    }))
  }
}

export const noAnswer = (what: string): UnavailableError =>
  new UnavailableError(`no answer from the master for ${what} in time`, { maybeCommitted: true })

const goneOutcome = (operation: Operation, fate: 'gone' | 'unknown'): Result | Error => {
  if (fate === 'unknown')
    return new UnavailableError(`the session ended during ${operation.$case}`, { maybeCommitted: true })
  if (operation.$case === 'commit' || operation.$case === 'journal')
    return new PosixError('ESTALE', `the session ended before the ${operation.$case}`)
  return { $case: 'empty', value: {} }
}
