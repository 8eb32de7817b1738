/** Ordinary programs on a mounted cluster: each of them has an opinion of its own of what a file system owes it. */
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

const programs = ['git', 'rsync', 'sqlite3', 'fio', 'gcc', 'tar', 'diff', 'getfattr']
/** Owner, mode, links, size, modification time and target of everything below a directory. */
const listing = (directory: string): Promise<string> =>
  sh(`cd '${directory}' && find . -printf '%p %y %m %U %G %n %s %T@ %l\\n' | grep -v ' d ' | sort`)

t.test('programs', { timeout: 600_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs }))) return
  const cluster = await startCluster(t)
  const root = cluster.mount.directory

  await t.test('cp -a keeps content, owners, modes, times and links', async (t) => {
    await sh(`
      mkdir /tmp/shoal-source-$$ && cd /tmp/shoal-source-$$ && trap 'rm -rf /tmp/shoal-source-$$' EXIT
      cp -a /usr/include/node inc; cp -a /usr/include/linux linux
      ln inc/node.h hard; ln -s inc/v8.h soft; ln -s /nowhere dangling; mkfifo pipe
      echo x > owned; chown 1234:4321 owned; chmod 4711 owned
      touch -d '1965-03-04 05:06:07.123456789' old; touch -d '2039-01-02 03:04:05.987654321' late
      cp -a . '${root}/copied'; diff -r --no-dereference inc '${root}/copied/inc'
      find . -printf '%p %y %m %U %G %n %s %T@ %l\\n' | grep -v ' d ' | sort > /tmp/shoal-source-$$/../shoal-want-$$
      (cd '${root}/copied' && find . -printf '%p %y %m %U %G %n %s %T@ %l\\n' | grep -v ' d ' | sort) > /tmp/shoal-got-$$
      diff /tmp/shoal-want-$$ /tmp/shoal-got-$$; rm /tmp/shoal-want-$$ /tmp/shoal-got-$$`)
    t.match(await listing(`${root}/copied`), /owned f 4711 1234 4321/)
  })

  await t.test('tar and untar', async (t) => {
    await sh(`
      tar cf - --format=posix -C '${root}' copied | (mkdir '${root}/untarred' && tar xf - -C '${root}/untarred')
      diff -r --no-dereference '${root}/copied/inc' '${root}/untarred/copied/inc'`)
    t.equal(await listing(`${root}/untarred/copied`), await listing(`${root}/copied`))
  })

  await t.test('rsync copies once and finds nothing to do the second time', async (t) => {
    const rsync = ['-a', '--checksum', '--itemize-changes', '/usr/include/linux/', `${root}/synced/`]
    t.not(await check('rsync', rsync), '')
    t.equal(await check('rsync', rsync), '')
    await sh(`diff -r /usr/include/linux '${root}/synced'`)
  })

  await t.test('git clone and fsck', async (t) => {
    await sh(`
      export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
      git init -q '${root}/origin'; cd '${root}/origin'; cp -r /usr/include/linux .; git add -A; git commit -qm one
      for i in 1 2 3; do echo $i >> linux/fs.h; git commit -qam "change $i"; done; git gc -q
      git clone -q --no-local '${root}/origin' '${root}/clone'; cd '${root}/clone'
      git fsck --strict --no-dangling; git checkout -q -b other HEAD~2; git merge -q --no-edit origin/HEAD
      test -z "$(git status --porcelain)"; git worktree add -q ../tree HEAD~1; rm -rf '${root}/origin'`)
    t.pass('cloned, checked, merged')
  })

  for (const journal of ['WAL', 'DELETE']) {
    await t.test(`sqlite3 with journal_mode ${journal}`, async (t) => {
      const said = await sh(
        `sqlite3 '${root}/${journal}.db' 2>&1 <<'SQL'
        PRAGMA journal_mode=${journal};
        CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT);
        BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9900)
        INSERT INTO rows SELECT i, hex(randomblob(50)) FROM n; COMMIT;
        ${Array.from({ length: 100 }, (_, i) => `INSERT INTO rows VALUES (${9901 + i}, 'one at a time');`).join('\n')}
        PRAGMA integrity_check; SELECT count(*) FROM rows;
SQL`,
        { timeoutMs: 120_000 },
      )
      t.match(said, /ok\n10000\n$/)
    })
  }

  await t.test('a C project compiles and runs in place', async (t) => {
    await sh(`
      mkdir '${root}/c' && cd '${root}/c'
      for i in $(seq 20); do echo "int f$i(void) { return $i; }" > f$i.c; done
      { for i in $(seq 20); do echo "int f$i(void);"; done; echo 'int main(void) { return 0'
        for i in $(seq 20); do echo "+f$i()"; done; echo ' != 210; }'; } > main.c
      for c in *.c; do gcc -g -c $c; done; ar rcs libf.a f*.o; gcc -o program main.o libf.a; ./program; cp program again; ./again`)
    t.pass('it ran')
  })

  await t.test('fio verifies random writes', async (t) => {
    const said = await check(
      'fio',
      `--name=verify --directory=${root} --rw=randwrite --bs=4k-64k --size=48m --ioengine=psync --verify=crc32c
       --do_verify=1 --verify_fatal=1 --verify_state_save=0 --fsync=64 --output-format=terse`.split(/\s+/),
      { timeoutMs: 180_000 },
    )
    t.notMatch(said, /verify:.*bad/i)
  })

  await t.test('extended attributes', async (t) => {
    await sh(`
      cd '${root}' && touch x && setfattr -n user.colour -v blue x && setfattr -n user.empty x
      test "$(getfattr --only-values -n user.colour x)" = blue; cp --preserve=xattr x y
      getfattr -d y | grep -q 'user.colour="blue"'; setfattr -x user.colour y; ! getfattr -n user.colour y 2>/dev/null`)
    t.pass('set, read, copied, removed')
  })

  await t.test('a copy within the mount shares its data', async (t) => {
    await sh(`head -c 256M /dev/urandom > '${root}/large'; sync '${root}/large'`, { timeoutMs: 120_000 })
    const before = await cluster.status()
    const startedMs = performance.now()
    await sh(`cp '${root}/large' '${root}/shared'`)
    t.comment(`cp of 256 MiB took ${Math.round(performance.now() - startedMs)} ms`)
    const after = await cluster.status()
    t.ok(after.liveBytes - before.liveBytes < 1 << 20, 'no data was written')
    await sh(`cmp '${root}/large' '${root}/shared'; echo changed | dd of='${root}/shared' conv=notrunc status=none`)
    await sh(
      `! cmp -s '${root}/large' '${root}/shared'; rm '${root}/large'; head -c 7 '${root}/shared' | grep -q changed`,
    )
    t.equal((await sh(`stat -c %s '${root}/shared'`)).trim(), `${256 << 20}`)
  })

  await t.test('space comes back', { timeout: 120_000 }, async (t) => {
    await sh(`rm -rf '${root}'/*`)
    for (let tries = 0; ; tries++) {
      const status = await cluster.status()
      const used = status.servers.reduce((sum, server) => sum + server.usedBytes, 0)
      if (status.liveBytes === 0 && status.orphans === 0 && used < 64 << 20) break
      if (tries > 60) throw new Error(`liveBytes ${status.liveBytes}, orphans ${status.orphans}, used ${used}`)
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
    t.equal((await cluster.status()).inodes, 1, 'only the root is left')
  })
})
