/**
 * Chunk files that are truncated and removed under running chunk servers: readers and writers get right data and no error, a scrub finds what no
 * reader has met, the copies are made again, and the status tells of it.
 */
import { stat } from 'node:fs/promises'
import t from 'tap'
import { eventually, shoal, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'
import { prepareReads, promisedMs, slowMachineMs, stallsUnder } from '../lib/stalls.ts'

t.test('chunk files that are truncated and removed under a chunk server', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 3, mounts: 2, masterArgs: ['--repair-delay=3s'] })
  await prepareReads(cluster)
  // Sealed, so that the largest file of each server is the one with what is read.
  await cluster.mount.restart('SIGTERM')
  await eventually('sealed', async () => (await cluster.status()).chunks.open === 0)
  const largest = async (index: number): Promise<string> =>
    (
      await sh(
        `find '${cluster.serverData(index)}/chunks' -type f -printf '%s %p\\n' | sort -rn | head -1 | cut -d' ' -f2`,
      )
    ).trim()
  const [cut, gone] = [await largest(0), await largest(1)]
  const bytes = (await stat(cut)).size

  const { readersMs, writersMs } = await stallsUnder(t, cluster, 'chunk files are truncated and removed', async () => {
    await sh(`truncate -s $((${bytes} / 2)) '${cut}'; rm '${gone}'; sleep 3`)
  })
  t.ok(readersMs <= promisedMs.readers + slowMachineMs, `${readersMs} ms`)
  t.ok(writersMs <= promisedMs.writers + slowMachineMs, `${writersMs} ms`)

  await shoal(['scrub', '--master', cluster.masterAddress], { timeoutMs: 90_000 })
  const { repair } = await eventually(
    'both copies were made again',
    async () => {
      const now = await cluster.status()
      const files = await Promise.all([cut, gone].map((path) => stat(path).catch(() => undefined)))
      return now.chunks.underReplicated === 0 && files.every((file) => file?.size === bytes) && now
    },
    { timeoutMs: 90_000, everyMs: 500 },
  )
  const told = repair.recent.filter(({ what }) => what === 'corrupt replica' || what === 'lost replica')
  t.ok(new Set(told.map(({ serverId }) => serverId)).size >= 2, `the status tells of both: ${JSON.stringify(told)}`)
  // What is on the disks is what a start finds there.
  for (const server of cluster.servers) await server.restart('SIGKILL')
  await cluster.healthy()
  await stallsUnder(t, cluster, 'everything is mended', async () => {})
})
