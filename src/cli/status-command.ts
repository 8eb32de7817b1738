/** `shoal status`: how the cluster is. */
import { Command } from 'commander'
import { defaultMaster } from './administration.ts'
import { durationOption } from './duration-option.ts'
import { argument } from './failure.ts'
import { parseAddress } from './address.ts'
import { fetchStatus } from '../main/master-status.ts'
import { statusJson, statusText } from './status-text.ts'

interface StatusCommandOptions {
  json?: boolean
  timeout: number
}

export const statusCommand = (): Command =>
  new Command('status')
    .description('show servers, capacity, copies, repair and mounts of a cluster')
    .argument(
      '[host:port]',
      'address of the master (default: $SHOAL_MASTER, or the cluster in ./.shoal, or 127.0.0.1:9320)',
      argument(parseAddress),
    )
    .option('--json', 'print one JSON object')
    .addOption(durationOption('--timeout <duration>', 'how long to wait for the answer', '5s'))
    .addHelpText(
      'after',
      `
Examples:
  shoal status
  shoal status 10.0.0.1:9320 --json | jq '.servers[] | select(.state == "down")'`,
    )
    .action(async (given: string | undefined, options: StatusCommandOptions) => {
      const { grpcTransport } = await import('../platform/grpc-transport.ts')
      const master = given ?? (await defaultMaster())
      const rpc = grpcTransport()
      try {
        const status = await fetchStatus(rpc, master, options.timeout)
        process.stdout.write(options.json === true ? statusJson(status) : statusText(status, master))
      } finally {
        await rpc.close()
      }
    })
