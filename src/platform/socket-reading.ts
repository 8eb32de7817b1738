/**
 * Reading a socket into memory of our own (`onread` of node:net) instead of a new buffer for each piece that arrives: those make the
 * garbage collector run all the time where gigabytes pass through.
 *
 * Invariant: the bytes of a read are looked at before anything else is read, so that all sockets can share the memory for what has no
 * place of its own yet.
 */
import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net'

export interface SocketReader {
  /** Where the next bytes should go; undefined: into the shared memory. */
  target(): Buffer | undefined
  /** So many bytes were read into the latest target. */
  filled(bytes: number): void
  /** Bytes that were read into the shared memory, which is reused afterwards. */
  data(chunk: Buffer): void
}

const sharedBytes = 64 * 1024
const shared = Buffer.allocUnsafeSlow(sharedBytes)

/** The `onread` option of a socket. It may ask for a target before there is a reader: then it has none. */
export const readingInto = (reader: () => SocketReader | undefined): OnReadOpts => ({
  buffer: () => reader()?.target() ?? shared,
  callback: (bytes, memory) => {
    if (memory === shared) reader()?.data(shared.subarray(0, bytes))
    else reader()?.filled(bytes)
    return true
  },
})

/**
 * The same for a connection that was accepted, which Node gives no `onread`: a new socket takes over its handle, so nothing may have been
 * read from it (pauseOnConnect). A Node that keeps the handle elsewhere loses speed only: the socket is read in the ordinary way.
 */
export const acceptedReadingInto = (accepted: Socket, reader: () => SocketReader | undefined): Socket => {
  const owner = accepted as unknown as { _handle?: object | null }
  const handle = owner._handle
  if (typeof handle !== 'object' || handle === null || !('useUserBuffer' in handle)) {
    accepted.on('data', (chunk: Buffer) => reader()?.data(chunk))
    accepted.resume()
    return accepted
  }
  owner._handle = null
  const options: SocketConstructorOpts & { handle: object; onread: OnReadOpts } = {
    handle,
    onread: readingInto(reader),
  }
  const socket = new Socket(options)
  socket.on('error', () => {})
  // Without the handle it is an empty shell; this takes it off its server's count.
  accepted.destroy()
  return socket
}
