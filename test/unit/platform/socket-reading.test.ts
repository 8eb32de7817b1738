/** An accepted connection is read into our own memory, or in the ordinary way where Node does not let us. */
import type { Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { createServer, connect, type AddressInfo } from 'node:net'
import { acceptedReadingInto } from '../../../src/platform/socket-reading.ts'

t.test('it lands where it was asked for, the rest in shared memory; the end and the peer are as ever', async (t) => {
  const place = Buffer.alloc(4)
  const seen: string[] = []
  let room = place.length
  const reader = {
    target: () => (room > 0 ? place.subarray(place.length - room) : undefined),
    filled: (bytes: number) => {
      room -= bytes
    },
    data: (chunk: Buffer) => {
      seen.push(chunk.toString())
    },
  }
  const server = createServer({ pauseOnConnect: true })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
  const client = connect({ port, host: '127.0.0.1' })
  client.write('abcd and more')
  const original = await accepted
  const socket = acceptedReadingInto(original, () => reader)
  t.not(socket, original)
  t.equal(socket.remotePort, client.localPort)
  const answered = new Promise<Buffer>((resolve) => client.once('data', resolve))
  socket.write('answer')
  t.equal(String(await answered), 'answer')
  client.end()
  await new Promise((resolve) => socket.once('end', resolve))
  t.equal(String(place), 'abcd')
  t.equal(seen.join(''), ' and more')
  socket.destroy()
  // Waits for every connection, so none was forgotten by the exchange.
  await new Promise((resolve) => server.close(resolve))
})

t.test('without a handle that can, its data comes piece by piece', async (t) => {
  const stream = new PassThrough()
  stream.pause()
  const seen: Buffer[] = []
  const socket = acceptedReadingInto(stream as unknown as Socket, () => ({
    target: () => undefined,
    filled: () => t.fail('nothing was lent'),
    data: (chunk) => {
      seen.push(Buffer.from(chunk))
    },
  }))
  t.equal(socket, stream)
  const ended = new Promise((resolve) => stream.once('end', resolve))
  stream.end('all of it')
  await ended
  t.equal(Buffer.concat(seen).toString(), 'all of it')
})
