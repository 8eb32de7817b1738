/** Free ports on loopback. Between finding a port and listening on it another program can take it: then the listener says so. */
import { createServer } from 'node:net'

const tryPort = (port: number): Promise<number | undefined> =>
  new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(undefined))
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const address = server.address()
      const found = address === null || typeof address === 'string' ? undefined : address.port
      server.close(() => resolve(found))
    })
  })

export const isFree = async (port: number): Promise<boolean> => (await tryPort(port)) !== undefined

/** The wished ones that are free and others instead of those that are not; all different. */
export const freePorts = async (wishes: readonly (number | undefined)[]): Promise<number[]> => {
  const taken = new Set<number>(wishes.filter((port) => port !== undefined))
  const ports: number[] = []
  for (const wish of wishes) {
    if (wish !== undefined && (await isFree(wish))) {
      ports.push(wish)
      continue
    }
    let port: number | undefined
    while (port === undefined || taken.has(port)) port = await tryPort(0)
    taken.add(port)
    ports.push(port)
  }
  return ports
}
