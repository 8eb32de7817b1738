/** `shoal status`: how the cluster is. */
import { Command } from 'commander'
import { argument } from './failure.ts'
import { defaultMasterAddress, parseAddress } from './address.ts'
import { parseDurationMs } from './quantity.ts'
import { fetchStatus } from '../main/master-status.ts'
import { statusJson, statusText } from './status-text.ts'
import { readUpState } from './up-state.ts'

interface StatusCommandOptions {
  json?: boolean
  timeout: number
}

/** SHOAL_MASTER, or the cluster that was started here by `shoal up`, or the default port on this machine. */
const defaultAddress = async (): Promise<string> => {
  const fromEnvironment = process.env['SHOAL_MASTER']
  if (fromEnvironment !== undefined && fromEnvironment !== '') return parseAddress(fromEnvironment)
  const local = await readUpState('.shoal')
  return local === undefined ? defaultMasterAddress : `127.0.0.1:${local.masterPort}`
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
    .option('--timeout <duration>', 'how long to wait for the answer', argument(parseDurationMs), 5000)
    .addHelpText(
      'after',
      `
Examples:
  shoal status
  shoal status 10.0.0.1:9320 --json | jq '.servers[] | select(.state == "down")'`,
    )
    .action(async (given: string | undefined, options: StatusCommandOptions) => {
      const { grpcTransport } = await import('../platform/grpc-transport.ts')
      const master = given ?? (await defaultAddress())
      const rpc = grpcTransport()
      try {
        const status = await fetchStatus(rpc, master, options.timeout)
        process.stdout.write(options.json === true ? statusJson(status) : statusText(status, master))
      } finally {
        await rpc.close()
      }
    })
