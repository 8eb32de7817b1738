/** A master that is started on an old copy of its data: no chunk server follows it, each says why, and nothing is lost. */
import { cp, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { eventually, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

t.test('a master on the data of yesterday', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 2 })
  const data = join(cluster.directory, 'master')
  const file = join(cluster.mount.directory, 'file')
  const write = (text: string): Promise<string> =>
    sh(`for i in $(seq 20000); do echo ${text}; done > '${file}'; sync '${file}'`)
  await write('yesterday')
  await cluster.mount.kill('SIGTERM')
  await cluster.master.kill('SIGTERM')
  await cp(data, `${data}.yesterday`, { recursive: true })
  await cluster.start()
  await write('today')
  await cluster.mount.kill('SIGTERM')
  await cluster.master.kill('SIGTERM')

  await rename(data, `${data}.today`)
  await rename(`${data}.yesterday`, data)
  await cluster.master.start()
  for (const server of cluster.servers) {
    await eventually(`${server.name} refuses`, async () =>
      /This master runs on an old copy of its data.*Start the master on its newest data/.test(await server.log()),
    )
  }
  t.same(
    (await cluster.status()).servers.filter(({ state }) => state === 'up'),
    [],
    'no chunk server takes part',
  )

  await cluster.master.kill('SIGTERM')
  await rm(data, { recursive: true })
  await rename(`${data}.today`, data)
  await cluster.start()
  t.equal((await sh(`uniq -c '${file}'`)).trim(), '20000 today')
  await cluster.healthy()
})
