/** `shoal snapshot-metadata`: a backup of everything that the master has on its disk, while it goes on. */
import { Command } from 'commander'
import { stat } from 'node:fs/promises'
import type { StoreRecord } from '../master/restore.ts'
import { StoreCheck } from '../master/fsck.ts'
import { UsageError } from '../domain/errors.ts'
import type { AdminOptions } from './administration.ts'
import { json, print, withAdminOptions, withMaster } from './administration.ts'
import { writeBackup } from './backup-file.ts'
import { formatBytes, formatCount } from './quantity.ts'
import { snapshotPages } from './snapshot-pages.ts'

interface SnapshotOptions extends AdminOptions {
  check: boolean
}

export const snapshotMetadataCommand = (): Command =>
  withAdminOptions(
    new Command('snapshot-metadata')
      .description("write a backup of the master's data to a file, while the master goes on")
      .argument('<file>', 'the backup; replaced if it is there, when the new one is complete')
      .option('--no-check', 'do not check what the backup contains'),
  )
    .addHelpText(
      'after',
      `
The backup shows one moment. It holds all names, attributes, small files and the map of the data; the data itself stays in the copies
on the chunk servers. A backup serves as long as the chunk servers have the data that it names: what is deleted or overwritten after it
was taken cannot be had back from it. See shoal restore --help. Exit code 1 when the check found something wrong in it.

Examples:
  shoal snapshot-metadata /backup/shoal-$(date +%F).metadata`,
    )
    .action((file: string, options: SnapshotOptions) =>
      withMaster(options, async (call) => {
        const { snapshotId, clusterId, version, takenMs } = await call('openSnapshot', {})
        const check = options.check ? new StoreCheck() : undefined
        async function* pages(): AsyncGenerator<StoreRecord[]> {
          for await (const page of snapshotPages(call, snapshotId)) {
            for (const { key, value } of page) check?.add(key, value)
            yield page
          }
        }
        const records = await writeBackup(file, { clusterId, version, takenMs: Number(takenMs) }, pages())
        const { size } = await stat(file)
        const findings = check?.finish() ?? []
        if (options.json === true) {
          process.stdout.write(
            json({ file, clusterId, takenMs, records, bytes: size, findings: findings.map(({ what }) => what) }),
          )
        } else print([`${file}: ${formatCount(records)} records, ${formatBytes(size)}, of cluster ${clusterId}`])
        if (findings.length > 0) {
          process.exitCode = 1
          throw new UsageError(
            `the backup is written, but ${findings.length} things are wrong in what it shows (the first: ${findings[0]?.what}); run shoal fsck`,
          )
        }
      }),
    )
