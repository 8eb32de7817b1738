/** Files that are made without a name: they go when nobody has them open any more, unless link gives them one. */
import t from 'tap'
import type { Test } from 'tap'
import { LostAnswers } from '../../lib/lost-answers.ts'
import { acquire, codeOf, expect, masterCluster } from '../../lib/master-cluster.ts'
import type { SessionClient } from '../../lib/session-client.ts'

const caller = { uid: 5, gid: 6, pid: 1, umask: 0o022 }
const tmpfile = { $case: 'tmpfile', value: { parent: 1n, mode: 0o666, caller } } as const

const make = async (client: SessionClient): Promise<bigint> => {
  const { attributes, lease } = expect(await client.request(tmpfile), 'entry')
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

const created = {
  $case: 'mknod',
  value: { parent: 1n, name: Buffer.from('f'), mode: 0o644, rdev: 0, caller, open: true },
} as const

/** The master is killed when it has carried out a request and not answered it; its session comes back, and does not know of it. */
const lostAnswer = async (t: Test, op: typeof tmpfile | typeof created) => {
  const lost = new LostAnswers()
  const cluster = await masterCluster(t, { faults: lost })
  const [first, other] = [cluster.client(), cluster.client()]
  const [mine, others] = [await first.welcome, await other.welcome]
  lost.isOn = true
  void first.request(op, 50n)
  await cluster.until('it is carried out', () => lost.count > 0)
  await cluster.restart()
  lost.isOn = false
  const client = cluster.client({ sessionId: mine.sessionId, sessionSecret: mine.sessionSecret }, 100n)
  const second = cluster.client({ sessionId: others.sessionId, sessionSecret: others.sessionSecret }, 100n)
  await Promise.all([client.welcome, second.welcome])
  // The master clears up after its last run, with a turn for each look into its database.
  for (let i = 0; i < 20; i++) await cluster.clock.advance(10)
  return { cluster, client, second }
}
const write = (client: SessionClient, ino: bigint) =>
  client.request({
    $case: 'commit',
    value: {
      ino,
      segments: [],
      size: 3n,
      mtime: undefined,
      ctime: undefined,
      appended: [],
      killPrivileges: false,
      inlineData: Buffer.from('abc'),
    },
  })
const unlink = { $case: 'unlink', value: { parent: 1n, name: Buffer.from('f') } } as const

for (const op of [tmpfile, created]) {
  t.test(
    `what was made by a ${op.$case} whose answer was lost with the master is there when it is repeated`,
    async (t) => {
      const { cluster, client, second } = await lostAnswer(t, op)
      if (op === created) t.equal(codeOf(await second.request(unlink)), 'changed')
      const { ino } = expect(await client.request(op, 50n), 'entry').attributes!
      client.send({ answeredThrough: 50n })
      await cluster.clock.advance(100)
      expect(await acquire(client, ino, 'write'), 'attributesAndLease')
      t.equal(codeOf(await write(client, ino)), 'attributesAndLease')
      t.match(expect(await client.request({ $case: 'getattr', value: { ino } }), 'attributesAndLease'), {
        attributes: { nlink: 0, size: 3n },
      })
      await client.request({ $case: 'close', value: { ino } })
      await cluster.until('it is freed', async () => (await cluster.status()).orphans === 0n, 1)
      t.equal(await exists(second, ino), 'ESTALE')
    },
  )

  for (const end of ['has the answer and does not want it', 'ends'] as const) {
    t.test(`it goes when its session ${end}: ${op.$case}`, async (t) => {
      const { cluster, client, second } = await lostAnswer(t, op)
      if (op === created) t.equal(codeOf(await second.request(unlink)), 'changed')
      t.equal((await cluster.status()).orphans, 1n)
      if (end === 'ends') await client.request({ $case: 'endSession', value: {} })
      else client.send({ answeredThrough: 50n })
      await cluster.until('it is freed', async () => (await cluster.status()).orphans === 0n, 1)
    })
  }
}
