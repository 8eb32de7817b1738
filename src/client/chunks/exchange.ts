/**
 * Requests and replies with one chunk server over one stream, matched by request id. The stream is opened by the first request,
 * on the framed TCP lane where the server has one. When that lane cannot be established (the stream closes before anything
 * arrived on it), what waits is sent again over gRPC, and gRPC is used for a while. Sending again is safe: reads change nothing, and an
 * append that is already there is acknowledged again.
 *
 * Invariant: each request is settled exactly once: by its reply, or by an UnavailableError as soon as its stream is closed, is
 * silent for `silenceMsMax` while something waits, or is dropped.
 * A stream without requests is ended after `idleMsMax`.
 */
import { UnavailableError } from '../../domain/errors.ts'
import type { Clock, Timer } from '../../platform/clock.ts'
import type { MessageStream, Transport } from '../../platform/transport.ts'
import type { ServerAddress } from './ports.ts'

const idleMsMax = 60_000
const silenceMsMax = 10_000
const tickMs = 500
/** A tick that comes so much too late means that this process itself stood still: the silence was its own. */
const lateMsMin = 2000
const bulkAvoidedMs = 30_000

/** Called once, never from within `request`. */
export type Settle<Reply> = (outcome: Reply | UnavailableError) => void

interface Pending<Reply> {
  parts: readonly Uint8Array[]
  sentMs: number
  settle: Settle<Reply>
}

interface OpenStream {
  stream: MessageStream
  lane: 'bulk' | 'rpc'
  /** Something arrived on it, so the lane works. */
  established: boolean
}

export interface ExchangeOptions<Reply> {
  server: ServerAddress
  /** Of the streaming method. */
  path: string
  decode(bytes: Buffer): Reply
  rpc: Transport
  bulk: Transport
  clock: Clock
}

export class Exchange<Reply extends { requestId: number }> {
  readonly #options: ExchangeOptions<Reply>
  readonly #clock: Clock
  readonly #pending = new Map<number, Pending<Reply>>()
  #open: OpenStream | undefined
  #timer: Timer | undefined
  #tickDueMs = 0
  #lastReceivedMs = -Infinity
  #lastUsedMs: number
  #lastRequestId = 0
  #bulkAvoidedUntilMs = -Infinity

  constructor(options: ExchangeOptions<Reply>) {
    this.#options = options
    this.#clock = options.clock
    this.#lastUsedMs = options.clock.nowMs()
  }

  /** Requests that wait for their reply. */
  get outstanding(): number {
    return this.#pending.size
  }

  get lastUsedMs(): number {
    return this.#lastUsedMs
  }

  /** For how long requests have waited without any reply arriving; 0 when nothing waits. */
  silentMs(): number {
    for (const oldest of this.#pending.values()) {
      return this.#clock.nowMs() - Math.max(oldest.sentMs, this.#lastReceivedMs)
    }
    return 0
  }

  /**
   * Sends a message that consists of these parts; they must not change any more. Ids grow from call to call; when they start
   * anew, so does the stream. Does not wait and does not bound what is in flight: the callers do.
   */
  request(requestId: number, parts: readonly Uint8Array[], settle: Settle<Reply>): void {
    if (requestId <= this.#lastRequestId) this.drop('request ids start anew')
    this.#lastRequestId = requestId
    const now = this.#clock.nowMs()
    this.#lastUsedMs = now
    this.#pending.set(requestId, { parts, sentMs: now, settle })
    this.#open ??= this.#openStream()
    this.#open.stream.send(...parts)
    this.#startTimer()
  }

  /** Closes the stream at once; what waits is settled as unavailable. */
  drop(reason: string): void {
    const open = this.#open
    if (open === undefined) return
    this.#open = undefined
    if (open.lane === 'bulk' && !open.established) this.#avoidBulk()
    open.stream.abort(reason)
    this.#failAll(reason)
  }

  close(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    this.drop('closed by the client')
  }

  #openStream(lane: 'bulk' | 'rpc' = this.#lane()): OpenStream {
    const { server, path, rpc, bulk } = this.#options
    const transport = lane === 'bulk' ? bulk : rpc
    const address = lane === 'bulk' ? server.bulkAddress : server.address
    const stream = transport.open(address, path, {
      message: (bytes) => {
        if (this.#open !== open) return
        let reply: Reply
        try {
          reply = this.#options.decode(bytes)
        } catch (cause) {
          this.drop(`${address} sent a malformed message: ${cause instanceof Error ? cause.message : String(cause)}`)
          return
        }
        open.established = true
        this.#lastReceivedMs = this.#clock.nowMs()
        const pending = this.#pending.get(reply.requestId)
        // A reply that nobody waits for can only be a repetition after a change of lanes.
        if (pending === undefined) return
        this.#pending.delete(reply.requestId)
        pending.settle(reply)
      },
      closed: (error) => this.#closed(open, error),
    })
    const open: OpenStream = { stream, lane, established: false }
    return open
  }

  #lane(): 'bulk' | 'rpc' {
    if (this.#options.server.bulkAddress === '') return 'rpc'
    return this.#clock.nowMs() < this.#bulkAvoidedUntilMs ? 'rpc' : 'bulk'
  }

  #avoidBulk(): void {
    this.#bulkAvoidedUntilMs = this.#clock.nowMs() + bulkAvoidedMs
  }

  #closed(open: OpenStream, error: Error | undefined): void {
    if (this.#open !== open) return
    this.#open = undefined
    if (open.lane === 'bulk' && !open.established && error !== undefined) {
      this.#avoidBulk()
      if (this.#pending.size === 0) return
      this.#open = this.#openStream('rpc')
      for (const { parts } of this.#pending.values()) this.#open.stream.send(...parts)
      return
    }
    this.#failAll(error === undefined ? 'the server ended the stream' : error.message)
  }

  #failAll(reason: string): void {
    if (this.#pending.size === 0) return
    const failed = [...this.#pending.values()]
    this.#pending.clear()
    const { server } = this.#options
    const error = new UnavailableError(`chunk server ${server.serverId} at ${server.address}: ${reason}`, {
      maybeCommitted: true,
    })
    for (const { settle } of failed) settle(error)
  }

  #startTimer(): void {
    if (this.#timer !== undefined) return
    this.#tickDueMs = this.#clock.nowMs() + tickMs
    this.#timer = this.#clock.after(tickMs, this.#tick)
  }

  readonly #tick = (): void => {
    this.#timer = undefined
    const late = this.#clock.nowMs() - this.#tickDueMs >= lateMsMin
    if (late) this.#lastReceivedMs = this.#clock.nowMs()
    if (this.silentMs() > silenceMsMax) this.drop(`no answer for ${silenceMsMax / 1000} s`)
    const now = this.#clock.nowMs()
    if (this.#open === undefined) return
    if (this.#pending.size > 0) {
      this.#lastUsedMs = now
    } else if (now - this.#lastUsedMs >= idleMsMax) {
      const { stream } = this.#open
      this.#open = undefined
      stream.abort('idle')
      return
    }
    this.#startTimer()
  }
}
