/** `shoal mount` and `shoal umount` as a person uses them: in the background, with sentences for what is wrong. */
import { spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { eventually, forceUnmount, shoal, shoalCli, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

t.test('mount and umount', { timeout: 180_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { mounts: 0 })
  const directory = join(cluster.directory, 'by-hand')
  const logFile = join(cluster.directory, 'by-hand.log')
  await mkdir(directory)
  t.teardown(() => forceUnmount(directory))
  const mount = (source: string, ...args: string[]): ReturnType<typeof shoal> =>
    shoal(['mount', source, directory, '--log-file', logFile, ...args])

  await t.test('returns when the directory can be used; umount when everything is stored', async (t) => {
    t.match(await mount(cluster.masterAddress), { code: 0, stdout: '', stderr: '' })
    await sh(
      `mkdir -p '${directory}/a/b'; echo hello > '${directory}/a/b/file'; head -c 3000000 /dev/zero > '${directory}/big'`,
    )
    const { sessions } = await cluster.status()
    t.match(sessions, [{ mountPoint: directory, state: 'connected' }])
    t.match(await mount(cluster.masterAddress), { code: 1, stderr: directory }, 'a second mount at the same place')
    t.match(await shoal(['umount', directory]), { code: 0, stderr: '' })
    t.match(await readFile(logFile, 'utf8'), '"event":"unmounted"')
    t.same((await cluster.status()).sessions, [], 'its session has ended')
  })

  await t.test('a directory of the cluster, read-only', async (t) => {
    t.match(await mount(`${cluster.masterAddress}/a`, '-o', 'ro'), { code: 0 })
    t.equal(await check('cat', [`${directory}/b/file`]), 'hello\n')
    t.match(await run('touch', [`${directory}/new`]), { code: 1, stderr: /[Rr]ead-only file system/ })
    t.match(await shoal(['umount', directory]), { code: 0 })
  })

  await t.test('a busy mount is not taken away', async (t) => {
    t.match(await mount(cluster.masterAddress), { code: 0 })
    const busy = spawn('sleep', ['100'], { cwd: directory, stdio: 'ignore' })
    t.teardown(() => busy.kill('SIGKILL'))
    await eventually('it is refused', async () => {
      const ran = await shoal(['umount', directory])
      return ran.code === 1 && ran.stderr.includes(`programs still use ${directory}`)
    })
    t.match(await shoal(['umount', '--lazy', directory]), { code: 0 })
    busy.kill('SIGKILL')
  })

  await t.test('a mount whose process is gone', async (t) => {
    t.match(await mount(cluster.masterAddress), { code: 0 })
    const [session] = (await cluster.status()).sessions.filter(({ state }) => state === 'connected').slice(-1)
    process.kill(session?.pid ?? 0, 'SIGKILL')
    await eventually('the mount is dead', async () => (await run('stat', [`${directory}/a`])).code !== 0)
    t.match(await mount(cluster.masterAddress), { code: 1, stderr: 'umount' }, 'it says how to clean up')
    t.match(await shoal(['umount', '--force', directory]), { code: 0 })
    t.match(await mount(cluster.masterAddress), { code: 0 })
    t.equal(await check('cat', [`${directory}/a/b/file`]), 'hello\n')
    t.match(await shoal(['umount', directory]), { code: 0 })
  })

  await t.test('a mount ends in good order, however little of umount(8) works', async (t) => {
    if (!(await needs(t, { programs: ['unshare', 'mountpoint'] }))) return
    const programs = join(cluster.directory, 'programs')
    await mkdir(programs)
    const real = (await check('which', ['umount'])).trim()
    await writeFile(
      join(programs, 'umount'),
      `#!/bin/sh\ncase "$*" in *shoal-fusectl-*) exit 32;; esac\nexec ${real} "$@"\n`,
      { mode: 0o755 },
    )
    // Where the control file system is not mounted, and a program has a file open till the end.
    const script = `
      mount -t tmpfs tmpfs /run
      umount -l /sys/fs/fuse/connections
      PATH="${programs}:$PATH" '${process.execPath}' '${shoalCli}' mount --foreground ${cluster.masterAddress} '${directory}' &
      until mountpoint -q '${directory}'; do sleep 0.1; done
      exec 3> '${directory}/held'
      kill -TERM $!
      wait $!`
    const ran = await run('unshare', ['--mount', 'sh', '-c', script], { timeoutMs: 60_000 })
    t.match(ran.stderr, '"event":"unmounted"')
    t.equal(ran.code, 0)
    t.same(
      (await cluster.status()).sessions.filter(({ state }) => state === 'connected'),
      [],
      'its session has ended',
    )
  })

  await t.test('sentences', async (t) => {
    const says = async (promise: ReturnType<typeof shoal>, sentence: string | RegExp): Promise<void> => {
      const ran = await promise
      t.match(ran, { code: 1, stderr: sentence })
      t.match(ran.stderr, /^shoal: [^\n]+\n$/, 'one line')
    }
    await says(
      mount('127.0.0.1:1', '--connect-timeout', '500ms'),
      'no Shoal master answers at 127.0.0.1:1: nothing listens there',
    )
    await says(mount(`${cluster.masterAddress}/missing`), /missing/)
    await says(mount(`${cluster.masterAddress}/a/b/file`), /file/)
    await says(mount(cluster.masterAddress, '-o', 'frobnicate'), /frobnicate/)
    await says(
      shoal(['mount', '--log-file', logFile, cluster.masterAddress, join(cluster.directory, 'no-such')]),
      /no-such/,
    )
    const file = join(cluster.directory, 'file')
    await writeFile(file, '')
    await says(shoal(['mount', '--log-file', logFile, cluster.masterAddress, file]), file)
    await says(
      shoal(['mount', '--log-file', join(file, 'log'), cluster.masterAddress, directory]),
      'cannot make the directory of the log',
    )
  })
})
