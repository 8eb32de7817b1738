import t from 'tap'
import { mountPointPath } from '../../../src/cli/mount-point.ts'

t.test('the path of a mount point follows links above it, and is not looked at itself', async (t) => {
  const directory = t.testdir({ real: { mnt: {} }, link: t.fixture('symlink', 'real') })
  t.equal(await mountPointPath(`${directory}/link/mnt/`), `${directory}/real/mnt`)
  t.equal(await mountPointPath(`${directory}/missing/mnt`), `${directory}/missing/mnt`)
  t.equal(await mountPointPath('/'), '/')
})
