/**
 * A network in memory, with the semantics of the real transports, for tests that want many hosts in one process.
 *
 * Fault model
 * - Delivery is asynchronous and takes delayMs of the network's clock (0: the next turn of the event loop). Messages of one stream
 *   stay in order; streams and calls are independent.
 * - cut(a, b): everything between two hosts vanishes without a word until heal(a, b). An end of a stream notices when nothing was heard for
 *   silenceMs; opening and calling across a cut fail after that or after the deadline. What vanished does not come back: a stream
 *   that lost something is broken for good.
 * - drop(address): every connection to a listener breaks at once, on both sides; what was under way is lost.
 * - loseReplies(address, count): the next `count` answers of a listener are lost: for a call, the handler runs to its end and the
 *   caller gets no answer; for a stream, the message from the listener is lost and the stream breaks. `lost` is called with each.
 * - Closing a listener drops its connections. Messages are copied, so nobody shares memory with the sender.
 * Not modelled: duplication and reordering within a stream (TCP excludes them), corruption, slow links.
 */
import { PosixError, UnavailableError, UsageError } from '../../src/domain/errors.ts'
import { messageBytesMax } from '../../src/domain/limits.ts'
import { formatAddress, parseAddress, parseListenAddress } from '../../src/platform/address.ts'
import type { Clock } from '../../src/platform/clock.ts'
import { SendQueue } from '../../src/platform/send-queue.ts'
import type {
  CallOptions,
  Listener,
  MessageStream,
  Services,
  StreamHandlers,
  Transport,
} from '../../src/platform/transport.ts'

export interface MemoryNetworkOptions {
  /** Without one, there are no delays, and what waits for silence waits for real time. */
  clock?: Clock
  delayMs?: number
  /** Default 5000. */
  silenceMs?: number
  highWaterBytes?: number
}

export interface MemoryNetwork {
  /** The transport of one host. Each call makes one more. */
  transport(host: string): Transport
  cut(hostA: string, hostB: string): void
  heal(hostA: string, hostB: string): void
  drop(address: string): void
  loseReplies(address: string, count: number, lost?: () => void): void
  /** Streams that are open at the moment, counted once each. */
  streamsOpen(): number
}

interface Listening {
  host: string
  services: Services
  pipes: Set<Pipe>
  calls: Set<AbortController>
  /** For each reply that is to be lost, what is called then. */
  repliesToLose: (() => void)[]
}

interface Timing {
  /** In real time it keeps the process alive, as an open connection would. */
  after(ms: number, callback: () => void): { cancel(): void }
  /** Runs after the network's delay, in the order of the calls. */
  deliver(callback: () => void): void
}

const lost = (message: string, maybeCommitted = true): UnavailableError =>
  new UnavailableError(message, { maybeCommitted })

const joined = (parts: readonly Uint8Array[]): Buffer => Buffer.concat(parts)

/** One end of a stream. */
class End implements MessageStream {
  readonly queue: SendQueue
  handlers: StreamHandlers | undefined
  isClosed = false
  ended = false
  private readonly pipe: Pipe
  private readonly side: 0 | 1

  constructor(pipe: Pipe, side: 0 | 1, highWaterBytes: number) {
    this.pipe = pipe
    this.side = side
    this.queue = new SendQueue(highWaterBytes)
  }

  send(...parts: Uint8Array[]): boolean {
    if (this.isClosed || this.ended) return true
    const bytes = joined(parts)
    if (bytes.length > messageBytesMax) {
      this.abort(`a message of ${bytes.length} bytes is too large`)
      return true
    }
    const below = this.queue.added(bytes.length)
    this.pipe.carry(this.side, () => {
      this.queue.sent(bytes.length)
      return (other) => other.receive(bytes)
    })
    return below
  }

  drained(): Promise<void> {
    return this.queue.drained()
  }

  end(): void {
    if (this.isClosed || this.ended) return
    this.ended = true
    this.pipe.carry(this.side, () => (other) => {
      other.end()
      other.close(undefined)
    })
  }

  abort(reason: string): void {
    this.fail(lost(reason), lost(`the peer: ${reason}`))
  }

  fail(here: Error, there: Error): void {
    if (this.isClosed) return
    this.close(here)
    this.pipe.carry(this.side, () => (other) => other.close(there), { last: true })
  }

  receive(bytes: Buffer): void {
    if (this.isClosed) return
    try {
      this.handlers!.message(bytes)
    } catch (cause) {
      this.abort(`the receiver failed: ${String(cause)}`)
    }
  }

  close(error: Error | undefined): void {
    if (this.isClosed) return
    this.isClosed = true
    this.queue.close()
    queueMicrotask(() => this.handlers?.closed(error))
    this.pipe.closedEnd()
  }
}

/** A connection: two ends, and what is on its way between them. */
class Pipe {
  readonly ends: readonly [End, End]
  private readonly timing: Timing
  private readonly isCut: () => boolean
  private readonly loses: (from: 0 | 1) => boolean
  private readonly over: () => void
  private readonly silenceMs: number
  private openEnds = 2
  private broken = false
  private watching: { cancel(): void } | undefined

  constructor(options: {
    timing: Timing
    highWaterBytes: number
    silenceMs: number
    isCut: () => boolean
    loses: (from: 0 | 1) => boolean
    over: () => void
  }) {
    this.timing = options.timing
    this.isCut = options.isCut
    this.loses = options.loses
    this.over = options.over
    this.silenceMs = options.silenceMs
    this.ends = [new End(this, 0, options.highWaterBytes), new End(this, 1, options.highWaterBytes)]
    this.watch()
  }

  carry(side: 0 | 1, leave: () => (other: End) => void, options: { last?: boolean } = {}): void {
    const other = this.ends[side === 0 ? 1 : 0]
    this.timing.deliver(() => {
      const arrive = leave()
      if (this.broken && !options.last) return
      if (this.isCut()) {
        this.broken = true
        return
      }
      if (!options.last && this.loses(side)) {
        this.break('the connection was lost')
        return
      }
      arrive(other)
    })
  }

  break(message: string): void {
    this.broken = true
    for (const end of this.ends) end.close(lost(message))
  }

  closedEnd(): void {
    this.openEnds -= 1
    if (this.openEnds > 0) return
    this.watching?.cancel()
    this.over()
  }

  /** Real connections exchange signs of life; here it is enough to look whether they would arrive. */
  private watch(): void {
    let silentMs = 0
    const stepMs = this.silenceMs / 5
    const look = (): void => {
      if (this.openEnds === 0) return
      // An end whose peer is closed and that has heard nothing about it lost the message in a cut.
      silentMs = this.isCut() || this.broken || this.openEnds === 1 ? silentMs + stepMs : 0
      if (silentMs >= this.silenceMs) this.break('nothing was heard for too long')
      else this.watching = this.timing.after(stepMs, look)
    }
    this.watching = this.timing.after(stepMs, look)
  }
}

const realTiming: Timing = {
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms)
    return { cancel: () => clearTimeout(timer) }
  },
  deliver: (callback) => {
    setImmediate(callback)
  },
}

const clockTiming = (clock: Clock, delayMs: number): Timing => ({
  after: (ms, callback) => clock.after(ms, callback),
  deliver: (callback) => {
    if (delayMs === 0) setImmediate(callback)
    else clock.after(delayMs, callback)
  },
})

class MemoryNet implements MemoryNetwork {
  readonly timing: Timing
  readonly highWaterBytes: number
  readonly silenceMs: number
  readonly listening = new Map<string, Listening>()
  readonly pipes = new Set<Pipe>()
  private readonly cuts = new Set<string>()
  private nextPort = 20_000

  constructor(options: MemoryNetworkOptions) {
    this.timing = options.clock ? clockTiming(options.clock, options.delayMs ?? 0) : realTiming
    this.silenceMs = options.silenceMs ?? 5000
    this.highWaterBytes = options.highWaterBytes ?? 4 * 1024 * 1024
  }

  transport(host: string): Transport {
    return new MemoryTransport(this, host)
  }

  cut(hostA: string, hostB: string): void {
    this.cuts.add([hostA, hostB].toSorted().join(' '))
  }

  heal(hostA: string, hostB: string): void {
    this.cuts.delete([hostA, hostB].toSorted().join(' '))
  }

  isCut(hostA: string, hostB: string): boolean {
    return this.cuts.size > 0 && this.cuts.has([hostA, hostB].toSorted().join(' '))
  }

  drop(address: string): void {
    const listening = this.listening.get(address)
    if (!listening) return
    for (const pipe of listening.pipes) pipe.break('the connection was dropped')
    for (const call of listening.calls) call.abort(lost('the connection was dropped'))
  }

  loseReplies(address: string, count: number, lost: () => void = () => undefined): void {
    for (let i = 0; i < count; i++) this.listening.get(address)?.repliesToLose.push(lost)
  }

  streamsOpen(): number {
    return this.pipes.size
  }

  freePort(): number {
    return this.nextPort++
  }
}

class MemoryTransport implements Transport {
  private readonly net: MemoryNet
  private readonly host: string
  private readonly opened = new Set<Pipe>()
  private readonly calls = new Set<() => void>()
  private closed = false

  constructor(net: MemoryNet, host: string) {
    this.net = net
    this.host = host
  }

  open(address: string, path: string, handlers: StreamHandlers): MessageStream {
    const { net } = this
    const targetHost = parseAddress(address)?.host ?? ''
    let listening: Listening | undefined
    const pipe: Pipe = new Pipe({
      timing: net.timing,
      highWaterBytes: net.highWaterBytes,
      silenceMs: net.silenceMs,
      isCut: () => net.isCut(this.host, targetHost),
      loses: (from) => {
        const lost = from === 0 ? undefined : listening?.repliesToLose.shift()
        lost?.()
        return lost !== undefined
      },
      over: () => {
        net.pipes.delete(pipe)
        this.opened.delete(pipe)
        listening?.pipes.delete(pipe)
      },
    })
    const [near, far] = pipe.ends
    near.handlers = handlers
    const refuse = (error: Error): void => {
      near.close(error)
      far.close(error)
    }
    if (this.closed || !parseAddress(address)) {
      refuse(lost(this.closed ? 'the transport is closed' : `${address} is not an address`, false))
      return near
    }
    net.pipes.add(pipe)
    this.opened.add(pipe)
    pipe.carry(0, () => () => {
      listening = net.listening.get(address)
      const accept = listening?.services.stream.get(path)
      if (!listening || !accept) return refuse(lost(`${address}: ${listening ? 'no such method' : 'refused'}`, false))
      listening.pipes.add(pipe)
      try {
        far.handlers = accept(far, `${this.host}:0`)
      } catch (cause) {
        far.fail(lost(String(cause)), cause instanceof PosixError ? cause : lost(`the peer failed: ${String(cause)}`))
      }
      return undefined
    })
    return near
  }

  call(address: string, path: string, request: Uint8Array, options: CallOptions): Promise<Buffer> {
    const { net } = this
    const bytes = Buffer.from(request)
    const targetHost = parseAddress(address)?.host ?? ''
    const isCut = (): boolean => net.isCut(this.host, targetHost)
    return new Promise((resolve, reject) => {
      const unsent = (message: string): void => reject(lost(message, false))
      if (this.closed) return unsent('the transport is closed')
      if (!parseAddress(address)) return unsent(`${address} is not an address`)
      if (bytes.length > messageBytesMax) return unsent(`a message of ${bytes.length} bytes is too large`)
      if (options.signal?.aborted) return unsent('cancelled')
      const controller = new AbortController()
      const settle = (act: () => void): void => {
        deadline.cancel()
        options.signal?.removeEventListener('abort', leave)
        this.calls.delete(leave)
        act()
      }
      const leave = (): void => {
        settle(() => reject(lost(`the call to ${address} was given up`)))
        net.timing.deliver(() => {
          if (!isCut()) controller.abort(lost('the caller left'))
        })
      }
      const deadline = net.timing.after(options.deadlineMs, leave)
      options.signal?.addEventListener('abort', leave, { once: true })
      this.calls.add(leave)

      const answer = (listening: Listening, act: () => void): void => {
        listening.calls.delete(controller)
        net.timing.deliver(() => {
          if (isCut()) return
          const onLost = listening.repliesToLose.shift()
          onLost?.()
          settle(onLost ? () => reject(lost(`the reply of ${address} was lost`)) : act)
        })
      }
      net.timing.deliver(() => {
        if (isCut()) return
        const listening = net.listening.get(address)
        const handle = listening?.services.unary.get(path)
        if (!listening || !handle) {
          settle(() => reject(lost(`${address}: ${listening ? 'no such method' : 'refused'}`, false)))
          return
        }
        listening.calls.add(controller)
        controller.signal.addEventListener('abort', () => settle(() => reject(lost('the connection was lost'))))
        const run = async (): Promise<void> => {
          try {
            const reply = Buffer.from(await handle(bytes, controller.signal))
            if (reply.length > messageBytesMax) throw new Error(`the reply has ${reply.length} bytes`)
            answer(listening, () => resolve(reply))
          } catch (cause) {
            const error = cause instanceof PosixError ? new PosixError(cause.code, cause.message) : lost(String(cause))
            answer(listening, () => reject(error))
          }
        }
        void run()
      })
      return undefined
    })
  }

  async listen(address: string, services: Services): Promise<Listener> {
    const wanted = parseListenAddress(address)
    const bound = formatAddress({ host: wanted.host, port: wanted.port || this.net.freePort() })
    if (this.net.listening.has(bound)) {
      throw new UsageError(`cannot listen on ${address}: the address is in use by another process`)
    }
    this.net.listening.set(bound, { host: this.host, services, pipes: new Set(), calls: new Set(), repliesToLose: [] })
    return {
      address: bound,
      close: async () => {
        this.net.drop(bound)
        this.net.listening.delete(bound)
      },
    }
  }

  async close(): Promise<void> {
    this.closed = true
    for (const pipe of this.opened) pipe.ends[0].abort('the transport was closed')
    for (const leave of this.calls) leave()
  }
}

/** See the top of the file. Hosts are named by the host part of the address that they listen on. */
export const memoryNetwork = (options: MemoryNetworkOptions = {}): MemoryNetwork => new MemoryNet(options)
