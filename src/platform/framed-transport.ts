/**
 * The Transport for bulk bytes: streams only, each a TCP connection of its own with hardly anything around the messages.
 *
 * Format, all numbers little-endian. The opener sends "SHOALTCP", version (1 byte), length of the method path (2 bytes) and the path;
 * the listener answers "SHOALTCP" and version. Then both send frames: a 4-byte length and the message, or one of three marks
 * instead of a length (frame-reader.ts): alive, end, abort (followed by one message: errno name or nothing, line feed, reason).
 *
 * Invariant: `closed` of a stream is called exactly once, never from within open, send, end or abort.
 * A side that has nothing to send says that it is alive every second; a peer that was silent for silenceMs is gone.
 */
import { connect, type Socket } from 'node:net'
import { PosixError, UnavailableError, isErrnoName } from '../domain/errors.ts'
import { messageBytesMax } from '../domain/limits.ts'
import { parseAddress } from './address.ts'
import { wasSent } from './buffer-pool.ts'
import { FrameReader, lengthBytes, markAbort, markAlive, markEnd } from './frame-reader.ts'
import { stderrLog, type Log } from './log.ts'
import { SendQueue } from './send-queue.ts'
import { acceptedReadingInto, readingInto, type SocketReader } from './socket-reading.ts'
import { listenTcp } from './tcp-listener.ts'
import type {
  CallOptions,
  Listener,
  MessageStream,
  Services,
  StreamHandler,
  StreamHandlers,
  Transport,
} from './transport.ts'

export interface FramedTransportOptions {
  /** A peer that was silent for this long is gone; also bounds connecting. Default 5000. */
  silenceMs?: number
  /** `send` answers false while more than this waits on a stream; default 4 MiB. */
  highWaterBytes?: number
  log?: Log
}

const magic = Buffer.from('SHOALTCP')
const version = 1
const pathBytesMax = 1024
const reasonCharsMax = 500
/** Listener's greeting: magic and version. The opener's has the length of the path and the path after that. */
const greetingBytes = magic.length + 1
/** With more than this on its way the reason of an abort would come too late. */
const reasonQueueBytesMax = 64 * 1024
/** Up to this size a first part is copied behind the length, which is cheaper than one more piece in writev(2). */
const smallPartBytes = 1024

const numberFrame = (value: number): Buffer => {
  const frame = Buffer.allocUnsafe(lengthBytes)
  frame.writeUInt32LE(value)
  return frame
}

const aliveFrame = numberFrame(markAlive)
const endFrame = numberFrame(markEnd)

const abortFrame = (errno: string, reason: string): Buffer => {
  const text = Buffer.from(`${errno}\n${reason.slice(0, reasonCharsMax)}`)
  return Buffer.concat([numberFrame(markAbort), numberFrame(text.length), text])
}

const greeting = (path?: string): Buffer => {
  const head = Buffer.concat([magic, Buffer.from([version])])
  if (path === undefined) return head
  const length = Buffer.alloc(2)
  length.writeUInt16LE(Buffer.byteLength(path))
  return Buffer.concat([head, length, Buffer.from(path)])
}

const messageOf = (caught: unknown): string => (caught instanceof Error ? caught.message : String(caught))

/** What is wrong with a greeting's first bytes, as far as they have arrived. */
const greetingFault = (bytes: Buffer): string | undefined => {
  const seen = Math.min(bytes.length, magic.length)
  if (bytes.compare(magic, 0, seen, 0, seen) !== 0) return 'it does not speak the Shoal bulk protocol'
  const theirs = bytes[magic.length]
  if (theirs !== undefined && theirs !== version)
    return `it speaks version ${theirs} of the bulk protocol, not ${version}`
  return undefined
}

interface Shared {
  readonly silenceMs: number
  readonly highWaterBytes: number
  readonly log: Log
  readonly pulse: Pulse
}

/** One timer for all connections of a transport: sends signs of life and notices silence. */
class Pulse {
  private readonly connections = new Set<FramedStream>()
  private readonly intervalMs: number
  private readonly silenceMs: number
  private timer: NodeJS.Timeout | undefined
  private lastMs = 0

  constructor(silenceMs: number) {
    this.silenceMs = silenceMs
    this.intervalMs = silenceMs / 5
  }

  add(connection: FramedStream): void {
    this.connections.add(connection)
    if (this.timer) return
    this.lastMs = performance.now()
    this.timer = setInterval(() => this.beat(), this.intervalMs)
    this.timer.unref()
  }

  delete(connection: FramedStream): void {
    this.connections.delete(connection)
    if (this.connections.size > 0) return
    clearInterval(this.timer)
    this.timer = undefined
  }

  private beat(): void {
    const nowMs = performance.now()
    // When this process itself was stopped or busy, what the peers sent meanwhile has not been read yet: not their silence.
    const ownPauseMs = Math.max(0, nowMs - this.lastMs - this.intervalMs)
    this.lastMs = nowMs
    for (const connection of this.connections) connection.beat(nowMs, ownPauseMs, this.silenceMs)
  }
}

class FramedStream implements MessageStream, SocketReader {
  private readonly socket: Socket
  private readonly shared: Shared
  private readonly peer: string
  private readonly queue: SendQueue
  private readonly reader: FrameReader
  /** Sees the peer's greeting, as far as it has arrived; returns how many bytes of it are used up, or undefined for "not yet". */
  private greet: ((bytes: Buffer) => number | undefined) | undefined
  private greetingSoFar: Buffer = Buffer.alloc(0)
  private handlers: StreamHandlers | undefined
  private isClosed = false
  private ended = false
  private peerEnded = false
  private peerAborts = false
  private corked = false
  private cause: Error | undefined
  private readonly startedMs = performance.now()
  private heardMs = performance.now()
  private sentSinceBeat = false
  private connected: boolean
  /** Once closed: when what still had to be sent last became less, and how much that was. */
  private lingering = { sinceMs: 0, bytes: 0 }

  constructor(
    socket: Socket,
    peer: string,
    shared: Shared,
    greet: (stream: FramedStream, bytes: Buffer) => number | undefined,
  ) {
    this.socket = socket
    this.peer = peer
    this.shared = shared
    this.queue = new SendQueue(shared.highWaterBytes)
    this.greet = (bytes) => greet(this, bytes)
    this.reader = new FrameReader({
      message: (bytes) => this.message(bytes),
      mark: (mark) => this.mark(mark),
      malformed: (reason) => this.abort(reason),
    })
    this.connected = !socket.connecting
    socket.once('connect', () => {
      this.connected = true
    })
    socket.on('error', (cause) => {
      this.cause ??= cause
    })
    // The peer's process ended, or it closed without a word. What we still wanted to send interests nobody.
    socket.on('end', () => {
      if (!this.isClosed) socket.destroy()
    })
    socket.on('close', () => {
      this.shared.pulse.delete(this)
      const why = this.cause ? `: ${this.cause.message}` : ' was closed'
      this.close(
        new UnavailableError(`the connection to ${peer}${why}`, { maybeCommitted: this.connected, cause: this.cause }),
      )
    })
    shared.pulse.add(this)
  }

  /** Called once, as soon as the owner has said what is to happen with messages. */
  attach(handlers: StreamHandlers): void {
    this.handlers = handlers
  }

  greetPeer(bytes: Buffer): void {
    this.write(bytes)
  }

  send(...parts: Uint8Array[]): boolean {
    if (this.isClosed || this.ended) return true
    let bytes = 0
    for (const part of parts) bytes += part.length
    if (bytes > messageBytesMax) {
      this.abort(`a message of ${bytes} bytes is too large`)
      return true
    }
    // Everything that is sent in one turn of the event loop leaves in one writev(2).
    this.cork()
    const [first] = parts
    const head = Buffer.allocUnsafe(lengthBytes + (first && first.length <= smallPartBytes ? first.length : 0))
    head.writeUInt32LE(bytes)
    if (first && head.length > lengthBytes) head.set(first, lengthBytes)
    const pieces = [head, ...parts.slice(head.length > lengthBytes ? 1 : 0).filter((part) => part.length > 0)]
    const last = pieces.pop()!
    for (const piece of pieces) this.socket.write(piece)
    this.socket.write(last, (error) => {
      this.queue.sent(bytes)
      // After a failure nobody knows whether it is still being read.
      if (!error) for (const part of parts) wasSent(part)
    })
    this.sentSinceBeat = true
    return this.queue.added(bytes)
  }

  drained(): Promise<void> {
    return this.queue.drained()
  }

  end(): void {
    if (this.isClosed || this.ended) return
    this.ended = true
    this.write(endFrame)
    if (this.peerEnded) this.socket.end()
  }

  abort(reason: string): void {
    this.drop('', reason, new UnavailableError(reason, { maybeCommitted: true }))
  }

  /** Refuses or drops the stream; the peer is told why if nothing stands in the way. */
  drop(errno: string, reason: string, error: Error): void {
    if (this.isClosed) return
    this.close(error)
    if (this.connected && this.socket.writableLength <= reasonQueueBytesMax) this.socket.end(abortFrame(errno, reason))
    else this.socket.destroy()
    // The peer may be slow to close its side, or never do it; beat() then destroys the socket.
  }

  beat(nowMs: number, ownPauseMs: number, silenceMs: number): void {
    this.heardMs += ownPauseMs
    if (this.isClosed) {
      this.linger(nowMs, ownPauseMs)
      return
    }
    const greeting = this.greet !== undefined
    if (nowMs - this.heardMs > silenceMs || (greeting && nowMs - this.startedMs - ownPauseMs > silenceMs)) {
      this.cause ??= new Error(greeting ? 'no answer' : `nothing was heard for ${silenceMs} ms`)
      this.socket.destroy()
      return
    }
    if (!greeting && !this.sentSinceBeat) this.socket.write(aliveFrame)
    this.sentSinceBeat = false
  }

  /** What was sent before the end may take its time, but not stand still. */
  private linger(nowMs: number, ownPauseMs: number): void {
    const bytes = this.socket.writableLength
    if (this.lingering.sinceMs === 0 || bytes !== this.lingering.bytes) this.lingering = { sinceMs: nowMs, bytes }
    this.lingering.sinceMs += ownPauseMs
    if (nowMs - this.lingering.sinceMs > this.shared.silenceMs) this.socket.destroy()
  }

  private write(bytes: Buffer): void {
    if (this.socket.writable) this.socket.write(bytes)
  }

  private cork(): void {
    if (this.corked) return
    this.corked = true
    this.socket.cork()
    process.nextTick(() => {
      this.corked = false
      this.socket.uncork()
    })
  }

  target(): Buffer | undefined {
    return this.reader.target()
  }

  filled(bytes: number): void {
    this.heardMs = performance.now()
    this.reader.filled(bytes)
  }

  /** The chunk is not kept. */
  data(chunk: Buffer): void {
    this.heardMs = performance.now()
    if (!this.greet) {
      this.reader.push(chunk)
      return
    }
    const bytes = this.greetingSoFar.length === 0 ? chunk : Buffer.concat([this.greetingSoFar, chunk])
    const used = this.greet(bytes)
    if (this.isClosed) return
    if (used === undefined) {
      this.greetingSoFar = Buffer.from(bytes)
      return
    }
    this.greet = undefined
    this.greetingSoFar = Buffer.alloc(0)
    if (used < bytes.length) this.reader.push(bytes.subarray(used))
  }

  private message(bytes: Buffer): void {
    if (this.peerAborts) {
      const text = bytes.toString()
      const cut = text.indexOf('\n')
      const errno = text.slice(0, Math.max(0, cut))
      const reason = text.slice(cut + 1)
      this.close(
        isErrnoName(errno)
          ? new PosixError(errno, reason)
          : new UnavailableError(`${this.peer}: ${reason}`, { maybeCommitted: true }),
      )
      this.socket.destroy()
      return
    }
    if (this.peerEnded) {
      this.abort('a message came after the end')
      return
    }
    try {
      this.handlers!.message(bytes)
    } catch (cause) {
      this.shared.log.error('a message handler threw', { cause })
      this.abort(`the receiver failed: ${messageOf(cause)}`)
    }
  }

  private mark(mark: number): void {
    if (mark === markAbort) this.peerAborts = true
    else if (mark === markEnd && !this.peerEnded) {
      this.peerEnded = true
      this.end()
      this.socket.end()
      this.close(undefined)
    }
  }

  /** Closes once; later calls change nothing. */
  private close(error: Error | undefined): void {
    if (this.isClosed) return
    this.isClosed = true
    this.reader.stop()
    this.queue.close()
    queueMicrotask(() => {
      try {
        this.handlers?.closed(error)
      } catch (cause) {
        this.shared.log.error('a close handler threw', { cause })
      }
    })
  }
}

/** What `open` returns where there is nothing to connect to. */
const refusedStream = (message: string, handlers: StreamHandlers): MessageStream => {
  queueMicrotask(() => handlers.closed(new UnavailableError(message, { maybeCommitted: false })))
  return { send: () => true, drained: () => Promise.resolve(), end: () => {}, abort: () => {} }
}

class FramedTransport implements Transport {
  private readonly shared: Shared
  private readonly opened = new Set<FramedStream>()
  private closed = false

  constructor(options: FramedTransportOptions) {
    const silenceMs = options.silenceMs ?? 5000
    this.shared = {
      silenceMs,
      highWaterBytes: options.highWaterBytes ?? 4 * 1024 * 1024,
      log: options.log ?? stderrLog('warn', 'transport'),
      pulse: new Pulse(silenceMs),
    }
  }

  open(address: string, path: string, handlers: StreamHandlers): MessageStream {
    const target = parseAddress(address)
    if (this.closed) return refusedStream('the transport is closed', handlers)
    if (!target) return refusedStream(`${address} is not an address of the form HOST:PORT`, handlers)
    let stream: FramedStream | undefined
    const onread = readingInto(() => stream)
    const socket = connect({ host: target.host, port: target.port, noDelay: true, onread })
    const opened = new FramedStream(socket, address, this.shared, (stream, bytes) => {
      const fault = greetingFault(bytes)
      if (fault !== undefined) stream.abort(`${address}: ${fault}`)
      return bytes.length < greetingBytes ? undefined : greetingBytes
    })
    stream = opened
    socket.once('close', () => this.opened.delete(opened))
    this.opened.add(opened)
    opened.attach(handlers)
    opened.greetPeer(greeting(path))
    return opened
  }

  call(address: string, path: string, _request: Uint8Array, _options: CallOptions): Promise<Buffer> {
    return Promise.reject(
      new UnavailableError(`${path} of ${address} cannot be called over the bulk lane`, { maybeCommitted: false }),
    )
  }

  listen(address: string, services: Services): Promise<Listener> {
    return listenTcp(address, { connected: (socket) => this.accept(socket, services.stream), paused: true })
  }

  async close(): Promise<void> {
    this.closed = true
    for (const stream of this.opened) stream.abort('the transport was closed')
  }

  private accept(accepted: Socket, services: ReadonlyMap<string, StreamHandler>): Socket {
    let reader: FramedStream | undefined
    const socket = acceptedReadingInto(accepted, () => reader)
    const peer = `${socket.remoteAddress}:${socket.remotePort}`
    reader = new FramedStream(socket, peer, this.shared, (stream, bytes) => {
      const fault = greetingFault(bytes)
      if (fault !== undefined) {
        stream.greetPeer(greeting())
        stream.abort(fault)
        return undefined
      }
      if (bytes.length < greetingBytes + 2) return undefined
      const pathBytes = bytes.readUInt16LE(greetingBytes)
      const end = greetingBytes + 2 + pathBytes
      if (pathBytes > pathBytesMax) {
        stream.greetPeer(greeting())
        stream.abort('the method path is too long')
        return undefined
      }
      if (bytes.length < end) return undefined
      const path = bytes.toString('utf8', greetingBytes + 2, end)
      stream.greetPeer(greeting())
      const accept = services.get(path)
      if (!accept) {
        stream.abort(`there is no ${path} here`)
        return undefined
      }
      try {
        stream.attach(accept(stream, peer))
      } catch (cause) {
        if (cause instanceof PosixError) stream.drop(cause.code, cause.message, cause)
        else {
          this.shared.log.error('a stream handler threw', { path, cause })
          stream.abort(`the peer failed: ${messageOf(cause)}`)
        }
      }
      return end
    })
    return socket
  }
}

/** Bulk bytes between clients and chunk servers travel over this; see the top of the file. */
export const framedTransport = (options: FramedTransportOptions = {}): Transport => new FramedTransport(options)
