/** What a program in a mount has met can be followed from the log of the mount to that of the master and of a chunk server. */
import t from 'tap'
import { eventually, startCluster, type Role } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { sh } from '../lib/sh.ts'

interface Line {
  event: string
  level: number
  request?: string
  session?: number
  id?: number
  chunk?: number
  code?: string
}

/** What a role said of requests that went badly. */
const requestsIn = async (role: Role): Promise<Line[]> =>
  (await role.log())
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line)
    .filter(({ event }) => event === 'a request was slow' || event === 'a request failed')

/** The first line of one side that has its counterpart on the other. */
const common = async (asks: Role, answers: Role, isSame: (one: Line, other: Line) => boolean): Promise<Line> =>
  eventually(`one request in the logs of ${asks.name} and ${answers.name}`, async () => {
    const others = await requestsIn(answers)
    const found = (await requestsIn(asks)).find((line) =>
      others.some((other) => line.request === other.request && line.level === other.level && isSame(line, other)),
    )
    return found
  })

t.test('a request that went badly has the same ids in the logs of both sides', async (t) => {
  if (!(await needs(t, { root: true, fuse: true }))) return
  const cluster = await startCluster(t, { mounts: 2, masterArgs: ['--session-lease=5s'] })
  const [one, two] = cluster.mounts
  await sh(`echo text > '${one!.directory}/file' && head -c 8M /dev/urandom > '${one!.directory}/data'`)
  await sh(`sync '${one!.directory}/data'`)

  await one!.kill('SIGSTOP')
  // Somebody who does not answer has the lease, so this waits for the end of his session.
  await sh(`echo more >> '${two!.directory}/file'`)
  await one!.kill('SIGCONT')
  const slow = await common(two!, cluster.master, (a, b) => a.session === b.session && a.id === b.id)
  t.equal(slow.event, 'a request was slow')
  t.ok(slow.session! > 0 && slow.id! > 0)

  await two!.kill('SIGTERM')
  for (const index of [0, 1]) {
    await sh(`
      file=$(find '${cluster.serverData(index)}/chunks' -type f -printf '%s %p\\n' | sort -rn | head -n 1 | cut -d' ' -f2)
      size=$(stat -c %s "$file")
      dd if=/dev/urandom of="$file" bs=4096 seek=1 count=$((size / 4096 - 2)) conv=notrunc status=none`)
  }
  await one!.restart('SIGTERM')
  await sh(`cat '${one!.directory}/data' | wc -c`)
  const both = async (): Promise<Line> => {
    const [first, second] = cluster.servers
    const isSame = (a: Line, b: Line): boolean => a.chunk === b.chunk && a.id === b.id && a.code === b.code
    return Promise.any([common(one!, first!, isSame), common(one!, second!, isSame)])
  }
  t.match(await both(), { event: 'a request failed', request: 'read', code: 'EBADMSG' })
})
