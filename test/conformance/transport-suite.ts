/**
 * What every Transport must do, as tests. The factory gives two transports of different hosts that reach each other: one to listen
 * with at `address` (port 0), one to open and call with. `unary: false` leaves the calls out.
 */
import type { Test } from 'tap'
import { PosixError, UnavailableError, UsageError } from '../../src/domain/errors.ts'
import { messageBytesMax } from '../../src/domain/limits.ts'
import type {
  Listener,
  MessageStream,
  Services,
  StreamHandler,
  StreamHandlers,
  Transport,
  UnaryHandler,
} from '../../src/platform/transport.ts'

export interface TransportFixture {
  listening: Transport
  opening: Transport
  address: string
  /** An address where nothing listens. */
  nobody: string
  unary: boolean
}

/** Collects what a stream's handlers are told. */
export class Recorder implements StreamHandlers {
  readonly messages: Buffer[] = []
  closedTimes = 0
  error: Error | undefined
  afterClose = 0
  private wake: (() => void)[] = []

  message(bytes: Buffer): void {
    if (this.closedTimes > 0) this.afterClose += 1
    this.messages.push(bytes)
    this.notify()
  }

  closed(error?: Error): void {
    this.closedTimes += 1
    this.error = error
    this.notify()
  }

  /** Waits until this many messages are there, or the stream is closed. */
  async count(messages: number): Promise<void> {
    while (this.messages.length < messages && this.closedTimes === 0) await this.change()
  }

  async close(): Promise<Error | undefined> {
    while (this.closedTimes === 0) await this.change()
    return this.error
  }

  private change(): Promise<void> {
    return new Promise((resolve) => this.wake.push(resolve))
  }

  private notify(): void {
    const waiting = this.wake
    this.wake = []
    for (const resolve of waiting) resolve()
  }
}

const none: Services = { unary: new Map(), stream: new Map() }
const streams = (handlers: Record<string, StreamHandler>): Services => ({
  unary: new Map(),
  stream: new Map(Object.entries(handlers)),
})
const calls = (handlers: Record<string, UnaryHandler>): Services => ({
  unary: new Map(Object.entries(handlers)),
  stream: new Map(),
})
export const echo: StreamHandler = (stream) => ({
  message: (bytes) => {
    stream.send(bytes)
  },
  closed: () => {},
})
const part = (size: number, fill: number): Buffer => Buffer.alloc(size, fill)
const tick = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** A stream handler that records, and who connected last. */
const recording = (): { handler: StreamHandler; far: Recorder; stream: () => Promise<MessageStream> } => {
  const far = new Recorder()
  let arrived!: (stream: MessageStream) => void
  const stream = new Promise<MessageStream>((resolve) => {
    arrived = resolve
  })
  return {
    far,
    stream: () => stream,
    handler: (opened) => {
      arrived(opened)
      return far
    },
  }
}

export const transportSuite = (
  t: Test,
  name: string,
  factory: (t: Test) => Promise<TransportFixture>,
): Promise<unknown> =>
  t.test(name, async (t) => {
    const listen = async (t: Test, services: Services): Promise<TransportFixture & { listener: Listener }> => {
      const fixture = await factory(t)
      const listener = await fixture.listening.listen(fixture.address, services)
      t.teardown(async () => {
        await fixture.opening.close()
        await listener.close()
        await fixture.listening.close()
      })
      return { ...fixture, listener }
    }

    await t.test('messages of all sizes come back in order and unchanged', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Echo': echo }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Echo', near)
      const sizes = [0, 1, 3, 4, 5, 1023, 1024, 1025, 65_535, 65_536, 65_537, 1 << 20, 0, messageBytesMax, 7]
      const sent = sizes.map((size, index) => Buffer.alloc(size, index + 1))
      for (const bytes of sent) stream.send(bytes)
      await near.count(sent.length)
      t.equal(near.closedTimes, 0)
      t.same(
        near.messages.map((bytes) => bytes.length),
        sizes,
      )
      t.ok(
        near.messages.every((bytes, index) => bytes.equals(sent[index]!)),
        'every byte is as sent',
      )
    })

    await t.test('a message may consist of parts, also empty ones', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Echo': echo }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Echo', near)
      const sends = [
        [part(3, 1), part(5000, 2)],
        [part(0, 0), part(9, 3), part(0, 0)],
        [part(2000, 4), part(1, 5)],
        [],
        [new Uint8Array([1, 2, 3])],
      ]
      for (const parts of sends) stream.send(...parts)
      await near.count(sends.length)
      t.same(
        near.messages.map((bytes) => bytes.toString('hex')),
        sends.map((parts) => Buffer.concat(parts).toString('hex')),
      )
    })

    await t.test('many small messages on several streams stay in order', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Echo': echo }))
      const count = 500
      await Promise.all(
        Array.from({ length: 4 }, async (_, which) => {
          const near = new Recorder()
          const stream = opening.open(listener.address, '/test/Echo', near)
          for (let i = 0; i < count; i++) stream.send(Buffer.from(`${which}:${i}`))
          await near.count(count)
          t.same(
            near.messages.map(String),
            Array.from({ length: count }, (_, i) => `${which}:${i}`),
          )
        }),
      )
    })

    await t.test('a listener may send before it was sent anything, already in accept', async (t) => {
      const { opening, listener } = await listen(
        t,
        streams({
          '/test/Greet': (stream) => {
            stream.send(Buffer.from('hello'))
            return { message: () => {}, closed: () => {} }
          },
        }),
      )
      const near = new Recorder()
      opening.open(listener.address, '/test/Greet', near)
      await near.count(1)
      t.same(near.messages.map(String), ['hello'])
    })

    await t.test('send answers false above the high-water mark, and drained resolves when it is sent', async (t) => {
      const { handler, far } = recording()
      const { opening, listener } = await listen(t, streams({ '/test/Sink': handler }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Sink', near)
      const bytes = Buffer.alloc(1 << 20, 1)
      let sent = 0
      let refused = 0
      while (sent < 24) {
        sent += 1
        if (!stream.send(bytes)) {
          refused += 1
          await stream.drained()
        }
      }
      t.ok(refused > 0, 'the mark was reached')
      await far.count(sent)
      t.equal(far.messages.length, sent)
      t.ok(await stream.drained().then(() => true), 'with nothing waiting, drained resolves')
    })

    await t.test('drained resolves when the stream breaks', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Sink': recording().handler }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Sink', near)
      for (let i = 0; i < 20; i++) stream.send(Buffer.alloc(1 << 20))
      const drained = stream.drained()
      stream.abort('enough')
      await drained
      t.equal(stream.send(Buffer.from('late')), true, 'sending on a closed stream does nothing')
      await stream.drained()
    })

    await t.test('the opener ends: everything arrives, both sides close in good order', async (t) => {
      const { handler, far } = recording()
      const { opening, listener } = await listen(t, streams({ '/test/Sink': handler }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Sink', near)
      for (let i = 0; i < 10; i++) stream.send(Buffer.alloc(200_000, i))
      stream.end()
      stream.send(Buffer.from('after the end'))
      t.equal(await far.close(), undefined)
      t.equal(far.messages.length, 10)
      t.equal(await near.close(), undefined)
      await tick(20)
      t.same([far.closedTimes, near.closedTimes, far.afterClose], [1, 1, 0])
    })

    await t.test('the listener ends: everything arrives, both sides close in good order', async (t) => {
      const { handler, far, stream } = recording()
      const { opening, listener } = await listen(t, streams({ '/test/Sink': handler }))
      const near = new Recorder()
      opening.open(listener.address, '/test/Sink', near).send(Buffer.from('hello'))
      const back = await stream()
      for (let i = 0; i < 10; i++) back.send(Buffer.alloc(200_000, i))
      back.end()
      t.equal(await near.close(), undefined)
      t.equal(near.messages.length, 10)
      t.equal(await far.close(), undefined)
      await tick(20)
      t.same([far.closedTimes, near.closedTimes], [1, 1])
    })

    await t.test('the listener answers the last request although the opener has ended', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Echo': echo }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Echo', near)
      stream.send(Buffer.from('last'))
      stream.end()
      t.equal(await near.close(), undefined)
      t.same(near.messages.map(String), ['last'])
    })

    await t.test('an abort closes both sides with an UnavailableError, once', async (t) => {
      for (const side of ['opener', 'listener']) {
        const { handler, far, stream } = recording()
        const { opening, listener } = await listen(t, streams({ '/test/Sink': handler }))
        const near = new Recorder()
        const open = opening.open(listener.address, '/test/Sink', near)
        open.send(Buffer.from('hello'))
        const back = await stream()
        await far.count(1)
        const aborting = side === 'opener' ? open : back
        aborting.abort('I must go')
        t.equal(side === 'opener' ? near.closedTimes : far.closedTimes, 0, 'not from within abort')
        aborting.abort('again')
        aborting.end()
        t.type(await near.close(), UnavailableError, `${side}: the opener`)
        t.type(await far.close(), UnavailableError, `${side}: the listener`)
        if (side === 'listener') t.match(near.error?.message, /I must go/, 'the reason travels')
        await tick(20)
        t.same([near.closedTimes, far.closedTimes], [1, 1])
      }
    })

    await t.test('a message that is too large ends the stream and nothing else', async (t) => {
      const { opening, listener } = await listen(t, streams({ '/test/Echo': echo }))
      const near = new Recorder()
      const stream = opening.open(listener.address, '/test/Echo', near)
      stream.send(Buffer.alloc(messageBytesMax + 1))
      t.type(await near.close(), UnavailableError)
      const next = new Recorder()
      opening.open(listener.address, '/test/Echo', next).send(Buffer.from('still here'))
      await next.count(1)
      t.same(next.messages.map(String), ['still here'])
    })

    await t.test('a refused connection, an unknown method and a bad address close at once', async (t) => {
      const { opening, listener, nobody } = await listen(t, none)
      for (const [address, path] of [
        [nobody, '/test/Echo'],
        [listener.address, '/test/Missing'],
        ['no address', '/test/Echo'],
        ['127.0.0.1:99999', '/test/Echo'],
      ] as const) {
        const near = new Recorder()
        const startedMs = performance.now()
        const stream = opening.open(address, path, near)
        t.equal(near.closedTimes, 0, 'not from within open')
        stream.send(Buffer.from('hello'))
        t.type(await near.close(), UnavailableError, `${address} ${path}`)
        t.ok(performance.now() - startedMs < 4000, 'soon')
      }
    })

    await t.test('a listener that refuses a stream with a PosixError', async (t) => {
      const { opening, listener } = await listen(
        t,
        streams({
          '/test/Refuse': () => {
            throw new PosixError('EBUSY', 'not now, ÄÖÜ %41')
          },
        }),
      )
      const near = new Recorder()
      opening.open(listener.address, '/test/Refuse', near)
      const error = await near.close()
      t.match(error, { code: 'EBUSY', message: 'not now, ÄÖÜ %41' })
      t.type(error, PosixError)
    })

    await t.test('closing the listener drops streams; a new one at the address is found again', async (t) => {
      const { handler, far } = recording()
      const { opening, listening, listener } = await listen(t, streams({ '/test/Sink': handler }))
      const near = new Recorder()
      opening.open(listener.address, '/test/Sink', near).send(Buffer.from('hello'))
      await far.count(1)
      await listener.close()
      t.type(await near.close(), UnavailableError)
      t.type(await far.close(), UnavailableError)

      const failed = new Recorder()
      opening.open(listener.address, '/test/Echo', failed)
      t.type(await failed.close(), UnavailableError, 'while nobody listens')

      const again = await listening.listen(listener.address, streams({ '/test/Echo': echo }))
      t.teardown(() => again.close())
      t.equal(again.address, listener.address)
      const deadlineMs = performance.now() + 5000
      let answered = false
      while (!answered && performance.now() < deadlineMs) {
        const next = new Recorder()
        opening.open(again.address, '/test/Echo', next).send(Buffer.from('x'))
        await next.count(1)
        answered = next.messages.length === 1
        if (!answered) await tick(50)
      }
      t.ok(answered, 'within five seconds')
    })

    await t.test('closing the opening transport drops its streams and refuses new ones', async (t) => {
      const { handler, far } = recording()
      const { opening, listener } = await listen(t, streams({ '/test/Sink': handler }))
      const near = new Recorder()
      opening.open(listener.address, '/test/Sink', near).send(Buffer.from('hello'))
      await far.count(1)
      await opening.close()
      t.type(await near.close(), UnavailableError)
      t.type(await far.close(), UnavailableError)
      const late = new Recorder()
      opening.open(listener.address, '/test/Sink', late)
      t.match(await late.close(), { maybeCommitted: false })
    })

    await t.test('an address that cannot be listened on is a UsageError of one sentence', async (t) => {
      const { listening, listener } = await listen(t, none)
      const attempt = (address: string): Promise<unknown> => listening.listen(address, none)
      await t.rejects(attempt(listener.address), { name: 'UsageError', message: /^cannot listen on .*in use/ })
      await t.rejects(attempt('nonsense'), { name: 'UsageError', message: /^cannot listen on nonsense: .*HOST:PORT/ })
      t.ok((await attempt('[').catch((error: unknown) => error)) instanceof UsageError)
    })

    const { unary } = await factory(t)
    if (!unary) {
      await t.test('calls are refused', async (t) => {
        const { opening, listener } = await listen(t, none)
        await t.rejects(opening.call(listener.address, '/test/Call', Buffer.alloc(0), { deadlineMs: 1000 }), {
          name: 'UnavailableError',
          maybeCommitted: false,
        })
      })
      return
    }

    await t.test('a call brings the request there and the reply back', async (t) => {
      const { opening, listener } = await listen(
        t,
        calls({ '/test/Reverse': async (request) => Buffer.from(request.toReversed()) }),
      )
      const reply = await opening.call(listener.address, '/test/Reverse', Buffer.from('abc'), { deadlineMs: 5000 })
      t.equal(reply.toString(), 'cba')
      const nothing = await opening.call(listener.address, '/test/Reverse', new Uint8Array(0), { deadlineMs: 5000 })
      t.equal(nothing.length, 0)
      const large = Buffer.alloc(messageBytesMax, 5)
      t.ok(
        (await opening.call(listener.address, '/test/Reverse', large, { deadlineMs: 20_000 })).equals(large),
        'the largest message',
      )
    })

    await t.test('a PosixError travels as it is, any other exception as no answer', async (t) => {
      const long = 'x'.repeat(5000)
      const { opening, listener } = await listen(
        t,
        calls({
          '/test/Refuse': async (request) => {
            throw new PosixError('ENOENT', request.toString() || long)
          },
          '/test/Break': async () => {
            throw new Error('a bug')
          },
          '/test/Surrogate': async () => {
            throw new PosixError('EINVAL', 'broken \ud800 text\r\nshoal-errno: EPERM')
          },
        }),
      )
      const call = (method: string, text = ''): Promise<unknown> =>
        opening.call(listener.address, `/test/${method}`, Buffer.from(text), { deadlineMs: 5000 })
      await t.rejects(call('Refuse', 'Grüße 100% "quoted"'), {
        name: 'PosixError',
        code: 'ENOENT',
        message: 'Grüße 100% "quoted"',
      })
      await t.rejects(call('Refuse'), { name: 'PosixError', code: 'ENOENT', message: /^x+$/ })
      await t.rejects(call('Surrogate'), { name: 'PosixError', code: 'EINVAL' })
      await t.rejects(call('Break'), { name: 'UnavailableError', maybeCommitted: true, message: /a bug/ })
    })

    await t.test(
      'a call that is not answered in time fails, and the handler learns that the caller has gone',
      async (t) => {
        let signal: AbortSignal | undefined
        const aborted = new Promise<void>((resolve) => {
          calledWith = (given) => {
            signal = given
            given.addEventListener('abort', () => resolve())
          }
        })
        const { opening, listener } = await listen(
          t,
          calls({
            '/test/Hang': (_request, signal) => {
              calledWith(signal)
              return new Promise(() => {})
            },
          }),
        )
        const startedMs = performance.now()
        await t.rejects(opening.call(listener.address, '/test/Hang', Buffer.alloc(1), { deadlineMs: 200 }), {
          name: 'UnavailableError',
          maybeCommitted: true,
        })
        const tookMs = performance.now() - startedMs
        t.ok(tookMs > 150 && tookMs < 3000, `after ${tookMs} ms`)
        await aborted
        t.ok(signal?.aborted)
      },
    )

    await t.test('a call can be cancelled, before and while it runs', async (t) => {
      let entered!: () => void
      const running = new Promise<void>((resolve) => {
        entered = resolve
      })
      let left!: () => void
      const aborted = new Promise<void>((resolve) => {
        left = resolve
      })
      const { opening, listener } = await listen(
        t,
        calls({
          '/test/Hang': (_request, signal) => {
            signal.addEventListener('abort', () => left())
            entered()
            return new Promise(() => {})
          },
        }),
      )
      const before = AbortSignal.abort()
      await t.rejects(
        opening.call(listener.address, '/test/Hang', Buffer.alloc(1), { deadlineMs: 5000, signal: before }),
        { name: 'UnavailableError', maybeCommitted: false },
      )
      const controller = new AbortController()
      const call = opening.call(listener.address, '/test/Hang', Buffer.alloc(1), {
        deadlineMs: 20_000,
        signal: controller.signal,
      })
      await running
      controller.abort()
      await t.rejects(call, { name: 'UnavailableError', maybeCommitted: true })
      await aborted
    })

    await t.test('a call that cannot have arrived says so', async (t) => {
      const { opening, listener, nobody } = await listen(t, none)
      const call = (address: string, request = Buffer.alloc(1)): Promise<unknown> =>
        opening.call(address, '/test/Missing', request, { deadlineMs: 4000 })
      const unsent = { name: 'UnavailableError', maybeCommitted: false }
      await t.rejects(call(nobody), unsent, 'nobody listens')
      await t.rejects(call(listener.address), unsent, 'no such method')
      await t.rejects(call('nonsense'), unsent, 'no address')
      await t.rejects(call(listener.address, Buffer.alloc(messageBytesMax + 1)), unsent, 'too large')
    })

    await t.test('a call whose listener goes away fails at once and may have taken effect', async (t) => {
      let entered!: () => void
      const running = new Promise<void>((resolve) => {
        entered = resolve
      })
      const { opening, listener } = await listen(
        t,
        calls({
          '/test/Hang': () => {
            entered()
            return new Promise(() => {})
          },
        }),
      )
      const call = opening.call(listener.address, '/test/Hang', Buffer.alloc(1), { deadlineMs: 20_000 })
      const failed = t.rejects(call, { name: 'UnavailableError', maybeCommitted: true })
      await running
      await listener.close()
      await failed
    })
  })

let calledWith: (signal: AbortSignal) => void = () => {}
