/**
 * Cuts a byte stream into frames: a 32-bit little-endian length and that many bytes. Lengths above messageBytesMax are not lengths
 * but marks (see framed-transport.ts).
 *
 * Each message gets a buffer of its own, so that a small message does not keep a large one alive. Whoever reads the stream asks
 * `target` where the next bytes should go, which is the message itself once its length is known: most bytes are never copied.
 */
import { messageBytesMax } from '../domain/limits.ts'
import { takeBuffer } from './buffer-pool.ts'

export const lengthBytes = 4
/** Nothing; the peer is alive. */
export const markAlive = 0xffff_ffff
/** The sender ends the stream in good order. */
export const markEnd = 0xffff_fffe
/** The sender drops the stream; a message with the reason follows. */
export const markAbort = 0xffff_fffd

/** With less than this missing to a message, what follows it had better be read in the same go. */
const directBytesMin = 16 * 1024

export interface FrameSink {
  message(bytes: Buffer): void
  mark(mark: number): void
  /** The length is neither one that is allowed nor a mark; nothing more is read. */
  malformed(reason: string): void
}

export class FrameReader {
  private readonly sink: FrameSink
  private readonly head = Buffer.alloc(lengthBytes)
  private headFilled = 0
  private body: Buffer | undefined
  private bodyFilled = 0
  private stopped = false

  constructor(sink: FrameSink) {
    this.sink = sink
  }

  /** Nothing more is reported. */
  stop(): void {
    this.stopped = true
    // Not given back: a read into it may be under way.
    this.body = undefined
  }

  /** The part of a message that is still missing, when it is worth reading right into it: then `filled` says how much came. */
  target(): Buffer | undefined {
    const { body, bodyFilled } = this
    return body && body.length - bodyFilled >= directBytesMin ? body.subarray(bodyFilled) : undefined
  }

  /** So many bytes were read into the latest `target`. */
  filled(bytes: number): void {
    // It was stopped between the two.
    if (!this.body) return
    this.bodyFilled += bytes
    if (this.bodyFilled === this.body.length) this.finish(this.body)
  }

  /** Takes what arrived elsewhere; the buffer is not kept. */
  push(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length && !this.stopped) {
      if (this.body) at = this.fill(this.body, chunk, at)
      else at = this.begin(chunk, at)
    }
  }

  private begin(chunk: Buffer, start: number): number {
    let at = start
    let length: number
    if (this.headFilled === 0 && chunk.length - at >= lengthBytes) {
      length = chunk.readUInt32LE(at)
      at += lengthBytes
    } else {
      const copied = chunk.copy(this.head, this.headFilled, at)
      this.headFilled += copied
      at += copied
      if (this.headFilled < lengthBytes) return at
      length = this.head.readUInt32LE(0)
      this.headFilled = 0
    }
    if (length >= markAbort) this.sink.mark(length)
    else if (length > messageBytesMax) {
      this.stop()
      this.sink.malformed(`a message of ${length} bytes is announced`)
    } else if (length === 0) this.sink.message(Buffer.alloc(0))
    else {
      this.body = takeBuffer(length)
      this.bodyFilled = 0
    }
    return at
  }

  private fill(body: Buffer, chunk: Buffer, start: number): number {
    const copied = chunk.copy(body, this.bodyFilled, start)
    this.bodyFilled += copied
    if (this.bodyFilled === body.length) this.finish(body)
    return start + copied
  }

  private finish(body: Buffer): void {
    this.body = undefined
    this.sink.message(body)
  }
}
