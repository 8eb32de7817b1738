/** Data, locks and listings on a mount: the suite that a local directory passes, and what takes two mounts or a restart to see. */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import t from 'tap'
import type { Test } from 'tap'
import { posixDataSuite } from '../conformance/posix-data-suite.ts'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check } from '../lib/sh.ts'

const imports = `
import ctypes, errno, fcntl, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def lock(fd, command, kind, start, length):
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))
def say(what):
    print(what, flush=True)
`

/** A Python program that waits for a line now and then; the test never touches the mount itself. */
const talk = (t: Test, program: string, ...args: string[]) => {
  const child = spawn('python3', ['-c', imports + program, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => void child.kill('SIGKILL'))
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  return {
    /** The next line that it says. */
    hears: async (): Promise<string> => ((await lines.next()).value as string | undefined) ?? 'it has ended',
    /** Lets it go on. */
    goOn: (): void => void child.stdin.write('\n'),
  }
}

t.test('data and locks', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 2, masterArgs: ['--session-lease=3s'] })
  const [a, b] = cluster.mounts.map(({ directory }) => directory) as [string, string]

  await t.test('the suite', (t) => posixDataSuite(t, a))

  await t.test('O_APPEND that is set on an open file finds the end that another mount has made', async (t) => {
    const program = `
a, b = sys.argv[1:]
one = os.open(a + "/log", os.O_RDWR | os.O_CREAT)
os.write(one, b"first\\n")
fcntl.fcntl(one, fcntl.F_SETFL, os.O_APPEND)
two = os.open(b + "/log", os.O_WRONLY | os.O_APPEND)
for i in range(20):
    os.pread(one, 5000, 0)
    os.write(two, b"b%d\\n" % i)
    os.write(one, b"a%d\\n" % i)
wanted = b"first\\n" + b"".join(b"b%d\\na%d\\n" % (i, i) for i in range(20))
for found in (os.pread(one, 5000, 0), open(a + "/log", "rb").read(), open(b + "/log", "rb").read()):
    assert found == wanted, found
`
    await check('python3', ['-c', imports + program, a, b])
    t.pass('nothing was lost or overwritten')
  })

  await t.test('files end at 8 EiB - 1', async (t) => {
    const program = `
fd = os.open(sys.argv[1] + "/large", os.O_RDWR | os.O_CREAT)
most = 2**63 - 1
os.ftruncate(fd, most)
assert os.fstat(fd).st_size == most
assert os.pwrite(fd, b"x" * 5, most - 5) == 5 and os.pread(fd, 5, most - 5) == b"x" * 5
assert os.lseek(fd, 0, os.SEEK_DATA) == (most - 5)
for offset, length in ((most - 4095, 4097), (most, 1)):
    if libc.fallocate(fd, 0, ctypes.c_long(offset), ctypes.c_long(length)) == 0: raise AssertionError((offset, length))
    assert ctypes.get_errno() == errno.EFBIG
os.ftruncate(fd, 0)
assert os.fstat(fd).st_blocks == 0
os.unlink(sys.argv[1] + "/large")
`
    await check('python3', ['-c', imports + program, a])
    t.pass('and not a byte later')
  })

  await t.test('two mounts that would wait for each other: one is told', async (t) => {
    const program = `
fd = os.open(sys.argv[1] + "/locked", os.O_RDWR | os.O_CREAT)
own, other = int(sys.argv[2]), 1 - int(sys.argv[2])
lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, own, 1)
say("has its own")
sys.stdin.readline()
try:
    lock(fd, fcntl.F_SETLKW, fcntl.F_WRLCK, other, 1)
    say("got the other")
except OSError as error:
    say("refused" if error.errno == errno.EDEADLK else str(error))
`
    const [one, two] = [talk(t, program, a, '0'), talk(t, program, b, '1')]
    t.equal(await one.hears(), 'has its own')
    t.equal(await two.hears(), 'has its own')
    one.goOn()
    two.goOn()
    // Whoever is refused ends, which gives the other what it waits for.
    t.strictSame((await Promise.all([one.hears(), two.hears()])).toSorted(), ['got the other', 'refused'])
  })

  await t.test('open files without a name outlive the master, and can be named after that', async (t) => {
    const program = `
d = sys.argv[1]
gone = os.open(d + "/gone", os.O_RDWR | os.O_CREAT)
os.write(gone, b"kept" * 2000)
os.unlink(d + "/gone")
never = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o644)
os.write(never, b"new" * 2000)
lock(gone, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
say("open")
sys.stdin.readline()
assert os.pread(gone, 8000, 0) == b"kept" * 2000 and os.fstat(gone).st_nlink == 0
os.pwrite(gone, b"more", 8000)
os.fsync(gone)
assert libc.linkat(-100, b"/proc/self/fd/%d" % never, -100, (d + "/named").encode(), 0x400) == 0, ctypes.get_errno()
os.close(never)
assert open(d + "/named", "rb").read() == b"new" * 2000
say("fine")
`
    const process = talk(t, program, a)
    t.equal(await process.hears(), 'open')
    await cluster.master.restart()
    process.goOn()
    t.equal(await process.hears(), 'fine')
  })

  await t.test('locks of a mount that dies are free when its lease has run out', async (t) => {
    const program = `
fd = os.open(sys.argv[1] + "/held", os.O_RDWR | os.O_CREAT)
if sys.argv[2] == "hold":
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
    fcntl.flock(fd, fcntl.LOCK_EX)
    say("held")
    sys.stdin.readline()
lock(fd, fcntl.F_SETLKW, fcntl.F_WRLCK, 0, 0)
fcntl.flock(fd, fcntl.LOCK_EX)
say("free")
`
    const holder = talk(t, program, b, 'hold')
    t.equal(await holder.hears(), 'held')
    const waiter = talk(t, program, a, 'wait')
    const freed = waiter.hears()
    const early = await Promise.race([freed, new Promise((resolve) => setTimeout(resolve, 500, 'waits'))])
    t.equal(early, 'waits')
    await cluster.mounts[1]!.kill('SIGKILL')
    t.equal(await freed, 'free')
  })
})
