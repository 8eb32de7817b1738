/**
 * How long programs stand still under a fault: one reads on one mount what the kernel does not keep, another writes and fsyncs on a second one.
 * An error or wrong data ends the test.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Cluster } from './cluster.ts'
import { check, sh } from './sh.ts'

/** What the promises say, and what a machine that is several times slower may need beside it. */
export const promisedMs = { readers: 2000, writers: 3000, masterBack: 5000, leaseGivenAway: 2000 }
export const slowMachineMs = 10_000

/**
 * Reads blocks of a file that the kernel does not keep, or makes files and fsyncs them, until the stop file is there. Prints the longest time of one
 * call, and compares what it reads and has written.
 */
const program = `
import hashlib, os, sys, time
kind, root, stop = sys.argv[1:4]
longest, count = 0.0, 0
# What is read is more than a mount keeps.
def content(i): return hashlib.sha256(b"%d" % i).digest() * (1 + i * 7919 % (2000 if kind == "write" else 16000))
def timed(act):
    global longest, count
    began = time.monotonic()
    result = act()
    longest, count = max(longest, time.monotonic() - began), count + 1
    return result
def put(i):
    fd = os.open("%s/f%d" % (root, i), os.O_CREAT | os.O_WRONLY, 0o644)
    assert os.write(fd, content(i)) == len(content(i))
    os.fsync(fd); os.close(fd)
def get(i):
    fd = os.open("%s/f%d" % (root, i), os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.read(fd, 1 << 20) == content(i), i
    os.close(fd)
if kind == "prepare":
    os.makedirs(root)
    for i in range(100): put(i)
    sys.exit()
i = 0
while not os.path.exists(stop):
    timed(lambda: get(i * 37 % 100) if kind == "read" else put(i))
    i += 1
    time.sleep(0.005)
if kind == "write":
    for n in range(i): get(n)
print(round(longest * 1000), count)
`

export interface Stalls {
  readersMs: number
  writersMs: number
}

/** What the reader reads; before the first case. */
export const prepareReads = async (cluster: Cluster): Promise<void> => {
  await check('python3', ['-c', program, 'prepare', `${cluster.mount.directory}/read`, ''])
}

let cases = 0

/** Lets the reader and the writer work on the two mounts, meanwhile does it, and a while later ends them. */
export const stallsUnder = async (
  t: Pick<Test, 'comment'>,
  cluster: Cluster,
  what: string,
  act: () => Promise<void>,
): Promise<Stalls> => {
  const stop = join(cluster.directory, `stop-${cases++}`)
  const [first, second] = cluster.mounts.map(({ directory }) => directory)
  const start = (kind: string, root: string): Promise<string> =>
    check('python3', ['-c', program, kind, root, stop], { timeoutMs: 120_000 })
  await sh(`mkdir '${first}/written-${cases}'`)
  const working = Promise.all([start('read', `${second}/read`), start('write', `${first}/written-${cases}`)])
  working.catch(() => undefined)
  await sleep(1000)
  try {
    await act()
    await sleep(500)
  } finally {
    await sh(`touch '${stop}'`)
  }
  const [reading, writing] = (await working).map((text) => text.trim().split(' ').map(Number))
  t.comment(
    `${what}: longest stall of a reader ${reading![0]} ms of ${reading![1]} reads, of a writer ${writing![0]} ms of ${writing![1]} files`,
  )
  return { readersMs: reading![0]!, writersMs: writing![0]! }
}
