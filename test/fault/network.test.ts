/**
 * What fails between machines, with each process in a network namespace of its own: dead, cut off, half cut off and slow ones, while one
 * program reads and another writes and fsyncs. No error reaches them, and each case says the longest time that one of them stood still.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { startCluster } from '../lib/cluster.ts'
import type { Cluster } from '../lib/cluster.ts'
import { programsForHosts, startHosts } from '../lib/hosts.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

/** What the promises say, and what a machine that is several times slower may need beside it. */
const promisedMs = { readers: 2000, writers: 3000, masterBack: 5000, leaseGivenAway: 2000 }
const slowMachineMs = 10_000
const sessionLeaseMs = 3000
const repairDelayMs = 3000

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

interface Stalls {
  readersMs: number
  writersMs: number
}

let cases = 0

/** Lets the reader and the writer work on the two mounts, meanwhile does it, and a while later ends them. */
const under = async (t: Test, cluster: Cluster, what: string, act: () => Promise<void>): Promise<Stalls> => {
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

t.test('between machines', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3', ...programsForHosts] }))) return
  const hosts = await startHosts(t)
  const cluster = await startCluster(t, {
    hosts,
    servers: 4,
    copies: 3,
    mounts: 2,
    masterArgs: [`--session-lease=${sessionLeaseMs}ms`, `--repair-delay=${repairDelayMs}ms`],
  })
  const [mount, other] = cluster.mounts
  const [, server, ...servers] = cluster.servers
  await check('python3', ['-c', program, 'prepare', `${mount!.directory}/read`, ''])

  await t.test('a chunk server dies', async (t) => {
    const { readersMs, writersMs } = await under(t, cluster, 'a chunk server is killed', async () => {
      await server!.kill('SIGKILL')
      await sleep(2000)
    })
    t.ok(readersMs <= promisedMs.readers + slowMachineMs, `${readersMs} ms`)
    t.ok(writersMs <= promisedMs.writers + slowMachineMs, `${writersMs} ms`)
    await server!.start()
    await cluster.serversUp()
  })

  await t.test('a chunk server is cut off from everybody, without a word', async (t) => {
    const { readersMs, writersMs } = await under(t, cluster, 'a chunk server is cut off', async () => {
      await servers[0]!.host!.cutOff()
      await sleep(3000)
    })
    t.ok(readersMs <= promisedMs.readers + slowMachineMs, `${readersMs} ms`)
    t.ok(writersMs <= promisedMs.writers + slowMachineMs, `${writersMs} ms`)
    await servers[0]!.host!.heal()
    await cluster.serversUp()
  })

  await t.test('a chunk server is heard by nobody but hears the mounts, and the other way round', async (t) => {
    for (const [from, to] of [
      [server!, mount!],
      [mount!, server!],
    ] as const) {
      const { readersMs, writersMs } = await under(t, cluster, `one way is cut, from ${from.name}`, async () => {
        await to.host!.cutFrom(from.host!)
        await sleep(3000)
        await to.host!.heal()
      })
      t.ok(Math.max(readersMs, writersMs) <= promisedMs.writers + slowMachineMs, `${readersMs} and ${writersMs} ms`)
    }
  })

  await t.test('a chunk server behind a slow link', async (t) => {
    const { readersMs, writersMs } = await under(t, cluster, 'a chunk server sends 2 Mbit/s', async () => {
      await servers[1]!.host!.slow(2_000_000)
      await sleep(3000)
      await servers[1]!.host!.heal()
    })
    t.ok(Math.max(readersMs, writersMs) <= promisedMs.writers + slowMachineMs, `${readersMs} and ${writersMs} ms`)
  })

  await t.test('the master dies and is back a second later', async (t) => {
    let backMs = 0
    const { readersMs, writersMs } = await under(t, cluster, 'the master is killed', async () => {
      const killedMs = performance.now()
      await cluster.master.kill('SIGKILL')
      await sleep(1000)
      await cluster.master.start()
      backMs = performance.now() - killedMs
      // Long enough that both have gone on.
      await sleep(1000)
    })
    const afterMs = Math.round(Math.max(readersMs, writersMs) - backMs)
    t.comment(`the master was away for ${Math.round(backMs)} ms; at most ${Math.max(0, afterMs)} ms later all went on`)
    t.ok(afterMs <= promisedMs.masterBack + slowMachineMs, `${afterMs} ms after it was back`)
  })

  await t.test('a mount is cut off from everybody while it holds leases', async (t) => {
    await sh(`echo mine > '${mount!.directory}/leased'; sync '${mount!.directory}/leased'`)
    await mount!.host!.cutOff()
    const began = performance.now()
    await sh(`echo other > '${other!.directory}/leased'; sync '${other!.directory}/leased'`)
    const tookMs = Math.round(performance.now() - began)
    t.comment(`its leases were given away after ${tookMs} ms; the session lease is ${sessionLeaseMs} ms`)
    t.ok(tookMs <= sessionLeaseMs + promisedMs.leaseGivenAway + slowMachineMs, `${tookMs} ms`)
    await mount!.host!.heal()
    t.equal((await sh(`cat '${mount!.directory}/leased'`)).trim(), 'other', 'and it reads what is there now')
  })

  await cluster.healthy()
})
