/** The driver fuse-native on a cluster: programs, another mount beside it, the ways to end, and its sentences. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { fuseNative } from '../../mount/fuse-native/binding.ts'
import { forceUnmount, shoal, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { run, sh } from '../lib/sh.ts'

const driver = ['--driver', 'fuse-native']
const programs = ['git', 'diff', 'cp', 'getfattr', 'setpriv']
/** Owner, mode, links, size, modification time to the millisecond, and target. */
const listing = String.raw`find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | grep -v ' d ' | sed -E 's/(\.[0-9]{3})[0-9]{7}/\1/' | sort`

/** What is missing, in one sentence. */
const lacking = (): string[] => {
  try {
    fuseNative()
    return []
  } catch (caught) {
    return [(caught as Error).message]
  }
}

t.test('the driver fuse-native', { timeout: 240_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs, lacking: lacking() }))) return
  const cluster = await startCluster(t, { mounts: 1 })
  const [ours, theirs] = [await cluster.addMount(driver), cluster.mount]
  const [here, there] = [ours.directory, theirs.directory]

  await t.test('cp -a keeps content, owners, modes, times and links', async (t) => {
    await sh(`
      source=$(mktemp -d); trap 'rm -rf $source' EXIT; cd $source
      mkdir inc; cp -a /usr/include/linux/b* inc
      ln inc/bpf.h hard; ln -s inc/bpf.h soft; ln -s /nowhere dangling; mkfifo pipe; mknod null c 1 3
      echo x > owned; chown 1234:4321 owned; chmod 4711 owned; head -c 5000001 /dev/urandom > large
      touch -d '1985-03-04 05:06:07.123' old; touch -d '2039-01-02 03:04:05.987' late; touch -a -d '2001-01-01' old
      cp -a . '${here}/copied'
      (${listing}) > $source.want; cd '${here}/copied'; (${listing}) > $source.got; diff $source.want $source.got; rm $source.*
      cd /; diff -r --no-dereference --exclude=pipe --exclude=null $source '${here}/copied'
      diff -r --no-dereference --exclude=pipe --exclude=null $source '${there}/copied'`)
    t.match(await sh(`cd '${there}/copied'; ${listing}`), /owned f 4711 1234 4321/, 'and others see it')
  })

  await t.test('git clone and fsck', async (t) => {
    await sh(`
      export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
      git init -q '${here}/origin'; cd '${here}/origin'; cp -r '${here}/copied/inc' .; git add -A; git commit -qm one
      for i in 1 2 3; do echo $i >> inc/bpf.h; git commit -qam "change $i"; done; git gc -q
      git clone -q --no-local '${here}/origin' '${here}/clone'; cd '${here}/clone'
      git fsck --strict --no-dangling; git checkout -q -b other HEAD~2; git merge -q --no-edit origin/HEAD
      test -z "$(git status --porcelain)"; cd '${there}/clone'; git -c safe.directory='*' fsck --strict; rm -rf '${here}/origin'`)
    t.pass('cloned, checked, merged')
  })

  await t.test('what another mount changes is there at once', async (t) => {
    const said = await sh(`
      cd '${here}'; mkdir shared; cd shared; setfattr -n user.colour -v blue .; echo one > file; exec 3< file
      test "$(getfattr --only-values -n user.colour '${there}/shared')" = blue
      echo two > '${there}/shared/file'; cat <&3; cat file; chmod 600 '${there}/shared/file'; stat -c %a file
      mv '${there}/shared/file' '${there}/shared/moved'; ls; rm '${there}/shared/moved'; ls; : > file; ls '${there}/shared'
      for i in $(seq 30); do echo $i >> file; echo $i >> '${there}/shared/file'; done; sort -n file | uniq -c | wc -l; wc -l < file`)
    t.equal(said, 'two\ntwo\n600\nmoved\nfile\n30\n60\n')
  })

  await t.test('only its owner may use it', async (t) => {
    t.match(await run('setpriv', ['--reuid=1000', '--clear-groups', 'ls', '.'], { cwd: here }), {
      code: 2,
      stderr: /Permission denied/,
    })
  })

  await t.test('SIGTERM while a file is open that was unlinked: what was written is there, and no more', async (t) => {
    const script = 'exec 3> open; echo kept > kept; rm open; ls -A; exec sleep 100'
    const holder = spawn('bash', ['-c', script], { cwd: `${here}/shared`, stdio: ['ignore', 'pipe', 'ignore'] })
    t.teardown(() => holder.kill('SIGKILL'))
    t.match(String((await once(holder.stdout, 'data'))[0]), /^\.fuse_hidden/)
    await ours.kill('SIGTERM')
    t.match(await ours.ended(), { code: 0 })
    t.notMatch(await readFile('/proc/self/mountinfo', 'utf8'), ` ${here} `)
    t.equal(await sh(`ls -A '${there}/shared'; cat '${there}/shared/kept'`), 'file\nkept\nkept\n')
  })

  await t.test('in the background, and its sentences', async (t) => {
    const directory = join(cluster.directory, 'by-hand')
    await mkdir(directory)
    t.teardown(() => forceUnmount(directory))
    const log = ['--log-file', `${directory}.log`]
    const mount = (...args: string[]): ReturnType<typeof shoal> =>
      shoal(['mount', cluster.masterAddress, directory, ...log, ...args])
    t.match(await mount(...driver, '-o', 'ro,noatime,strictatime'), { code: 0, stdout: '', stderr: '' })
    t.match(await run('touch', [`${directory}/new`]), { code: 1, stderr: /[Rr]ead-only file system/ })
    t.match(await shoal(['umount', directory]), { code: 0, stderr: '' })
    t.match(await readFile(`${directory}.log`, 'utf8'), '"event":"unmounted"')
    t.match(await mount(...driver, '-o', 'allow_other'), {
      code: 1,
      stderr: /^shoal: .*only the owner of the mount[^\n]*\n$/,
    })
    t.match(await mount('--driver', 'other'), { code: 2, stderr: /kernel, fuse-native/ })
  })
})
