/**
 * Mounts of ordinary users, through fusermount3. It wants a user whom it knows, a device that he may open, and its configuration: all
 * three are made in a mount namespace of the test's own, so this machine's /etc/passwd, /etc/fuse.conf and /dev/fuse stay as they are.
 */
import { dirname, join } from 'node:path'
import t from 'tap'
import { eventually, shoalCli, startCluster } from '../lib/cluster.ts'
import { startNamespaces } from '../lib/namespaces.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh, type Ran } from '../lib/sh.ts'

const alice = 60_123
const bob = 60_124
const programs = ['unshare', 'nsenter', 'setpriv', 'fusermount3', 'mount']

/** $1: where Shoal is built; $2: node. Ends with its standard input, and everything in the namespaces with it. */
const holderScript = `
set -eu
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/shoal /mnt/etc /mnt/alice /mnt/alice/dir /mnt/bob /mnt/bob/dir
mount --bind "$1" /mnt/shoal
touch /mnt/node && mount --bind "$2" /mnt/node
chown -R ${alice}:${alice} /mnt/alice && chown -R ${bob}:${bob} /mnt/bob
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp /etc/passwd /mnt/etc/passwd
printf '%s:x:%d:%d::/mnt/%s:/bin/sh\\n' alice ${alice} ${alice} alice bob ${bob} ${bob} bob >>/mnt/etc/passwd
mount --bind /mnt/etc/passwd /etc/passwd
: >/mnt/etc/fuse.conf
touch /etc/fuse.conf 2>/dev/null && mount --bind /mnt/etc/fuse.conf /etc/fuse.conf
echo ready
exec cat
`

interface Place {
  as(uid: number, script: string): Promise<Ran>
}

/** Scripts run as users there, with shoal as a function. */
const startPlace = async (t: { teardown(handler: () => Promise<void>): void }): Promise<Place> => {
  const shoalRoot = join(dirname(shoalCli), '../../..')
  const inside = await startNamespaces(t, ['mount'], holderScript, [shoalRoot, process.execPath])
  const user = (uid: number): string[] => ['setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups']
  const home = (uid: number): string => (uid === alice ? '/mnt/alice' : uid === bob ? '/mnt/bob' : '/mnt')
  return {
    as: (uid, script) => {
      const env = ['env', '-u', 'NODE_OPTIONS', `HOME=${home(uid)}`, `XDG_RUNTIME_DIR=${home(uid)}`]
      const words = [...(uid === 0 ? [] : user(uid)), ...env, 'bash', '-euc']
      const define = 'shoal() { SHOAL_CONFIG=/dev/null /mnt/node /mnt/shoal/dist/src/cli/shoal.js "$@"; }; cd'
      return run('nsenter', [...inside, ...words, `${define}\n${script}`], { cwd: '/', timeoutMs: 60_000 })
    },
  }
}

t.test('mounts of ordinary users', { timeout: 180_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs }))) return
  const cluster = await startCluster(t, { servers: 1, copies: 1, mounts: 1 })
  const place = await startPlace(t)
  const home = join(cluster.mount.directory, 'alice')
  await sh(`mkdir '${home}'; chown ${alice}:${alice} '${home}'; sync '${home}'`)
  const source = `${cluster.masterAddress}/alice`

  await t.test('for himself alone', async (t) => {
    t.match(await place.as(alice, `shoal mount ${source} dir`), { code: 0, stdout: '', stderr: '' })
    t.match(await place.as(alice, 'echo hello > dir/file; chmod 644 dir/file; stat -c "%u %g" dir/file'), {
      code: 0,
      stdout: `${alice} ${alice}\n`,
    })
    t.match(await place.as(alice, 'grep /mnt/alice/dir /proc/mounts'), {
      stdout: /^\S+ \/mnt\/alice\/dir fuse\.shoal rw,nosuid,nodev,.*user_id=60123,.*default_permissions/,
    })
    t.match(await place.as(bob, 'cat /mnt/alice/dir/file'), { code: 1, stderr: 'Permission denied' })
    t.match(await place.as(0, 'cat /mnt/alice/dir/file'), { code: 1, stderr: 'Permission denied' }, 'nor root')
    t.match(await place.as(bob, 'shoal umount /mnt/alice/dir'), {
      code: 1,
      stderr: /^shoal: cannot unmount: [^\n]+\n$/,
    })
    t.match(await place.as(alice, 'cat dir/file'), { code: 0, stdout: 'hello\n' }, 'it is still there')
  })

  await t.test('unmounted by the user when everything is stored', async (t) => {
    t.match(await place.as(alice, 'head -c 3000000 /dev/zero > dir/big; shoal umount dir'), { code: 0, stderr: '' })
    t.notMatch((await place.as(alice, 'cat /proc/mounts')).stdout, '/mnt/alice/dir')
    t.equal(await check('stat', ['-c', '%s %u', join(home, 'big')]), `3000000 ${alice}\n`)
    t.equal((await cluster.status()).sessions.length, 1, 'its session has ended')
  })

  await t.test('for others, where the administrator allows it', async (t) => {
    const shared = `shoal mount -o allow_other ${source} dir`
    t.match(await place.as(alice, shared), { code: 1, stderr: /^shoal: [^\n]*user_allow_other[^\n]*\n$/ })
    t.match(await place.as(0, 'echo user_allow_other > /etc/fuse.conf'), { code: 0 })
    t.match(await place.as(alice, shared), { code: 0, stderr: '' })
    t.match(await place.as(bob, 'cat /mnt/alice/dir/file'), { code: 0, stdout: 'hello\n' })
    t.match(await place.as(bob, 'touch /mnt/alice/dir/new'), { code: 1, stderr: 'Permission denied' }, 'modes count')
    t.match(await place.as(alice, 'shoal umount dir'), { code: 0, stderr: '' })
  })

  await t.test('a mount that hangs is aborted by its user, and by nobody else', async (t) => {
    t.match(await place.as(alice, `shoal mount ${source} dir`), { code: 0 })
    t.match(
      await place.as(
        0,
        'test -e /sys/fs/fuse/connections/*/abort || mount -t fusectl fusectl /sys/fs/fuse/connections',
      ),
      {
        code: 0,
      },
    )
    await place.as(alice, 'kill -STOP $(cat shoal/*.pid)')
    const waiting = place.as(alice, 'mkdir dir/new')
    await eventually('somebody waits in it', async () => {
      const { stdout } = await place.as(0, 'cat /sys/fs/fuse/connections/*/waiting')
      return stdout.split('\n').some((count) => Number(count) > 0)
    })
    t.match(await place.as(bob, 'shoal abort /mnt/alice/dir'), { code: 1, stderr: 'only its owner and root may' })
    t.match(await place.as(alice, 'shoal abort dir'), { code: 0, stderr: '' })
    t.match(await waiting, { code: 1, stderr: /abort|not connected/ })
    t.match(await place.as(alice, 'kill -CONT $(cat shoal/*.pid); shoal umount --lazy dir'), { code: 0, stderr: '' })
  })

  await t.test('sentences', async (t) => {
    const says = async (uid: number, command: string, sentence: RegExp): Promise<void> => {
      t.match(await place.as(uid, command), { code: 1, stderr: sentence }, command)
    }
    await says(bob, `shoal mount ${source} /mnt/alice/dir`, /^shoal: cannot mount on \/mnt\/alice\/dir: [^\n]+\n$/)
    await place.as(0, 'chmod 600 /dev/fuse')
    await says(alice, `shoal mount ${source} dir`, /^shoal: [^\n]*\/dev\/fuse[^\n]*\n$/)
  })
})
