/**
 * What goes out to one client: what is ready in the same turn travels in one message. While the stream has more to send than it can,
 * things wait here; recalls and lists of servers that wait are replaced by newer ones, and the number of replies is bounded by that of the
 * requests that a session may have.
 */
import type { ChunkId } from '../domain/ids.ts'
import type { ExtentsReply, Lease, Push, Reply, ServerMessage, Welcome } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ServerAddress } from '../protocol/gen/shoal/v1/types.pb.ts'
import type { TypedStream } from '../protocol/rpc.ts'

/** A message is closed when its replies have about this many bytes. */
const messageBytesTarget = 1024 * 1024

export class Outbox {
  readonly #stream: TypedStream<ServerMessage>
  #replies: Reply[] = []
  #recalls = new Map<bigint, Lease>()
  #seals = new Set<ChunkId>()
  #servers: ServerAddress[] | undefined
  /** Echoes of heartbeats that wait: how many replies go before each. */
  #heartbeats: number[] = []
  #scheduled = false
  #blocked = false
  #closed = false

  constructor(stream: TypedStream<ServerMessage>) {
    this.#stream = stream
  }

  /** Replies that wait to be sent. */
  get backlog(): number {
    return this.#replies.length
  }

  welcome(welcome: Welcome): void {
    this.#stream.send({ ...emptyMessage(), welcome })
  }

  reply(reply: Reply): void {
    this.#replies.push(reply)
    this.#soon()
  }

  recall(lease: Lease): void {
    this.#recalls.set(lease.ino, lease)
    this.#soon()
  }

  askToSeal(chunk: ChunkId): void {
    this.#seals.add(chunk)
    this.#soon()
  }

  servers(servers: ServerAddress[]): void {
    this.#servers = servers
    this.#soon()
  }

  heartbeat(): void {
    // In its place: with the echo a client knows that nothing older than its heartbeat is still to come.
    this.#heartbeats.push(this.#replies.length)
    this.#soon()
  }

  /** Sends what waits and closes in good order. */
  end(): void {
    if (this.#closed) return
    this.#blocked = false
    this.#flush()
    this.#closed = true
    this.#stream.end()
  }

  abort(reason: string): void {
    if (this.#closed) return
    this.#closed = true
    this.#stream.abort(reason)
  }

  /** The stream is gone. */
  closed(): void {
    this.#closed = true
    this.#replies = []
  }

  #soon(): void {
    if (this.#scheduled || this.#blocked || this.#closed) return
    this.#scheduled = true
    // Two steps on, so that requests that end with the same batch of the store are all here.
    queueMicrotask(() =>
      queueMicrotask(() => {
        this.#scheduled = false
        this.#flush()
      }),
    )
  }

  #flush(): void {
    while (!this.#closed && !this.#blocked && this.#waits()) {
      if (this.#stream.send(this.#message())) continue
      this.#blocked = true
      void this.#stream.drained().then(() => {
        this.#blocked = false
        this.#flush()
      })
    }
  }

  #waits(): boolean {
    return (
      this.#replies.length > 0 ||
      this.#recalls.size > 0 ||
      this.#seals.size > 0 ||
      this.#servers !== undefined ||
      this.#heartbeats.length > 0
    )
  }

  #message(): ServerMessage {
    const message = emptyMessage()
    let bytes = 0
    let count = 0
    while (count < this.#replies.length && bytes < messageBytesTarget) bytes += bytesEstimate(this.#replies[count++]!)
    message.replies = this.#replies.splice(0, count)
    // A recall names a grant that a reply before it brings; so it goes with the last reply or after it.
    if (this.#replies.length === 0) {
      const pushes: Push['push'][] = []
      for (const value of this.#recalls.values()) pushes.push({ $case: 'recall', value })
      for (const value of this.#seals) pushes.push({ $case: 'sealChunk', value })
      if (this.#servers) pushes.push({ $case: 'servers', value: { servers: this.#servers } })
      message.pushes = pushes.map((push) => ({ push }))
      this.#recalls.clear()
      this.#seals.clear()
      this.#servers = undefined
    }
    this.#heartbeats = this.#heartbeats.map((before) => before - count)
    if (this.#heartbeats[0] !== undefined && this.#heartbeats[0] <= 0) {
      this.#heartbeats.shift()
      message.heartbeat = true
    }
    return message
  }
}

const emptyMessage = (): ServerMessage => ({ welcome: undefined, replies: [], pushes: [], heartbeat: false })

const extentsBytes = ({ segments, locations, inlineData, following }: ExtentsReply): number => {
  const extents = segments.reduce((sum, segment) => sum + segment.extents.length, 0)
  const others = following.reduce((sum, file) => sum + extentsBytes(file), 0)
  return 256 + extents * 28 + locations.length * 400 + (inlineData?.length ?? 0) + others
}

/** Roughly what a reply takes on the wire. */
const bytesEstimate = ({ result }: Reply): number => {
  switch (result?.$case) {
    case 'readdir':
      return 64 + result.value.entries.length * 400
    case 'extents':
      return extentsBytes(result.value)
    case 'locate':
      return 64 + result.value.locations.length * 400
    case 'value':
      return 64 + result.value.length
    case 'names':
      return 64 + result.value.names.length * 256
    default:
      return 256
  }
}
