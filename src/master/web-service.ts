/**
 * The web page: the files of src/master/web, and what they show as JSON. Read-only, and nothing of it needs the outside.
 *
 * A page of another site in the same browser must not read this one under a name of its own that it lets point here (DNS rebinding):
 * only requests to an address, to localhost or to the name that is listened on are answered.
 */
import { PosixError } from '../domain/errors.ts'
import type { ActivityTotals } from '../domain/activity.ts'
import type { Clock, Timer } from '../platform/clock.ts'
import type { HttpHandler, HttpListen, HttpReply } from '../platform/http-listener.ts'
import type { Log } from '../platform/log.ts'
import type { Listener } from '../platform/transport.ts'
import type { StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { BrowseOptions } from './browse.ts'
import { list, listEntriesMax, locatePath } from './browse.ts'

export interface WebOptions {
  listenAddress: string
  listen: HttpListen
  /** A file of the package. */
  file: (path: string) => Promise<Buffer | undefined>
}

export interface WebServiceOptions extends WebOptions {
  clock: Clock
  log: Log
  status: () => Promise<StatusReply>
  browse: BrowseOptions
}

const files: Readonly<Record<string, [string, string]>> = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/style.css': ['style.css', 'text/css; charset=utf-8'],
  '/app.js': ['app.js', 'text/javascript; charset=utf-8'],
  '/icon.svg': ['icon.svg', 'image/svg+xml'],
}

const sampleMs = 2000
/** Ten minutes. */
const samplesMax = 300
const piecesPerPage = 1000

/** Totals of all mounts and servers together; the page draws differences. */
interface Sample {
  atMs: number
  mounts: ActivityTotals
  servers: ActivityTotals
}

export class WebService {
  readonly #options: WebServiceOptions
  readonly #samples: Sample[] = []
  #listener: Listener | undefined
  #timer: Timer | undefined
  #closed = false

  private constructor(options: WebServiceOptions) {
    this.#options = options
  }

  /** UsageError when the address cannot be listened on. */
  static async start(options: WebServiceOptions): Promise<WebService> {
    const service = new WebService(options)
    service.#listener = await options.listen(options.listenAddress, service.#handle)
    service.#sample()
    options.log.info('web page', { address: `http://${service.address}/` })
    return service
  }

  get address(): string {
    return this.#listener?.address ?? ''
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#timer?.cancel()
    await this.#listener?.close()
  }

  #sample(): void {
    const look = async (): Promise<void> => {
      const { servers, sessions } = await this.#options.status()
      const sample = { mounts: sumOf(sessions), servers: sumOf(servers) }
      this.#samples.push({ atMs: this.#options.clock.nowMs(), ...sample })
      if (this.#samples.length > samplesMax) this.#samples.shift()
    }
    look().catch((cause: unknown) => this.#options.log.debug('no sample for the web page', { cause }))
    if (!this.#closed) this.#timer = this.#options.clock.after(sampleMs, () => this.#sample())
  }

  readonly #handle: HttpHandler = async ({ url, host }) => {
    if (!isOurs(host, this.#options.listenAddress)) return plain(421, 'This address is not served here.')
    try {
      return await this.#answer(url)
    } catch (caught) {
      if (caught instanceof PosixError) {
        const status = caught.code === 'ENOENT' ? 404 : 400
        return { status, contentType: jsonType, body: JSON.stringify({ error: caught.message }) }
      }
      this.#options.log.error('a request of the web page failed', { path: url.pathname, cause: caught })
      return plain(500, 'The master failed.')
    }
  }

  async #answer({ pathname, searchParams }: URL): Promise<HttpReply> {
    const { browse, file } = this.#options
    const path = searchParams.get('path') ?? '/'
    switch (pathname) {
      case '/api/status':
        return json(await this.#options.status())
      case '/api/history':
        return json(this.#samples)
      case '/api/list': {
        const found = await list(browse, {
          path,
          cookie: number(searchParams.get('after')),
          entriesMax: listEntriesMax,
        })
        return json({ ...found, entries: found.entries.map((entry) => ({ ...entry, name: nameText(entry.name) })) })
      }
      case '/api/locate':
        return json(
          await locatePath(browse, { path, offset: number(searchParams.get('offset')), piecesMax: piecesPerPage }),
        )
    }
    const known = Object.hasOwn(files, pathname) ? files[pathname] : undefined
    const body = known && (await file(`src/master/web/${known[0]}`))
    return known && body ? { status: 200, contentType: known[1], body } : plain(404, 'There is no such page.')
  }
}

const jsonType = 'application/json; charset=utf-8'

const plain = (status: number, text: string): HttpReply => ({
  status,
  contentType: 'text/plain; charset=utf-8',
  body: `${text}\n`,
})

const json = (value: unknown): HttpReply => ({
  status: 200,
  contentType: jsonType,
  // Ids are shown, and never calculated with: as text they stay exact.
  body: JSON.stringify(value, (key, item: unknown) =>
    typeof item === 'bigint' ? (/^(chunkId|cookie|nextOffset)$/.test(key) ? item.toString() : Number(item)) : item,
  ),
})

const nameText = (name: Uint8Array): string => Buffer.from(name).toString('utf8')

const number = (text: string | null): bigint => {
  if (text === null || text === '') return 0n
  if (!/^\d{1,19}$/.test(text)) throw new PosixError('EINVAL', 'That is no number.')
  return BigInt(text)
}

/** An address, localhost, or the name that is listened on. */
const isOurs = (host: string, listenAddress: string): boolean => {
  const name = host.replace(/:\d+$/, '').toLowerCase()
  return (
    name === 'localhost' ||
    /^\d+(\.\d+){3}$|^\[[\da-f:.]+\]$/.test(name) ||
    listenAddress.toLowerCase().startsWith(`${name}:`)
  )
}

const sumOf = (parts: readonly { activity: ActivityTotals | undefined }[]): ActivityTotals => {
  const sum: ActivityTotals = {
    reads: 0n,
    readBytes: 0n,
    readMicros: 0n,
    writes: 0n,
    writeBytes: 0n,
    writeMicros: 0n,
    others: 0n,
    otherMicros: 0n,
  }
  for (const { activity } of parts) {
    if (!activity) continue
    for (const name of Object.keys(sum) as (keyof ActivityTotals)[]) sum[name] += activity[name]
  }
  return sum
}
