/** open(2) with O_CREAT of a name that another client has just made: the kernel took it for a new one and has checked nothing. */
import t from 'tap'
import { PosixError } from '../../../src/domain/errors.ts'
import { caller, startInProcessCluster } from '../../lib/in-process-cluster.ts'

const O_RDWR = 2
const O_TRUNC = 0o1000
const noKill = { killPrivileges: false }
const name = Buffer.from('private')

const code = (caught: unknown): string => (caught instanceof PosixError ? caught.code : String(caught))

t.test('who may not clearly open it is sent back to look it up', async (t) => {
  const cluster = await startInProcessCluster(t)
  const a = await cluster.mount()
  const b = await cluster.mount()
  const owner = { ...caller(), uid: 1000 }
  const made = await a.create(owner, a.root, name, 0o400, O_RDWR)
  await a.write(owner, made.opened.handle, 0n, Buffer.from('secret'), noKill)
  await a.fsync(owner, made.opened.handle, false)

  for (const [who, flags] of [
    [{ ...caller(), uid: 1001 }, 0],
    [owner, O_RDWR],
    [owner, O_TRUNC],
  ] as const) {
    t.equal(await b.create(who, b.root, name, 0o644, flags).then(() => 'opened', code), 'ESTALE')
  }
  const { attributes } = await b.lookup(caller(), b.root, name)
  t.equal(attributes.size, 6n, 'nothing was cut off')

  for (const [who, flags] of [
    [owner, 0],
    [caller(), O_RDWR],
  ] as const) {
    const { entry, opened } = await b.create(who, b.root, name, 0o644, flags)
    t.equal(entry.attributes.ino, attributes.ino)
    await b.release(opened.handle)
  }
})
