/** `shoal up`: one command starts everything, Ctrl-C stops everything, and nothing is left behind whatever happens. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { eventually, forceUnmount, shoal, shoalCli } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

interface Up {
  child: ChildProcess
  /** What it printed to standard output. */
  lines: string[]
  /** Resolves with the line that says where it is mounted. */
  mounted: Promise<string>
  ended: Promise<number | null>
}

const startUp = (args: readonly string[]): Up => {
  const child = spawn(process.execPath, [shoalCli, 'up', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const lines: string[] = []
  let said = ''
  child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString('utf8')))
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const mounted = new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      lines.push(line)
      if (line.startsWith('Shoal is mounted')) resolve(line)
    })
    void ended.then((code) => reject(new Error(`it ended with ${code}: ${said}`)))
  })
  mounted.catch(() => undefined)
  return { child, lines, mounted, ended }
}

const pidsIn = async (data: string): Promise<number[]> =>
  (JSON.parse(await readFile(join(data, 'up.json'), 'utf8')) as { pids: number[] }).pids

const isAlive = async (pid: number): Promise<boolean> => {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return text !== '' && !/\) Z /.test(text)
}

const isMounted = async (directory: string): Promise<boolean> =>
  (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').some((line) => line.split(' ')[4] === directory)

t.test('shoal up', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const base = await mkdtemp(join(tmpdir(), 'shoal-up-'))
  const directory = join(base, 'mnt')
  const data = join(base, 'data')
  const started: Up[] = []
  const up = (...args: string[]): Up => {
    const one = startUp([directory, '--data', data, ...args])
    started.push(one)
    return one
  }
  const everyPid = new Set<number>()
  t.teardown(async () => {
    for (const { child } of started) child.kill('SIGKILL')
    await forceUnmount(directory)
    for (const pid of everyPid) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It is gone, as it should be.
      }
    }
    await rm(base, { recursive: true, force: true })
  })
  const remember = async (): Promise<number[]> => {
    const pids = await pidsIn(data)
    for (const pid of pids) everyPid.add(pid)
    return pids
  }
  const nothingLeft = async (
    t: { notOk(value: unknown, message: string): unknown },
    pids: readonly number[],
  ): Promise<void> => {
    for (const pid of pids) t.notOk(await isAlive(pid), `process ${pid} has ended`)
    t.notOk(await isMounted(directory), 'nothing is mounted')
  }

  await t.test('starts, and stops at SIGINT without leaving anything', async (t) => {
    const one = up()
    const line = await one.mounted
    t.match(line, `Shoal is mounted at ${directory}: 3 chunk servers, 3 copies`)
    const pids = await remember()
    t.equal(pids.length, 5)
    await check('cp', ['-a', '/usr/include/linux', `${directory}/`])
    await sh(`echo kept > '${directory}/file'; sync '${directory}/file'`)

    const second = await shoal(['up', join(base, 'other'), '--data', data])
    t.match(second, { code: 1, stderr: `another "shoal up" runs on ${data}` })
    const third = await shoal(['up', directory, '--data', join(base, 'data-2')])
    t.match(third, { code: 1, stderr: `Shoal is mounted at ${directory} already` })
    const address = /master at ([^,]+),/.exec(line)?.[1] ?? ''
    t.match(await shoal(['status', address]), { code: 0, stdout: /health +good/ })

    one.child.kill('SIGINT')
    t.equal(await one.ended, 0)
    t.equal(one.lines.length, 1, 'one line when it is not a terminal')
    await nothingLeft(t, pids)
  })

  await t.test('the next start has all files, on the same port', async (t) => {
    const one = up()
    const line = await one.mounted
    await remember()
    t.equal(await check('cat', [`${directory}/file`]), 'kept\n')
    await sh(`diff -r /usr/include/linux '${directory}/linux'`)
    t.match(line, started[0]?.lines[0]?.match(/127\.0\.0\.1:\d+/)?.[0] ?? 'the same address')

    // A role that dies is started again, and the mount lives on.
    const pids = await pidsIn(data)
    for (const pid of pids.slice(1)) process.kill(pid, 'SIGKILL')
    await eventually('other processes take their places', async () => {
      const now = await remember()
      return now.length === pids.length && now.slice(1).every((pid) => !pids.includes(pid))
    })
    t.equal(await check('cat', [`${directory}/file`]), 'kept\n')
    const [mount] = await remember()
    process.kill(mount ?? 0, 'SIGKILL')
    await eventually('the mount is back', async () => (await check('cat', [`${directory}/file`])) === 'kept\n')

    const last = await remember()
    one.child.kill('SIGTERM')
    t.equal(await one.ended, 0)
    await nothingLeft(t, last)
  })

  await t.test('killed, it takes everything with it; the start after it works', async (t) => {
    const one = up()
    await one.mounted
    const pids = await remember()
    await sh(`echo later > '${directory}/later'`)
    one.child.kill('SIGKILL')
    const two = up()
    await two.mounted
    for (const pid of pids) t.notOk(await isAlive(pid), `process ${pid} of the killed one has ended`)
    t.equal(await check('cat', [`${directory}/later`]), 'later\n')
    const again = await remember()
    two.child.kill('SIGKILL')
    await eventually('everything ends by itself', async () => {
      const alive = await Promise.all(again.map(isAlive))
      return !alive.includes(true) && !(await isMounted(directory))
    })
  })

  await t.test('umount from outside stops everything', async (t) => {
    const one = up()
    await one.mounted
    const pids = await remember()
    t.match(await shoal(['umount', directory]), { code: 0 })
    t.equal(await one.ended, 0)
    await nothingLeft(t, pids)
  })

  await t.test('sentences', async (t) => {
    const full = join(base, 'full')
    await mkdir(full)
    await writeFile(join(full, 'x'), '')
    t.match(await shoal(['up', full, '--data', data]), { code: 1, stderr: `${full} is not empty` })
    t.match(await shoal(['up', join(full, 'x'), '--data', data]), { code: 1, stderr: 'cannot make the mount point' })
    t.match(await shoal(['up', '/proc', '--data', data]), { code: 1, stderr: '/proc is a mount point already (proc' })
    t.match(await shoal(['up', base, '--data', data]), { code: 1, stderr: 'would be hidden under the mount point' })
    t.match(await shoal(['up', directory, '--data', join(full, 'x')]), {
      code: 1,
      stderr: 'cannot make the data directory',
    })
    t.match(await shoal(['up', '--copies', '4']), { code: 2, stderr: '4 copies need at least 4 chunk servers, not 3' })
    await writeFile(join(data, 'up.json'), '{"masterPort":')
    t.match(await shoal(['up', directory, '--data', data]), { code: 1, stderr: 'is damaged; remove it' })
  })
})
