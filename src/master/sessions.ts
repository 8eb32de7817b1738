/**
 * The clients' sessions. A session is kept in the store, so that after a restart the master knows who may come back and waits for them
 * before it lets anybody work.
 *
 * | state        | means                                                       | becomes                                       |
 * |--------------|-------------------------------------------------------------|-----------------------------------------------|
 * | recovering   | found in the store, not heard of since the master's start   | connected (resumes), ending (lease ran out)   |
 * | connected    | a stream is there                                           | away (stream closed), ending                  |
 * | away         | no stream; its requests go on, its leases count             | connected (resumes), ending (lease ran out)   |
 * | ending       | its end is recorded; then what it held is free, its chunks  | gone                                          |
 * |              | are sealed, its records removed                             |                                               |
 *
 * A session lives for `leaseMs` after its last message, on whichever stream. While one is recovering, every other one's requests wait: it
 * may hold leases that only it knows of.
 *
 * Invariant: from the moment a session is ending nothing is granted to it and it commits nothing.
 * Invariant: nobody is given what a session held before its end is on disk: after a restart that did not know of it the session would
 * come back with all that it had, beside those who have it now.
 */
import { Activity } from '../domain/activity.ts'
import type { ActivityTotals } from '../domain/activity.ts'
import { PosixError } from '../domain/errors.ts'
import type { Ino, SessionId } from '../domain/ids.ts'
import { asSessionId } from '../domain/ids.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { Faults } from '../platform/faults.ts'
import type { Log } from '../platform/log.ts'
import type { Random } from '../platform/random.ts'
import type { Reply } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { SessionRecord } from './keys.ts'
import { counters, sessions as sessionTable, tableBounds } from './keys.ts'
import { forgetSession } from './ops/index.ts'
import type { Outbox } from './outbox.ts'
import { SessionOrder } from './session-order.ts'
import type { Store } from './store.ts'

export const sessionsMax = 10_000
/** Answers that are kept in memory until the client has them. */
const keptAnswersMax = 10_000
const secretBytes = 16
/** In the record of a session that has ended: nobody comes back with this one. */
const noSecret = Buffer.alloc(0)

export type SessionState = 'recovering' | 'connected' | 'away' | 'ending'

export interface RunningRequest {
  readonly abort: AbortController
  readonly done: Promise<void>
}

/** The master's own requests: it holds no lease, and asks holders for theirs as any session does. */
export const masterSession = asSessionId(0n)

export class Session {
  readonly id: SessionId
  readonly record: SessionRecord
  readonly running = new Map<bigint, RunningRequest>()
  /** Answers of requests that change something in memory only, so that a repeat gets the first answer. */
  readonly answers = new Map<bigint, Reply['result']>()
  readonly order = new SessionOrder()
  /** Its requests to the master. */
  readonly activity = new Activity()
  /** False: it is offered none. */
  wantsLeases = true
  /** What it said last of its reading and writing. */
  reported: ActivityTotals | undefined
  /** Of the newest Hello of this run; see Hello.attempt. */
  attempt = 0n
  state: SessionState
  outbox: Outbox | undefined
  lastSeenMs: number

  constructor(id: SessionId, record: SessionRecord, state: SessionState, nowMs: number) {
    this.id = id
    this.record = record
    this.state = state
    this.lastSeenMs = nowMs
  }

  keepAnswer(id: bigint, result: Reply['result']): void {
    this.answers.set(id, result)
    if (this.answers.size <= keptAnswersMax) return
    for (const oldest of this.answers.keys()) {
      this.answers.delete(oldest)
      return
    }
  }

  forgetAnswers(throughId: bigint): void {
    for (const id of this.answers.keys()) if (id <= throughId) this.answers.delete(id)
  }
}

export interface SessionTableOptions {
  store: Store
  clock: Clock
  random: Random
  log: Log
  faults?: Faults | undefined
  leaseMs: number
  /** Frees what a session holds, at once: leases, locks, open files. */
  release: (session: SessionId) => void
  /** Seals what it left open. */
  sealChunks: (session: SessionId) => Promise<void>
}

export class SessionTable {
  readonly leaseMs: number
  /** Resolves when every session of the master's last run has resumed or ended. */
  readonly recovered: Promise<void>
  readonly #options: SessionTableOptions
  readonly #sessions = new Map<SessionId, Session>()
  readonly #endings = new Map<SessionId, Promise<void>>()
  #recovering = 0
  #resolveRecovered!: () => void
  #check: Timer
  #lastCheckMs: number

  private constructor(options: SessionTableOptions) {
    this.#options = options
    this.leaseMs = options.leaseMs
    this.recovered = new Promise((resolve) => {
      this.#resolveRecovered = resolve
    })
    this.#lastCheckMs = options.clock.nowMs()
    this.#check = options.clock.after(this.#checkIntervalMs, () => this.#checkAll())
  }

  static async open(options: SessionTableOptions): Promise<SessionTable> {
    const table = new SessionTable(options)
    const all = tableBounds(sessionTable)
    const found = await options.store.execute((tx) => tx.range(sessionTable, all, sessionsMax))
    const now = options.clock.nowMs()
    for (const [id, record] of found) {
      const hasEnded = record.secret.length === 0
      table.#sessions.set(id, new Session(id, record, hasEnded ? 'ending' : 'recovering', now))
      if (!hasEnded) table.#recovering++
    }
    if (table.#recovering === 0) table.#resolveRecovered()
    else options.log.info('waiting for the sessions of the last run', { sessions: table.#recovering })
    return table
  }

  get isRecovering(): boolean {
    return this.#recovering > 0
  }

  get(id: SessionId): Session | undefined {
    return this.#sessions.get(id)
  }

  /** The session may work. */
  isAlive(id: SessionId): boolean {
    const session = this.#sessions.get(id)
    return session !== undefined && session.state !== 'ending'
  }

  all(): Iterable<Session> {
    return this.#sessions.values()
  }

  /** EMFILE beyond the limit. Durable when it resolves. */
  async create(client: { host: string; mountPoint: string; pid: number; root: Ino }): Promise<Session> {
    const { store, random, clock } = this.#options
    const secret = random.bytes(secretBytes)
    return store.execute(
      (tx) => {
        if (this.#sessions.size >= sessionsMax) throw new PosixError('EMFILE', `the master has ${sessionsMax} sessions`)
        const id = asSessionId(tx.get(counters, 'nextSession') ?? 1n)
        const record: SessionRecord = { ...client, secret, created: tx.now }
        tx.put(counters, 'nextSession', id + 1n)
        tx.put(sessionTable, id, record)
        const session = new Session(id, record, 'away', clock.nowMs())
        tx.onApply(() => this.#sessions.set(id, session))
        return session
      },
      { mayUseReserve: true },
    )
  }

  /** ESTALE when there is no such session (any more), or the secret is wrong. */
  find(id: SessionId, secret: Buffer): Session {
    const session = this.#sessions.get(id)
    if (!session || session.state === 'ending' || !session.record.secret.equals(secret)) {
      throw new PosixError('ESTALE', 'the session has ended')
    }
    return session
  }

  /** A stream carries the session from now on; the one before is dropped. */
  attach(session: Session, outbox: Outbox): void {
    session.outbox?.abort('the session goes on over another stream')
    session.outbox = outbox
    if (session.state === 'recovering') this.#recoveredOne()
    session.state = 'connected'
    this.touch(session)
  }

  detach(session: Session, outbox: Outbox): void {
    if (session.outbox !== outbox) return
    session.outbox = undefined
    if (session.state === 'connected') session.state = 'away'
  }

  touch(session: Session): void {
    session.lastSeenMs = this.#options.clock.nowMs()
  }

  /**
   * Ends a session: it does nothing any more when this returns; what it held is free as soon as its end is on disk, and its records are gone
   * when the promise resolves. Idempotent. `asking`: the request that asks for it, which is not waited for.
   */
  end(session: Session, reason: string, asking?: bigint): Promise<void> {
    const ending = this.#endings.get(session.id)
    if (ending) return ending
    this.#options.log.info('session ended', { session: session.id, host: session.record.host, reason })
    const wasRecovering = session.state === 'recovering'
    session.state = 'ending'
    if (asking === undefined) session.outbox?.abort(reason)
    const others: Promise<void>[] = []
    for (const [id, { abort, done }] of session.running) {
      if (id === asking) continue
      abort.abort()
      others.push(done)
    }
    const promise = this.#end(session, wasRecovering, others)
    this.#endings.set(session.id, promise)
    return promise
  }

  /** Removes the sessions that have ended in the master's last run, which did not come to it. Called once, when all parts of the master are there. */
  async finishEnds(): Promise<void> {
    const ended = [...this.#sessions.values()].filter(({ id, state }) => state === 'ending' && !this.#endings.has(id))
    for (const session of ended) await this.#remove(session)
  }

  close(): void {
    this.#check.cancel()
    for (const session of this.#sessions.values()) session.outbox?.abort('the master stops')
  }

  async #end(session: Session, wasRecovering: boolean, others: Promise<void>[]): Promise<void> {
    const { store, release, log, faults } = this.#options
    const ended = { ...session.record, secret: noSecret }
    try {
      await store.execute((tx) => tx.put(sessionTable, session.id, ended), { mayUseReserve: true })
      await faults?.point('master.session.ended')
      if (wasRecovering) this.#recoveredOne()
      release(session.id)
      await Promise.all(others)
      await this.#remove(session)
      this.#endings.delete(session.id)
    } catch (cause) {
      log.error('the end of a session was not recorded', { session: session.id, cause })
    }
  }

  async #remove(session: Session): Promise<void> {
    const { store, sealChunks } = this.#options
    await sealChunks(session.id)
    await forgetSession(store, session.id)
    // The record goes last, so that after a crash the next run finishes this.
    await store.execute((tx) => tx.delete(sessionTable, session.id), { mayUseReserve: true })
    this.#sessions.delete(session.id)
  }

  get #checkIntervalMs(): number {
    return Math.max(50, this.leaseMs / 10)
  }

  #recoveredOne(): void {
    this.#recovering--
    if (this.#recovering > 0) return
    this.#options.log.info('every session of the last run has resumed or ended')
    this.#resolveRecovered()
  }

  #checkAll(): void {
    const { clock } = this.#options
    const now = clock.nowMs()
    const lateMs = now - this.#lastCheckMs - this.#checkIntervalMs
    this.#lastCheckMs = now
    this.#check = clock.after(this.#checkIntervalMs, () => this.#checkAll())
    for (const session of this.#sessions.values()) {
      // After a pause of this process the clients' messages wait in its sockets; the pause does not count.
      if (lateMs > this.#checkIntervalMs) session.lastSeenMs += lateMs
      if (session.state === 'ending' || now - session.lastSeenMs < this.leaseMs) continue
      void this.end(session, `no message for ${this.leaseMs} ms`)
    }
  }
}
