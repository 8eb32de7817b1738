/**
 * What fails between machines, with each process in a network namespace of its own: dead, cut off, half cut off and slow ones, while one
 * program reads and another writes and fsyncs. No error reaches them, and each case says the longest time that one of them stood still.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { programsForHosts, startHosts } from '../lib/hosts.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'
import { prepareReads, promisedMs, slowMachineMs, stallsUnder as under } from '../lib/stalls.ts'

const sessionLeaseMs = 3000
const repairDelayMs = 3000

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
  await prepareReads(cluster)

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
