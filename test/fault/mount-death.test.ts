/**
 * Mounts that die or are stopped while they have written behind: what was fsynced is there, of the rest a prefix, nothing is torn, and a
 * mount that comes back tells what it has lost.
 */
import t from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from '../lib/agent.ts'
import { startCluster } from '../lib/cluster.ts'
import type { Cluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'
import { seededRandom } from '../lib/seeded-random.ts'

const rounds = Number(process.env['MOUNT_DEATH_ROUNDS'] ?? 2)
const seed = Number(process.env['TEST_SEED'] ?? 1)
const masterArgs = ['--session-lease=2s']
const timeoutMs = 60_000

/** A tree as tar(1) makes it, in its order: directories, small files, larger ones, links. Number n says what it is and what it contains. */
const archive = `
import io, sys, tarfile
def content(n): return (b"%d " % n) * (1 + n * 7919 % (900 if n % 5 else 12000))
tar = tarfile.open(sys.argv[1], "w")
for n in range(int(sys.argv[2])):
    name = "d%04d/n%06d" % (n // 50, n)
    if n % 50 == 0:
        entry = tarfile.TarInfo("d%04d" % (n // 50)); entry.type = tarfile.DIRTYPE; entry.mode = 0o755
        tar.addfile(entry)
    entry = tarfile.TarInfo(name); entry.mode = 0o640; entry.mtime = 1000000000 + n
    if n % 17 == 3:
        entry.type = tarfile.SYMTYPE; entry.linkname = "to%d" % n
        tar.addfile(entry)
    elif n % 17 == 5:
        entry.type = tarfile.LNKTYPE; entry.linkname = "d%04d/n%06d" % ((n - 4) // 50, n - 4)
        tar.addfile(entry)
    else:
        entry.size = len(content(n)); tar.addfile(entry, io.BytesIO(content(n)))`

/** Says how much of the tree is there; fails when that is no prefix of it or something is torn. */
const checkTree = `
import os, sys
def content(n): return (b"%d " % n) * (1 + n * 7919 % (900 if n % 5 else 12000))
root, count = sys.argv[1], int(sys.argv[2])
path = lambda n: "%s/d%04d/n%06d" % (root, n // 50, n)
there = [os.path.lexists(path(n)) for n in range(count)]
number = sum(there)
assert there == [True] * number + [False] * (count - number), ("no prefix", [n for n in range(number) if not there[n]][:5])
short = []
for n in range(number):
    if n % 17 == 3: assert os.readlink(path(n)) == "to%d" % n, n
    else:
        of = n - 4 if n % 17 == 5 else n
        assert n % 17 != 5 or os.stat(path(n)).st_ino == os.stat(path(of)).st_ino, n
        found, want = open(path(n), "rb").read(), content(of)
        if found == want: continue
        assert want.startswith(found), ("torn", n, len(found), len(want))
        # Of a file that lives in its inode the content has its place in the order.
        assert len(want) > 4096 or n >= number - 2, ("small and not whole", n, number, len(found), len(want))
        short.append(n)
print(number, "entries,", len(short), "of them without all of their content:", *short[:10])`

/** Files that are synced, each told when it is. */
const syncing = `
import os, sys
for i in range(100000):
    fd = os.open("%s/s%d" % (sys.argv[1], i), os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"%d;" % i * (1 + i * 389 % 4000)); os.fsync(fd); os.close(fd)
    print(i, flush=True)`

const checkSynced = `
import sys
for i in range(int(sys.argv[2])):
    assert open("%s/s%d" % (sys.argv[1], i), "rb").read() == b"%d;" % i * (1 + i * 389 % 4000), i`

/** Each version of a file is written beside it and put in its place, in every way that there is. */
const replacing = `
import os, sys
root = sys.argv[1]
tmp = root + "/tmp"
def write(n):
    with open(tmp, "wb") as file: file.write(b"%d;" % n * (1 + n * 7919 % 9000))
for n in range(int(sys.argv[2]), int(sys.argv[3])):
    write(n); os.rename(tmp, root + "/current")
    write(n); os.rename(tmp, "%s/renamed%d" % (root, n))
    write(n); os.link(tmp, "%s/linked%d" % (root, n)); os.unlink(tmp)`

const checkReplaced = `
import os, sys
root = sys.argv[1]
def version(name):
    found = open(root + "/" + name, "rb").read()
    n = int(found.split(b";")[0])
    assert found == b"%d;" % n * (1 + n * 7919 % 9000), (name, len(found))
    return n
names = set(os.listdir(root)) - {"tmp"}
last = version("current")
for kind in "renamed", "linked":
    numbers = sorted(int(name[len(kind):]) for name in names if name.startswith(kind))
    assert numbers == list(range(len(numbers))), "no prefix"
    assert last - 1 <= len(numbers) - 1 <= last, (kind, last, len(numbers))
    for n in numbers: assert version(kind + str(n)) == n
print("current is version", last, "and", len(names) - 1, "files are whole")`

/** Kills the mount under the programs after a while, and checks on another mount; then it is mounted again. */
const killUnder = async (cluster: Cluster, programs: Promise<unknown>[], afterMs: number): Promise<void> => {
  const ended = Promise.allSettled(programs)
  await sleep(afterMs)
  await cluster.mounts[0]!.kill('SIGKILL')
  await ended
}

t.test('a mount is killed', { timeout: 60_000 + rounds * 90_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3', 'tar'] }))) return
  const cluster = await startCluster(t, { mounts: 2, masterArgs })
  const [dying, other] = cluster.mounts.map(({ directory }) => directory) as [string, string]
  const random = seededRandom(seed)
  const python = (program: string, ...args: string[]): Promise<string> =>
    check('python3', ['-c', program, ...args], { timeoutMs })
  const entries = 20_000
  await python(archive, `${cluster.directory}/tree.tar`, `${entries}`)

  await t.test('in an untar: a prefix is there, and what was synced', async (t) => {
    for (let round = 0; round < rounds; round++) {
      await sh(`mkdir '${dying}/untar${round}' '${dying}/synced${round}'`)
      const untar = run('tar', ['xf', `${cluster.directory}/tree.tar`, '-C', `${dying}/untar${round}`], { timeoutMs })
      const synced = run('python3', ['-c', syncing, `${dying}/synced${round}`], { timeoutMs })
      await killUnder(cluster, [untar, synced], 1000 + random.below(3000))
      t.not((await untar).code, 0, 'it was not through')
      const said = await python(checkTree, `${other}/untar${round}`, `${entries}`)
      const count = (await synced).stdout.trim().split('\n').length
      await python(checkSynced, `${other}/synced${round}`, `${count}`)
      t.comment(`${said.trim()}; ${count} synced files`)
      await cluster.mounts[0]!.start()
    }
  })

  await t.test('while files are put in place: each is whole', async (t) => {
    for (let round = 0; round < rounds; round++) {
      const directory = `${dying}/replaced${round}`
      await sh(`mkdir '${directory}'`)
      // However slow the machine is: there is a first version of each.
      await python(replacing, directory, '0', '1')
      await sh(`sync -f '${directory}'`)
      const replaced = run('python3', ['-c', replacing, directory, '1', '100000'], { timeoutMs })
      await killUnder(cluster, [replaced], 1000 + random.below(2000))
      t.comment((await python(checkReplaced, `${other}/replaced${round}`)).trim())
      await cluster.mounts[0]!.start()
    }
  })
})

t.test('a mount is stopped while it has written behind', { timeout: 60_000 + rounds * 60_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 2, masterArgs })
  const [stopped, other] = cluster.mounts.map(({ directory }) => directory) as [string, string]
  let lost = 0
  for (let round = 0; round < rounds; round++) {
    const agent = new Agent(t)
    const file = `d${round}/f`
    await agent.must(['mkdir', `${stopped}/d${round}`], ['create', `${stopped}/${file}`, 'first'])
    await agent.must(['hold', 'f', `${stopped}/${file}`, 2], ['fsync', 'f'])
    await agent.must(['pwrite', 'f', 'behind', 0], ['create', `${stopped}/d${round}/new`, 'text'])
    await cluster.mounts[0]!.kill('SIGSTOP')
    const beganMs = performance.now()
    const seen = await sh(`cat '${other}/${file}'; printf 'longer than that' > '${other}/${file}'`, { timeoutMs })
    const names = await sh(`ls '${other}/d${round}'`, { timeoutMs })
    t.comment(`the other mount waited for ${Math.round(performance.now() - beganMs)} ms`)
    const isLost = seen === 'first'
    t.ok(isLost || seen === 'behind', 'all of it or nothing')
    await cluster.mounts[0]!.kill('SIGCONT')
    const [content, list] = await agent.all([
      ['pread', 'f', 100, 0],
      ['list', `${stopped}/d${round}`],
    ])
    t.strictSame(content, { is: 'longer than that' }, 'it serves nothing old')
    t.strictSame(list!.is, names.trim().split('\n'))
    const synced = await agent.does('fsync', 'f')
    t.strictSame(synced, isLost ? { fails: 'EIO' } : { is: null }, 'who has the file open is told what became of it')
    if (isLost) lost++
    t.strictSame(await agent.does('fsync', 'f'), { is: null }, 'once')
    await agent.must(['pwrite', 'f', 'again', 0], ['fsync', 'f'], ['let_go', 'f'])
    t.equal(await sh(`cat '${other}/${file}'`), 'againr than that')
  }
  t.ok(lost > 0, `${lost} times something was lost`)
  t.match(await cluster.mounts[0]!.log(), /are? lost|were lost/, 'and it is in the log')
})
