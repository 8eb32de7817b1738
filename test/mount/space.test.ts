/** What df, du and the status say of space: as much as was written, times the copies, and nothing once it is removed. */
import t from 'tap'
import { eventually, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

const copies = 2
const mebibyte = 1024 * 1024
/** 48 MiB in one file, 200 files of 64 KiB, and 100 that are too small for chunks. */
const largeBytes = 48 * mebibyte
const writtenBytes = largeBytes + 200 * 65_536
const smallBytes = 100 * 4096

t.test('space', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  // With a limit of its own a server's free space does not depend on what else the disk is used for.
  const cluster = await startCluster(t, { servers: 2, copies, serverArgs: ['--capacity=512MiB'] })
  const root = cluster.mount.directory
  const shown = async (): Promise<number> => {
    const [used = ''] = (await sh(`df --output=used -B1 '${root}' | tail -1`)).trim().split(' ')
    return Number(used)
  }
  const stored = async (): Promise<number> => {
    const { servers } = await cluster.status()
    return servers.reduce((sum, { usedBytes }) => sum + usedBytes, 0)
  }
  const isNear = (found: number, wanted: number): boolean => Math.abs(found - wanted) <= writtenBytes / 100
  const [shownBefore, storedBefore] = [await shown(), await stored()]

  await sh(`
    mkdir '${root}/d'; head -c ${largeBytes} /dev/urandom > '${root}/d/large'
    for i in $(seq 200); do head -c 65536 /dev/urandom > "${root}/d/f$i"; done
    for i in $(seq 100); do echo text > "${root}/d/small$i"; done; sync -f '${root}'`)
  t.equal(Number((await sh(`du -s -B1 '${root}/d'`)).split('\t')[0]), writtenBytes + smallBytes, 'du counts blocks')
  await eventually('df and the status show what was written', async () => {
    const [df, status] = [(await shown()) - shownBefore, (await stored()) - storedBefore]
    t.comment({ df, status })
    return isNear(df, writtenBytes) && isNear(status / copies, writtenBytes)
  })
  await sh(`rm -rf '${root}/d'`)
  await eventually('df and the status show that it is gone', async () => {
    const [df, status] = [(await shown()) - shownBefore, (await stored()) - storedBefore]
    t.comment({ df, status })
    return isNear(df, 0) && isNear(status / copies, 0)
  })
  t.pass('within one per cent')
})
