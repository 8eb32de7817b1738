/**
 * Loss of power below the processes: the master and each chunk server have an ext4 of their own that stops at some moment, with everything
 * that it had not written to its device, not even its journal. What was fsynced is there after the next mount.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

/** Files whose names and content are on disk are told on standard output. */
const writer = `
import hashlib, os, sys
root, who = sys.argv[1:]
i = 0
while True:
    path = "%s/%s-%d" % (root, who, i)
    data = hashlib.sha256(path.encode()).digest() * (1 + i * 7919 % 3000)
    fd = os.open(path + "~", os.O_CREAT | os.O_WRONLY, 0o644)
    assert os.write(fd, data) == len(data)
    os.fsync(fd); os.close(fd)
    if i % 2: os.rename(path + "~", path)
    else: os.link(path + "~", path); os.unlink(path + "~")
    fd = os.open(root, os.O_RDONLY); os.fsync(fd); os.close(fd)
    print(path, len(data), flush=True)
    # Something that is not synced beside it.
    open(path + "-later", "wb").write(data)
    i += 1
`
const checker = `
import hashlib, sys
count = 0
for line in sys.stdin:
    path, length = line.split()
    data = open(path, "rb").read()
    assert len(data) == int(length) and data == hashlib.sha256(path.encode()).digest() * (len(data) // 32), (path, len(data))
    count += 1
print(count)
`
/** EXT4_IOC_SHUTDOWN without a last write of the journal (linux/fs/ext4/ext4.h). */
const shutDown = `
import fcntl, os, struct, sys
for path in sys.argv[1:]:
    fcntl.ioctl(os.open(path, os.O_RDONLY), 0x8004587D, struct.pack("I", 2))
`

t.test('what was fsynced is there when every disk stopped at once', { timeout: 200_000 }, async (t) => {
  const programs = ['python3', 'mkfs.ext4', 'mount', 'losetup']
  if (!(await needs(t, { root: true, fuse: true, programs }))) return
  const scratch = await mkdtemp(join(tmpdir(), 'shoal-disks-'))
  const disks = ['master', 'server0', 'server1', 'server2'].map((name) => join(scratch, name))
  const everyDisk = (script: string): Promise<string> =>
    sh(`for disk in ${disks.map((disk) => `'${disk}'`).join(' ')}; do ${script}; done`)
  t.teardown(async () => {
    await run('bash', ['-c', `umount -l '${scratch}'/* 2>/dev/null`])
    await rm(scratch, { recursive: true, force: true })
  })
  await everyDisk(
    'truncate -s 256M "$disk.img"; mkfs.ext4 -q "$disk.img"; mkdir "$disk"; mount -o loop "$disk.img" "$disk"',
  )
  const cluster = await startCluster(t, {
    mounts: 2,
    masterData: join(disks[0]!, 'data'),
    serverData: (index) => join(disks[index + 1]!, 'data'),
  })
  const writing = cluster.mounts.map(({ directory }, who) => run('python3', ['-c', writer, directory, `${who}`]))
  await sleep(3000 + Math.random() * 2000)
  await check('python3', ['-c', shutDown, ...disks])
  await Promise.all(cluster.roles.map((role) => role.kill('SIGKILL')))
  const synced = (await Promise.all(writing)).map(({ stdout }) => stdout)
  await everyDisk('umount "$disk"; mount -o loop "$disk.img" "$disk"')

  await cluster.start()
  for (const [who, lines] of synced.entries()) {
    const whole = lines.slice(0, lines.lastIndexOf('\n') + 1)
    const count = whole.split('\n').length - 1
    t.ok(count > 0, `writer ${who} had synced ${count} files`)
    t.equal((await check('python3', ['-c', checker], { input: whole })).trim(), `${count}`, 'and they are there')
  }
})
