import t from 'tap'
import { isShoal, mountedAt, mountPointPath, parseMountInfo } from '../../../src/cli/mount-table.ts'

t.test('lines of mountinfo', async (t) => {
  // The shape is that of proc_pid_mountinfo(5): optional fields before the dash, octal escapes, names in UTF-8.
  const text = [
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue',
    String.raw`41 35 0:52 / /mnt/with\040space rw,relatime shared:3 master:2 - fuse.shoal shoal:127.0.0.1:9320/ rw,user_id=0`,
    `42 35 0:53 / /mnt/${Buffer.from('ü').toString('latin1')} rw - fuse shoal:m:1/a rw`,
    'nonsense',
    '',
  ].join('\n')
  const entries = parseMountInfo(text)
  t.same(entries, [
    { mountPoint: '/mnt2', type: 'ext3', source: '/dev/root', minor: 0 },
    { mountPoint: '/mnt/with space', type: 'fuse.shoal', source: 'shoal:127.0.0.1:9320/', minor: 52 },
    { mountPoint: '/mnt/ü', type: 'fuse', source: 'shoal:m:1/a', minor: 53 },
  ])
  t.same(entries.map(isShoal), [false, true, true])
})

t.test('this machine', async (t) => {
  t.match(await mountedAt('/proc'), { type: 'proc' })
  t.equal(await mountedAt(t.testdir()), undefined)
})

t.test('the path of a mount point follows links above it, and is not looked at itself', async (t) => {
  const directory = t.testdir({ real: { mnt: {} }, link: t.fixture('symlink', 'real') })
  t.equal(await mountPointPath(`${directory}/link/mnt/`), `${directory}/real/mnt`)
  t.equal(await mountPointPath(`${directory}/missing/mnt`), `${directory}/missing/mnt`)
  t.equal(await mountPointPath('/'), '/')
})
