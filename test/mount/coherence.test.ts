/** Two mounts of one cluster: what one has written the other reads at its first look. */
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

t.test('two mounts', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { mounts: 2 })
  const [a, b] = cluster.mounts.map((mount) => mount.directory) as [string, string]

  await t.test('write, append, truncate, rename, unlink, chmod', async () => {
    await sh(`
      for i in $(seq 40); do
        echo "one $i" > '${a}/f'; test "$(cat '${b}/f')" = "one $i"
        echo "two $i" >> '${b}/f'; test "$(tail -1 '${a}/f')" = "two $i"; test "$(wc -l < '${a}/f')" = 2
        truncate -s 3 '${a}/f'; test "$(cat '${b}/f')" = one
        mv '${b}/f' '${b}/g'; test ! -e '${a}/f'; test -e '${a}/g'
        chmod 600 '${a}/g'; test "$(stat -c %a '${b}/g')" = 600
        echo new > '${a}/h'; mv '${a}/h' '${b}/g' 2>/dev/null || mv '${a}/h' '${a}/g'; test "$(cat '${b}/g')" = new
        rm '${b}/g'; test ! -e '${a}/g'; test -z "$(ls '${a}')"
      done`)
  })

  await t.test('records appended by four writers on both at once are all there, whole', async (t) => {
    const append = `
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for i in range(1000):
    os.write(fd, ("%s %05d %s\\n" % (sys.argv[2], i, "x" * (i % 97))).encode())`
    await Promise.all(
      [a, b, a, b].map((root, i) => check('python3', ['-c', append, `${root}/log`, `${i}`], { timeoutMs: 120_000 })),
    )
    const lines = (await sh(`cat '${a}/log'`)).trimEnd().split('\n')
    t.equal(lines.length, 4000)
    for (const who of ['0', '1', '2', '3']) {
      const own = lines.filter((line) => line.startsWith(`${who} `))
      const want = Array.from({ length: 1000 }, (_, i) => `${who} ${String(i).padStart(5, '0')} ${'x'.repeat(i % 97)}`)
      t.strictSame(own, want)
    }
  })

  await t.test('a counter under a lock', async (t) => {
    const count = `
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
for i in range(200):
    fcntl.lockf(fd, fcntl.LOCK_EX)
    n = int(os.pread(fd, 20, 0) or b"0")
    os.pwrite(fd, b"%d" % (n + 1), 0)
    fcntl.lockf(fd, fcntl.LOCK_UN)`
    await Promise.all(
      [a, b, a, b].map((root) => check('python3', ['-c', count, `${root}/counter`], { timeoutMs: 120_000 })),
    )
    t.equal((await sh(`cat '${b}/counter'`)).trim(), '800')
  })

  await t.test('flock and open-file-description locks exclude the other mount', async (t) => {
    const said = await sh(`
      touch '${a}/lock'; exec 9<'${a}/lock'; flock -x 9
      flock -n '${b}/lock' true && echo wrong || echo excluded; flock -u 9; flock -n '${b}/lock' echo free`)
    t.equal(said, 'excluded\nfree\n')
  })

  await t.test('an unlinked file stays readable where it is open', async (t) => {
    const said = await sh(`
      head -c 100000 /dev/zero | tr '\\0' y > '${a}/gone'; exec 8<'${a}/gone'; rm '${b}/gone'; sleep 1
      test ! -e '${a}/gone'; wc -c <&8`)
    t.equal(said.trim(), '100000')
  })
})
