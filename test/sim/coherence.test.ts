/** What one client sees of what others write: cases that seeds have found. */
import t from 'tap'
import { seededRandom } from '../lib/seeded-random.ts'
import { Mount, openFlags } from './mount.ts'
import { SimulatedCluster } from './simulated-cluster.ts'

const limitMs = 100_000
const segmentBytes = 64 * 1024 * 1024

t.test('seed 116: a layout that comes while its lease is given back is not kept', async (t) => {
  const mounts: Mount[] = []
  const cluster: SimulatedCluster = new SimulatedCluster(
    { seed: 1, servers: 3, clients: 2, config: {} },
    {
      opened: (client, fileSystem, life) => {
        const excuses = { isErrorExcused: () => false, interruptsOneIn: () => 0 }
        mounts[client.index] = new Mount({ cluster, client, fileSystem, life, random: seededRandom(1), ...excuses })
      },
      lostBuffered: () => undefined,
    },
  )
  await cluster.time.until(cluster.start(), limitMs)
  const [reader, writer] = mounts
  // The kernel takes long to forget what was read under the lease.
  reader!.fileSystem.onInvalidate({
    canForgetNames: true,
    forgetNames: () => undefined,
    forgetAttributes: () => undefined,
    forgetListing: () => undefined,
    dropData: () => cluster.time.sleep(200),
  })
  const run = async (): Promise<void> => {
    const { ino, handle } = await writer!.create(writer!.root, 'file', openFlags.readWrite)
    await writer!.write(handle, segmentBytes, Buffer.alloc(5000, 'old '))
    await writer!.fsync(handle)
    const reading = await reader!.open((await reader!.lookup(reader!.root, 'file')).attributes.ino, openFlags.readWrite)
    await reader!.read(reading, segmentBytes - 300_000, 4096)
    for (const [source, target] of [
      [reader!.name, 'master'],
      ['master', reader!.name],
    ] as const) {
      cluster.network.slow(source, target, 20)
    }
    // The recall passes the question about the next segment, which the second read of a row asks ahead.
    const written = writer!.write(handle, segmentBytes, Buffer.alloc(5000, 'new '))
    await reader!.read(reading, segmentBytes - 300_000 + 4096, 4096)
    await written
    // What is asked again is the segment before alone.
    await reader!.read(reading, segmentBytes - 300_000, 4096)
    const seen = await reader!.read(reading, segmentBytes, 5000)
    t.equal(seen.toString('latin1', 0, 4), 'new ', `inode ${ino}`)
  }
  await cluster.time.until(run(), limitMs)
  t.same(cluster.violations, [])
})
