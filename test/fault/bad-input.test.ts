/** What people and networks get wrong, against real processes: one sentence or errno each, and nothing else is harmed. */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { shoal, shoalCli, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

/** Sends bytes to a port and waits until the other side has had enough, or a while. */
const send = (address: string, bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    const [host, port] = address.split(':')
    const socket = connect({ host: host ?? '', port: Number(port) })
    const done = (): void => {
      socket.destroy()
      resolve()
    }
    socket.setTimeout(2000, done)
    socket.on('error', done).on('close', done).resume()
    socket.on('connect', () => socket.write(bytes))
  })

t.test('bad input', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['unshare', 'python3'] }))) return
  const cluster = await startCluster(t, { servers: 3 })
  const other = await startCluster(t, { servers: 1, mounts: 0 })
  const root = cluster.mount.directory
  await sh(`cp -r /usr/include/linux '${root}/before'`)

  const refused = async (args: readonly string[], sentence: string | RegExp): Promise<void> => {
    const ran = await shoal(args, { timeoutMs: 30_000 })
    t.match(ran, { code: 1, stderr: sentence }, `shoal ${args[0]}`)
    const said = ran.stderr.split('\n').filter((line) => line.startsWith('shoal: '))
    t.equal(said.length, 1, `one sentence: ${ran.stderr}`)
    t.notMatch(ran.stderr, /\n {4}at /, 'no stack')
  }

  await t.test('servers that must not start', async () => {
    const masterData = join(cluster.directory, 'master')
    await refused(['master', '--data', masterData, '--listen', '127.0.0.1:0'], /in use/)
    const elsewhere = join(cluster.directory, 'elsewhere')
    await refused(['master', '--data', elsewhere, '--listen', cluster.masterAddress], cluster.masterAddress)
    await refused(['chunkserver', '--data', cluster.serverData(0), '--master', cluster.masterAddress], /in use|another/)

    // A chunk server that has belonged to one cluster is of no use to another.
    await other.servers[0]?.kill('SIGTERM')
    await refused(['chunkserver', '--data', other.serverData(0), '--master', cluster.masterAddress], /cluster/)
    await other.servers[0]?.start()
    await other.serversUp()

    const underFile = join(cluster.directory, 'master.log', 'data')
    await refused(['chunkserver', '--data', underFile, '--master', cluster.masterAddress], underFile)
    await refused(['master', '--data', underFile, '--listen', '127.0.0.1:0'], underFile)
  })

  await t.test('commands of an administrator', async (t) => {
    const { masterAddress: master, directory } = cluster
    const away = '127.0.0.1:1'
    const path = (name: string): string => join(directory, 'wrong', name)
    await sh(`mkdir -p '${path('empty')}' && cd '${path('.')}' && echo text > file && touch nothing && mkfifo pipe
      head -c 5000 /dev/urandom > random`)
    const onMaster = (...args: string[]): string[] => [...args, '--master', master]
    const empty = path('empty')
    const cases: [string[], string | RegExp][] = [
      [['status', away], 'nothing listens there'],
      [['status', 'no-such-host.invalid:9320'], 'there is no such host'],
      [['status', cluster.masterAddress.replace(/\d+$/, '1')], 'no Shoal master answers'],
      ...['servers', 'df', 'fsck', 'scrub', 'rebalance', 'top'].map((command): [string[], string] => [
        [command, '--master', away],
        'nothing listens there',
      ]),
      [['snapshot-metadata', path('backup'), '--master', away], 'nothing listens there'],
      [onMaster('servers', 'drain', '99'), 'There is no server 99.'],
      [onMaster('servers', 'drain', '1'), /add 1 first/],
      [onMaster('servers', 'drain', '1', '--cancel'), 'not being drained'],
      [onMaster('servers', 'remove', '1'), 'drain it first'],
      [onMaster('servers', 'remove', '99'), 'There is no server 99.'],
      [onMaster('servers', 'label', '99', 'x'), 'There is no server 99.'],
      [onMaster('servers', 'label', '1', 'x'.repeat(300)), 'at most 255 characters'],
      [onMaster('servers', 'rack', '99', 'x'), 'There is no server 99.'],
      [onMaster('locate', '/none'), 'There is no /none in the cluster.'],
      [onMaster('locate', '/before'), '/before is a directory; name a file in it.'],
      [onMaster('locate', ''), '"" is in no mount of Shoal'],
      [['locate', join(root, 'none')], 'There is no /none in the cluster.'],
      [onMaster('copies', 'get', '/none'), 'There is no /none in the cluster.'],
      [onMaster('copies', 'set', '/none', '2'), 'There is no /none in the cluster.'],
      [onMaster('copies', 'set', '/before', '4'), '4 copies need 4 chunk servers'],
      [onMaster('scrub', '--server', '99'), 'There is no server 99.'],
      [['fsck', '--backup', path('none')], 'there is no such file'],
      [['fsck', '--backup', path('random')], 'it does not begin as one'],
      [['fsck', '--backup', path('nothing')], 'it does not begin as one'],
      [onMaster('snapshot-metadata', empty), 'it is a directory; name a file in it'],
      [onMaster('snapshot-metadata', path('pipe')), 'it is no ordinary file'],
      [onMaster('snapshot-metadata', path('none/backup')), 'there is no such file or directory'],
      [['restore', path('none'), '--data', path('new')], 'there is no such file'],
      [['restore', path('random'), '--data', path('new')], 'it does not begin as one'],
      [['--config', path('none'), 'config'], 'there is no such file'],
      [['--config', path('file'), 'config'], 'a line has to be "option = value", and not "text"'],
      [['mount', away, empty, '--connect-timeout', '1s', '--log-file', path('log')], 'nothing listens there'],
      [['mount', master, path('none')], 'create the directory first'],
      [['mount', master, path('file')], 'is not a directory'],
      [['mount', master, path('.')], 'is not empty'],
      [['mount', master, root], 'unmount it first'],
      [['mount', `${master}/none`, empty, '--log-file', path('log')], 'There is no /none in the cluster.'],
      [['mount', master, empty, '-o', 'frob'], 'unknown mount option "frob"'],
      [['umount', empty], 'nothing is mounted at'],
      [['umount', '/proc'], 'is proc, not Shoal'],
      [['abort', empty], 'nothing is mounted at'],
      [['man', '--directory', path('file')], 'something that is no directory is there'],
      [['master', '--data', cluster.serverData(0), '--listen', '127.0.0.1:0'], 'has something else in it'],
      [['chunkserver', '--data', join(directory, 'master'), '--master', master], 'is not empty'],
      [['chunkserver', '--data', path('file'), '--master', master], 'it is not a directory'],
    ]
    // Each takes a process of Node to start, and none of them changes anything.
    while (cases.length > 0) await Promise.all(cases.splice(0, 4).map(([args, sentence]) => refused(args, sentence)))
    t.equal(
      (await sh(`cd '${path('.')}' && ls && find empty new log -type f 2>/dev/null | grep -v log || true`)).trim(),
      'empty\nfile\nlog\nnothing\npipe\nrandom',
      'nothing was made but a log',
    )
  })

  await t.test('a machine without /dev/fuse', async (t) => {
    const directory = join(cluster.directory, 'no-fuse')
    const ran = await run('unshare', [
      '-m',
      'bash',
      '-c',
      `mkdir -p "$1" "$1.dev" && touch "$1.dev/null" "$1.dev/urandom" &&
       mount --bind /dev/null "$1.dev/null" && mount --bind /dev/urandom "$1.dev/urandom" && mount --rbind "$1.dev" /dev &&
       exec "$2" "$3" mount --log-file "$1.log" "$4" "$1"`,
      'bash',
      directory,
      process.execPath,
      shoalCli,
      cluster.masterAddress,
    ])
    t.match(ran, { code: 1, stderr: /^shoal: .*\/dev\/fuse.*\n$/ })
  })

  await t.test('names and sizes beyond the limits', async (t) => {
    const said = await check('python3', [
      '-c',
      `
import errno, os, sys
root = sys.argv[1]
def code(work):
    try: work()
    except OSError as e: return errno.errorcode[e.errno]
    return 'ok'
def at(offset):
    fd = os.open(root + '/large', os.O_CREAT | os.O_RDWR)
    try: os.pwrite(fd, b'x', offset)
    finally: os.close(fd)
print(code(lambda: open(root + '/' + 'n' * 255, 'w').close()))
print(code(lambda: open(root + '/' + 'n' * 256, 'w').close()))
print(code(lambda: os.mkdir(root + '/' + 'n' * 256)))
print(code(lambda: at(2 ** 63 - 2)))
print(code(lambda: at(2 ** 63 - 1)))
print(os.stat(root + '/large').st_size == 2 ** 63 - 1)
os.unlink(root + '/large')
print(code(lambda: os.symlink('t' * 4095, root + '/link')), len(os.readlink(root + '/link')))
print(code(lambda: os.setxattr(root + '/link', 'user.x', b'', follow_symlinks=False)))
`,
      root,
    ])
    t.same(said.trim().split('\n'), [
      'ok',
      'ENAMETOOLONG',
      'ENAMETOOLONG',
      'ok',
      // The kernel itself stops at the largest offset, with one name or the other.
      said.includes('EINVAL') ? 'EINVAL' : 'EFBIG',
      'True',
      'ok 4095',
      'EPERM',
    ])
  })

  await t.test('garbage from the network', async (t) => {
    const { servers } = await cluster.status()
    const header = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    const kinds = {
      'random bytes': randomBytes(100_000),
      'another protocol': Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'),
      'a frame of 16 MiB': Buffer.concat([
        header,
        Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        randomBytes(70_000),
      ]),
      'a handshake and then nonsense': Buffer.concat([Buffer.from('SHOALTCP'), randomBytes(50_000)]),
      nothing: Buffer.alloc(0),
    }
    const pids = cluster.roles.map(({ pid }) => pid)
    for (const [kind, bytes] of Object.entries(kinds)) {
      await Promise.all(
        [cluster.masterAddress, ...servers.map(({ address }) => address)].map((address) => send(address, bytes)),
      )
      t.same(
        cluster.roles.map(({ pid }) => pid),
        pids,
        `after ${kind} every process is the same`,
      )
    }
    await sh(`echo fine > '${root}/after'; sync '${root}/after'`)
  })

  await t.test('nothing was harmed', async (t) => {
    await sh(`diff -r /usr/include/linux '${root}/before'`)
    t.match(await cluster.healthy(), { chunks: { lost: 0, underReplicated: 0 } })
  })
})
