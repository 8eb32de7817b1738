/** kill -9 of each role while programs work: no error reaches them, nothing that was acknowledged is lost, and the copies come back. */
import t from 'tap'
import { eventually, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

t.test('chunk servers die in the middle of a cp and of a read', { timeout: 500_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const scratch = await mkdtemp(join(tmpdir(), 'shoal-scratch-'))
  t.teardown(() => rm(scratch, { recursive: true, force: true }))
  const cluster = await startCluster(t, { servers: 4, copies: 3, masterArgs: ['--repair-delay', '2s'] })
  const root = cluster.mount.directory
  await sh(`head -c 1G /dev/urandom > '${scratch}/source'`, { timeoutMs: 100_000 })

  const copying = sh(`cp '${scratch}/source' '${root}/copy'; sync '${root}/copy'`, { timeoutMs: 200_000 })
  await sleep(1500)
  await cluster.servers[0]!.kill('SIGKILL')
  await copying

  const reading = sh(`cmp '${scratch}/source' '${root}/copy'`, { timeoutMs: 200_000 })
  await sleep(500)
  await cluster.servers[1]!.kill('SIGKILL')
  await reading
  t.pass('cp and cmp ended without an error')

  await cluster.servers[1]!.start()
  const status = await cluster.healthy({ servers: 3, timeoutMs: 180_000 })
  t.equal(
    status.chunks.byValidReplicas.slice(0, 3).reduce((sum, count) => sum + count, 0),
    0,
    'all chunks have three copies',
  )
  await sh(`cmp '${scratch}/source' '${root}/copy'`, { timeoutMs: 100_000 })
})

t.test('the master dies in the middle of an untar', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const scratch = await mkdtemp(join(tmpdir(), 'shoal-scratch-'))
  t.teardown(() => rm(scratch, { recursive: true, force: true }))
  const cluster = await startCluster(t)
  const root = cluster.mount.directory
  await sh(
    `cp -r /usr/include/linux /usr/include/node '${scratch}'; tar cf '${scratch}/tree.tar' -C '${scratch}' linux node`,
  )
  await sh(`for i in $(seq 20); do echo $i > '${root}/synced-'$i; sync '${root}/synced-'$i; done`)

  const untar = sh(`mkdir '${root}/tree'; tar xf '${scratch}/tree.tar' -C '${root}/tree'`, { timeoutMs: 200_000 })
  for (let round = 0; round < 3; round++) {
    await sleep(700)
    await cluster.master.restart('SIGKILL')
  }
  await untar
  await sh(`diff -r '${scratch}/linux' '${root}/tree/linux'; diff -r '${scratch}/node' '${root}/tree/node'`, {
    timeoutMs: 100_000,
  })
  await sh(`for i in $(seq 20); do test "$(cat '${root}/synced-'$i)" = $i; done`)
  t.pass('the untar went on, and every synced file is there')
})

t.test('a mount whose master is away can be unmounted', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 1 })
  const root = cluster.mount.directory
  await sh(`echo here > '${root}/file'; sync '${root}/file'`)
  await cluster.master.kill('SIGKILL')
  const startedMs = performance.now()
  await sh(`umount '${root}'`, { timeoutMs: 30_000 })
  await cluster.mount.ended()
  t.ok(performance.now() - startedMs < 30_000, 'in bounded time')
  await cluster.master.start()
  await cluster.mount.start()
  t.equal((await sh(`cat '${root}/file'`)).trim(), 'here')
})

t.test('what was fsynced is there after kill -9 of everything at once', { timeout: 200_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t)
  const root = cluster.mount.directory
  const writer = sh(
    `python3 - '${root}' <<'PY'
import os, sys, hashlib
root = sys.argv[1]
for i in range(100000):
    data = hashlib.sha256(b"%d" % i).digest() * (1 + i * 7 % 2000)
    fd = os.open(f"{root}/f{i}", os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data); os.fsync(fd); os.close(fd)
    print(i, flush=True)
PY`,
    { timeoutMs: 60_000 },
  ).catch((caught: Error) => caught.message)
  await sleep(4000)
  const acknowledged = await sh(`ls '${root}' | wc -l`)
  await Promise.all(cluster.roles.map((role) => role.kill('SIGKILL')))
  await writer
  await cluster.start()
  // The last file may have been created and not yet synced.
  const count = Number(acknowledged) - 1
  t.ok(count > 10, `${count} files were synced`)
  await sh(
    `python3 - '${root}' ${count} <<'PY'
import sys, hashlib
root, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    want = hashlib.sha256(b"%d" % i).digest() * (1 + i * 7 % 2000)
    got = open(f"{root}/f{i}", "rb").read()
    assert got == want, (i, len(got), len(want))
PY`,
    { timeoutMs: 60_000 },
  )
})

t.test('a stopped chunk server costs a short stall and no error', { timeout: 200_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 4, copies: 3 })
  const root = cluster.mount.directory
  await sh(`head -c 64M /dev/urandom > '${root}/before'; sync '${root}/before'`)
  await cluster.servers[2]!.kill('SIGSTOP')
  const startedMs = performance.now()
  await sh(`head -c 64M /dev/urandom > '${root}/during'; sync '${root}/during'; cat '${root}/before' > /dev/null`, {
    timeoutMs: 60_000,
  })
  const stallMs = Math.round(performance.now() - startedMs)
  await cluster.servers[2]!.kill('SIGCONT')
  t.ok(stallMs < 15_000, `writing and reading took ${stallMs} ms with a stopped server`)
  await eventually('the server is up again', async () =>
    (await cluster.status()).servers.every((server) => server.state === 'up'),
  )
  await cluster.healthy({ timeoutMs: 120_000 })
})
