/** Looking after a cluster of real processes: drain and remove, copies, scrub, fsck of damage, backup and restore. Every file stays intact. */
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { counters, dentries, inodes, listings } from '../../src/master/keys.ts'
import { asIno, rootIno } from '../../src/domain/ids.ts'
import { openRocksDb } from '../../src/platform/rocksdb-engine.ts'
import type { Cluster } from '../lib/cluster.ts'
import { eventually, shoal, startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

type Tap = typeof t

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

t.test('administration', { timeout: 400_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, {
    servers: 4,
    copies: 2,
    racks: ['a', 'a', 'b', 'b'],
    masterArgs: ['--min-copies=1', '--repair-delay=2s'],
    serverArgs: ['--capacity=256MiB'],
  })
  const root = cluster.mount.directory
  const admin = (...args: string[]) => shoal([...args, '--master', cluster.masterAddress], { timeoutMs: 90_000 })
  const done = async (t: Tap, ...args: string[]): Promise<string> => {
    const ran = await admin(...args)
    t.equal(ran.code, 0, `shoal ${args.join(' ')}: ${ran.stdout}${ran.stderr}`)
    return ran.stdout
  }
  const refused = async (t: Tap, sentence: RegExp, ...args: string[]): Promise<void> => {
    const ran = await admin(...args)
    t.match(ran, { code: 1, stdout: '', stderr: sentence }, `shoal ${args.join(' ')}`)
    t.equal(ran.stderr.trimEnd().split('\n').length, 1, 'one sentence')
  }
  const parsed = async <T>(t: Tap, ...args: string[]): Promise<T> => JSON.parse(await done(t, ...args, '--json')) as T

  await sh(`cd '${root}' && for i in 1 2 3 4 5; do head -c 9000000 /dev/urandom > big$i; done
    cp -r /usr/include/linux inc && mkdir plenty && cp big1 plenty/ && echo small > tiny && ln tiny tiny2`)
  const sums = await sh(`cd '${root}' && find . -type f | sort | xargs sha256sum`)
  const intact = async (t: Tap): Promise<void> => {
    t.equal(
      await sh(`cd '${root}' && find . -type f -not -path './lost+found/*' | sort | xargs sha256sum`),
      sums,
      'every file is intact',
    )
  }

  await t.test('a server is drained and removed, and its directory is refused afterwards', async (t) => {
    await refused(t as Tap, /There is no server 99\./, 'servers', 'drain', '99')
    await refused(t as Tap, /Server 1 is up: drain it first/, 'servers', 'remove', '1')
    await done(t as Tap, 'servers', 'label', '1', 'old')
    await done(t as Tap, 'servers', 'drain', '1', '--background')
    await done(t as Tap, 'servers', 'drain', '1', '--cancel')
    await refused(t as Tap, /is not being drained/, 'servers', 'drain', '1', '--cancel')
    t.match(await parsed(t as Tap, 'servers', 'drain', '1'), {
      serverId: 1,
      label: 'old',
      replicas: 0,
      drain: { done: true },
    })
    // It stays drained across a restart of the master.
    await cluster.master.restart()
    await cluster.serversUp()
    const servers = await parsed<{ serverId: number }[]>(t as Tap, 'servers')
    t.match(
      servers.find(({ serverId }) => serverId === 1),
      { label: 'old', drain: { done: true } },
    )
    await intact(t as Tap)
    await eventually('removed', async () => (await admin('servers', 'remove', '1')).code === 0)
    t.equal((await parsed<object[]>(t as Tap, 'servers')).length, 3)
    const role = await roleOf(cluster, 1)
    t.match(await role.ended(), { code: 1 }, 'the process ends by itself')
    await t.rejects(role.start(), /Server number 1 was removed from the cluster/)
    await done(t as Tap, 'servers', 'drain', '2')
    await refused(t as Tap, /cannot be drained: 2 copies need 2 other servers .* add 1 first/, 'servers', 'drain', '3')
    await done(t as Tap, 'servers', 'drain', '2', '--cancel')
    await intact(t as Tap)
  })

  await t.test('copies of a directory: raised and lowered in the background, inherited, seen by locate', async (t) => {
    const copiesOf = async (path: string): Promise<number[]> =>
      (await parsed<{ pieces: { replicas: { state: string }[] }[] }>(t as Tap, 'locate', path)).pieces.map(
        ({ replicas }) => replicas.filter(({ state }) => state === 'valid').length,
      )
    await refused(t as Tap, /5 copies need 5 chunk servers/, 'copies', 'set', '/plenty', '5')
    await refused(t as Tap, /There is no \/nothing/, 'copies', 'set', '/nothing', '2')
    await done(t as Tap, 'copies', 'set', '/plenty', '3', '--wait')
    await sh(
      `cp '${root}/big2' '${root}/plenty/new' && sync '${root}/plenty/new' && cp '${root}/big3' '${root}/plenty/shared' && sync '${root}/plenty/shared'`,
    )
    for (const name of ['big1', 'new', 'shared']) {
      t.equal((await parsed<{ copies: number }>(t as Tap, 'copies', 'get', `/plenty/${name}`)).copies, 3)
      await eventually(`3 copies of ${name}`, async () => (await copiesOf(`/plenty/${name}`)).every((n) => n === 3))
    }
    await sh(`rm '${root}/plenty/new' '${root}/plenty/shared'`)
    await done(t as Tap, 'copies', 'set', '/plenty', 'default', '--wait')
    await eventually('2 copies again', async () => (await copiesOf('/plenty/big1')).every((n) => n === 2), {
      timeoutMs: 60_000,
    })
    await intact(t as Tap)
  })

  await t.test('scrub finds a damaged byte, and it is mended', async (t) => {
    await done(t as Tap, 'scrub')
    const sizes: { path: string; size: number }[] = []
    for (const [index, { pid }] of cluster.servers.entries()) {
      if (pid === undefined) continue
      const data = join(cluster.serverData(index), 'chunks')
      for (const name of await readdir(data, { recursive: true })) {
        const path = join(data, name)
        const found = await stat(path)
        if (found.isFile()) sizes.push({ path, size: found.size })
      }
    }
    const largest = sizes.toSorted((a, b) => b.size - a.size)[0]!
    const file = await open(largest.path, 'r+')
    await file.write(Buffer.from('damage'), 0, 6, largest.size - 100_000)
    await file.close()
    const ran = await admin('scrub', '--json')
    t.match({ code: ran.code, ...JSON.parse(ran.stdout) }, { code: 1, corrupt: 1, unread: 0, running: false })
    await eventually('mended', async () => (await admin('scrub')).code === 0, { timeoutMs: 60_000 })
    await intact(t as Tap)
  })

  const backup = join(cluster.directory, 'backup')
  const masterData = join(cluster.directory, 'master')

  await t.test(
    'a backup is taken while the cluster works, and restored after the master lost everything',
    async (t) => {
      await done(t as Tap, 'snapshot-metadata', backup)
      await sh(`echo later > '${root}/later' && rm '${root}/later'`)
      t.match(await shoal(['fsck', '--backup', backup]), { code: 0, stdout: /all is well/ })
      t.match(await shoal(['restore', backup, '--data', masterData, '--force']), {
        code: 1,
        stderr: /in use by another Shoal master/,
      })
      await cluster.mount.kill('SIGTERM')
      await cluster.master.kill('SIGTERM')
      const torn = join(cluster.directory, 'torn')
      await sh(
        `head -c -1 '${backup}' > '${torn}'; cp '${backup}' '${torn}.2'; printf X | dd of='${torn}.2' bs=1 seek=5000 conv=notrunc 2>/dev/null`,
      )
      for (const bad of [torn, `${torn}.2`]) {
        t.match(await shoal(['restore', bad, '--data', masterData, '--force']), {
          code: 1,
          stderr: /is no usable backup/,
        })
      }
      const ran = await shoal(['restore', backup, '--data', masterData])
      t.match(ran, { code: 1, stderr: /1 files and directories and 0 chunks were made since; --force/ })
      t.match(await shoal(['restore', backup, '--data', masterData, '--force']), {
        code: 0,
        stdout: /what was there before is in/,
      })
      const [before] = (await readdir(cluster.directory)).filter((name) => name.startsWith('master.before-restore-'))
      t.ok(before)
      const aside = join(cluster.directory, before!)
      t.match(
        await shoal(['restore', backup, '--data', aside]),
        { code: 1, stderr: /0 chunks were made since/ },
        'whole',
      )
      await sh(`cp -r '${aside}' '${aside}.damaged' && head -c 100 /dev/urandom | tee '${aside}.damaged'/MANIFEST-0*`)
      t.match(await shoal(['restore', backup, '--data', `${aside}.damaged`]), {
        code: 1,
        stderr: /what it holds is damaged/,
      })
      t.match(await shoal(['restore', backup, '--data', `${aside}.damaged`, '--force']), { code: 0 })
      await cluster.master.start()
      await cluster.mount.start()
      await cluster.healthy({ servers: 3 })
      await intact(t as Tap)
      await sh(
        `echo after > '${root}/after' && cp '${root}/big2' '${root}/after-big' && cmp '${root}/big2' '${root}/after-big' && rm '${root}'/after*`,
      )
      t.match(await admin('fsck'), { code: 0, stdout: /all is well/ })
    },
  )

  await t.test('fsck tells damage of five kinds, and --repair mends what it can without losing anything', async (t) => {
    await cluster.mount.kill('SIGTERM')
    await cluster.master.kill('SIGTERM')
    const kv = await openRocksDb(masterData)
    const found = async (name: string) => {
      const key = bytes(dentries.encodeKey({ parent: rootIno, name: Buffer.from(name) }))
      return { key, dentry: dentries.decode((await kv.get(key))!) }
    }
    // A name that is gone, a name in no listing, a wrong link count, a wrong total, a name that leads nowhere.
    const gone = await found('big5')
    const listed = (name: { dentry: { cookie: bigint } }): Buffer =>
      bytes(listings.encodeKey({ parent: rootIno, cookie: name.dentry.cookie }))
    const unlisted = await found('big4')
    const linked = bytes(inodes.encodeKey((await found('tiny')).dentry.ino))
    const inode = inodes.decode((await kv.get(linked))!)
    const total = bytes(counters.encodeKey('inodes'))
    const ghost = { parent: rootIno, name: Buffer.from('ghost') }
    await kv.write(
      [
        { type: 'del', key: gone.key },
        { type: 'del', key: listed(gone) },
        { type: 'del', key: listed(unlisted) },
        { type: 'put', key: linked, value: inodes.encode({ ...inode, nlink: 7 }) },
        { type: 'put', key: total, value: counters.encode(5n) },
        {
          type: 'put',
          key: bytes(dentries.encodeKey(ghost)),
          value: dentries.encode({ ino: asIno(1n << 50n), type: 0o100000, cookie: 1n << 40n }),
        },
        {
          type: 'put',
          key: bytes(listings.encodeKey({ parent: rootIno, cookie: 1n << 40n })),
          value: listings.encode({ name: ghost.name, ino: asIno(1n << 50n), type: 0o100000 }),
        },
      ],
      { sync: true },
    )
    await kv.close()
    await cluster.master.start()
    await cluster.serversUp(3)
    const checked = await admin('fsck')
    t.match(checked, { code: 4, stdout: /inode \d+ has no name/ })
    for (const sentence of [
      /"big4" in inode 1 is missing in the directory's listing/,
      /link count of 7 and 2 names/,
      /total inodes is 5/,
      /"ghost" in inode 1 leads to inode/,
    ]) {
      t.match(checked.stdout, sentence)
    }
    t.match(await admin('fsck', '--repair'), { code: 3, stdout: /0 things are wrong/ })
    t.match(await admin('fsck'), { code: 0, stdout: /all is well/ })
    await cluster.mount.start()
    await sh(`cd '${root}' && test ! -e ghost && mv lost+found/* big5 && test "$(stat -c %h tiny)" = 2`)
    await intact(t as Tap)
    await sh(`rmdir '${root}/lost+found'`)
    t.match(await admin('fsck'), { code: 0 })
  })

  await t.test('two servers that are away: what is lost is named, and a dead server goes only by force', async (t) => {
    const running = cluster.servers.filter(({ pid }) => pid !== undefined)
    const dead = running.at(-1)!
    const { servers } = await cluster.status()
    await dead.kill('SIGKILL')
    const down = await eventually('down', async () =>
      (await cluster.status()).servers.find(({ state }) => state === 'down'),
    )
    t.equal(servers.length, 3)
    await eventually(
      'its copies are made elsewhere and it can go',
      async () => (await admin('servers', 'remove', `${down.serverId}`)).code === 0,
      { timeoutMs: 60_000 },
    )
    await intact(t as Tap)
    await running[0]!.kill('SIGKILL')
    const last = await eventually('down', async () =>
      (await cluster.status()).servers.find(({ state }) => state === 'down'),
    )
    await refused(t as Tap, /would lose a copy: .* --force/, 'servers', 'remove', `${last.serverId}`)
    await done(t as Tap, 'servers', 'remove', `${last.serverId}`, '--force')
    await intact(t as Tap)
  })
})

/** The process of a server, by its number: they register in no order. */
const roleOf = async (cluster: Cluster, serverId: number) => {
  for (const role of cluster.servers) if ((await role.log()).includes(`"server":${serverId},`)) return role
  throw new Error(`no process is server ${serverId}`)
}
