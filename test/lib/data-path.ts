/** A client's data path against fake chunk servers on a simulated network and a clock that moves only as the test says. */
import { ChunkConnections } from '../../src/client/chunks/connections.ts'
import { ChunkReader } from '../../src/client/chunks/reader.ts'
import { ChunkWriter } from '../../src/client/chunks/writer.ts'
import type { Appended } from '../../src/client/chunks/ports.ts'
import { silentLog } from '../../src/platform/log.ts'
import { fakeChunkMaster } from './fake-chunk-master.ts'
import type { FakeChunkMaster } from './fake-chunk-master.ts'
import { fakeChunkServer } from './fake-chunk-server.ts'
import type { FakeChunkServer } from './fake-chunk-server.ts'
import { manualClock } from './manual-clock.ts'
import type { ManualClock } from './manual-clock.ts'
import { memoryNetwork } from './memory-transport.ts'
import type { MemoryNetwork } from './memory-transport.ts'

export interface DataPath {
  network: MemoryNetwork
  clock: ManualClock
  servers: FakeChunkServer[]
  master: FakeChunkMaster
  connections: ChunkConnections
  writer: ChunkWriter
  reader: ChunkReader
  /** Lets time pass in small steps until the promise is settled; fails after `msMax`. */
  settle: <T>(promise: Promise<T>, msMax?: number) => Promise<T>
  /** What is placed of one piece, as the server with this index has it. */
  stored: (server: FakeChunkServer, appended: Appended, piece: number) => Buffer
}

export const dataPath = async (
  options: { servers?: number; copiesMin?: number; host?: string; rack?: string } = {},
): Promise<DataPath> => {
  const clock = manualClock()
  const network = memoryNetwork({ clock })
  const servers: FakeChunkServer[] = []
  for (let id = 1; id <= (options.servers ?? 3); id++) servers.push(await fakeChunkServer({ network, id }))
  const copiesMin = options.copiesMin ?? 2
  const master = fakeChunkMaster(servers, copiesMin)
  const transport = network.transport('10.0.0.100')
  const connections = new ChunkConnections({ rpc: transport, bulk: transport, clock, log: silentLog })
  const common = { connections, master, clock, log: silentLog }
  return {
    network,
    clock,
    servers,
    master,
    connections,
    writer: new ChunkWriter({ ...common, copiesMin: () => copiesMin }),
    reader: new ChunkReader({ ...common, place: { host: options.host ?? 'here', rack: options.rack ?? '' } }),
    settle: async (promise, msMax = 120_000) => {
      const state = { done: false }
      const mark = (): void => {
        state.done = true
      }
      promise.then(mark, mark)
      const startedMs = clock.nowMs()
      for (let turns = 0; !state.done; turns++) {
        // Most things need no time to pass, only turns of the event loop.
        await clock.advance(turns < 100 ? 0 : 25)
        if (clock.nowMs() - startedMs > msMax) throw new Error(`not settled within ${msMax} ms`)
      }
      return promise
    },
    stored: (server, appended, piece) =>
      Buffer.concat(
        appended.placed
          .filter((placed) => placed.piece === piece)
          .map(({ chunkId, chunkOffset, length }) => {
            const chunk = server.chunks.get(chunkId)
            if (chunk === undefined || chunkOffset + length > chunk.length) return Buffer.alloc(0)
            return chunk.data.subarray(chunkOffset, chunkOffset + length)
          }),
      ),
  }
}
