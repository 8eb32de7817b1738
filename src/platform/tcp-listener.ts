/** A listening TCP socket that knows its connections, so that closing it drops them all: what both network adapters listen with. */
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { formatAddress, listenFailure, parseListenAddress } from './address.ts'
import type { Listener } from './transport.ts'

export interface ListenTcpOptions {
  /**
   * A connection is there; its owner learns of an error by 'close'. Returns the socket that it goes on with, which may be another
   * one of the same connection.
   */
  connected(accepted: Socket): Socket
  /** Nothing is read from a connection until its socket is told to resume. */
  paused?: boolean
}

/** Each accepted socket has TCP_NODELAY and an error listener. UsageError when the address cannot be listened on. */
export const listenTcp = (address: string, { connected, paused = false }: ListenTcpOptions): Promise<Listener> =>
  new Promise((resolve, reject) => {
    const sockets = new Set<Socket>()
    let open = true
    const server = createServer({ noDelay: true, pauseOnConnect: paused }, (accepted) => {
      // A connection reset before anybody listens for errors would otherwise end the process.
      accepted.on('error', () => {})
      if (!open) {
        accepted.destroy()
        return
      }
      const socket = connected(accepted)
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    })
    const wanted = parseListenAddress(address)
    const refused = (cause: Error): void => reject(listenFailure(address, cause))
    server.once('error', refused)
    server.listen({ host: wanted.host, port: wanted.port, backlog: 1024 }, () => {
      server.off('error', refused)
      // For example EMFILE in accept(2): the connection is lost, the listener is not.
      server.on('error', () => {})
      const bound = server.address() as AddressInfo
      resolve({
        // The host as it was written: a name stays a name, so that others can reach it by that.
        address: formatAddress({ host: wanted.host, port: bound.port }),
        close: () =>
          new Promise((closed) => {
            open = false
            server.close(() => closed())
            for (const socket of sockets) socket.destroy()
          }),
      })
    })
  })
