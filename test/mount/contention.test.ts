/**
 * Two mounts that change the same directory at the same time, with their kernel's caches and locks: no deadlock, and one view in the end.
 * And a mount that is stopped while it holds leases.
 */
import t from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from '../lib/agent.ts'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

const sessionLeaseMs = 3000

/** Changes and looks at random in one directory; only answers that another process can be the reason of are accepted. */
const scramble = `
import errno, os, random, sys, time
directory, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
r = random.Random(seed)
name = lambda: os.path.join(directory, "n%d" % r.randrange(12))
allowed = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.EPERM}
count = 0
worst = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    began = time.monotonic()
    try:
        what = r.randrange(9)
        if what == 0: os.close(os.open(name(), os.O_CREAT | os.O_WRONLY, 0o644))
        elif what == 1: os.unlink(name())
        elif what == 2: os.rename(name(), name())
        elif what == 3: os.mkdir(name())
        elif what == 4: os.rmdir(name())
        elif what == 5: os.link(name(), name())
        elif what == 6: os.listdir(directory)
        elif what == 7: os.stat(name())
        else: os.chmod(name(), 0o600 + r.randrange(64))
        count += 1
    except OSError as error:
        if error.errno not in allowed: raise
    worst = max(worst, time.monotonic() - began)
print(count, "%.3f" % worst)
`

t.test('two mounts in one directory', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const masterArgs = [`--session-lease=${sessionLeaseMs}ms`]
  const cluster = await startCluster(t, { servers: 1, mounts: 2, masterArgs })
  const [a, b] = cluster.mounts.map(({ directory }) => directory) as [string, string]

  await t.test('changing the same names from four processes: nobody hangs, and both end with one view', async (t) => {
    await sh(`mkdir '${a}/d'`)
    const said = await Promise.all(
      [a, b, a, b].map((root, i) =>
        check('python3', ['-c', scramble, `${root}/d`, String(i + 1), '6'], { timeoutMs: 60_000 }),
      ),
    )
    for (const line of said) {
      const [count, worst] = line.trim().split(' ').map(Number) as [number, number]
      t.comment(`${count} changes and looks, the slowest took ${worst} s`)
      t.ok(count > 20, 'it got somewhere')
      t.ok(worst < 3, 'and never waited for long')
    }
    const listing = "cd DIR/d && for f in $(ls -A); do stat -c '%n %i %h %f' $f; done"
    const [inA, inB] = await Promise.all([a, b].map((root) => sh(listing.replace('DIR', root))))
    t.equal(inA, inB, 'the same names and inodes')
  })

  await t.test('two kernels that hold the lock of one directory while each waits for the other', async (t) => {
    const agents = [new Agent(t), new Agent(t)] as const
    await sh(`mkdir '${a}/locked'`)
    for (let i = 0; i < 40; i++) {
      // Both have the directory in their cache.
      await sleep(i % 4 === 0 ? 120 : 0)
      await agents[0].must(['exists', `${a}/locked/none`], ['stat', `${a}/locked`])
      await agents[1].must(['exists', `${b}/locked/none`], ['stat', `${b}/locked`])
      await Promise.all([
        agents[0].must(
          ['create', `${a}/locked/a${i}`],
          ['mkdir', `${a}/locked/da${i}`],
          ['exists', `${a}/locked/b${i}`],
        ),
        agents[1].must(
          ['mkdir', `${b}/locked/db${i}`],
          ['create', `${b}/locked/b${i}`],
          ['exists', `${b}/locked/a${i}`],
        ),
      ])
      const [inA] = await agents[0].must(['list', `${a}/locked`])
      const [inB] = await agents[1].must(['list', `${b}/locked`])
      if (JSON.stringify(inA) !== JSON.stringify(inB)) t.strictSame(inA, inB)
    }
    t.equal((await sh(`ls '${a}/locked' | wc -l`)).trim(), '160')
  })

  await t.test('a rename looks up a directory that the other mount has moved', async () => {
    const [here, there] = [new Agent(t), new Agent(t)] as const
    await there.must(...['m', 'm/d0', 'm/d1', 'm/d2', 'm/d3'].map((name) => ['mkdir', `${b}/${name}`] as const))
    for (let i = 0; i < 8; i++) {
      await there.must(['mkdir', `${b}/m/d0/x`])
      await here.must(['create', `${a}/m/d1/f${i}`], ['stat', `${a}/m/d0/x`])
      // Its name is believed in the kernel, and is not looked up again before the rename does.
      await sleep(120)
      await here.must(['stat', `${a}/m/d0/x`])
      await there.must(['rename', `${b}/m/d0/x`, `${b}/m/d2/x`])
      t.strictSame(await here.does('rename', `${a}/m/d1/f${i}`, `${a}/m/d2/x`), { fails: 'EISDIR' })
      await there.must(['rename', `${b}/m/d2/x`, `${b}/m/d3/x`])
      await here.must(['rename', `${a}/m/d3/x`, `${a}/m/d0/x${i}`])
    }
  })

  await t.test('a working directory and open files stay what they are when others change names', async (t) => {
    const agent = new Agent(t)
    await sh(`mkdir -p '${b}/home/deep'; echo text > '${b}/home/deep/file'`)
    await sleep(120)
    await agent.must(['chdir', `${b}/home/deep`], ['hold', 'f', 'file', 0], ['stat', 'file'], ['stat', `${b}/home`])
    for (let i = 0; i < 10; i++) {
      await sh(`touch '${a}/other${i}' '${a}/home/other${i}' '${a}/home/deep/other${i}'`)
      const [cwd, , content] = await agent.must(
        ['getcwd'],
        ['stat', `other${i}`],
        ['pread', 'f', 10, 0],
        ['stat', `${b}/home/deep/other${i}`],
        ['getcwd'],
      )
      t.equal(cwd, `${b}/home/deep`)
      t.equal(content, 'text\n')
      await sleep(120)
    }
  })

  await t.test('what is mounted on a directory of a mount that caches no names stays there', async (t) => {
    const { directory } = await cluster.addMount(['-o', 'nonamecache'])
    await sh(`mkdir '${a}/inner'; mount -t tmpfs none '${directory}/inner'; touch '${directory}/inner/here'`)
    t.teardown(() => sh(`umount -l '${directory}/inner'`).catch(() => undefined))
    for (let i = 0; i < 5; i++) {
      await sh(`ls -l '${directory}' '${directory}/inner' > /dev/null; sleep 0.12; touch '${a}/more${i}'`)
      t.equal((await sh(`ls '${directory}/inner'`)).trim(), 'here')
    }
  })

  await t.test('a mount that is stopped: others go on within its lease, and it serves nothing old', async (t) => {
    const agent = new Agent(t)
    const pid = cluster.mounts[1]!.pid!
    await sh(`mkdir '${a}/s'; echo one > '${a}/s/f'; echo one > '${a}/s/g'`)
    await sleep(120)
    const looks = [
      ['stat', `${b}/s/f`],
      ['stat', `${b}/s/g`],
      ['stat', `${b}/s/new`],
      ['list', `${b}/s`],
    ] as const
    for (let i = 0; i < 3; i++) await agent.all(looks)
    process.kill(pid, 'SIGSTOP')
    const began = performance.now()
    await sh(`echo longer > '${a}/s/f'; rm '${a}/s/g'; touch '${a}/s/new'`)
    const tookMs = performance.now() - began
    t.comment(`the others waited for ${Math.round(tookMs)} ms`)
    t.ok(tookMs < sessionLeaseMs * 2, 'they do not wait for longer than the lease, more or less')
    // The kernel of the stopped mount has nothing that it may still believe: its answer waits for the process.
    const answer = agent.all(looks)
    const early = await Promise.race([answer, sleep(500, 'waits')])
    if (early !== 'waits') t.fail('it answered while nobody could know')
    process.kill(pid, 'SIGCONT')
    const [f, g, fresh, list] = await answer
    t.equal((f!.is as number[])[5], 7, 'the new size')
    t.strictSame(g, { fails: 'ENOENT' })
    t.ok(fresh!.is)
    t.strictSame(list!.is, ['f', 'new'])
    t.equal((await sh(`cat '${b}/s/f'`)).trim(), 'longer')
  })
})
