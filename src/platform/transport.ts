/**
 * Messages between processes, as bytes: unary calls and bidirectional streams of whole messages, found by a method path
 * ("/shoal.v1.Session/Connect"). Encoding is the business of src/protocol. Adapters: gRPC (all of it) and framed TCP
 * (streams only, for bulk bytes). Every failure that is no answer is an UnavailableError.
 */

export interface StreamHandlers {
  /** One whole message. The buffer is the receiver's to keep, or to give back (buffer-pool.ts). Must not throw. */
  message(bytes: Buffer): void
  /**
   * Called once, after all messages, never from within a call of the stream; nothing follows. Without an error the stream was ended in
   * good order, by either side, and is closed in both directions once what was sent before has left.
   */
  closed(error?: Error): void
}

export interface MessageStream {
  /**
   * Sends one message that consists of these parts, in order with the others. Never blocks.
   * False: more than the high-water mark waits to be sent; go on after `drained`. On a closed stream it does nothing (see `closed`).
   * The parts are not copied by every adapter: they must not change afterwards.
   */
  send(...parts: Uint8Array[]): boolean
  /** Resolves when what waits is below the high-water mark again, or the stream is closed. */
  drained(): Promise<void>
  /**
   * Ends the stream after what was sent; the peer sees a close in good order and, when it has sent what it had to send until then,
   * so do we. Who waits for an answer ends after it.
   */
  end(): void
  /** Drops the stream at once in both directions. `closed` is called on both sides. */
  abort(reason: string): void
}

export type UnaryHandler = (request: Buffer, signal: AbortSignal) => Promise<Uint8Array>
/** Gets the opened stream and returns what is to happen with its messages. */
export type StreamHandler = (stream: MessageStream, peer: string) => StreamHandlers

export interface Services {
  unary: ReadonlyMap<string, UnaryHandler>
  stream: ReadonlyMap<string, StreamHandler>
}

export interface Listener {
  /** host:port that it really listens on (port 0 asks for a free one). */
  readonly address: string
  /** Stops listening and drops every connection. */
  close(): Promise<void>
}

export interface CallOptions {
  deadlineMs: number
  signal?: AbortSignal
}

export interface Transport {
  /** Opens a stream at once; a failure to connect arrives as `closed`. */
  open(address: string, path: string, handlers: StreamHandlers): MessageStream
  /**
   * PosixError when the handler threw one (its code and message travel), UnavailableError for everything else.
   */
  call(address: string, path: string, request: Uint8Array, options: CallOptions): Promise<Buffer>
  /** UsageError when the address cannot be listened on. */
  listen(address: string, services: Services): Promise<Listener>
  /** Drops every connection that it opened. Listeners are closed by their owners. */
  close(): Promise<void>
}
