/** Files that are made without a name: they go when nobody has them open any more, unless link gives them one. */
import t from 'tap'
import { codeOf, expect, masterCluster } from '../../lib/master-cluster.ts'
import type { SessionClient } from '../../lib/session-client.ts'

const caller = { uid: 5, gid: 6, pid: 1, umask: 0o022 }

const make = async (client: SessionClient): Promise<bigint> => {
  const op = { $case: 'tmpfile', value: { parent: 1n, mode: 0o666, caller } } as const
  const { attributes, lease } = expect(await client.request(op), 'entry')
  t.match(attributes, { nlink: 0, mode: 0o100644, uid: 5, gid: 6 })
  t.equal(lease!.ino, attributes!.ino)
  return attributes!.ino
}
const link = async (client: SessionClient, ino: bigint, name: string): Promise<string> =>
  codeOf(await client.request({ $case: 'link', value: { ino, parent: 1n, name: Buffer.from(name) } }))
const exists = async (client: SessionClient, ino: bigint): Promise<string> =>
  codeOf(await client.request({ $case: 'getattr', value: { ino } }))

t.test('a file without a name gets one, after a restart as well, and is an ordinary file from then on', async (t) => {
  const cluster = await masterCluster(t)
  const client = cluster.client()
  const { sessionId, sessionSecret } = await client.welcome
  const ino = await make(client)
  const kept = await make(client)
  t.equal((await cluster.status()).orphans, 2n)
  t.equal(await link(client, ino, 'a'), 'entry')
  t.equal((await cluster.status()).orphans, 1n)
  t.equal(await link(client, ino, 'b'), 'entry')
  await cluster.restart()
  const again = cluster.client({ sessionId, sessionSecret, openFiles: [{ ino }, { ino: kept }] }, 100n)
  await again.welcome
  t.equal(await link(again, kept, 'c'), 'entry')
  t.equal((await cluster.status()).orphans, 0n)
  for (const name of ['a', 'b', 'c']) {
    await again.request({ $case: 'unlink', value: { parent: 1n, name: Buffer.from(name) } })
  }
  t.equal(await link(again, ino, 'd'), 'ENOENT', 'what has lost its last name gets no other')
  t.equal(await exists(again, ino), 'attributesAndLease', 'it is still open')
})

t.test('it ends when it is closed, and with its session', async (t) => {
  const cluster = await masterCluster(t)
  const [a, b] = [cluster.client(), cluster.client()]
  await a.welcome
  const [closed, left] = [await make(a), await make(a)]
  await a.request({ $case: 'close', value: { ino: closed } })
  await a.request({ $case: 'endSession', value: {} })
  for (const ino of [closed, left]) {
    for (let tries = 0; (await exists(b, ino)) !== 'ESTALE'; tries++) {
      if (tries > 100) throw new Error('it is still there')
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
  t.equal((await cluster.status()).orphans, 0n)
  t.equal(await link(b, left, 'late'), 'ESTALE')
})
