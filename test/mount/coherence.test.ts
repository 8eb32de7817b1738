/** Two mounts of one cluster: what one has written the other reads at its first look, COHERENCE_ROUNDS times, each step in a process of its own. */
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

const rounds = Number(process.env['COHERENCE_ROUNDS'] ?? 40)

/** Through a shared mapping: writes and syncs what is given, or reads. */
const map = `
import mmap, os, sys
path, text = sys.argv[1], sys.argv[2].encode()
fd = os.open(path, os.O_RDWR)
with mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED) as m:
    if text: m[: len(text)] = text; m.flush()
    else: print(m[:].decode(), end="")`

t.test('two mounts', { timeout: 300_000 + rounds * 5000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3', 'getfattr'] }))) return
  const cluster = await startCluster(t, { mounts: 2 })
  const [a, b] = cluster.mounts.map((mount) => mount.directory) as [string, string]

  await t.test('write, append, truncate, rename, unlink, chmod', async () => {
    const script = `
      for i in $(seq ${rounds}); do
        echo "one $i" > '${a}/f'; test "$(cat '${b}/f')" = "one $i"
        echo "two $i" >> '${b}/f'; test "$(tail -1 '${a}/f')" = "two $i"; test "$(wc -l < '${a}/f')" = 2
        truncate -s 3 '${a}/f'; test "$(cat '${b}/f')" = one
        mv '${b}/f' '${b}/g'; test ! -e '${a}/f'; test -e '${a}/g'
        chmod 600 '${a}/g'; test "$(stat -c %a '${b}/g')" = 600
        echo new > '${a}/h'; mv '${a}/h' '${b}/g' 2>/dev/null || mv '${a}/h' '${a}/g'; test "$(cat '${b}/g')" = new
        rm '${b}/g'; test ! -e '${a}/g'; test -z "$(ls '${a}')"
      done`
    await sh(script, { timeoutMs: 60_000 + rounds * 2000 })
  })

  await t.test('what one has just made, and not looked at since, is changed by the other', async () => {
    const script = `
      for i in $(seq ${rounds}); do
        mkdir '${a}/d'; chmod 701 '${b}/d'; test "$(stat -c %a '${a}/d')" = 701
        mkfifo -m 600 '${a}/p'; chmod 641 '${b}/p'; test "$(stat -c %a '${a}/p')" = 641
        ln -s x '${a}/s'; chown -h 7 '${b}/s'; test "$(stat -c %u '${a}/s')" = 7
        exec 7> '${a}/f'; chmod 604 '${b}/f'; echo more >> '${b}/f'; test "$(stat -c '%a %s' '${a}/f')" = '604 5'; exec 7>&-
        mkdir '${a}/d/e' & mkdir '${a}/d/g' & chmod 711 '${b}/d'; wait; chmod 700 '${b}/d/e' '${b}/d/g'
        test "$(stat -c %a '${a}/d' '${a}/d/e' '${a}/d/g' | tr '\\n' ' ')" = '711 700 700 '
        rm -r '${b}/d' '${b}/p' '${b}/s' '${b}/f'
      done`
    await sh(script, { timeoutMs: 60_000 + rounds * 2000 })
  })

  await t.test('overwrite, listing, names that are not there, extended attributes, mappings', async () => {
    const script = `
      mkdir '${a}/o'; echo old-$(seq -s - 2000) > '${a}/o/f'
      for i in $(seq ${rounds}); do
        printf "%06d" $i | dd of='${a}/o/f' conv=notrunc status=none; test "$(head -c 6 '${b}/o/f')" = $(printf "%06d" $i)
        printf "%06d" $i | dd of='${b}/o/f' bs=6 seek=1000 conv=notrunc status=none
        test "$(tail -c +6001 '${a}/o/f' | head -c 6)" = $(printf "%06d" $i)
        setfattr -n user.a -v $i '${a}/o/f'; test "$(getfattr --only-values -n user.a '${b}/o/f')" = $i
        setfattr -x user.a '${b}/o/f'; test -z "$(getfattr -d '${a}/o/f')"
        test "$(ls '${b}/o')" = f; cat '${b}/o/n' 2> /dev/null && exit 1
        touch '${a}/o/n'; cat '${b}/o/n'; test "$(ls '${b}/o' | tr '\\n' ' ')" = 'f n '
        mkdir '${b}/o/d'; test "$(ls '${a}/o' | tr '\\n' ' ')" = 'd f n '
        rm '${b}/o/n'; rmdir '${a}/o/d'; test ! -e '${a}/o/n'; test "$(ls '${b}/o')" = f
        python3 -c "$0" '${a}/o/f' m$(printf "%05d" $i); test "$(python3 -c "$0" '${b}/o/f' '' | head -c 6)" = m$(printf "%05d" $i)
        test "$(head -c 6 '${b}/o/f')" = m$(printf "%05d" $i)
      done; rm -r '${b}/o'`
    await check('bash', ['-euo', 'pipefail', '-c', script, map], { timeoutMs: 60_000 + rounds * 3000 })
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
