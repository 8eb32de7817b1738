/** `shoal servers`: lists the chunk servers, names them, puts them into racks, drains and removes them. */
import { Command } from 'commander'
import type { AdminCall } from '../main/admin-client.ts'
import type { ServerStatus, StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { UsageError } from '../domain/errors.ts'
import type { AdminOptions } from './administration.ts'
import { follow, json, parseServerId, print, withAdminOptions, withMaster } from './administration.ts'
import { argument } from './failure.ts'
import { formatBytes, formatCount, formatDuration } from './quantity.ts'
import { table } from './status-text.ts'

const stateOf = (server: ServerStatus): string => {
  if (server.drain === undefined) return server.state
  return server.drain.done ? `${server.state}, drained` : `${server.state}, draining`
}

export const drainText = (server: ServerStatus): string => {
  const { drain } = server
  if (drain === undefined) return ''
  if (drain.done) return 'nothing left'
  const eta = drain.etaMs === undefined ? '' : `, about ${formatDuration(drain.etaMs)} left`
  const done = drain.bytesTotal === 0n ? 100 : Number(((drain.bytesTotal - drain.bytesLeft) * 100n) / drain.bytesTotal)
  return `${done} %, ${formatCount(drain.replicasLeft)} copies and ${formatBytes(drain.bytesLeft)} to move${eta}`
}

const listText = ({ servers }: StatusReply): string[] => [
  ...table(
    ['id', 'label', 'address', 'rack', 'state', 'fill', 'used', 'free', 'copies'],
    servers.map((server) => [
      `${server.serverId}`,
      server.label === '' ? '-' : server.label,
      server.address === '' ? '-' : server.address,
      server.rack === '' ? '-' : server.rack,
      stateOf(server),
      `${(server.fillPermille / 10).toFixed(1)} %`,
      formatBytes(server.usedBytes),
      formatBytes(server.freeBytes),
      formatCount(server.replicas),
    ]),
  ),
  ...servers.flatMap((server) => (server.drain ? [`draining ${server.serverId}: ${drainText(server)}`] : [])),
]

const serverIn = ({ servers }: StatusReply, id: number): ServerStatus => {
  const server = servers.find(({ serverId }) => serverId === id)
  if (!server) throw new UsageError(`There is no server ${id}.`)
  return server
}

const idArgument = (command: Command): Command =>
  command.argument('<id>', 'number of the server, as shoal servers shows it', argument(parseServerId))

const list = (): Command =>
  withAdminOptions(new Command('list').description('show the chunk servers')).action((options: AdminOptions) =>
    withMaster(options, async (call) => {
      const status = await call('status', {})
      if (options.json === true) process.stdout.write(json(status.servers))
      else print(listText(status))
    }),
  )

const label = (): Command =>
  withAdminOptions(
    idArgument(new Command('label').description('give a server a name for people, or take it away')).argument(
      '[text]',
      'the name; without it there is none',
      '',
    ),
    { json: false },
  ).action((id: number, text: string, options: AdminOptions) =>
    withMaster(options, async (call) => {
      await call('setServer', { serverId: id, label: text })
    }),
  )

const rack = (): Command =>
  withAdminOptions(
    idArgument(new Command('rack').description("say in which rack a server is, over the server's own word")).argument(
      '[rack]',
      "the rack; without it the server's own word counts",
      '',
    ),
    { json: false },
  ).action((id: number, text: string, options: AdminOptions) =>
    withMaster(options, async (call) => {
      await call('setServer', { serverId: id, rack: text })
    }),
  )

interface DrainOptions extends AdminOptions {
  cancel?: boolean
  background?: boolean
}

const followDrain = async (call: AdminCall, id: number): Promise<ServerStatus> =>
  follow(async () => serverIn(await call('status', {}), id), {
    line: (server) => `draining ${id}: ${drainText(server)}`,
    isOver: ({ drain }) => drain === undefined || drain.done,
  })

const drain = (): Command =>
  withAdminOptions(
    idArgument(new Command('drain').description('move everything off a server, so that it can be removed'))
      .option('--cancel', 'stop, and let the server hold data again')
      .option('--background', 'do not wait until it is done'),
  )
    .addHelpText('after', '\nCtrl-C ends the waiting and not the draining.')
    .action((id: number, options: DrainOptions) =>
      withMaster(options, async (call) => {
        await call('drainServer', { serverId: id, cancel: options.cancel === true })
        const wait = options.cancel !== true && options.background !== true
        const server = wait ? await followDrain(call, id) : serverIn(await call('status', {}), id)
        if (options.json === true) process.stdout.write(json(server))
        else if (options.cancel === true) print([`server ${id} is not drained any more`])
        else if (server.drain === undefined) throw new UsageError(`the draining of server ${id} was called off`)
        else print([`server ${id}: ${drainText(server)}`])
      }),
    )

interface RemoveOptions extends AdminOptions {
  force?: boolean
  loseData?: boolean
}

const remove = (): Command =>
  withAdminOptions(
    idArgument(new Command('remove').description('take a drained or dead server out of the cluster, for ever'))
      .option('--force', 'of a server that is down: also when copies are lost with it, but not the last known one')
      .option('--lose-data', 'with --force: also when the last known copy of something is lost'),
  )
    .addHelpText(
      'after',
      `
Refused while a copy would be lost. The data directory of a removed server is refused when it comes back.

Examples:
  shoal servers drain 3 && shoal servers remove 3
  shoal servers remove 3 --force          its disk is dead, and there is no server to copy to yet`,
    )
    .action((id: number, options: RemoveOptions) =>
      withMaster(options, async (call) => {
        const force = options.force === true
        const reply = await call('removeServer', { serverId: id, force, loseData: force && options.loseData === true })
        if (options.json === true) process.stdout.write(json(reply))
        else if (reply.chunksShort === 0n) print([`server ${id} is removed; every chunk has all its copies`])
        else {
          print([
            `server ${id} is removed; ${formatCount(reply.chunksShort)} chunks have too few copies now, ` +
              `of ${formatCount(reply.chunksLost)} none is known`,
          ])
        }
      }),
    )

export const serversCommand = (): Command =>
  new Command('servers')
    .description('list, name, drain and remove chunk servers')
    .addHelpText(
      'after',
      `
Examples:
  shoal servers
  shoal servers label 3 "old disk"
  shoal servers rack 3 b
  shoal servers drain 3`,
    )
    .addCommand(list(), { isDefault: true })
    .addCommand(label())
    .addCommand(rack())
    .addCommand(drain())
    .addCommand(remove())
