import t from 'tap'
import { UsageError } from '../../../src/domain/errors.ts'
import { runMaster } from '../../../src/main/master.ts'
import { grpcTransport } from '../../../src/platform/grpc-transport.ts'
import { AdminDefinition } from '../../../src/protocol/gen/shoal/v1/admin.pb.ts'
import { methodPath, callUnary } from '../../../src/protocol/rpc.ts'
import { SessionDefinition } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'
import { codeOf, createFile, expect } from '../../lib/master-cluster.ts'
import { sessionClient } from '../../lib/session-client.ts'

const options = { listen: '127.0.0.1:0', logLevel: 'silent' as const }

t.test('a real master: serves, is alone on its directory, and starts again with everything', async (t) => {
  const directory = t.testdir({ one: {}, other: {} })
  const data = `${directory}/one`
  const master = await runMaster({ ...options, data })
  const rpc = grpcTransport()
  t.teardown(() => rpc.close())
  const second = runMaster({ ...options, data })
  await t.rejects(second, UsageError)
  await t.rejects(runMaster({ ...options, data: `${directory}/other`, listen: master.address }), UsageError)

  const client = sessionClient(rpc, master.address)
  const { clusterId } = await client.welcome
  const ino = await createFile(client, 'kept', false)
  const status = () =>
    callUnary(rpc, master.address, AdminDefinition, AdminDefinition.methods.status, {}, { deadlineMs: 5000 })
  t.match(await status(), { clusterId, inodes: 2n, copies: 3, copiesMin: 2, sessions: [{ state: 'connected' }] })
  t.ok((await status()).rssBytes > 0n)

  // Bytes that are no message end their own stream and nothing else.
  const path = methodPath(SessionDefinition, SessionDefinition.methods.connect)
  const garbage = await new Promise<Error | undefined>((resolve) => {
    const stream = rpc.open(master.address, path, { message: () => {}, closed: resolve })
    stream.send(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff]))
  })
  t.ok(garbage)
  await t.rejects(
    rpc.call(master.address, methodPath(AdminDefinition, AdminDefinition.methods.status), Buffer.from([0xff]), {
      deadlineMs: 5000,
    }),
    { code: 'EPROTO' },
  )
  t.equal(codeOf(await client.request({ $case: 'endSession', value: {} })), 'empty')
  await master.close()
  await master.close()
  await master.closed

  const again = await runMaster({ ...options, data })
  t.teardown(() => again.close())
  const back = sessionClient(rpc, again.address)
  t.equal((await back.welcome).clusterId, clusterId)
  const found = await back.request({ $case: 'lookup', value: { parent: 1n, name: Buffer.from('kept') } })
  t.equal(expect(found, 'entry').attributes!.ino, ino)
})

t.test('mistakes in the configuration are sentences', async (t) => {
  const data = t.testdir()
  await t.rejects(runMaster({ ...options, data, placement: 'best' }), { name: 'UsageError', message: /placement/ })
  await t.rejects(runMaster({ ...options, data, copies: 0 }), { name: 'UsageError', message: /copies/ })
  await t.rejects(runMaster({ ...options, data, copies: 2, minCopies: 3 }), { name: 'UsageError', message: /copies/ })
  await t.rejects(runMaster({ ...options, data, listen: 'nowhere' }), UsageError)
  const fine = await runMaster({ ...options, data, copies: 1 })
  await fine.close()
})
