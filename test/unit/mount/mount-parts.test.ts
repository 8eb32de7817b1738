/** The small parts of the mount: options, mount table, callers and lock owners. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import { callerOf } from '../../../mount/caller.ts'
import { realCallers } from '../../../mount/mount-callers.ts'
import { LockOwners } from '../../../mount/lock-owners.ts'
import { parseMountOptions } from '../../../mount/mount-options.ts'
import { isShoal, mountedAt, parseMountInfo } from '../../../mount/mount-table.ts'
import { UsageError } from '../../../src/domain/errors.ts'
import { asIno } from '../../../src/domain/ids.ts'
import { realClock } from '../../../src/platform/clock.ts'

t.test('a caller is being killed or is gone, or nothing is known of it', async (t) => {
  const callers = realCallers(realClock)
  let isOver = false
  const interrupted: number[] = []
  const gone = spawn('true')
  await once(gone, 'exit')
  for (const pid of [0, process.pid, gone.pid!]) {
    callers.whenKilled(
      pid,
      () => isOver,
      () => interrupted.push(pid),
    )
  }
  await pause(500)
  isOver = true
  t.strictSame(interrupted, [gone.pid])
})

t.test('mount options', (t) => {
  t.strictSame(parseMountOptions([]), {
    forKernel: [],
    nonEmpty: false,
    cacheNames: true,
    allowOther: false,
    accessTimes: { directories: 'relative', others: 'relative' },
    caching: { leases: true, writeBehind: true },
  })
  t.strictSame(parseMountOptions(['ro,nosuid', 'allow_other', 'nonempty,default_permissions']), {
    forKernel: ['ro', 'nosuid'],
    nonEmpty: true,
    cacheNames: true,
    allowOther: true,
    accessTimes: { directories: 'never', others: 'never' },
    caching: { leases: true, writeBehind: true },
  })
  t.match(parseMountOptions(['noatime,strictatime', 'nodiratime']), {
    accessTimes: { directories: 'never', others: 'always' },
  })
  t.match(parseMountOptions(['noatime']), { accessTimes: { directories: 'never', others: 'never' } })
  t.match(parseMountOptions(['sync,async,sync']), { caching: { leases: true, writeBehind: false } })
  t.match(parseMountOptions(['sync', 'async']), { caching: { leases: true, writeBehind: true } })
  t.match(parseMountOptions(['noleases', 'strictatime']), {
    forKernel: ['strictatime'],
    caching: { leases: false, writeBehind: true },
    accessTimes: { directories: 'never', others: 'never' },
  })
  t.throws(() => parseMountOptions(['ro', 'fd=5']), UsageError, 'nothing that would get past us to the kernel')
  t.throws(() => parseMountOptions(['toString']), UsageError)
  t.end()
})

t.test('mount table', (t) => {
  // The shape is that of proc_pid_mountinfo(5): optional fields before the dash, octal escapes, any bytes in names.
  const text = `22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=continue
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
41 22 0:39 / /mnt/a\\040b\\134c rw,nosuid - fuse.shoal shoal:127.0.0.1:7000/ rw,user_id=0
broken line
42 22 0:40 / /mnt/\xff rw shared:2 master:3 - tmpfs tmpfs rw
43 22 0:53 / /mnt/${Buffer.from('ü').toString('latin1')} rw - fuse shoal:m:1/a rw
`
  const entries = parseMountInfo(text)
  const root = '/dev/root'
  t.strictSame(entries, [
    { mountPoint: Buffer.from('/'), type: 'ext4', source: root, device: { major: 0, minor: 21 } },
    { mountPoint: Buffer.from('/mnt2'), type: 'ext3', source: root, device: { major: 98, minor: 0 } },
    {
      mountPoint: Buffer.from('/mnt/a b\\c'),
      type: 'fuse.shoal',
      source: 'shoal:127.0.0.1:7000/',
      device: { major: 0, minor: 39 },
    },
    { mountPoint: Buffer.from('/mnt/\xff', 'latin1'), type: 'tmpfs', source: 'tmpfs', device: { major: 0, minor: 40 } },
    { mountPoint: Buffer.from('/mnt/ü'), type: 'fuse', source: 'shoal:m:1/a', device: { major: 0, minor: 53 } },
  ])
  t.same(entries.map(isShoal), [false, false, true, false, true])
  t.match(mountedAt('/proc'), { type: 'proc' })
  t.equal(mountedAt(t.testdir()), undefined)
  t.end()
})

t.test('a caller', (t) => {
  const early = callerOf({ uid: 1, gid: 2, pid: 3 })
  early.interrupt()
  t.equal(early.signal.aborted, true, 'interrupted before anybody looked')
  const late = callerOf({ uid: 1, gid: 2, pid: 3 })
  const { signal } = late
  t.equal(signal.aborted, false)
  t.equal({ ...late }.signal, signal, 'one signal, also of a copy')
  late.interrupt()
  t.equal(signal.aborted, true)
  t.match(signal.reason, { code: 'EINTR' })
  t.end()
})

t.test('lock owners', (t) => {
  const owners = new LockOwners()
  const file = asIno(5n)
  owners.add(1n, { ino: file, owner: 100n })
  owners.add(1n, { ino: file, owner: 200n })
  owners.add(2n, { ino: file, owner: 100n })
  owners.add(3n, { ino: asIno(6n), owner: 100n })
  owners.flush(file, 100n)
  t.strictSame(
    owners.release(1n)?.owners,
    new Set([200n]),
    'a process that closed the file is gone, a description is not',
  )
  t.strictSame(owners.release(1n), undefined)
  t.strictSame(owners.release(2n)?.owners, new Set())
  t.strictSame(owners.release(3n)?.owners, new Set([100n]), 'another file')
  owners.flush(file, 200n)
  t.end()
})
