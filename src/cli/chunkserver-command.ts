/** `shoal chunkserver`: a process that holds chunks. */
import { Command } from 'commander'
import { argument } from './failure.ts'
import { parseAddress, parseListenAddress } from './address.ts'
import { parseCapacity } from './quantity.ts'
import { serve, warnIfOpen, withServeOptions, type ServeOptions } from './serve.ts'

interface ChunkServerCommandOptions extends ServeOptions {
  data: string
  master: string
  listen: string
  rack?: string
  capacity?: number
}

export const chunkServerCommand = (): Command =>
  withServeOptions(
    new Command('chunkserver')
      .description('run a chunk server: it holds copies of chunks on a local disk')
      .requiredOption('--data <dir>', 'directory of the chunks; made if missing, one per disk')
      .requiredOption('--master <host:port>', 'address of the master', argument(parseAddress))
      .option(
        '--listen <host:port>',
        'address to serve, as mounts and other chunk servers reach it; port 0 is any free one',
        argument(parseListenAddress),
        '127.0.0.1:0',
      )
      .option('--rack <name>', 'what fails together with this server; copies are spread over at least two racks')
      .option(
        '--capacity <bytes>',
        'use no more than this, such as 100GiB (default: what the disk has)',
        argument(parseCapacity),
      ),
  )
    .addHelpText(
      'after',
      `
Examples:
  shoal chunkserver --data /srv/disk1/shoal --master 127.0.0.1:9320
  shoal chunkserver --data /srv/disk1/shoal --master 10.0.0.1:9320 --listen 10.0.0.2:9330 --rack b --capacity 500GiB

Nothing authenticates peers yet: use addresses other than loopback in trusted networks only.`,
    )
    .action(async (options: ChunkServerCommandOptions) => {
      await serve('chunkserver', options, async (log) => {
        warnIfOpen(options.listen, log)
        const { runChunkServer } = await import('../main/chunkserver.ts')
        return runChunkServer({
          data: options.data,
          master: options.master,
          listen: options.listen,
          ...(options.rack === undefined ? {} : { rack: options.rack }),
          ...(options.capacity === undefined ? {} : { capacity: options.capacity }),
          ...(options.metrics === undefined ? {} : { metrics: options.metrics }),
          logLevel: options.logLevel,
        })
      })
    })
