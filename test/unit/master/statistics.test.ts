import t from 'tap'
import { expect, masterCluster } from '../../lib/master-cluster.ts'

const gibibyte = 1024 ** 3

t.test('a file system that servers share counts once, and each capacity as far as there is room for it', async (t) => {
  const cluster = await masterCluster(t, { config: { copies: 1, copiesMin: 1 } })
  const shared = { name: 'host:1', freeBytes: 5 * gibibyte }
  for (let i = 0; i < 3; i++) await cluster.addServer({ capacityBytes: 5 * gibibyte, fileSystem: shared })
  await cluster.addServer({ capacityBytes: 2 * gibibyte, fileSystem: { name: 'host:2', freeBytes: 9 * gibibyte } })
  await cluster.clock.advance(1100)
  const client = cluster.client()
  await client.welcome
  const { bytesFree, bytesTotal } = expect(await client.request({ $case: 'statfs', value: {} }), 'statfs')
  t.equal(bytesFree, BigInt(7 * gibibyte))
  t.equal(bytesTotal, BigInt(7 * gibibyte))
})
