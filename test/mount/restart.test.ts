/** What was written is there again: after a remount, after every process was started again, and for another mount. */
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

t.test('a large file and a tree survive remount and restart', { timeout: 400_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t)
  const root = cluster.mount.directory
  const write = `head -c 1G /dev/urandom | tee '${root}/random' | sha256sum; cp -a /usr/include/linux '${root}/tree'`
  const want = await sh(write, { timeoutMs: 200_000 })
  const sum = (): Promise<string> => sh(`sha256sum < '${root}/random'`, { timeoutMs: 100_000 })

  const second = await cluster.addMount()
  t.equal(await sh(`sha256sum < '${second.directory}/random'`, { timeoutMs: 100_000 }), want, 'another mount reads it')
  await second.kill('SIGTERM')

  await cluster.mount.restart('SIGTERM')
  t.equal(await sum(), want, 'after a remount')

  await cluster.stop()
  await cluster.start()
  t.equal(await sum(), want, 'after a restart of every process')
  await sh(`diff -r /usr/include/linux '${root}/tree'`)
  await cluster.healthy()
})
