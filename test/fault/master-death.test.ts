/**
 * kill -9 of the master, again and again, while two mounts change names and files: no error, nothing lost, nothing done twice. It says the
 * longest time that one round of changes took.
 */
import t from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'
import { promisedMs, slowMachineMs } from '../lib/stalls.ts'

const kills = Number(process.env['MASTER_DEATH_KILLS'] ?? 2)
const betweenMs = 3000
const timeoutMs = 60_000 + kills * 20_000

/** Every change can be done once only: what is done again by a repeated request fails, or is seen in the end. Prints how far it got, and the longest round. */
const work = `
import os, sys, time
root, who, stop = sys.argv[1], sys.argv[2], sys.argv[3]
own = root + "/own" + who
os.mkdir(own)
log = os.open(root + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
i, longest = 0, 0.0
while not os.path.exists(stop):
    began = time.monotonic()
    d = "%s/d%d" % (own, i)
    os.mkdir(d)
    fd = os.open(d + "/f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b"%d;" % i * (1 + i * 7919 % 4000))
    if i % 11 == 0: os.fsync(fd)
    os.close(fd)
    # Most of it where nobody else works, some of it where all do.
    path = "%s/shared/%s-%d" % (root, who, i) if i % 8 == 0 else "%s/r%d" % (own, i)
    os.rename(d + "/f", path)
    os.link(path, "%s/l%d" % (own, i))
    if i % 3 == 0: os.unlink("%s/l%d" % (own, i))
    if i % 4 == 0: os.rmdir(d)
    else: os.setxattr(d, "user.i", b"%d" % i, os.XATTR_CREATE)
    os.symlink("to%d" % i, "%s/s%d" % (own, i))
    if i % 8 == 0: assert os.write(log, b"%s %d\\n" % (who.encode(), i))
    i += 1
    longest = max(longest, time.monotonic() - began)
print(i, round(longest * 1000))`

const checkWork = `
import os, sys
root, counts = sys.argv[1], [int(n) for n in sys.argv[2:]]
wanted = set()
for who, count in enumerate(counts):
    own, names = "%s/own%d" % (root, who), set()
    for i in range(count):
        path = "%s/shared/%d-%d" % (root, who, i) if i % 8 == 0 else "%s/r%d" % (own, i)
        (names if i % 8 else wanted).add(os.path.basename(path))
        assert open(path, "rb").read() == b"%d;" % i * (1 + i * 7919 % 4000), path
        assert os.stat(path).st_nlink == (1 if i % 3 == 0 else 2), path
        if i % 3: names.add("l%d" % i)
        if i % 4:
            names.add("d%d" % i)
            assert os.listdir("%s/d%d" % (own, i)) == [] and os.getxattr("%s/d%d" % (own, i), "user.i") == b"%d" % i
        names.add("s%d" % i)
        assert os.readlink("%s/s%d" % (own, i)) == "to%d" % i
    assert set(os.listdir(own)) == names, (own, set(os.listdir(own)) ^ names)
    assert os.stat(own).st_nlink == 2 + sum(1 for i in range(count) if i % 4), own
assert set(os.listdir(root + "/shared")) == wanted
lines = open(root + "/log").read().split("\\n")[:-1]
for who, count in enumerate(counts):
    assert [line for line in lines if line.startswith("%d " % who)] == ["%d %d" % (who, i) for i in range(0, count, 8)], who
assert len(lines) == sum((count + 7) // 8 for count in counts)
print("all there")`

t.test('the master is killed under two mounts', { timeout: timeoutMs * 2 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { mounts: 2 })
  const roots = cluster.mounts.map(({ directory }) => directory)
  await sh(`mkdir '${roots[0]}/shared'`)
  const stop = `${cluster.directory}/stop`
  const writers = [...roots, ...roots]
  const working = writers.map((root, who) => check('python3', ['-c', work, root, `${who}`, stop], { timeoutMs }))
  const all = Promise.all(working)
  all.catch(() => undefined)
  let awayMs = 0
  for (let kill = 0; kill < kills; kill++) {
    await sleep(betweenMs)
    const killedMs = performance.now()
    await cluster.master.restart('SIGKILL')
    awayMs = Math.max(awayMs, Math.round(performance.now() - killedMs))
  }
  await sleep(betweenMs)
  await sh(`touch '${stop}'`)
  const printed = (await all).map((text) => text.trim().split(' '))
  const counts = printed.map(([count]) => count!)
  const stallMs = Math.max(...printed.map(([, longest]) => Number(longest)))
  t.comment(
    `${counts.join(', ')} times everything, ${kills} kills; away for at most ${awayMs} ms, longest stall ${stallMs} ms`,
  )
  t.ok(stallMs - awayMs <= promisedMs.masterBack + slowMachineMs, `${stallMs - awayMs} ms after it was back`)
  for (const root of roots) t.equal((await check('python3', ['-c', checkWork, root, ...counts])).trim(), 'all there')
})
