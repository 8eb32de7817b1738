/** How often the kernel has to ask: counts, not times. */
import t from 'tap'
import { Agent } from '../lib/agent.ts'
import { startCluster } from '../lib/cluster.ts'
import { countedMount } from '../lib/counted.ts'
import { metricsOf, valueOf } from '../lib/metrics.ts'
import { needs } from '../lib/needs.ts'

const O_WRONLY_CREAT = 0o101

t.test('requests per operation', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 0, masterArgs: ['--metrics=0'] })
  const mount = await countedMount(t, cluster)
  const { directory } = mount
  const agent = new Agent(t)
  const total = (counts: Record<string, number>): number => Object.values(counts).reduce((sum, count) => sum + count, 0)
  await agent.must(
    ['mkdir', `${directory}/a`],
    ['mkdir', `${directory}/a/b`],
    ['create', `${directory}/a/b/f`, 'text'],
    ['symlink', 'f', `${directory}/a/b/link`],
  )

  const looks = [
    ['stat', `${directory}/a/b/f`],
    ['stat', `${directory}/a/b`],
    ['stat', `${directory}/a/b/link`],
    ['readlink', `${directory}/a/b/link`],
    ['exists', `${directory}/a/b/none`],
  ] as const
  // What was written is committed after a second; until then its attributes are not to be believed.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  for (let i = 0; i < 2; i++) await agent.must(...looks)
  const warm = await mount.during(async () => {
    for (let i = 0; i < 50; i++) await agent.must(...looks)
  })
  t.equal(total(warm), 0, 'a warm stat or readlink asks nothing, nor does a name that is not there', { found: warm })

  await agent.must(['read', `${directory}/a/b/f`])
  const read = await mount.during(() => agent.must(['read', `${directory}/a/b/f`]))
  t.notOk(read['read'], 'the second read finds the pages in the cache', { found: read })
  t.ok(total(read) <= 3, 'open, flush, release', { found: read })

  for (let i = 0; i < 2; i++) await agent.must(['list', `${directory}/a/b`])
  const listed = await mount.during(() => agent.must(['list', `${directory}/a/b`]))
  t.equal(total(listed), 0, 'a directory that was listed is read from the cache', { found: listed })

  for (const name of ['n0', 'n1', 'n2']) {
    const created = await mount.during(() => agent.must(['create', `${directory}/a/b/${name}`, 'four']))
    // LOOKUP, CREATE, WRITE, FLUSH and RELEASE; GETATTR of the directory that has changed, and GETXATTR before the first write, all
    // answered without the master.
    t.ok(total(created) <= 7, 'create, write and close', { found: created })
  }
  const files = 20
  const requests = async (): Promise<number> => {
    const text = await metricsOf(cluster.master)
    const counts = ['journal', 'close', 'commit'].map((operation) =>
      valueOf(text, `shoal_master_duration_seconds_count{operation="${operation}"}`),
    )
    return counts.reduce((sum, count) => sum + (count || 0), 0)
  }
  const before = await requests()
  for (let i = 0; i < files; i++) {
    const file = `s${i}`
    await agent.must(
      ['hold', file, `${directory}/a/b/${file}`, O_WRONLY_CREAT],
      ['pwrite', file, 'x', 0],
      ['fsync', file],
      ['let_go', file],
    )
  }
  const after = await requests()
  t.ok(after - before <= files + 2, 'an fsync of a new file is one request to the master, its close none', {
    found: after - before,
  })
  const made = await mount.during(() => agent.must(['mkdir', `${directory}/a/b/d`]))
  t.ok(total(made) <= 3, 'mkdir', { found: made })
  const removed = await mount.during(() => agent.must(['unlink', `${directory}/a/b/n0`]))
  t.ok(total(removed) <= 3, 'unlink', { found: removed })
})
