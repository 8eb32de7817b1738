/** `shoal df`: how full the cluster is, as its files see it and server by server. */
import { Command } from 'commander'
import type { StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { json, print, withAdminOptions, withMaster } from './administration.ts'
import { formatBytes, formatCount } from './quantity.ts'
import { table } from './status-text.ts'

const sum = (values: readonly bigint[]): bigint => values.reduce((total, value) => total + value, 0n)

const facts = (status: StatusReply) => {
  const up = status.servers.filter(({ state }) => state === 'up')
  const used = sum(up.map(({ usedBytes }) => usedBytes))
  return {
    files: status.inodes,
    liveBytes: status.liveBytes,
    usedBytes: used,
    copies: status.copies,
    serversUp: up.length,
    servers: status.servers.map(({ serverId, label, rack, state, usedBytes, freeBytes, fillPermille }) => ({
      serverId,
      label,
      rack,
      state,
      usedBytes,
      freeBytes,
      fillPermille,
    })),
  }
}

export const dfCommand = (): Command =>
  withAdminOptions(new Command('df').description('show how full the cluster is'))
    .addHelpText(
      'after',
      `
What programs see of free space is df(1) of a mount: what the disks still take, divided by the number of copies.

Examples:
  shoal df
  shoal df --json | jq '.servers[] | select(.fillPermille > 900)'`,
    )
    .action((options: AdminOptions) =>
      withMaster(options, async (call) => {
        const found = facts(await call('status', {}))
        if (options.json === true) {
          process.stdout.write(json(found))
          return
        }
        print([
          `files   ${formatCount(found.files)}, ${formatBytes(found.liveBytes)} in one copy`,
          `disks   ${formatBytes(found.usedBytes)} used on ${found.serversUp} servers that are up, in ${found.copies} copies`,
          '',
          ...table(
            ['server', 'label', 'rack', 'state', 'used', 'free', 'fill'],
            found.servers.map((server) => [
              `${server.serverId}`,
              server.label === '' ? '-' : server.label,
              server.rack === '' ? '-' : server.rack,
              server.state,
              formatBytes(server.usedBytes),
              formatBytes(server.freeBytes),
              `${(server.fillPermille / 10).toFixed(1)} %`,
            ]),
          ),
        ])
      }),
    )
