/**
 * The mount over a file system in memory: whatever is wrong here is wrong in mount/. The file system is served by a process of its
 * own (test/lib/memory-mount.ts), once for each way to read the device and once by libfuse; what programs do with it is in
 * test/lib/fuse-probe.py.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtemp, open, readdir, readFile, rmdir, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { fuseNative } from '../../mount/fuse-native/binding.ts'
import { nativeDevice } from '../../mount/native-device.ts'
import { needs } from '../lib/needs.ts'
import { run, sh } from '../lib/sh.ts'

const program = fileURLToPath(new URL('../lib/memory-mount.ts', import.meta.url))
const probe = fileURLToPath(new URL('../lib/fuse-probe.py', import.meta.url))
/** Of tap's loaders the one for TypeScript. */
const loader = process.execArgv.filter((argument) => argument.includes('@tapjs/typescript'))

interface Line {
  mounted?: string
  connection?: number
  ended?: { inodes: number; opens: number; references: number }
  failed?: string
  message?: string
}

interface Server {
  child: ChildProcess
  /** The first line: mounted or failed. */
  first: Line
  /** The last one. */
  last: Promise<Line>
  exited: Promise<void>
  stderr: () => string
}

/** Who serves: a way to read the device, or the other driver. */
type Kind = 'addon' | 'fs' | 'fuse-native'

/** The checks of what fuse-native cannot do, as docs/fuse.md has it. */
const beyondFuseNative = [
  'rename_flags',
  'names_of_any_bytes',
  'other_users',
  'set_user_id_is_cleared',
  'any_times',
  'unlinked_but_open_is_not_listed',
  'seek_in_holes',
  'fallocate',
  'memory_maps',
  'birth_time',
]

const environmentOf = (kind: Kind | undefined): NodeJS.ProcessEnv =>
  kind === 'fuse-native' ? { DRIVER: kind } : { SHOAL_FUSE_DEVICE: kind ?? '' }

/** Why it cannot be here. */
const lacks = (kind: Kind): string | undefined => {
  if (kind === 'addon' && nativeDevice() === undefined) return 'the native FUSE device was not built'
  if (kind !== 'fuse-native') return undefined
  try {
    fuseNative()
    return undefined
  } catch (caught) {
    return (caught as Error).message
  }
}

interface ServeOptions {
  kind?: Kind
  options?: string[]
  env?: NodeJS.ProcessEnv
}

const serve = async (directory: string, { kind, options = [], env = {} }: ServeOptions = {}): Promise<Server> => {
  const child = spawn(process.execPath, [...loader, program, directory, ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environmentOf(kind), ...env },
  })
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const lines: Line[] = []
  let firstCame: (line: Line) => void
  const first = new Promise<Line>((resolve) => (firstCame = resolve))
  createInterface(child.stdout).on('line', (text) => {
    const line = JSON.parse(text) as Line
    lines.push(line)
    firstCame(line)
  })
  const last = exited.then(() => lines.at(-1) ?? {})
  const began = await Promise.race([first, exited.then((): Line => ({ failed: 'exit', message: stderr }))])
  return { child, first: began, last, exited, stderr: () => stderr }
}

type Test = Pick<typeof t, 'teardown' | 'equal'>

/** A directory to mount on, which is unmounted and removed at the end whatever happens. */
const mountPoint = async (t: Test): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-mount-'))
  t.teardown(async () => {
    await run('umount', ['-l', directory])
    await rmdir(directory)
  })
  return directory
}

const served = async (t: Test, options: ServeOptions = {}): Promise<[string, Server]> => {
  const directory = await mountPoint(t)
  const server = await serve(directory, options)
  t.teardown(async () => {
    server.child.kill('SIGKILL')
    await server.exited
  })
  t.equal(server.first.mounted, directory, server.first.message ?? 'mounted')
  return [directory, server]
}

const code = async (what: Promise<unknown>): Promise<string> => {
  try {
    await what
    return 'fine'
  } catch (caught) {
    return (caught as NodeJS.ErrnoException).code ?? String(caught)
  }
}

const isMounted = async (directory: string): Promise<boolean> =>
  (await readFile('/proc/self/mountinfo', 'utf8')).includes(` ${directory} `)

for (const kind of ['addon', 'fs', 'fuse-native'] as const) {
  t.test(`device: ${kind}`, { timeout: 240_000 }, async (t) => {
    if (!(await needs(t, { root: true, fuse: true, programs: ['python3', 'mount'] }))) return
    const why = lacks(kind)
    if (why !== undefined) {
      if (process.env['SHOAL_REQUIRE_ALL'] === '1') t.fail(why)
      else t.pass('skipped', { skip: why })
      return
    }

    await t.test('what programs do', async (t) => {
      const [directory, server] = await served(t, { kind })
      const left = kind === 'fuse-native' ? beyondFuseNative.map((name) => `-${name}`) : []
      const { stdout, stderr } = await run('python3', [probe, directory, ...left], { timeoutMs: 180_000 })
      const results = stdout.trimEnd().split('\n')
      t.ok(results.length > 20, 'the checks ran')
      for (const result of results) t.ok(result.startsWith('ok '), result, { stderr })
      t.strictSame(await readdir(directory), [])
      await sh(`umount '${directory}'`)
      t.strictSame(await server.last, { ended: { inodes: 1, opens: 0, references: 0 } }, 'nothing is left over')
      t.equal(server.stderr(), '', 'nothing to complain about')
    })

    await t.test('a bug in the file system is EIO and a line in the log, and the mount lives on', async (t) => {
      const [directory, server] = await served(t, { kind })
      t.equal(await code(stat(join(directory, 'trouble-bug'))), 'EIO')
      t.equal(await code(stat(join(directory, 'trouble-code'))), 'EXDEV')
      await writeFile(join(directory, 'f'), 'lives')
      t.equal(await readFile(join(directory, 'f'), 'utf8'), 'lives')
      t.match(server.stderr(), /a bug, on purpose/)
      t.equal(await code(stat(join(directory, '..', 'none'))), 'ENOENT')
      server.child.kill('SIGTERM')
      t.match(await server.last, { ended: {} })
    })

    if (kind === 'fuse-native') {
      await t.test('what it cannot do, as its documentation says', async (t) => {
        const [directory, server] = await served(t, { kind })
        const { stdout } = await run('python3', [probe, directory, ...beyondFuseNative], { timeoutMs: 60_000 })
        t.strictSame(
          stdout.match(/^not ok \w+/gm),
          beyondFuseNative.map((name) => `not ok ${name}`),
        )
        server.child.kill('SIGTERM')
        t.match(await server.last, { ended: { opens: 0, references: 0 } })
      })
    }

    await t.test('what the kernel may keep for ever goes when it is told', async (t) => {
      if (kind === 'fuse-native') {
        t.pass('it keeps nothing')
        return
      }
      const [directory, server] = await served(t, { kind, env: { VALIDITY_MS: 'Infinity' } })
      const ask = (question: string): Promise<string> => code(stat(join(directory, question)))
      for (const name of ['f', 'g']) {
        await run('touch', [join(directory, name)])
        await writeFile(join(directory, name), 'contents')
        t.equal((await stat(join(directory, name))).size, 8)
      }
      t.equal(await ask('truncate:f'), 'ENOENT')
      t.equal(await ask('unlink:g'), 'ENOENT')
      t.equal((await stat(join(directory, 'f'))).size, 8, 'still cached')
      t.equal((await stat(join(directory, 'g'))).size, 8, 'still cached')
      await ask('tell:f')
      await ask('tell:g')
      // Nobody waits for an invalidation to be carried out, so neither can the test.
      const until = performance.now() + 10_000
      const isTold = async (): Promise<boolean> =>
        (await stat(join(directory, 'f'))).size === 1 && (await code(stat(join(directory, 'g')))) === 'ENOENT'
      while (!(await isTold()) && performance.now() < until) await sleep(10)
      t.ok(await isTold(), 'the kernel has asked again')
      t.equal(await readFile(join(directory, 'f'), 'utf8'), 'c')
      t.equal(server.stderr(), '')
      server.child.kill('SIGTERM')
      await server.exited
    })

    await t.test('SIGTERM while a program has a file open: detached after a while, and then cut off', async (t) => {
      const [directory, server] = await served(t, { kind })
      const file = await open(join(directory, 'f'), 'w+')
      await file.write('before')
      server.child.kill('SIGTERM')
      t.match(await server.last, { ended: {} })
      t.equal(await isMounted(directory), false)
      t.match(await code(file.stat()), /ENOTCONN|ECONNABORTED/)
      await file.close().catch(() => undefined)
    })
  })
}

t.test('mount options and sentences', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['mount'] }))) return

  const refused = async (directory: string, options: string[] = []): Promise<string> => {
    const server = await serve(directory, { options })
    t.equal(server.first.failed, 'UsageError', server.first.message ?? 'refused')
    await server.exited
    return server.first.message ?? ''
  }

  await t.test('-o ro', async (t) => {
    const [directory, server] = await served(t, { options: ['ro,noatime'] })
    t.equal(await code(writeFile(join(directory, 'f'), '')), 'EROFS')
    t.match(await readFile('/proc/self/mountinfo', 'utf8'), new RegExp(`${directory} ro,noatime .* fuse.shoal memory `))
    server.child.kill('SIGTERM')
    await server.exited
  })

  await t.test('what cannot be mounted on', async (t) => {
    const directory = await mountPoint(t)
    const files = t.testdir({ file: '', full: { file: '' } })
    t.match(await refused(join(directory, 'none')), /does not exist; create the directory first/)
    t.match(await refused(join(files, 'file')), /is not a directory$/)
    t.match(await refused(join(files, 'full')), /is not empty, and a mount would hide/)
    t.match(await refused(directory, ['ro', 'rwx']), /unknown mount option "rwx"; known are ro, rw,/)
  })

  await t.test('a mount point in use, and one whose server has died', async (t) => {
    const [directory, server] = await served(t)
    t.match(await refused(directory), /is in use: fuse.shoal is mounted there/)
    await writeFile(join(directory, 'f'), 'still served')
    server.child.kill('SIGKILL')
    await server.exited
    t.match(await refused(directory), /is a mount whose server has died; remove it with: umount -l/)
    t.equal(await code(stat(directory)), 'ENOTCONN')
    await sh(`umount -l '${directory}'`)
    const again = await serve(directory)
    t.equal(again.first.mounted, directory)
    again.child.kill('SIGTERM')
    await again.exited
  })

  await t.test("an ordinary user cannot mount on somebody else's directory", async (t) => {
    const directory = await mountPoint(t)
    const child = await run(
      process.execPath,
      [
        ...loader,
        '-e',
        `process.setuid(65534); process.argv[2] = ${JSON.stringify(directory)}; import(${JSON.stringify(program)})`,
      ],
      {},
    )
    t.match(child.stdout, /"UsageError".* cannot be used as a mount point/)
  })
})
