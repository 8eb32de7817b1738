/** `shoal rebalance`: fills the servers evenly, now. */
import { Command } from 'commander'
import type { RebalanceStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { follow, json, withAdminOptions, withMaster } from './administration.ts'
import { formatBytes, formatCount, formatDuration } from './quantity.ts'

interface RebalanceOptions extends AdminOptions {
  background?: boolean
  status?: boolean
}

const sentences: Record<string, string> = {
  even: 'the servers are evenly filled',
  moving: 'moving',
  waiting: 'waiting until no copies are missing',
  stuck: 'nothing more can be moved',
}

const text = (status: RebalanceStatus): string => {
  const away = `the furthest is ${(status.distancePermille / 10).toFixed(1)} % from even`
  const left =
    status.etaMs === undefined || status.state !== 'moving' ? '' : `, about ${formatDuration(status.etaMs)} left`
  return `${sentences[status.state] ?? status.state}; ${away}, ${formatCount(status.movesDone)} moves and ${formatBytes(status.bytesMoved)} so far${left}`
}

export const rebalanceCommand = (): Command =>
  withAdminOptions(
    new Command('rebalance')
      .description('fill the chunk servers evenly, now')
      .option('--background', 'do not wait until it is done')
      .option('--status', 'only show how even they are'),
  )
    .addHelpText(
      'after',
      `
The master does this by itself when a server is more than 5 % fuller or emptier than the cluster; this goes on to 1 %. Every chunk
keeps all its copies. Ctrl-C ends the waiting and not the moving. Exit code 1 when it could not come that near.

Examples:
  shoal rebalance
  shoal rebalance --status --json`,
    )
    .action((options: RebalanceOptions) =>
      withMaster(options, async (call) => {
        const look = (): Promise<RebalanceStatus> => call('rebalance', { start: false })
        let status = options.status === true ? await look() : await call('rebalance', { start: true })
        if (options.status !== true && options.background !== true) {
          status = await follow(look, { line: text, isOver: ({ state }) => state === 'even' || state === 'stuck' })
          if (status.state === 'stuck') process.exitCode = 1
        }
        process.stdout.write(options.json === true ? json(status) : `${text(status)}\n`)
      }),
    )
