/**
 * Typed calls over a Transport: takes the generated service definitions, encodes and decodes. A message that does not decode is
 * never an exception for the receiver: the call is refused (EPROTO), the stream is dropped with a reason.
 */
import { PosixError } from '../domain/errors.ts'
import { messageBytesMax } from '../domain/limits.ts'
import type {
  CallOptions,
  MessageStream,
  StreamHandler,
  StreamHandlers,
  Transport,
  UnaryHandler,
} from '../platform/transport.ts'

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array }
  decode(bytes: Uint8Array): T
}

interface Method<Q, R> {
  name: string
  requestType: Codec<Q>
  responseType: Codec<R>
}

interface Definition {
  fullName: string
}

/** "/shoal.v1.Session/Connect" */
export const methodPath = (service: Definition, method: { name: string }): string =>
  `/${service.fullName}/${method.name}`

/** A stream of typed messages. */
export interface TypedStream<Out> {
  /** False: wait for `drained` before sending much more. */
  send(message: Out): boolean
  drained(): Promise<void>
  end(): void
  abort(reason: string): void
}

export interface TypedHandlers<In> {
  message(message: In): void
  closed(error?: Error): void
}

const typed = <Out>(stream: MessageStream, codec: Codec<Out>): TypedStream<Out> => ({
  send: (message) => stream.send(codec.encode(message).finish()),
  drained: () => stream.drained(),
  end: () => stream.end(),
  abort: (reason) => stream.abort(reason),
})

const decoding = <In>(
  codec: Codec<In>,
  handlers: TypedHandlers<In>,
  abort: (reason: string) => void,
): StreamHandlers => ({
  message: (bytes) => {
    let message: In
    try {
      if (bytes.length > messageBytesMax) throw new Error(`it has ${bytes.length} bytes`)
      message = codec.decode(bytes)
    } catch (cause) {
      abort(`malformed message: ${cause instanceof Error ? cause.message : String(cause)}`)
      return
    }
    handlers.message(message)
  },
  closed: (error) => handlers.closed(error),
})

/** Calls a unary method. PosixError: the answer was a refusal. UnavailableError: no answer. */
export const callUnary = async <Q, R>(
  transport: Transport,
  address: string,
  service: Definition,
  method: Method<Q, R>,
  request: Q,
  options: CallOptions,
): Promise<R> => {
  const reply = await transport.call(
    address,
    methodPath(service, method),
    method.requestType.encode(request).finish(),
    options,
  )
  try {
    return method.responseType.decode(reply)
  } catch (cause) {
    throw new PosixError('EPROTO', `${address} answered ${method.name} with a malformed message: ${String(cause)}`)
  }
}

/** The handler of a unary method, for Services.unary under methodPath. */
export const unaryHandler =
  <Q, R>(method: Method<Q, R>, handle: (request: Q, signal: AbortSignal) => Promise<R>): UnaryHandler =>
  async (bytes, signal) => {
    let request: Q
    try {
      if (bytes.length > messageBytesMax) throw new Error(`it has ${bytes.length} bytes`)
      request = method.requestType.decode(bytes)
    } catch (cause) {
      throw new PosixError('EPROTO', `malformed ${method.name} request: ${String(cause)}`)
    }
    return method.responseType.encode(await handle(request, signal)).finish()
  }

/** Opens a bidirectional stream. */
export const openStream = <Q, R>(
  transport: Transport,
  address: string,
  service: Definition,
  method: Method<Q, R>,
  handlers: TypedHandlers<R>,
): TypedStream<Q> => {
  const stream: MessageStream = transport.open(
    address,
    methodPath(service, method),
    decoding(method.responseType, handlers, (reason) => stream.abort(reason)),
  )
  return typed(stream, method.requestType)
}

/** The handler of a bidirectional stream, for Services.stream under methodPath. */
export const streamHandler =
  <Q, R>(method: Method<Q, R>, accept: (stream: TypedStream<R>, peer: string) => TypedHandlers<Q>): StreamHandler =>
  (stream, peer) =>
    decoding(method.requestType, accept(typed(stream, method.responseType), peer), (reason) => stream.abort(reason))
