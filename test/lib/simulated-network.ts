/**
 * The network of a simulated cluster, with the semantics of the real transports, on simulated time.
 *
 * Fault model
 * - Each message takes a random time. Those of one direction of one stream stay in order; streams and calls overtake one another.
 * - cut(a, b): nothing gets from host a to host b until heal. As TCP does, what was sent is sent again and arrives after the cut, if the
 *   stream lives until then; an end that has heard nothing for silenceMs gives its stream up, the other end may not know.
 * - slow(a, b, ms): everything from a to b takes that much longer.
 * - reset(host): the connections of a host break; of what was on its way each direction loses everything. A call may have been
 *   carried out or not, its caller cannot tell.
 * - died(life): a process that was killed: its peers see their connections break. With silent, the machine is gone as well: peers
 *   hear nothing, connecting to it takes until it fails for silence.
 * - A life that is paused receives nothing and sends no signs of life; its peers give it up after silenceMs.
 * - damage(host): one bit of the data of the next append or of the next read reply that leaves this host is another one, as after memory or
 *   a network card that fails behind the checks of TCP. Only chunk data is damaged, which Shoal checks from end to end.
 * Not modelled: other corruption, and reordering within a stream (TCP and its checks exclude them), loss of connections by itself.
 */
import { crc32c } from '@node-rs/crc32'
import { PosixError, UnavailableError, UsageError } from '../../src/domain/errors.ts'
import { messageBytesMax } from '../../src/domain/limits.ts'
import { formatAddress, parseAddress, parseListenAddress } from '../../src/platform/address.ts'
import type { Random } from '../../src/platform/random.ts'
import { SendQueue } from '../../src/platform/send-queue.ts'
import type {
  CallOptions,
  Listener,
  MessageStream,
  Services,
  StreamHandlers,
  Transport,
} from '../../src/platform/transport.ts'
import { ChunkStoreDefinition } from '../../src/protocol/gen/shoal/v1/chunk_store.pb.ts'
import { methodPath } from '../../src/protocol/rpc.ts'
import type { Life, SimulatedTime } from './simulated-time.ts'

const silenceMs = 5000
const lookMs = 1000
const sentAgainMs = 100
const highWaterBytes = 4 * 1024 * 1024
const bytesPerMs = 100_000
/** A message with so much in it has at least one block of data at its end. */
const dataMessageBytesMin = 8192
const checkedBytes = 4096
const { append, read } = ChunkStoreDefinition.methods
const dataPaths: ReadonlySet<string> = new Set([append, read].map((method) => methodPath(ChunkStoreDefinition, method)))

export interface SimulatedNetworkOptions {
  time: SimulatedTime
  random: Random
  /** Every delivery, for the trace. */
  delivered: (text: string) => void
}

const lost = (message: string, maybeCommitted = true): UnavailableError =>
  new UnavailableError(message, { maybeCommitted })

interface Listening {
  life: Life
  services: Services
}

interface Call {
  from: string
  to: string
  /** Undefined until the request has arrived. */
  life: Life | undefined
  breakOff: (message: string) => void
}

/** One end of a stream. */
class End implements MessageStream {
  readonly queue = new SendQueue(highWaterBytes)
  handlers: StreamHandlers | undefined
  isClosed = false
  ended = false
  silentMs = 0
  readonly host: string
  /** Of the listening end: known once the opening has arrived. */
  life: Life | undefined
  /** What is on its way from here. */
  readonly flying: { atMs: number; arrive: (other: End) => void }[] = []
  pumping = false
  readonly #pipe: Pipe

  constructor(pipe: Pipe, host: string, life: Life | undefined) {
    this.#pipe = pipe
    this.host = host
    this.life = life
  }

  send(...parts: Uint8Array[]): boolean {
    if (this.isClosed || this.ended) return true
    const bytes = Buffer.concat(parts)
    if (bytes.length > messageBytesMax) {
      this.abort(`a message of ${bytes.length} bytes is too large`)
      return true
    }
    this.#pipe.damage(this.host, bytes)
    const below = this.queue.added(bytes.length)
    this.#pipe.carry(this, bytes.length, (other) => {
      this.queue.sent(bytes.length)
      other.receive(bytes)
    })
    return below
  }

  drained(): Promise<void> {
    return this.queue.drained()
  }

  end(): void {
    if (this.isClosed || this.ended) return
    this.ended = true
    this.#pipe.carry(this, 0, (other) => {
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
    this.#pipe.carry(this, 0, (other) => other.close(there))
  }

  receive(bytes: Buffer): void {
    if (this.isClosed) return
    this.#pipe.note(this, `${bytes.length} bytes ${crc32c(bytes).toString(16)}`)
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
    this.#pipe.closedEnd()
  }
}

/** A connection: two ends, and what is on its way between them. */
class Pipe {
  readonly near: End
  readonly far: End
  readonly #net: SimulatedNetwork
  readonly #path: string
  #lastArrivalMs = new Map<End, number>()

  constructor(net: SimulatedNetwork, near: { host: string; life: Life }, farHost: string, path: string) {
    this.#net = net
    this.#path = path
    this.near = new End(this, near.host, near.life)
    this.far = new End(this, farHost, undefined)
    this.#look(this.near)
  }

  /** The opening has arrived. */
  accepted(life: Life): void {
    this.far.life = life
    this.#look(this.far)
  }

  other(end: End): End {
    return end === this.near ? this.far : this.near
  }

  /** Chunk data comes last in its message. */
  damage(host: string, bytes: Buffer): void {
    if (bytes.length < dataMessageBytesMin || !this.#net.damaging.has(host) || !dataPaths.has(this.#path)) return
    this.#net.damaging.delete(host)
    bytes[bytes.length - 1 - this.#net.options.random.below(checkedBytes)]! ^= 1
  }

  note(receiver: End, what: string): void {
    this.#net.options.delivered(`${this.other(receiver).host}>${receiver.host} ${this.#path} ${what}`)
  }

  carry(from: End, bytes: number, arrive: (other: End) => void): void {
    const to = this.other(from)
    const atMs = Math.max(
      this.#net.time.nowMs + this.#net.delayMs(from.host, to.host, bytes),
      this.#lastArrivalMs.get(from) ?? 0,
    )
    this.#lastArrivalMs.set(from, atMs)
    from.flying.push({ atMs, arrive })
    this.#pump(from)
  }

  /** Lets the first message on its way arrive when its time has come, then the next. */
  #pump(from: End): void {
    const first = from.flying[0]
    if (first === undefined || from.pumping) return
    from.pumping = true
    const to = this.other(from)
    const isCut = this.#net.isCut(from.host, to.host)
    const delayMs = isCut ? sentAgainMs : first.atMs - this.#net.time.nowMs
    this.#net.time.post(to.life, delayMs, () => {
      from.pumping = false
      if (from.flying[0] === first && !this.#net.isCut(from.host, to.host)) {
        from.flying.shift()
        first.arrive(to)
      }
      this.#pump(from)
    })
  }

  /** Both ends break, and what is on its way is lost. */
  break(message: string): void {
    for (const end of [this.near, this.far]) {
      end.flying.length = 0
      this.#net.time.post(end.life, this.#net.delayMs(end.host, end.host, 0), () => end.close(lost(message)))
    }
  }

  closedEnd(): void {
    if (this.near.isClosed && (this.far.isClosed || this.far.life === undefined)) this.#net.pipes.delete(this)
  }

  /** Real connections exchange signs of life; here it is enough to look whether they would arrive. */
  #look(end: End): void {
    if (end.isClosed) return
    const other = this.other(end)
    const hears =
      other.life !== undefined &&
      other.life.alive &&
      !other.isClosed &&
      other.life.pausedUntilMs <= this.#net.time.nowMs &&
      !this.#net.isCut(other.host, end.host)
    end.silentMs = hears ? 0 : end.silentMs + lookMs
    if (end.silentMs > silenceMs) end.close(lost('nothing was heard for too long', other.life !== undefined))
    else this.#net.time.post(end.life, lookMs, () => this.#look(end))
  }
}

export class SimulatedNetwork {
  readonly options: SimulatedNetworkOptions
  readonly time: SimulatedTime
  readonly listening = new Map<string, Listening>()
  readonly pipes = new Set<Pipe>()
  readonly calls = new Set<Call>()
  /** Machines that are switched off. */
  readonly silentHosts = new Set<string>()
  /** Hosts whose next chunk data is damaged. */
  readonly damaging = new Set<string>()
  /** Since when. */
  readonly #cuts = new Map<string, number>()
  readonly #slow = new Map<string, number>()
  #nextPort = 20_000

  constructor(options: SimulatedNetworkOptions) {
    this.options = options
    this.time = options.time
  }

  /** What one life of a process on a host speaks through. */
  transport(host: string, life: Life): Transport {
    return new SimulatedTransport(this, host, life)
  }

  cut(source: string, target: string): void {
    const cut = `${source} ${target}`
    if (!this.#cuts.has(cut)) this.#cuts.set(cut, this.time.nowMs)
  }

  damage(host: string): void {
    this.damaging.add(host)
  }

  slow(source: string, target: string, ms: number): void {
    this.#slow.set(`${source} ${target}`, ms)
  }

  heal(): void {
    this.#cuts.clear()
    this.#slow.clear()
    this.damaging.clear()
  }

  healBetween(source: string, target: string): void {
    this.#cuts.delete(`${source} ${target}`)
    this.#slow.delete(`${source} ${target}`)
  }

  reset(host: string): void {
    for (const pipe of this.pipes) {
      if (pipe.near.host === host || pipe.far.host === host) pipe.break('the connection was reset')
    }
    for (const call of this.calls) {
      if (call.from === host || call.to === host) call.breakOff('the connection was reset')
    }
  }

  /** The life has ended already. */
  died(life: Life, options: { silent: boolean }): void {
    for (const [address, listening] of this.listening) if (listening.life === life) this.listening.delete(address)
    for (const pipe of this.pipes) {
      if (pipe.near.life !== life && pipe.far.life !== life) continue
      const here = pipe.near.life === life ? pipe.near : pipe.far
      // What had left may arrive, or be lost with the reset.
      if (options.silent || this.options.random.below(2) === 0) here.flying.length = 0
      if (!options.silent) pipe.carry(here, 0, (other) => other.close(lost('the peer died')))
      here.isClosed = true
      pipe.closedEnd()
    }
    if (options.silent) return
    for (const call of this.calls) if (call.life === life) call.breakOff('the peer died')
  }

  isCut(source: string, target: string): boolean {
    return (
      (this.#cuts.size > 0 && this.#cuts.has(`${source} ${target}`)) ||
      this.silentHosts.has(target) ||
      this.silentHosts.has(source)
    )
  }

  /** Since when one of them gets no answer from the other; undefined: both would get it. */
  apartSinceMs(a: string, b: string): number | undefined {
    const since = Math.min(this.#cuts.get(`${a} ${b}`) ?? Infinity, this.#cuts.get(`${b} ${a}`) ?? Infinity)
    return since === Infinity ? undefined : since
  }

  delayMs(source: string, target: string, bytes: number): number {
    const { random } = this.options
    const usual = 0.05 + random.below(300) / 1000
    const rare = random.below(200) === 0 ? random.below(30) : 0
    return usual + rare + bytes / bytesPerMs + (this.#slow.get(`${source} ${target}`) ?? 0)
  }

  freePort(): number {
    return this.#nextPort++
  }
}

class SimulatedTransport implements Transport {
  readonly #net: SimulatedNetwork
  readonly #host: string
  readonly #life: Life
  readonly #opened = new Set<Pipe>()
  readonly #leaving = new Set<() => void>()
  #closed = false

  constructor(net: SimulatedNetwork, host: string, life: Life) {
    this.#net = net
    this.#host = host
    this.#life = life
  }

  open(address: string, path: string, handlers: StreamHandlers): MessageStream {
    const net = this.#net
    const pipe = new Pipe(net, { host: this.#host, life: this.#life }, parseAddress(address)?.host ?? '', path)
    const { near, far } = pipe
    near.handlers = handlers
    if (this.#closed || !parseAddress(address)) {
      near.close(lost('there is no way to this address', false))
      return near
    }
    net.pipes.add(pipe)
    this.#opened.add(pipe)
    // The opening travels as the first message; until it has arrived nobody owns the other end.
    pipe.carry(near, 0, () => {
      const listening = net.listening.get(address)
      const accept = listening?.life.alive === true ? listening.services.stream.get(path) : undefined
      if (listening === undefined || accept === undefined) {
        far.isClosed = true
        near.flying.length = 0
        pipe.carry(far, 0, () => near.close(lost(`${address}: refused`, false)))
        return
      }
      pipe.accepted(listening.life)
      // In the peer's own time: it may be paused. What follows comes after.
      net.time.post(listening.life, 0, () => {
        try {
          far.handlers = accept(far, `${this.#host}:0`)
        } catch (cause) {
          far.fail(lost(String(cause)), cause instanceof PosixError ? cause : lost(`the peer failed: ${String(cause)}`))
        }
      })
    })
    return near
  }

  call(address: string, path: string, request: Uint8Array, options: CallOptions): Promise<Buffer> {
    const net = this.#net
    const { time } = net
    const bytes = Buffer.from(request)
    const target = parseAddress(address)?.host ?? ''
    return new Promise((resolve, reject) => {
      const unsent = (message: string): void => reject(lost(message, false))
      if (this.#closed) return unsent('the transport is closed')
      if (bytes.length > messageBytesMax) return unsent(`a message of ${bytes.length} bytes is too large`)
      if (options.signal?.aborted) return unsent('cancelled')
      const controller = new AbortController()
      let settled = false
      const settle = (act: () => void): void => {
        if (settled) return
        settled = true
        deadline.cancel()
        options.signal?.removeEventListener('abort', leave)
        this.#leaving.delete(leave)
        net.calls.delete(call)
        act()
      }
      const call: Call = {
        from: this.#host,
        to: target,
        life: undefined,
        breakOff: (message) => {
          const peer = call.life
          if (peer !== undefined) time.post(peer, 0, () => controller.abort(lost(message)))
          time.post(this.#life, net.delayMs(target, this.#host, 0), () => settle(() => reject(lost(message))))
        },
      }
      const leave = (): void => {
        settle(() => reject(lost(`the call to ${address} was given up`)))
        const peer = call.life
        if (peer !== undefined && !net.isCut(this.#host, target)) {
          time.post(peer, net.delayMs(this.#host, target, 0), () => controller.abort(lost('the caller left')))
        }
      }
      const deadline = time.post(this.#life, options.deadlineMs, leave)
      options.signal?.addEventListener('abort', leave, { once: true })
      this.#leaving.add(leave)
      net.calls.add(call)

      const back = (what: string, size: number, act: () => void): void => {
        time.post(this.#life, net.delayMs(target, this.#host, size), () => {
          if (settled) return
          if (net.isCut(target, this.#host)) {
            time.post(this.#life, sentAgainMs, () => back(what, size, act))
            return
          }
          net.options.delivered(`${target}>${this.#host} ${path} ${what}`)
          settle(act)
        })
      }
      const run = async (services: Services): Promise<void> => {
        const handle = services.unary.get(path)
        if (handle === undefined) return back('no such method', 0, () => reject(lost('no such method', false)))
        net.options.delivered(`${this.#host}>${target} ${path} ${bytes.length} bytes ${crc32c(bytes).toString(16)}`)
        try {
          const reply = Buffer.from(await handle(bytes, controller.signal))
          back(`reply of ${reply.length} bytes ${crc32c(reply).toString(16)}`, reply.length, () => resolve(reply))
        } catch (cause) {
          const error = cause instanceof PosixError ? new PosixError(cause.code, cause.message) : lost(String(cause))
          back(`failure ${error.message}`, 0, () => reject(error))
        }
      }
      const there = (): void => {
        if (settled) return
        if (net.isCut(this.#host, target)) {
          time.post(undefined, sentAgainMs, there)
          return
        }
        const listening = net.listening.get(address)
        if (listening === undefined || !listening.life.alive) {
          back('refused', 0, () => reject(lost(`${address}: refused`, false)))
          return
        }
        call.life = listening.life
        time.post(listening.life, 0, () => void run(listening.services))
      }
      time.post(undefined, net.delayMs(this.#host, target, bytes.length), there)
      return undefined
    })
  }

  async listen(address: string, services: Services): Promise<Listener> {
    const wanted = parseListenAddress(address)
    const bound = formatAddress({ host: wanted.host, port: wanted.port || this.#net.freePort() })
    if (this.#net.listening.has(bound)) {
      throw new UsageError(`cannot listen on ${address}: the address is in use by another process`)
    }
    this.#net.listening.set(bound, { life: this.#life, services })
    return {
      address: bound,
      close: async () => {
        this.#net.listening.delete(bound)
        for (const pipe of this.#net.pipes) if (pipe.far.life === this.#life) pipe.break('the listener was closed')
      },
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const pipe of this.#opened) pipe.near.abort('the transport was closed')
    for (const leave of this.#leaving) leave()
  }
}
