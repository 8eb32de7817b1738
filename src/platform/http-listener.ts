/** A listener for plain HTTP: small replies to GET requests, for browsers. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { formatAddress, listenFailure, parseListenAddress } from './address.ts'
import type { Listener } from './transport.ts'

export interface HttpReply {
  status: number
  contentType: string
  body: Buffer | string
}

/** Gets the path with its query, and the Host that the browser thinks it speaks to. Must not throw. */
export type HttpHandler = (request: { url: URL; host: string }) => Promise<HttpReply>

export type HttpListen = (address: string, handler: HttpHandler) => Promise<Listener>

const requestMsMax = 30_000
const connectionsMax = 256

/** Nothing is loaded from elsewhere, nothing is run that is not a file of ours, and no other page may show this one within itself. */
const headers = {
  'content-security-policy': "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
}

const answer = async (handler: HttpHandler, request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const send = ({ status, contentType, body }: HttpReply): void => {
    response.writeHead(status, { ...headers, 'content-type': contentType })
    response.end(request.method === 'HEAD' ? undefined : body)
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    send({ status: 405, contentType: 'text/plain; charset=utf-8', body: 'Only GET is served here.\n' })
    return
  }
  let url: URL
  try {
    url = new URL(request.url ?? '/', 'http://localhost')
  } catch {
    send({ status: 400, contentType: 'text/plain; charset=utf-8', body: 'That is no address.\n' })
    return
  }
  send(await handler({ url, host: request.headers.host ?? '' }))
}

/** UsageError when the address cannot be listened on. */
export const listenHttp: HttpListen = (address, handler) =>
  new Promise((resolve, reject) => {
    const server = createServer({ requestTimeout: requestMsMax, headersTimeout: requestMsMax }, (request, response) => {
      answer(handler, request, response).catch(() => response.destroy())
    })
    server.maxConnections = connectionsMax
    const wanted = parseListenAddress(address)
    const refused = (cause: Error): void => reject(listenFailure(address, cause))
    server.once('error', refused)
    server.listen({ host: wanted.host, port: wanted.port }, () => {
      server.off('error', refused)
      server.on('error', () => {})
      resolve({
        address: formatAddress({ host: wanted.host, port: (server.address() as AddressInfo).port }),
        close: () =>
          new Promise((closed) => {
            server.close(() => closed())
            server.closeAllConnections()
          }),
      })
    })
  })
