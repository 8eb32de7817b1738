/**
 * Addresses as people type them: HOST:PORT, and HOST:PORT/SUBDIR for a mount. HOST is a name, an IPv4 address, or an IPv6 address
 * in brackets. Errors are UsageErrors that say what would have been right. Nothing is resolved here.
 */
import { UsageError } from '../domain/errors.ts'

export interface Address {
  host: string
  /** 0 .. 65535; 0 asks for a free one where listening is meant. */
  port: number
}

export const defaultMasterPort = 9320
export const defaultMasterAddress = `127.0.0.1:${defaultMasterPort}`

const hostName = /^[a-z0-9_]([a-z0-9_.-]{0,252})$/i
const ipv6 = /^[0-9a-f:.]+(%[a-z0-9_.-]+)?$/i

/** Takes HOST:PORT apart. Port 0 is refused unless `anyPort`. */
export const splitAddress = (text: string, options: { anyPort?: boolean } = {}): Address => {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2] ?? ''
  const port = Number(match?.[3] ?? Number.NaN)
  const goodHost = match?.[1] === undefined ? hostName.test(host) : ipv6.test(host) && host.includes(':')
  if (!goodHost || !(port <= 65_535)) {
    throw new UsageError(`It has to be HOST:PORT, such as ${defaultMasterAddress}.`)
  }
  if (port === 0 && options.anyPort !== true) throw new UsageError('Port 0 cannot be connected to.')
  return { host, port }
}

/** The one spelling of an address. */
export const joinAddress = ({ host, port }: Address): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`

/** An address to connect to. */
export const parseAddress = (text: string): string => joinAddress(splitAddress(text))

/** An address to listen on; port 0 is any free one. */
export const parseListenAddress = (text: string): string => joinAddress(splitAddress(text, { anyPort: true }))

/** Where to give metrics: HOST:PORT, or PORT on loopback; port 0 is any free one. */
export const parseMetricsAddress = (text: string): string =>
  parseListenAddress(/^\d+$/.test(text) ? `127.0.0.1:${text}` : text)

/**
 * HOST:PORT[/DIR]: a master, and the directory of its namespace that becomes the root of a mount ("/" for all of it). HOST:PORT:/DIR,
 * as sources of network file systems look in fstab(5), is the same.
 */
export const parseMountSource = (given: string): { master: string; rootPath: string } => {
  const text = given.replace(/^([^/]*:\d+):\//, '$1/')
  const slash = text.indexOf('/')
  const rootPath = slash < 0 ? '/' : text.slice(slash)
  const components = rootPath.split('/').filter((name) => name !== '')
  if (components.includes('..') || components.includes('.')) {
    throw new UsageError('The directory after HOST:PORT has to be an absolute path without "." and "..".')
  }
  return { master: parseAddress(slash < 0 ? text : text.slice(0, slash)), rootPath: `/${components.join('/')}` }
}

/** Only this machine can reach a listener there. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
