/**
 * Serves what a process tells about itself to Prometheus: GET /metrics, in its text format, with what the parts of the process give as
 * figures and what every process of Node has (memory, processor, delay of the event loop, garbage collection). Nothing is computed
 * between two requests.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { collectDefaultMetrics, Registry, type Metric } from 'prom-client'
import { formatAddress, listenFailure, parseListenAddress } from './address.ts'
import type { Log } from './log.ts'
import type { Listener } from './transport.ts'

export interface Figure {
  /** With its unit last; counters end in _total. */
  name: string
  help: string
  type: 'gauge' | 'counter' | 'histogram'
  /** `suffix`: _bucket, _sum and _count of a histogram. */
  values: { labels?: Record<string, string | number>; value: number; suffix?: string }[]
}

/** Gives figures when somebody asks. One that fails is left out, and the process is still seen. */
export type FigureSource = () => readonly Figure[] | Promise<readonly Figure[]>

/** One value without labels. */
export const gauge = (name: string, help: string, value: number | bigint): Figure => ({
  name,
  help,
  type: 'gauge',
  values: [{ value: Number(value) }],
})

/** One value without labels that only grows, until the process is started again. */
export const counter = (name: string, help: string, value: number | bigint): Figure => ({
  ...gauge(name, help, value),
  type: 'counter',
})

/** Of prom-client's own: their names say that they are counters, and they are not. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total']

const asMetric = ({ name, help, type, values }: Figure): Metric => {
  const metric = {
    name,
    help,
    get: () =>
      Promise.resolve({
        name,
        help,
        type,
        aggregator: 'sum',
        values: values.map(({ labels, value, suffix }) => ({
          labels: labels ?? {},
          value,
          ...(suffix === undefined ? {} : { metricName: `${name}${suffix}` }),
        })),
      }),
    reset: () => undefined,
  }
  // The registry asks for no more than this of what is registered.
  return metric as unknown as Metric
}

export interface MetricsOptions {
  /** host:port; port 0 is any free one. */
  listen: string
  sources: readonly FigureSource[]
  log: Log
}

/** UsageError when the address cannot be listened on. */
export const serveMetrics = ({ listen, sources, log }: MetricsOptions): Promise<Listener> => {
  const process = new Registry()
  collectDefaultMetrics({ register: process })
  for (const name of misnamed) process.removeSingleMetric(name)

  const text = async (): Promise<string> => {
    const figures = new Registry()
    for (const source of sources) {
      try {
        for (const figure of await source()) if (figure.values.length > 0) figures.registerMetric(asMetric(figure))
      } catch (cause) {
        log.warn('some figures could not be had', { cause })
      }
    }
    return `${await figures.metrics()}\n${await process.metrics()}`
  }

  const server = createServer((request, response) => {
    const path = (request.url ?? '/').split('?')[0]
    if (path !== '/metrics' || (request.method !== 'GET' && request.method !== 'HEAD')) {
      response.writeHead(path === '/metrics' ? 405 : 404, { 'content-type': 'text/plain' })
      response.end('GET /metrics is all that there is here.\n')
      return
    }
    text().then(
      (body) => {
        response.writeHead(200, { 'content-type': process.contentType, 'cache-control': 'no-store' })
        response.end(body)
      },
      (cause: unknown) => {
        log.error('the metrics could not be given', { cause })
        response.writeHead(500).end()
      },
    )
  })
  // Looking at a process must not keep it alive, nor let it be held open by somebody who reads slowly.
  server.requestTimeout = 10_000
  server.unref()

  return new Promise((resolve, reject) => {
    const wanted = parseListenAddress(listen)
    const refused = (cause: Error): void => reject(listenFailure(listen, cause))
    server.once('error', refused)
    server.listen({ host: wanted.host, port: wanted.port }, () => {
      server.off('error', refused)
      server.on('error', (cause) => log.warn('the listener of the metrics failed', { cause }))
      const { port } = server.address() as AddressInfo
      const address = formatAddress({ host: wanted.host, port })
      log.info('gives metrics', { url: `http://${address}/metrics` })
      resolve({
        address,
        close: () =>
          new Promise((closed) => {
            server.close(() => closed())
            server.closeAllConnections()
          }),
      })
    })
  })
}
