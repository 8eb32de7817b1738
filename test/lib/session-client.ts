/** A client of the master as bare as can be: sends what a test says and keeps what comes. */
import type { Transport } from '../../src/platform/transport.ts'
import { protocolVersions, versionsToSend } from '../../src/domain/protocol-versions.ts'
import { SessionDefinition } from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import type {
  ClientMessage,
  Hello,
  Lease,
  Push,
  Reply,
  Request,
  ServerMessage,
  Welcome,
} from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { TypedStream } from '../../src/protocol/rpc.ts'
import { openStream } from '../../src/protocol/rpc.ts'

export type Result = NonNullable<Reply['result']>
type Op = NonNullable<Request['op']>

export interface SessionClient {
  readonly welcome: Promise<Welcome>
  /** In the order of arrival. */
  readonly messages: ServerMessage[]
  readonly closed: Promise<Error | undefined>
  /** The next free id. */
  request(op: Op, id?: bigint): Promise<Result>
  send(message: Partial<ClientMessage>): void
  recalls(): Lease[]
  pushes(): NonNullable<Push['push']>[]
  abort(): void
}

const noMessage: ClientMessage = {
  hello: undefined,
  requests: [],
  answeredThrough: 0n,
  leaseReturns: [],
  opened: [],
  cancels: [],
  heartbeat: false,
  activity: undefined,
}

export const sessionClient = (
  transport: Transport,
  address: string,
  hello: Partial<Hello> = {},
  firstId = 1n,
): SessionClient => {
  const messages: ServerMessage[] = []
  const waiting = new Map<bigint, (result: Result) => void>()
  let nextId = firstId
  let welcomed!: (welcome: Welcome) => void
  let ended!: (error: Error | undefined) => void
  const welcome = new Promise<Welcome>((resolve) => {
    welcomed = resolve
  })
  const closed = new Promise<Error | undefined>((resolve) => {
    ended = resolve
  })
  const stream: TypedStream<ClientMessage> = openStream(
    transport,
    address,
    SessionDefinition,
    SessionDefinition.methods.connect,
    {
      message: (message) => {
        messages.push(message)
        if (message.welcome) welcomed(message.welcome)
        for (const { id, result } of message.replies) {
          waiting.get(id)?.(result!)
          waiting.delete(id)
        }
      },
      closed: (error) => ended(error),
    },
  )
  const send = (message: Partial<ClientMessage>): void => void stream.send({ ...noMessage, ...message })
  send({
    hello: {
      ...versionsToSend(protocolVersions),
      sessionId: 0n,
      sessionSecret: Buffer.alloc(0),
      host: 'test',
      mountPoint: '/mnt',
      pid: 1,
      rootPath: '',
      noLeases: false,
      attempt: 0n,
      openFiles: [],
      leases: [],
      locks: [],
      ...hello,
    },
  })
  const pushes = (): NonNullable<Push['push']>[] =>
    messages.flatMap((message) => message.pushes.map(({ push }) => push!))
  return {
    welcome,
    messages,
    closed,
    request: (op, id = nextId++) =>
      new Promise((resolve) => {
        waiting.set(id, resolve)
        send({ requests: [{ id, op }] })
      }),
    send,
    pushes,
    recalls: () => pushes().flatMap((push) => (push.$case === 'recall' ? [push.value] : [])),
    abort: () => stream.abort('test'),
  }
}
