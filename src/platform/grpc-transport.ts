/**
 * The Transport over gRPC: unary calls and bidirectional streams by method path, bytes in and bytes out (the generated stubs are not
 * used). One HTTP/2 connection per address, made on first use, kept, and made again when it broke.
 *
 * An answer that is a failure (PosixError) travels as status FAILED_PRECONDITION with the errno name in the trailer `shoal-errno` and
 * the message in the status details. Every other status is no answer.
 *
 * Invariant: `closed` of a stream is called exactly once, never from within open, send, end or abort.
 * A peer that falls silent is noticed after keepaliveMs + keepaliveTimeoutMs, on both sides; a connection that cannot be made, after
 * connectMs.
 */
import {
  Client,
  Metadata,
  Server,
  ServerCredentials,
  connectivityState,
  credentials,
  status,
  type ChannelOptions,
  type ClientDuplexStream,
  type ClientUnaryCall,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServiceError,
  type StatusObject,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { PosixError, UnavailableError, isErrnoName } from '../domain/errors.ts'
import { messageBytesMax } from '../domain/limits.ts'
import { parseAddress } from './address.ts'
import { stderrLog, type Log } from './log.ts'
import { SendQueue } from './send-queue.ts'
import { listenTcp } from './tcp-listener.ts'
import type {
  CallOptions,
  Listener,
  MessageStream,
  Services,
  StreamHandler,
  StreamHandlers,
  Transport,
  UnaryHandler,
} from './transport.ts'

export interface GrpcTransportOptions {
  /** How long making a connection (and the peer's first sign of life on a new stream) may take; default 5000. */
  connectMs?: number
  /** A ping is sent after this long without traffic; default 1500. */
  keepaliveMs?: number
  /** A ping that is not answered for this long ends the connection; default 3500. */
  keepaliveTimeoutMs?: number
  /** `send` answers false while more than this waits on a stream; default 4 MiB. */
  highWaterBytes?: number
  log?: Log
}

const errnoKey = 'shoal-errno'
/** Details travel in an HTTP header, so they are cut. */
const detailsCharsMax = 1000
/** Room for what is on its way: a whole message, several times. */
const windowBytes = 4 * messageBytesMax

const identity = (bytes: Buffer): Buffer => bytes

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const joined = (parts: readonly Uint8Array[]): Buffer =>
  parts.length === 1 ? asBuffer(parts[0]!) : Buffer.concat(parts)

/** Cut, and without lone surrogates, which gRPC's encoding of details does not survive. */
const asDetails = (text: string): string => Buffer.from(text.slice(0, detailsCharsMax)).toString()

const messageOf = (caught: unknown): string => (caught instanceof Error ? caught.message : String(caught))

const asStatus = (caught: unknown): Partial<StatusObject> => {
  const metadata = new Metadata()
  if (caught instanceof PosixError) {
    metadata.set(errnoKey, caught.code)
    return { code: status.FAILED_PRECONDITION, details: asDetails(caught.message), metadata }
  }
  return { code: status.INTERNAL, details: asDetails(`the peer failed: ${messageOf(caught)}`), metadata }
}

/** Turns a status that is not OK into what the caller gets. `sent` is false when it is certain that nothing was sent. */
const asError = (failure: ServiceError | StatusObject, address: string, sent: boolean): Error => {
  const errno = failure.metadata.get(errnoKey)[0]
  if (failure.code === status.FAILED_PRECONDITION && typeof errno === 'string' && isErrnoName(errno)) {
    return new PosixError(errno, failure.details)
  }
  const name = status[failure.code] ?? String(failure.code)
  return new UnavailableError(`${address}: ${failure.details} (${name})`, {
    maybeCommitted: sent && failure.code !== status.UNIMPLEMENTED,
  })
}

/** What both ends of a stream have in common. */
class GrpcStream implements MessageStream {
  private readonly queue: SendQueue
  private readonly write: (bytes: Buffer, sent: () => void) => void
  private readonly finish: () => void
  private readonly drop: (reason: string) => void
  private readonly log: Log
  private handlers: StreamHandlers | undefined
  private closedWith: { error: Error | undefined } | undefined
  private ended = false

  constructor(
    io: {
      write(bytes: Buffer, sent: () => void): void
      finish(): void
      drop(reason: string): void
    },
    highWaterBytes: number,
    log: Log,
  ) {
    this.write = (bytes, sent) => io.write(bytes, sent)
    this.finish = () => io.finish()
    this.drop = (reason) => io.drop(reason)
    this.queue = new SendQueue(highWaterBytes)
    this.log = log
  }

  get isClosed(): boolean {
    return this.closedWith !== undefined
  }

  /** Called once, as soon as the owner has said what is to happen with messages. */
  attach(handlers: StreamHandlers): void {
    this.handlers = handlers
  }

  received(bytes: Buffer): void {
    if (this.closedWith) return
    try {
      this.handlers!.message(bytes)
    } catch (cause) {
      this.log.error('a message handler threw', { cause })
      this.abort(`the receiver failed: ${messageOf(cause)}`)
    }
  }

  /** Closes once; later calls change nothing. */
  close(error: Error | undefined): void {
    if (this.closedWith) return
    this.closedWith = { error }
    this.queue.close()
    queueMicrotask(() => {
      try {
        this.handlers?.closed(error)
      } catch (cause) {
        this.log.error('a close handler threw', { cause })
      }
    })
  }

  send(...parts: Uint8Array[]): boolean {
    if (this.closedWith || this.ended) return true
    const bytes = joined(parts)
    if (bytes.length > messageBytesMax) {
      this.abort(`a message of ${bytes.length} bytes is too large`)
      return true
    }
    this.write(bytes, () => this.queue.sent(bytes.length))
    return this.queue.added(bytes.length)
  }

  drained(): Promise<void> {
    return this.queue.drained()
  }

  end(): void {
    if (this.closedWith || this.ended) return
    this.ended = true
    this.finish()
  }

  abort(reason: string): void {
    if (this.closedWith) return
    this.close(new UnavailableError(reason, { maybeCommitted: true }))
    this.drop(reason)
  }
}

class GrpcTransport implements Transport {
  private readonly connectMs: number
  private readonly keepaliveMs: number
  private readonly keepaliveTimeoutMs: number
  private readonly highWaterBytes: number
  private readonly log: Log
  private readonly clients = new Map<string, Client>()
  private readonly streams = new Set<GrpcStream>()
  private readonly calls = new Set<ClientUnaryCall>()
  private closed = false

  constructor(options: GrpcTransportOptions) {
    this.connectMs = options.connectMs ?? 5000
    this.keepaliveMs = options.keepaliveMs ?? 1500
    this.keepaliveTimeoutMs = options.keepaliveTimeoutMs ?? 3500
    this.highWaterBytes = options.highWaterBytes ?? 4 * 1024 * 1024
    this.log = options.log ?? stderrLog('warn', 'transport')
  }

  open(address: string, path: string, handlers: StreamHandlers): MessageStream {
    const client = this.client(address)
    if (!client) return this.refused(address, handlers)
    const call: ClientDuplexStream<Buffer, Buffer> = client.makeBidiStreamRequest(
      path,
      identity,
      identity,
      new Metadata(),
      {},
    )
    const stream = new GrpcStream(
      {
        write: (bytes, sent) => call.write(bytes, sent),
        finish: () => call.end(),
        drop: () => call.cancel(),
      },
      this.highWaterBytes,
      this.log,
    )
    stream.attach(handlers)
    this.streams.add(stream)
    // The peer sends its headers at once; without them the connection is not there, however long the system goes on trying.
    const connecting = setTimeout(() => {
      this.forgetUnconnected(address, client)
      close(new UnavailableError(`${address} does not answer`, { maybeCommitted: true }))
      call.cancel()
    }, this.connectMs)
    connecting.unref()
    const close = (error: Error | undefined): void => {
      clearTimeout(connecting)
      this.streams.delete(stream)
      stream.close(error)
    }
    call.on('metadata', () => clearTimeout(connecting))
    call.on('data', (bytes: Buffer) => stream.received(bytes))
    call.on('end', () => {
      // 'end' also comes before an error; then the error says more and follows in the same turn.
      setImmediate(() => close(undefined))
    })
    call.on('error', (failure: ServiceError) => {
      close(asError(failure, address, call.getPeer() !== client.getChannel().getTarget()))
    })
    return stream
  }

  call(address: string, path: string, request: Uint8Array, options: CallOptions): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const unsent = (message: string): void => reject(new UnavailableError(message, { maybeCommitted: false }))
      const client = this.client(address)
      if (!client) return unsent(this.refusal(address))
      if (request.length > messageBytesMax) return unsent(`a message of ${request.length} bytes is too large`)
      const { signal } = options
      if (signal?.aborted) return unsent(`the call to ${address} was cancelled`)
      const onAbort = (): void => call.cancel()
      const call = client.makeUnaryRequest(
        path,
        identity,
        identity,
        asBuffer(request),
        new Metadata(),
        { deadline: Date.now() + options.deadlineMs },
        (failure, reply) => {
          signal?.removeEventListener('abort', onAbort)
          this.calls.delete(call)
          if (!failure) return resolve(reply!)
          if (failure.code === status.DEADLINE_EXCEEDED) this.forgetUnconnected(address, client)
          return reject(asError(failure, address, call.getPeer() !== client.getChannel().getTarget()))
        },
      )
      this.calls.add(call)
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }

  async listen(address: string, services: Services): Promise<Listener> {
    const server = new Server(this.channelOptions())
    for (const [path, handle] of services.unary) {
      server.register(path, this.unary(path, handle), identity, identity, 'unary')
    }
    for (const [path, accept] of services.stream) {
      server.register(path, this.bidirectional(path, accept), identity, identity, 'bidi')
    }
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
    const listener = await listenTcp(address, {
      connected: (socket) => {
        injector.injectConnection(socket)
        return socket
      },
    })
    return {
      address: listener.address,
      close: async () => {
        await listener.close()
        server.forceShutdown()
      },
    }
  }

  async close(): Promise<void> {
    this.closed = true
    for (const stream of this.streams) stream.abort('the transport was closed')
    for (const call of this.calls) call.cancel()
    for (const client of this.clients.values()) client.close()
    this.streams.clear()
    this.clients.clear()
  }

  private channelOptions(): ChannelOptions {
    return {
      'grpc.max_receive_message_length': messageBytesMax,
      // Senders check for themselves, with a better message.
      'grpc.max_send_message_length': -1,
      'grpc.keepalive_time_ms': this.keepaliveMs,
      'grpc.keepalive_timeout_ms': this.keepaliveTimeoutMs,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.dns_min_time_between_resolutions_ms': 1000,
      'grpc.service_config_disable_resolution': 1,
      // Whether to try again is decided above, by request id.
      'grpc.enable_retries': 0,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_channelz': 0,
      'grpc.use_local_subchannel_pool': 1,
      'grpc-node.flow_control_window': windowBytes,
    }
  }

  private client(address: string): Client | undefined {
    if (this.closed || !parseAddress(address)) return undefined
    let client = this.clients.get(address)
    if (!client) {
      client = new Client(`dns:${address}`, credentials.createInsecure(), this.channelOptions())
      this.clients.set(address, client)
    }
    return client
  }

  private refusal(address: string): string {
    return this.closed ? 'the transport is closed' : `${address} is not an address of the form HOST:PORT`
  }

  private refused(address: string, handlers: StreamHandlers): MessageStream {
    const stream = new GrpcStream({ write: () => {}, finish: () => {}, drop: () => {} }, this.highWaterBytes, this.log)
    stream.attach(handlers)
    stream.close(new UnavailableError(this.refusal(address), { maybeCommitted: false }))
    return stream
  }

  /** A connection attempt that hangs would hold up later ones for as long as the system retries it: begin afresh. */
  private forgetUnconnected(address: string, client: Client): void {
    if (client.getChannel().getConnectivityState(false) === connectivityState.READY) return
    if (this.clients.get(address) !== client) return
    this.clients.delete(address)
    client.close()
  }

  private unary(path: string, handle: UnaryHandler) {
    return (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>): void => {
      const controller = new AbortController()
      call.on('cancelled', () => controller.abort(new UnavailableError('the caller left', { maybeCommitted: true })))
      const run = async (): Promise<void> => {
        try {
          const reply = await handle(call.request, controller.signal)
          if (reply.length > messageBytesMax) throw new Error(`the reply has ${reply.length} bytes`)
          answer(null, asBuffer(reply))
        } catch (cause) {
          if (!(cause instanceof PosixError) && !controller.signal.aborted) {
            this.log.error('a call handler threw', { path, cause })
          }
          answer(asStatus(cause))
        }
      }
      void run()
    }
  }

  private bidirectional(path: string, accept: StreamHandler) {
    return (call: ServerDuplexStream<Buffer, Buffer>): void => {
      const stream = new GrpcStream(
        {
          write: (bytes, sent) => call.write(bytes, sent),
          finish: () => call.end(),
          drop: (reason) => call.emit('error', { code: status.ABORTED, details: asDetails(reason) }),
        },
        this.highWaterBytes,
        this.log,
      )
      // Tells the opener that the connection is there.
      call.sendMetadata(new Metadata())
      call.on('error', () => {})
      try {
        stream.attach(accept(stream, call.getPeer()))
      } catch (cause) {
        if (!(cause instanceof PosixError)) this.log.error('a stream handler threw', { path, cause })
        call.emit('error', asStatus(cause))
        return
      }
      call.on('data', (bytes: Buffer) => stream.received(bytes))
      call.on('end', () => {
        // A reset also ends the reading side; 'cancelled' then follows in the same turn.
        setImmediate(() => {
          if (call.cancelled) return
          stream.end()
          stream.close(undefined)
        })
      })
      // Our own end in good order is also one for us; the opener sends nothing that we would still see.
      call.on('finish', () => stream.close(undefined))
      call.on('cancelled', () => stream.close(new UnavailableError('the peer left', { maybeCommitted: true })))
    }
  }
}

/** The services of all Shoal processes talk over this; see the top of the file. */
export const grpcTransport = (options: GrpcTransportOptions = {}): Transport => new GrpcTransport(options)
