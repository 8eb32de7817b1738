/** `shoal master`: the process that holds the namespace and the chunk map. */
import { Command, Option } from 'commander'
import { argument } from './failure.ts'
import { defaultMasterAddress, parseListenAddress } from './address.ts'
import { parseCount, parseDurationMs, parseDurationWithin } from './quantity.ts'
import { serve, warnIfOpen, withServeOptions, type ServeOptions } from './serve.ts'

interface MasterCommandOptions extends ServeOptions {
  data: string
  listen: string
  placement: 'weighted' | 'random' | 'rendezvous'
  copies: number
  minCopies: number
  repairDelay: number
  sessionLease: number
  web: string
}

export const masterCommand = (): Command =>
  withServeOptions(
    new Command('master')
      .description('run the master: it holds names, attributes and where data is, and repairs lost copies')
      .requiredOption('--data <dir>', 'directory of the metadata; made if missing')
      .option('--listen <host:port>', 'address to serve', argument(parseListenAddress), defaultMasterAddress)
      .option('--copies <n>', 'copies of each chunk', argument(parseCount({ min: 1, max: 16 })), 3)
      .option(
        '--min-copies <n>',
        'copies that must be on disk before fsync returns (default: 2, or fewer with fewer copies)',
        argument(parseCount({ min: 1, max: 16 })),
      )
      .option(
        '--web <host:port>',
        'address of the web page, or "off" (default: 127.0.0.1:9321 if it is free)',
        argument((text: string) => (text === 'off' ? text : parseListenAddress(text))),
      )
      .addOption(
        new Option('--placement <policy>', 'how servers for new chunks are chosen')
          .choices(['weighted', 'random', 'rendezvous'])
          .default('weighted'),
      )
      .option(
        '--repair-delay <duration>',
        'how long a chunk server may be away before its copies are made again (default: 10s)',
        argument(parseDurationMs),
      )
      .option(
        '--session-lease <duration>',
        'how long a mount that does not answer keeps what it holds (default: 10s)',
        argument(parseDurationWithin(['100ms', '1h'])),
      ),
  )
    .addHelpText(
      'after',
      `
Examples:
  shoal master --data /var/lib/shoal/master
  shoal master --data /var/lib/shoal/master --listen 10.0.0.1:9320 --copies 3

Nothing authenticates peers yet: use addresses other than loopback in trusted networks only.`,
    )
    .action(
      async (options: Omit<MasterCommandOptions, 'minCopies'> & Partial<MasterCommandOptions>, command: Command) => {
        const minCopies = options.minCopies ?? Math.min(2, options.copies)
        if (minCopies > options.copies) {
          command.error(`error: --min-copies ${minCopies} is more than --copies ${options.copies}`)
        }
        await serve('master', options, async (log) => {
          warnIfOpen(options.listen, log)
          if (options.web !== undefined && options.web !== 'off') warnIfOpen(options.web, log)
          const { runMaster } = await import('../main/master.ts')
          return runMaster({
            data: options.data,
            listen: options.listen,
            placement: options.placement,
            copies: options.copies,
            minCopies,
            ...(options.repairDelay === undefined ? {} : { repairDelayMs: options.repairDelay }),
            ...(options.sessionLease === undefined ? {} : { sessionLeaseMs: options.sessionLease }),
            ...(options.metrics === undefined ? {} : { metrics: options.metrics }),
            ...(options.web === undefined ? {} : { web: options.web }),
            logLevel: options.logLevel,
          })
        })
      },
    )
