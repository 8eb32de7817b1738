/** What an administrator does to a mount: looks at what it is doing, and ends one that hangs. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { eventually, shoal, shoalCli, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

interface Rates {
  reads: number
  readBytes: number
  readMs?: number
  writes: number
  writeBytes: number
  writeMs?: number
  others: number
}

interface Sample {
  mounts: (Rates & { mountPoint: string })[]
  servers: (Rates & { serverId: number; state: string })[]
}

t.test('a mount that is looked at and aborted', { timeout: 180_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { servers: 2, copies: 2, mounts: 2 })
  const [busy, other] = cluster.mounts
  if (busy === undefined || other === undefined) throw new Error('two mounts were asked for')

  await t.test('shoal top shows who reads and writes, and who does not', async (t) => {
    const top = spawn(
      process.execPath,
      [shoalCli, 'top', '--json', '--count', '100', '--interval', '1s', '--master', cluster.masterAddress],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    t.teardown(() => top.kill('SIGKILL'))
    const samples: Sample[] = []
    createInterface({ input: top.stdout }).on('line', (line) => samples.push(JSON.parse(line) as Sample))
    const worker = spawn(
      'bash',
      ['-c', 'while head -c 4000000 /dev/zero > file && sync file && cat file > /dev/null; do sleep 0.1; done'],
      { cwd: busy.directory, stdio: 'ignore', detached: true },
    )
    t.teardown(() => {
      try {
        process.kill(-(worker.pid ?? 0), 'SIGKILL')
      } catch {
        // It has ended.
      }
    })
    const mountIn = (sample: Sample | undefined, mountPoint: string): Rates | undefined =>
      sample?.mounts.find((mount) => mount.mountPoint === mountPoint)
    const writes = await eventually('a look shows the writes', async () => {
      const rates = mountIn(samples.at(-1), busy.directory)
      return rates !== undefined && rates.writeBytes > 0 && rates
    })
    t.ok(writes.writes > 0 && (writes.writeMs ?? 0) > 0)
    t.match(mountIn(samples.at(-1), other.directory), { writeBytes: 0, readBytes: 0 })
    await eventually('both servers are written to', async () =>
      samples.some(({ servers }) => servers.length === 2 && servers.every(({ writeBytes }) => writeBytes > 0)),
    )
    worker.kill('SIGKILL')
    const text = (await shoal(['top', '--interval', '1s', '--master', cluster.masterAddress])).stdout
    t.match(text, busy.directory)
    t.match(text, /^server +state +reads\/s/m)
  })

  await t.test('a mount that hangs is aborted: who waits gets an error', async (t) => {
    await sh(
      `mkdir '${busy.directory}/folder'; echo synced > '${busy.directory}/folder/file'; sync '${busy.directory}/folder/file'`,
    )
    await busy.kill('SIGSTOP')
    const waiting = run('ls', ['-la', join(busy.directory, 'folder')])
    const entry = await check('grep', [` ${busy.directory} `, '/proc/self/mountinfo'])
    const connection = entry.split(' ')[2]?.split(':')[1] ?? ''
    const control = `/sys/fs/fuse/connections/${connection}/waiting`
    await eventually('ls waits in it', async () => Number(await readFile(control, 'utf8').catch(() => '1')) > 0)
    t.match(await shoal(['abort', busy.directory]), { code: 0, stdout: '', stderr: '' })
    t.match(await waiting, { code: 2, stderr: /abort|not connected/ })
    t.match(await run('ls', [busy.directory]), { code: 2, stderr: 'not connected' })
    t.match(await run('cat', [join(other.directory, 'folder/file')]), { code: 0, stdout: 'synced\n' }, 'others go on')
    await busy.kill('SIGCONT')
    t.match(await busy.ended(), { signal: null }, 'its process ends by itself')
    t.match(await shoal(['umount', '--lazy', busy.directory]), { code: 0, stderr: '' })
    t.match(await shoal(['umount', busy.directory]), { code: 1, stderr: 'nothing is mounted' })
  })

  await t.test('sentences', async (t) => {
    t.match(await shoal(['abort', '/proc']), {
      code: 1,
      stderr: 'shoal: what is mounted at /proc is proc, not Shoal\n',
    })
    const directory = t.testdir()
    t.match(await shoal(['abort', directory]), { code: 1, stderr: `shoal: nothing is mounted at ${directory}\n` })
    t.match(await shoal(['top', '--master', '127.0.0.1:1']), { code: 1, stderr: 'no Shoal master answers' })
  })
})
