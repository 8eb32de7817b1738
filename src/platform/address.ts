/** Network addresses as people write them: "host:port", or "[::1]:port" for IPv6. */
import { UsageError } from '../domain/errors.ts'

export interface HostPort {
  host: string
  /** 0 .. 65535; 0 asks for a free one and only makes sense for listening. */
  port: number
}

const shape = /^(?:\[([0-9a-fA-F:.%]+)\]|([^\s:[\]/]+)):(\d{1,5})$/

/** Undefined when the text is no address. */
export const parseAddress = (address: string): HostPort | undefined => {
  const match = shape.exec(address)
  if (!match) return undefined
  const port = Number(match[3])
  if (port > 65_535) return undefined
  return { host: (match[1] ?? match[2])!, port }
}

export const formatAddress = ({ host, port }: HostPort): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`

/** UsageError with a sentence when the text is no address. */
export const parseListenAddress = (address: string): HostPort => {
  const parsed = parseAddress(address)
  if (!parsed) throw new UsageError(`cannot listen on ${address}: it is not an address of the form HOST:PORT`)
  return parsed
}

/** What a failed listen(2) or bind(2) means to the person who gave the address. */
export const listenFailure = (address: string, cause: unknown): UsageError => {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
  const reasons: Record<string, string> = {
    EADDRINUSE: 'the address is in use by another process',
    EADDRNOTAVAIL: 'this machine does not have that address',
    EACCES: 'this user may not use that port',
    ENOTFOUND: 'the host name is unknown',
    EAI_AGAIN: 'the host name cannot be looked up at the moment',
  }
  return new UsageError(`cannot listen on ${address}: ${reasons[code] ?? code}`)
}
