/**
 * The scripts that provision real machines, on machines made of namespaces: what the Vagrantfile does, in the same order, with the
 * same arguments; then a chunk server goes down while one client writes and the other reads.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { eventually, type ClusterStatus } from '../lib/cluster.ts'
import { startMachines, type Machine } from '../lib/machines.ts'
import { missing, needs } from '../lib/needs.ts'
import { check, run } from '../lib/sh.ts'

const programs = ['unshare', 'nsenter', 'ip', 'setpriv', 'python3', 'systemd-notify', 'systemd-escape', 'mount', 'npm']

t.test('a cluster of provisioned machines', { timeout: 400_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs }))) return
  const package_ = join(t.testdir(), 'package.tar.gz')
  await check('sh', ['deploy/package.sh', package_])
  const machines = await startMachines(t)
  const provisioned = async (name: string, role: (machine: Machine) => readonly string[]): Promise<Machine> => {
    const machine = await machines.add(name)
    await machine.put(package_, '/tmp/package.tar.gz')
    await machine.sh('mkdir /tmp/unpacked && tar xzf /tmp/package.tar.gz -C /tmp/unpacked deploy')
    await machine.sh(`sh /tmp/unpacked/deploy/provision.sh --package /tmp/package.tar.gz ${role(machine).join(' ')}`)
    return machine
  }
  const master = await provisioned('master', ({ address }) => ['master', address])
  const server = (name: string, rack: string): Promise<Machine> =>
    provisioned(name, ({ address }) => ['chunkserver', name, address, master.address, rack])
  const servers = [await server('chunk1', 'a'), await server('chunk2', 'b'), await server('chunk3', 'b')]
  const client = (name: string): Promise<Machine> =>
    provisioned(name, () => ['client', master.address, '/mnt/shoal-data'])
  const [client1, client2] = [await client('client1'), await client('client2')]
  const status = async (): Promise<ClusterStatus> =>
    JSON.parse(await client1.sh(`shoal status --json ${master.address}:9320`)) as ClusterStatus

  await t.test('is up, with its racks, and not as root', async (t) => {
    const { servers: seen, sessions } = await status()
    t.same(
      seen.map(({ address, rack, state }) => ({ address, rack, state })),
      servers.map(({ address }, index) => ({ address: `${address}:9330`, rack: index === 0 ? 'a' : 'b', state: 'up' })),
    )
    t.same(
      sessions.map(({ mountPoint }) => mountPoint),
      ['/mnt/shoal-data', '/mnt/shoal-data'],
    )
    t.equal(await master.sh('stat -c %U /proc/$(cat /run/stand-in/shoal-master.service.pid)'), 'shoal\n')
    const owner = await servers[0]!.sh('stat -c %U /proc/$(cat /run/stand-in/shoal-chunkserver@chunk1.service.pid)')
    t.equal(owner, 'shoal\n')
    await master.sh('cd /usr/share; test -s man/man1/shoal-mount.1; test -s bash-completion/completions/shoal')
  })

  await t.test('one writes, the other reads, and a chunk server goes down in between', async (t) => {
    const sum = await client1.sh(
      'cd /mnt/shoal-data && head -c 20000000 /dev/urandom > before && sync before && sha256sum before',
    )
    await servers[1]!.halt()
    t.equal(await client2.sh('cd /mnt/shoal-data && sha256sum before'), sum)
    await client2.sh('echo still > /mnt/shoal-data/after && sync /mnt/shoal-data/after')
    t.equal(await client1.sh('cat /mnt/shoal-data/after'), 'still\n')
    await eventually('the master sees that it is away', async () =>
      (await status()).servers.some(({ state }) => state === 'down'),
    )
  })

  await t.test('a chunk server is provisioned again with another rack, and a client with what it has', async (t) => {
    const again = 'sh /tmp/unpacked/deploy/provision.sh --package /tmp/package.tar.gz'
    const [, , third] = servers
    t.match(await third!.sh(`${again} chunkserver chunk3 ${third!.address} ${master.address} c`), 'wrote /etc/shoal')
    await eventually('the new rack is seen', async () =>
      (await status()).servers.some(({ rack, state }) => rack === 'c' && state === 'up'),
    )
    // A second disk of the same machine has a port of its own, and keeps it.
    const disk = `${again} chunkserver disk2 ${third!.address} ${master.address} c`
    t.match(await third!.sh(disk), 'wrote /etc/shoal/chunkserver-disk2.conf')
    t.notMatch(await third!.sh(disk), 'wrote /etc/shoal')
    await eventually('the second disk is seen', async () =>
      (await status()).servers.some(({ address, state }) => address === `${third!.address}:9332` && state === 'up'),
    )
    t.notMatch(await client2.sh(`${again} client ${master.address} /mnt/shoal-data`), 'wrote /etc/shoal')
    t.equal(await client2.sh('cat /mnt/shoal-data/after'), 'still\n')
    t.match(await third!.run(`${again} chunkserver 'a;b' x y z`), { code: 2, stderr: 'not allowed' })
    t.match(await third!.run(`${again} server`), { code: 2, stderr: 'usage: deploy/provision.sh' })
  })

  await t.test('mount(8) and fstab(5)', async (t) => {
    await client1.sh(`
      mkdir -p /mnt/shoal-data/projects/a /mnt/a /mnt/b && echo hello > /mnt/shoal-data/projects/a/file
      mount -t shoal ${master.address}:9320:/ /mnt/a -o ro,noatime,subdir=projects/a`)
    t.equal(await client1.sh('cat /mnt/a/file'), 'hello\n')
    t.match(await client1.run('touch /mnt/a/new'), { code: 1, stderr: 'Read-only file system' })
    t.match(await client1.sh('grep /mnt/a /proc/mounts'), /fuse\.shoal ro,.*noatime/)
    await client1.sh(`
      echo '${master.address}:9320:/projects /mnt/b shoal noatime,nosuid,_netdev,nofail,x-systemd.automount 0 0' > /etc/fstab
      mount -a; mount -a
      test "$(grep -c /mnt/b /proc/mounts)" = 1
      cat /mnt/b/a/file; umount /mnt/b; umount /mnt/a`)
    t.match(await client1.run('mount /mnt/b -o frobnicate'), { code: 32, stderr: 'unknown mount option "frobnicate"' })
    t.match(await client1.run(`mount -t shoal ${master.address}:9320:/ /mnt/a -o subdir=no-such`), {
      code: 32,
      stderr: 'no-such',
    })
  })

  await t.test('services stop in good order', async (t) => {
    await client1.sh("systemctl stop 'shoal-mount@mnt-shoal\\x2ddata.service'")
    t.notMatch(await client1.sh('cat /proc/mounts'), '/mnt/shoal-data')
    await master.sh('systemctl stop shoal-master.service')
    t.match(await master.sh('cat /var/log/shoal-master.service.log'), '"event":"stops"')
  })
})

t.test('units and Vagrantfile', async (t) => {
  await t.test('systemd takes the units', async (t) => {
    if (!(await needs(t, { programs: ['systemd-analyze'] }))) return
    const directory = t.testdir()
    // The program is not installed here, so another takes its place in a copy.
    await check('bash', [
      '-c',
      `for unit in deploy/systemd/*; do sed 's|/usr/bin/shoal|/bin/true|' $unit > "$0/$(basename $unit)"; done`,
      directory,
    ])
    const units = ['shoal-master.service', 'shoal-chunkserver@disk1.service', 'shoal-mount@mnt-shoal.service']
    for (const unit of units) {
      const path = join(directory, unit.replace(/@.*\./, '@.'))
      const said = await check('bash', ['-c', 'systemd-analyze verify "$0" 2>&1', path])
      t.equal(said, '', unit)
    }
  })

  await t.test('each machine of the Vagrantfile is provisioned as here', async (t) => {
    const text = await readFile('Vagrantfile', 'utf8')
    t.match(text, '\'sh /vagrant/deploy/provision.sh "$@"\'')
    t.match(text, "['chunkserver', name, machine[:address], master, machine[:rack]]")
    if ((await missing({ programs: ['vagrant'] })).length > 0) return t.comment('vagrant is not here to validate it')
    const env = { ...process.env, VAGRANT_HOME: t.testdir(), VAGRANT_CWD: process.cwd() }
    t.match(await run('vagrant', ['validate', '--ignore-provider'], { env }), { code: 0, stdout: 'successfully' })
  })
})
