/**
 * rm -rf of a directory that another mount has made, with real processes and kernels: without a request per file, with what the other mount
 * has open or linked elsewhere in good order, and when the mount that removes dies in the middle.
 */
import t from 'tap'
import { Agent } from '../lib/agent.ts'
import { shoal, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

const files = 800
const sessionLeaseMs = 2000

const make = `
import os, sys
directory, other, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(directory + "/sub/sub")
os.makedirs(other)
for i in range(count):
    path = "%s/f%04d" % (directory, i)
    with open(path, "w") as file:
        file.write("content %d" % i)
    if i % 100 == 0:
        os.link(path, "%s/h%04d" % (other, i))
        os.link(path, "%s/sub/h%04d" % (directory, i))`

t.test('removing what another mount has made', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const masterArgs = ['--metrics=0', `--session-lease=${sessionLeaseMs}ms`]
  const cluster = await startCluster(t, { servers: 1, mounts: 2, masterArgs })
  const [a, b] = cluster.mounts.map(({ directory }) => directory) as [string, string]
  const metrics = /"url":"([^"]+)"/.exec(await cluster.master.log())?.[1] ?? ''
  const requests = async (operation: string): Promise<number> => {
    const text = await (await fetch(metrics)).text()
    const found = new RegExp(`^shoal_master_duration_seconds_count{operation="${operation}"} (\\d+)`, 'm').exec(text)
    return Number(found?.[1] ?? 0)
  }

  await t.test('few requests, and the other mount sees what is true', async (t) => {
    await check('python3', ['-c', make, `${a}/d`, `${a}/e`, String(files)])
    const agent = new Agent(t)
    await agent.must(['hold', 'open', `${a}/d/f0500`, 0], ['hold', 'alone', `${a}/d/f0501`, 2])
    const before = await Promise.all(['unlink', 'rmdir', 'lookup'].map(requests))
    await sh(`rm -rf '${b}/d'`)
    const after = await Promise.all(['unlink', 'rmdir', 'lookup'].map(requests))
    const [unlinks, rmdirs, lookups] = after.map((count, i) => count - before[i]!)
    t.comment(`${unlinks} unlinks, ${rmdirs} rmdirs and ${lookups} lookups at the master`)
    t.ok(unlinks! < files / 5, 'most names are removed without a request of their own')
    t.same(await agent.does('stat', `${a}/d`), { fails: 'ENOENT' })
    for (let i = 0; i < files; i += 100) {
      const path = `${a}/e/h${String(i).padStart(4, '0')}`
      const [, , nlink] = ((await agent.does('stat', path)).is ?? []) as number[]
      t.equal(nlink, 1)
    }
    t.same(await agent.must(['pread', 'open', 100, 0], ['pread', 'alone', 100, 0]), ['content 500', 'content 501'])
    t.same(await agent.must(['fstat_links', 'open'], ['fstat_links', 'alone']), [1, 0])
    await agent.must(['let_go', 'open'], ['let_go', 'alone'])
  })

  await t.test('a mount that dies in the middle leaves the rest whole', async (t) => {
    await check('python3', ['-c', make, `${a}/d`, `${a}/g`, String(files)])
    const agent = new Agent(t)
    const unlinks = Array.from(
      { length: files },
      (_, i) => ['unlink', `${b}/d/f${String(i).padStart(4, '0')}`] as const,
    )
    // fsync of the directory: so many removals are durable.
    await agent.must(...unlinks.slice(0, files / 2), ['hold', 'd', `${b}/d`, 0], ['fsync', 'd'])
    const removing = agent.all(unlinks.slice(files / 2))
    await cluster.mounts[1]!.kill('SIGKILL')
    await sh(`umount -l '${b}'`)
    await removing
    const names = (await sh(`ls -U '${a}/d'`)).split('\n').filter((name) => name.startsWith('f'))
    t.comment(`${names.length} of ${files} are left`)
    t.ok(names.length <= files / 2)
    for (const [i, name] of names.entries())
      t.equal(Number(name.slice(1)), files - names.length + i, 'a prefix is gone')
    for (const name of names.slice(0, 30)) {
      t.equal(await sh(`cat '${a}/d/${name}'`), `content ${Number(name.slice(1))}`)
    }
    t.equal((await sh(`ls '${a}/g' | wc -l`)).trim(), String(files / 100))
    const checked = await shoal(['fsck', '--master', cluster.masterAddress])
    t.equal(checked.code, 0, checked.stdout + checked.stderr)
    await sh(`rm -rf '${a}/d' '${a}/e' '${a}/g'`)
    t.equal((await sh(`ls -A '${a}'`)).trim(), '')
  })
})
