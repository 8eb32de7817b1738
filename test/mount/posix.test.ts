/** A mount keeps the rules that a local file system keeps; and what another mount must see of them. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Doer } from '../conformance/posix-steps-suite.ts'
import { posixComparison, posixRules } from '../conformance/posix-steps-suite.ts'
import { posixSuite, posixSuitePrograms } from '../conformance/posix-suite.ts'
import { Agent } from '../lib/agent.ts'
import { eventually, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

const programs = [...posixSuitePrograms, 'setpriv', 'chattr']
const asUser = ['--reuid=1000', '--regid=1000', '--clear-groups']

/** Prints the file handle of a path in hexadecimal, or reads the file of one: handle PATH | read DIRECTORY HANDLE. */
const handleProgram = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
handle = Handle(128)
if sys.argv[1] == "handle":
    assert libc.name_to_handle_at(-100, sys.argv[2].encode(), ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0) == 0
    print(bytes(handle).hex())
else:
    handle = Handle.from_buffer_copy(bytes.fromhex(sys.argv[3]))
    fd = libc.open_by_handle_at(os.open(sys.argv[2], os.O_RDONLY), ctypes.byref(handle), os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    print(os.read(fd, 100).decode())
`

t.test('a mount', { timeout: 300_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs }))) return
  const cluster = await startCluster(t, { mounts: 2 })
  const [here, there] = cluster.mounts.map(({ directory }) => directory) as [string, string]
  await posixSuite(t, here)

  const oracle = await mkdtemp(join(tmpdir(), 'shoal-posix-'))
  t.teardown(() => rm(oracle, { recursive: true, force: true }))
  const agentIn = async (directory: string): Promise<Doer> => {
    const agent = new Agent(t)
    await agent.must(['mkdir', directory], ['chdir', directory])
    return agent
  }
  await t.test('the rules step by step', (t) => posixRules(t, (name) => agentIn(join(here, name))))
  await t.test('random steps here and in a local directory', async (t) => {
    for (let seed = 11; seed <= 13; seed++) {
      const [local, mounted] = await Promise.all([oracle, here].map((root) => agentIn(join(root, `seed-${seed}`))))
      await posixComparison(t, { oracle: local!, subject: mounted!, seed, steps: 400 })
    }
  })

  await t.test('with nosuid and nodev a mount has neither', async (t) => {
    const plain = await cluster.addMount(['-o', 'nosuid,nodev'])
    await sh(`cp /usr/bin/id '${here}/id'; chmod 4755 '${here}/id'; mknod -m 666 '${here}/null' c 1 3`)
    const as = async (directory: string): Promise<string> =>
      (await check('setpriv', [...asUser, './id', '-u'], { cwd: directory })).trim()
    const writes = async (directory: string): Promise<boolean> =>
      (await run('sh', ['-c', 'echo x > null'], { cwd: directory })).code === 0
    t.equal(await as(here), '0')
    t.equal(await as(plain.directory), '1000')
    t.ok(await writes(here))
    t.notOk(await writes(plain.directory))
  })

  await t.test('a list that another mount sets counts at once', async (t) => {
    await sh(`echo text > '${here}/list'; chmod 600 '${here}/list'`)
    // By its name alone: others may not search the directory that the mount is in.
    const reads = async (): Promise<boolean> =>
      (await run('setpriv', [...asUser, 'cat', 'list'], { cwd: there })).code === 0
    t.notOk(await reads())
    await sh(`setfacl -m u:1000:r '${here}/list'`)
    t.ok(await reads())
    await sh(`setfacl -x u:1000 '${here}/list'`)
    t.notOk(await reads())
  })

  await t.test('a file that another mount makes immutable is not written any more', async (t) => {
    await sh(`echo text > '${here}/fixed'`)
    const said = await sh(`
      exec 3>> '${there}/fixed'; echo more >&3; chattr +i '${here}/fixed'
      echo late 2>&1 >&3 || echo refused; chattr -i '${here}/fixed'; echo end >&3; cat '${here}/fixed'`)
    t.match(said, /refused\ntext\nmore\nend\n$/)
  })

  await t.test('when a file was read is known everywhere', async (t) => {
    await sh(`echo text > '${here}/read'; sleep 0.02; cat '${there}/read'`)
    await eventually('the other mount shows the time of the reading', async () => {
      const [read, written] = (await sh(`stat -c '%.9X %.9Y' '${here}/read'`)).split(' ').map(Number)
      return read! > written!
    })
    t.pass('it does')
  })

  await t.test('a file handle is good for another mount, and for the next one', async (t) => {
    await sh(`echo text > '${here}/handled'`)
    const handle = (await sh(`python3 -c '${handleProgram}' handle '${here}/handled'`)).trim()
    const read = async (directory: string): Promise<string> =>
      (await sh(`python3 -c '${handleProgram}' read '${directory}' ${handle}`)).trim()
    t.equal(await read(there), 'text')
    await cluster.mount.restart('SIGTERM')
    t.equal(await read(here), 'text')
  })
})
