/** `shoal scrub`: reads and checks every byte of every sealed copy, now. */
import { Command } from 'commander'
import type { ScrubStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { ScrubRequest_Action } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { UsageError } from '../domain/errors.ts'
import type { AdminOptions } from './administration.ts'
import { follow, json, parseServerId, withAdminOptions, withMaster } from './administration.ts'
import { argument } from './failure.ts'
import { formatBytes, formatCount, formatDuration } from './quantity.ts'

interface ScrubOptions extends AdminOptions {
  server?: number
  background?: boolean
  stop?: boolean
  status?: boolean
}

const text = (status: ScrubStatus): string => {
  if (status.run === 0n) return 'no scrub since the start of the master'
  const left = status.etaMs === undefined ? '' : `, about ${formatDuration(status.etaMs)} left`
  const done = `${formatCount(status.replicasDone)} of ${formatCount(status.replicasTotal)} copies read, ${formatBytes(status.bytesDone)}`
  const unread = status.unread === 0n ? '' : `, ${formatCount(status.unread)} could not be read`
  return `${status.running ? 'scrubbing: ' : ''}${done}, ${formatCount(status.corrupt)} corrupt${unread}${left}`
}

export const scrubCommand = (): Command =>
  withAdminOptions(
    new Command('scrub')
      .description('read and check every byte of every sealed copy, now')
      .option('--server <id>', 'only what is on this server', argument(parseServerId))
      .option('--background', 'do not wait until it is done')
      .option('--status', 'show how far the running one is, or how the last one ended')
      .option('--stop', 'end the running one'),
  )
    .addHelpText(
      'after',
      `
Chunk servers do this by themselves, slowly; damage that is found is repaired from the other copies. Ctrl-C ends the waiting and not
the scrub. Exit code 1 when something was corrupt or could not be read.

Examples:
  shoal scrub
  shoal scrub --server 3 --background`,
    )
    .action((options: ScrubOptions) =>
      withMaster(options, async (call) => {
        const ask = (action: ScrubRequest_Action, serverId = 0): Promise<ScrubStatus> =>
          call('scrub', { action, serverId })
        const look = (): Promise<ScrubStatus> => ask(ScrubRequest_Action.ACTION_UNSPECIFIED)
        let status: ScrubStatus
        if (options.status === true) status = await look()
        else if (options.stop === true) status = await ask(ScrubRequest_Action.ACTION_STOP)
        else {
          status = await ask(ScrubRequest_Action.ACTION_START, options.server)
          const { run } = status
          if (options.background !== true) {
            status = await follow(look, { line: text, isOver: (now) => !now.running || now.run !== run })
            if (status.run !== run)
              throw new UsageError('the master was restarted, and the scrub ended with it; start it again')
          }
        }
        process.stdout.write(options.json === true ? json(status) : `${text(status)}\n`)
        if (status.corrupt > 0n || status.unread > 0n) process.exitCode = 1
      }),
    )
