/**
 * kill -9 of a real chunk server process under appends, again and again on one data directory: whatever was acknowledged with sync is
 * there afterwards, nothing that is served is torn, and the next start never needs help.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import t, { type Test } from 'tap'
import { framedTransport } from '../../src/platform/framed-transport.ts'
import { grpcTransport } from '../../src/platform/grpc-transport.ts'
import { silentLog } from '../../src/platform/log.ts'
import { client, startMaster, until } from '../lib/chunk-server-peers.ts'
import { blocks, padded, pattern } from '../lib/chunk-store.ts'
import { shoalCli } from '../lib/cluster.ts'

const start = async (t: Test, directory: string, master: string): Promise<ChildProcess> => {
  const args = [shoalCli, 'chunkserver', '--data', directory, '--master', master, '--log-level', 'error']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await new Promise<void>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (text.startsWith('ready ')) resolve()
      else reject(new Error(text))
    })
    child.once('exit', (code) => reject(new Error(`the chunk server ended with ${code}`)))
  })
  return child
}

const kill = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) => {
    child.once('exit', () => resolve())
    child.kill('SIGKILL')
  })

t.test('what was acknowledged with sync survives kill -9', { timeout: 120_000 }, async (t) => {
  const rpc = grpcTransport({ log: silentLog })
  const bulk = framedTransport()
  t.teardown(async () => {
    await bulk.close()
    await rpc.close()
  })
  const master = await startMaster(t, rpc)
  const directory = t.testdir()
  const chunkCount = 4
  /** What each chunk must have at least (synced) and may have at most, as pieces in order. */
  const chunks = Array.from({ length: chunkCount }, (_, index) => ({
    id: BigInt(index + 1),
    pieces: [] as Buffer[],
    syncedPieces: 0,
    length: 0,
  }))
  let seed = 0
  let acknowledged = 0
  for (let round = 0; round < 5; round++) {
    const child = await start(t, directory, master.address)
    await until(() => master.registrations.length > round, 'the server has registered')
    const lane = client(t, bulk, master.registrations.at(-1)!.address!.bulkAddress)

    for (const chunk of chunks) {
      // What the server has: a prefix of what was sent that covers all that was acknowledged with sync.
      let length = 0
      let kept = 0
      const probe = await lane.append({ chunkId: chunk.id, offset: blocks(16_000), data: Buffer.alloc(0), sync: true })
      if (round > 0) t.equal(probe.failure?.code, 'ESTALE')
      while (kept < chunk.pieces.length && length < probe.length) {
        const expected = padded(chunk.pieces[kept]!)
        const { data, failure } = await lane.read({ chunkId: chunk.id, offset: length, length: expected.length })
        // Only whole pieces are compared here.
        if (failure?.code === 'ERANGE') break
        if (failure) t.fail(`piece ${kept} of chunk ${chunk.id}: ${failure.code}`)
        if (!data.equals(expected)) t.fail(`piece ${kept} of chunk ${chunk.id} differs`)
        length += expected.length
        kept++
      }
      if (kept < chunk.syncedPieces) t.fail(`chunk ${chunk.id}: ${kept} pieces, but ${chunk.syncedPieces} were synced`)
      const torn = chunk.pieces[kept]
      chunk.pieces.length = kept
      chunk.length = probe.length
      if (torn === undefined || probe.length === length) {
        t.equal(probe.length, length, 'nothing that was not sent')
        continue
      }
      // A write that the kill cut short: whole blocks of it are there, and nobody was promised anything.
      const part = padded(torn).subarray(0, probe.length - length)
      const { data } = await lane.read({ chunkId: chunk.id, offset: length, length: part.length })
      if (!data.equals(part)) t.fail(`the torn piece ${kept} of chunk ${chunk.id} differs`)
      chunk.pieces.push(part)
    }

    const run = { stopped: false }
    const writers = chunks.map(async (chunk) => {
      const waiting = new Set<Promise<void>>()
      while (!run.stopped && chunk.length < blocks(15_000)) {
        const data = pattern(++seed, 1 + ((seed * 7919) % 200_000))
        const count = chunk.pieces.push(data)
        const sync = seed % 3 === 0
        const done = lane
          .append({ chunkId: chunk.id, offset: chunk.length, data, sync })
          .then(({ failure }) => {
            if (failure) throw new Error(`${failure.code} ${failure.message}`)
            acknowledged++
            if (sync) chunk.syncedPieces = Math.max(chunk.syncedPieces, count)
          })
          .catch((error: unknown) => {
            if (!run.stopped) t.fail(String(error))
          })
          .finally(() => waiting.delete(done))
        chunk.length += padded(data).length
        waiting.add(done)
        if (waiting.size >= 8) await Promise.race(waiting)
      }
      await Promise.all(waiting)
    })
    await new Promise((resolve) => setTimeout(resolve, 200 + round * 130))
    run.stopped = true
    await kill(child)
    await Promise.all(writers)
  }
  t.ok(acknowledged > 50, `${acknowledged} appends were acknowledged`)
  t.ok(
    chunks.every(({ syncedPieces }) => syncedPieces > 0),
    'each chunk had synced appends',
  )
})
