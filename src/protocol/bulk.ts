/**
 * Append and Read of shoal.v1.ChunkStore without a copy of the bytes that they carry. On the wire it is what the generated code
 * writes and reads (with filler before the data of a large append, which that skips); but `data` (field 15, last) is sent as a part
 * of its own, and what is received is handed out as views of the received message.
 *
 * Invariant: any message that the generated decoder accepts is accepted here with the same result, and the other way round.
 */
import { BinaryReader } from '@bufbuild/protobuf/wire'
import { messageBytesMax } from '../domain/limits.ts'
import type { MessageStream, StreamHandler, StreamHandlers, Transport } from '../platform/transport.ts'
import {
  AppendReply,
  ChunkStoreDefinition,
  ReadRequest,
  AppendRequest,
  ReadReply,
} from './gen/shoal/v1/chunk_store.pb.ts'
import { Failure } from './gen/shoal/v1/types.pb.ts'
import { methodPath, type TypedHandlers, type TypedStream } from './rpc.ts'

/** Field 15, length-delimited. */
const dataTag = (15 << 3) | 2
/** Field 14, length-delimited: zeros that nobody looks at. */
const fillerTag = (14 << 3) | 2
const dataAlignment = 4096
const alignedDataBytesMin = 64 * 1024
const zeros = Buffer.alloc(2 * dataAlignment)
const nothing = Buffer.alloc(0)

type Encode<T> = (message: T) => Uint8Array[]
type Decode<T> = (bytes: Buffer) => T

/**
 * Calls the visitor with each field's tag; it reads the value and returns true, or false for what it does not know.
 * Ends where the generated decoders end.
 */
const eachField = (bytes: Buffer, visit: (tag: number, reader: BinaryReader) => boolean): void => {
  const reader = new BinaryReader(bytes)
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if (visit(tag, reader)) continue
    if ((tag & 7) === 4 || tag === 0) return
    // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- the generated code does the same; skip checks the value.
    reader.skip(tag & 7)
  }
}

/** A length-delimited value as a view. */
const viewOf = (reader: BinaryReader): Buffer => {
  const bytes = reader.bytes()
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

const varintBytes = (value: number): number => Math.max(1, Math.ceil((32 - Math.clz32(value)) / 7))

/** How much filler makes `alignment` a divisor of where the data starts, which follows so many bytes of other fields. */
const fillerBytes = (before: number, dataBytes: number): number => {
  // Both tags and the data's length; what is free takes the filler's length and the filler.
  const free = dataAlignment - ((before + 2 + varintBytes(dataBytes)) % dataAlignment)
  for (const lengthBytes of [1, 2]) {
    if (free >= lengthBytes && varintBytes(free - lengthBytes) === lengthBytes) return free - lengthBytes
  }
  return free + dataAlignment - 2
}

/**
 * Two parts: everything up to and including the length of the data, and the data itself, which must not change until it is sent.
 * Much data starts at a multiple of `dataAlignment` in the message, so that a server that receives it into aligned memory can have
 * the disk take it from there.
 */
export const encodeAppend = (request: AppendRequest): [Uint8Array, Uint8Array] => {
  const { data } = request
  let header = AppendRequest.encode({ ...request, data: nothing })
  if (data.length >= alignedDataBytesMin) {
    const fields = header.finish()
    header = header
      .raw(fields)
      .uint32(fillerTag)
      .bytes(zeros.subarray(0, fillerBytes(fields.length, data.length)))
  }
  if (data.length > 0) header.uint32(dataTag).uint32(data.length)
  return [header.finish(), data]
}

/** `checksums` and `data` are views of `bytes`. Throws when the message is malformed. */
export const decodeAppend = (bytes: Buffer): AppendRequest => {
  const request: AppendRequest = {
    requestId: 0,
    chunkId: 0n,
    offset: 0,
    sync: false,
    create: false,
    checksums: nothing,
    data: nothing,
  }
  eachField(bytes, (tag, reader) => {
    if (tag === 8) request.requestId = reader.uint32()
    else if (tag === 16) request.chunkId = reader.uint64() as bigint
    else if (tag === 24) request.offset = reader.uint32()
    else if (tag === 32) request.sync = reader.bool()
    else if (tag === 40) request.create = reader.bool()
    else if (tag === 50) request.checksums = viewOf(reader)
    else if (tag === dataTag) request.data = viewOf(reader)
    else return false
    return true
  })
  return request
}

/** Two parts, as encodeAppend. */
export const encodeReadReply = (reply: ReadReply): [Uint8Array, Uint8Array] => {
  const header = ReadReply.encode({ ...reply, data: nothing })
  if (reply.data.length > 0) header.uint32(dataTag).uint32(reply.data.length)
  return [header.finish(), reply.data]
}

/** `checksums` and `data` are views of `bytes`. Throws when the message is malformed. */
export const decodeReadReply = (bytes: Buffer): ReadReply => {
  const reply: ReadReply = { requestId: 0, failure: undefined, checksums: nothing, data: nothing }
  eachField(bytes, (tag, reader) => {
    if (tag === 8) reply.requestId = reader.uint32()
    else if (tag === 18) reply.failure = Failure.decode(reader, reader.uint32())
    else if (tag === 26) reply.checksums = viewOf(reader)
    else if (tag === dataTag) reply.data = viewOf(reader)
    else return false
    return true
  })
  return reply
}

const encodeAppendReply: Encode<AppendReply> = (reply) => [AppendReply.encode(reply).finish()]
const encodeReadRequest: Encode<ReadRequest> = (request) => [ReadRequest.encode(request).finish()]

const typed = <Out>(stream: MessageStream, encode: Encode<Out>): TypedStream<Out> => ({
  send: (message) => stream.send(...encode(message)),
  drained: () => stream.drained(),
  end: () => stream.end(),
  abort: (reason) => stream.abort(reason),
})

const decoding = <In>(
  decode: Decode<In>,
  handlers: TypedHandlers<In>,
  abort: (reason: string) => void,
): StreamHandlers => ({
  message: (bytes) => {
    let message: In
    try {
      if (bytes.length > messageBytesMax) throw new Error(`it has ${bytes.length} bytes`)
      message = decode(bytes)
    } catch (cause) {
      abort(`malformed message: ${cause instanceof Error ? cause.message : String(cause)}`)
      return
    }
    handlers.message(message)
  },
  closed: (error) => handlers.closed(error),
})

export const appendPath = methodPath(ChunkStoreDefinition, ChunkStoreDefinition.methods.append)
export const readPath = methodPath(ChunkStoreDefinition, ChunkStoreDefinition.methods.read)

/** Opens ChunkStore.Append at a server's bulk address (or its gRPC address, over a gRPC transport). */
export const openAppend = (
  transport: Transport,
  address: string,
  handlers: TypedHandlers<AppendReply>,
): TypedStream<AppendRequest> => {
  const stream: MessageStream = transport.open(
    address,
    appendPath,
    decoding(
      (bytes) => AppendReply.decode(bytes),
      handlers,
      (reason) => stream.abort(reason),
    ),
  )
  return typed(stream, encodeAppend)
}

/** Opens ChunkStore.Read, as openAppend. */
export const openRead = (
  transport: Transport,
  address: string,
  handlers: TypedHandlers<ReadReply>,
): TypedStream<ReadRequest> => {
  const stream: MessageStream = transport.open(
    address,
    readPath,
    decoding(decodeReadReply, handlers, (reason) => stream.abort(reason)),
  )
  return typed(stream, encodeReadRequest)
}

/** An entry of Services.stream: [path, handler] of ChunkStore.Append. */
export const appendHandler = (
  accept: (stream: TypedStream<AppendReply>, peer: string) => TypedHandlers<AppendRequest>,
): [string, StreamHandler] => [
  appendPath,
  (stream, peer) =>
    decoding(decodeAppend, accept(typed(stream, encodeAppendReply), peer), (reason) => stream.abort(reason)),
]

/** An entry of Services.stream: [path, handler] of ChunkStore.Read. */
export const readHandler = (
  accept: (stream: TypedStream<ReadReply>, peer: string) => TypedHandlers<ReadRequest>,
): [string, StreamHandler] => [
  readPath,
  (stream, peer) =>
    decoding(
      (bytes) => ReadRequest.decode(bytes),
      accept(typed(stream, encodeReadReply), peer),
      (reason) => stream.abort(reason),
    ),
]
