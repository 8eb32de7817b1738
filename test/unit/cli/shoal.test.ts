/** The command line as a person meets it: sentences and exit codes of wrong use, without any cluster. Runs the built command. */
import { createServer } from 'node:net'
import t from 'tap'
import { shoal } from '../../lib/cluster.ts'

const expectFailure = async (
  t: Tap,
  args: readonly string[],
  code: number,
  sentence: string | RegExp,
): Promise<void> => {
  const ran = await shoal(args)
  t.equal(ran.code, code, `exit code of shoal ${args.join(' ')}`)
  t.match(ran.stderr, sentence, `what shoal ${args.join(' ')} says`)
  t.equal(ran.stdout, '')
  t.notMatch(ran.stderr, /\n {4}at /, 'no stack')
}
type Tap = typeof t

t.test('wrong command lines', async (t) => {
  const cases: [string[], string][] = [
    [['frob'], "shoal: unknown command 'frob'; see shoal --help\n"],
    [['stats'], '(did you mean status?); see shoal --help'],
    [['up', '--bogus'], "shoal: unknown option '--bogus'; see shoal up --help\n"],
    [['up', 'a', 'b'], 'too many arguments'],
    [['up', '--copies', '0'], 'it has to be a whole number from 1 to 16; see shoal up --help'],
    [['up', '--port', '65536'], 'it has to be a whole number from 1 to 65535; see'],
    [['master'], "required option '--data <dir>' not specified"],
    [['master', '--data', 'x', '--listen', 'x'], 'it has to be HOST:PORT, such as 127.0.0.1:9320; see'],
    [['master', '--data', 'x', '--copies', '1', '--min-copies', '2'], '--min-copies 2 is more than --copies 1'],
    [['master', '--data', 'x', '--placement', 'best'], 'allowed choices are weighted, random, rendezvous'],
    [['chunkserver', '--data', 'x'], "required option '--master <host:port>' not specified"],
    [['chunkserver', '--data', 'x', '--master', 'm:1', '--capacity', '10x'], 'it has to be a size such as 500MiB'],
    [['mount', '127.0.0.1:9320'], "missing required argument 'dir'"],
    [['mount', '127.0.0.1', 'x'], 'it has to be HOST:PORT'],
    [['mount', 'm:1/a/../b', 'x'], 'without "." and ".."; see shoal mount --help'],
    [['status', 'nowhere'], 'it has to be HOST:PORT'],
    [['status', '--timeout', '0'], 'it has to be a duration from 1ms to 1d'],
    [['master', '--data', 'x', '--session-lease', '1ms'], 'it has to be a duration from 100ms to 1h'],
    [['chunkserver', '--data', 'x', '--master', 'm:1', '--capacity', '0'], 'it has to be at least 64.0 MiB'],
    [['up', '--copies', '4'], '4 copies need at least 4 chunk servers, not 3; see shoal up --help'],
    [['fsck', '--repair', '--backup', 'x'], 'a backup is not repaired: restore it, and repair the cluster'],
    [['status', '--timeout', '5'], 'it has to be a duration such as 500ms, 10s, 5m or 2h; see shoal status --help'],
  ]
  for (const [args, sentence] of cases) {
    await t.test(args.join(' '), async (t) => expectFailure(t as Tap, args, 2, sentence))
  }
  await t.test('no command at all shows the help', async (t) => expectFailure(t as Tap, [], 2, /^Usage: shoal/))
})

t.test('help and version', async (t) => {
  t.match(await shoal(['--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
  for (const command of ['up', 'master', 'chunkserver', 'mount', 'umount', 'abort', 'status', 'config']) {
    const ran = await shoal([command, '--help'])
    t.equal(ran.code, 0)
    t.match(ran.stdout, /\nExamples:\n/, `${command} has examples`)
    t.notMatch(ran.stdout, 'exit-with-parent')
  }
})

t.test('an environment that names no address', async (t) => {
  t.match(await shoal(['df'], { env: { ...process.env, SHOAL_MASTER: 'nowhere' } }), {
    code: 1,
    stderr: 'shoal: SHOAL_MASTER = nowhere: It has to be HOST:PORT',
  })
})

t.test('a master that is away', async (t) => {
  await expectFailure(
    t as Tap,
    ['status', '127.0.0.1:1'],
    1,
    'shoal: no Shoal master answers at 127.0.0.1:1: nothing listens there\n',
  )
  await expectFailure(
    t as Tap,
    ['status', 'no-such-host.invalid:1'],
    1,
    /^shoal: no Shoal master answers at no-such-host.invalid:1: .+\n$/,
  )
})

t.test('something else where the master should be', async (t) => {
  for (const [name, answer] of [
    ['HTTP', 'HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n'],
    ['silence', ''],
  ] as const) {
    await t.test(name, async (t) => {
      const server = createServer((socket) => {
        socket.on('error', () => undefined).write(answer)
        t.teardown(() => socket.destroy())
      })
      await new Promise<void>((resolve) => {
        server.listen(0, '127.0.0.1', resolve)
      })
      t.teardown(() => server.close())
      const address = server.address()
      const port = typeof address === 'object' ? address?.port : undefined
      await expectFailure(
        t as Tap,
        ['status', '--timeout', '1s', `127.0.0.1:${port}`],
        1,
        new RegExp(`^shoal: no Shoal master answers at 127.0.0.1:${port}: .+\\n$`),
      )
    })
  }
})

t.test('unmounting what is no mount of ours', async (t) => {
  await expectFailure(
    t as Tap,
    ['umount', '/proc'],
    1,
    'shoal: what is mounted at /proc is proc, not Shoal: use umount\n',
  )
  const directory = t.testdir()
  await expectFailure(t as Tap, ['umount', directory], 1, `shoal: nothing is mounted at ${directory}\n`)
})
