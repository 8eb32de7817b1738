/** Damaged and full disks: the reader gets right data, the replica is replaced, a full disk is ENOSPC and nothing else. */
import t from 'tap'
import { eventually, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { run, sh } from '../lib/sh.ts'

/** Paths of the chunk files of a server, largest first. */
const chunkFiles = async (data: string): Promise<string[]> =>
  (await sh(`find '${data}/chunks' -type f -printf '%s %p\\n' | sort -rn | cut -d' ' -f2`)).trim().split('\n')

t.test('a flipped bit in a chunk file', { timeout: 200_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 3 })
  const root = cluster.mount.directory
  const want = await sh(`head -c 100M /dev/urandom | tee '${root}/file' | sha256sum; sync '${root}/file'`)
  // Sealed, so that nothing but the damage is going on.
  await cluster.mount.restart('SIGTERM')
  for (const index of [0, 1]) {
    const [file] = await chunkFiles(cluster.serverData(index))
    await sh(`
      size=$(stat -c %s '${file}'); at=$((size / 2 + ${index} * 8192)); byte=$(od -An -tu1 -j $at -N1 '${file}')
      printf "\\\\x$(printf %02x $((byte ^ 4)))" | dd of='${file}' bs=1 seek=$at conv=notrunc status=none`)
  }
  t.equal(await sh(`sha256sum < '${root}/file'`), want, 'the reader gets right data')
  // A scrub finds what no reader happened to meet.
  const status = await eventually(
    'the corrupt replicas were replaced',
    async () => {
      await sh(`cat '${root}/file' > /dev/null`)
      const now = await cluster.status()
      return now.repair.corruptReplaced >= 1 && now.chunks.underReplicated === 0 && now
    },
    { timeoutMs: 90_000, everyMs: 1000 },
  )
  t.ok(
    status.repair.recent.some((event) => event.what === 'corrupt replica'),
    'status shows it',
  )
  t.equal(await sh(`sha256sum < '${root}/file'`), want)
})

t.test('a full chunk server is ENOSPC for the write and harms nothing else', { timeout: 200_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 3, serverArgs: ['--capacity', '200MiB'] })
  const root = cluster.mount.directory
  await sh(
    `echo before > '${root}/small'; head -c 20M /dev/urandom > '${root}/kept'; sync '${root}/kept'; sha256sum '${root}/kept' > '${root}/sum'`,
  )
  const full = await run('bash', ['-c', `head -c 600M /dev/zero | tr '\\0' z > '${root}/big' && sync '${root}/big'`], {
    timeoutMs: 150_000,
  })
  t.not(full.code, 0)
  t.match(full.stderr, /No space left on device/)
  await sh(`cd '${root}' && sha256sum -c sum && test "$(cat small)" = before`)
  await sh(`rm '${root}/big'`)
  await eventually(
    'the space is back and can be written again',
    async () =>
      (await run('bash', ['-c', `head -c 60M /dev/zero > '${root}/again' && sync '${root}/again'`])).code === 0,
    { timeoutMs: 60_000, everyMs: 2000 },
  )
  await sh(`cd '${root}' && sha256sum -c sum`)
})

t.test(
  'files that are written and closed on a full cluster: who copies them is told of each that is lost',
  async (t) => {
    if (!(await needs(t, { root: true, fuse: true }))) return
    const source = (await sh('mktemp -d')).trim()
    t.teardown(() => sh(`rm -r '${source}'`))
    const cluster = await startCluster(t, { servers: 3, serverArgs: ['--capacity', '120MiB'] })
    const root = cluster.mount.directory
    await sh(`
    for i in $(seq 60); do head -c $((5000 + i * 5000)) /dev/urandom > '${source}/f'$i; done
    head -c 88M /dev/zero | tr '\\0' z > '${root}/big'; sync '${root}/big'`)
    let failed = false
    for (let round = 0; round < 12 && !failed; round++) {
      const copied = await run('cp', ['-r', source, `${root}/copy${round}`], { timeoutMs: 100_000 })
      failed = copied.code !== 0
      const lost = (
        await sh(`cd '${source}'; for f in *; do cmp -s $f '${root}/copy${round}/'$f || echo $f; done`)
      ).trim()
      const untold = lost.split('\n').filter((file) => file !== '' && !copied.stderr.includes(`/${file}'`))
      t.strictSame(untold, [], `round ${round}: nothing is lost in silence`)
      if (failed) t.match(copied.stderr, /No space left on device/)
    }
    t.ok(failed, 'it was full in the end')
  },
)

t.test('a full disk of the master is ENOSPC for changes and harms nothing else', { timeout: 200_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const disk = (await sh('mktemp -d')).trim()
  await sh(`mount -t tmpfs -o size=200M shoal-test '${disk}'`)
  t.teardown(() => sh(`umount -l '${disk}'; rmdir '${disk}'`))
  const cluster = await startCluster(t, { servers: 3, masterData: `${disk}/master` })
  const root = cluster.mount.directory
  await sh(`cp -r /usr/include/linux '${root}/before'; head -c 5M /dev/urandom > '${root}/kept'; sync '${root}/kept'`)
  const sum = await sh(`sha256sum < '${root}/kept'`)

  // Somebody else fills it up until only the master's reserve is left. What was reserved for write-behind before may still be used.
  await sh(`
    left=$(df --output=avail -BM '${disk}' | tail -1 | tr -dc 0-9)
    dd if=/dev/zero of='${disk}/ballast' bs=1M count=$((left - 30)) status=none; sleep 2`)
  const refused = await run('bash', ['-c', `for i in $(seq 2000); do mkdir '${root}/new'$i || exit 1; done`])
  t.match(refused, { code: 1, stderr: /No space left on device/ })
  t.equal(await sh(`sha256sum < '${root}/kept'; diff -r /usr/include/linux '${root}/before'`), sum, 'reading goes on')

  // And then up to the last byte, at once and while there is much to store: the master can store nothing more, and stays.
  const { pid } = cluster.master
  await sh(`truncate -s -35M '${disk}/ballast'; sleep 2`)
  const during = run('bash', ['-c', `for i in 1 2 3; do cp -r /usr/include/linux '${root}/during'$i; done`], {
    timeoutMs: 120_000,
  })
  await sh(`sleep 1; dd if=/dev/zero of='${disk}/last' bs=1M status=none 2>/dev/null || true`)
  const waiting = run('bash', ['-c', `rmdir '${root}/new1'`], { timeoutMs: 60_000 })
  await sh(`sleep 3; rm '${disk}/ballast' '${disk}/last'`)
  t.match(await waiting, { code: 0, stderr: '' }, 'what frees something waits for room')
  const { stderr } = await during
  t.match(stderr, /^(cp: .*: No space left on device\n)*$/, 'nothing else is wrong')
  t.equal(cluster.master.pid, pid, 'the master is the same')
  await eventually(
    'changes are welcome again',
    async () => !!(await sh(`mkdir -p '${root}/after' && cp '${root}/kept' '${root}/after/' && echo done`)),
    { timeoutMs: 60_000, everyMs: 1000 },
  )
  await cluster.master.restart('SIGTERM')
  await sh(`cmp '${root}/kept' '${root}/after/kept' && diff -r /usr/include/linux '${root}/before'`)
})
