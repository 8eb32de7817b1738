/** `shoal fsck`: checks names, inodes, extents, chunks and copies against one another. */
import { Command } from 'commander'
import type { AdminCall } from '../main/admin-client.ts'
import type { Finding } from '../master/fsck.ts'
import { StoreCheck } from '../master/fsck.ts'
import { UsageError } from '../domain/errors.ts'
import type { ChunkStatus } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { json, print, withAdminOptions, withMaster } from './administration.ts'
import { readBackup } from './backup-file.ts'
import { formatCount } from './quantity.ts'
import { snapshotPages } from './snapshot-pages.ts'
import { TerminalLine } from './terminal-line.ts'

interface FsckOptions extends AdminOptions {
  repair?: boolean
  backup?: string
}

/** Everything is well; or something was wrong and all of it is mended; or something is left. */
const exitMended = 3
const exitLeft = 4
const chunksPerPage = 4096
const fixesPerCall = 1000

/** What is known of replicas, against what the store says. */
const checkReplicas = async (call: AdminCall, check: StoreCheck, findings: Finding[]): Promise<void> => {
  const expected = check.committed()
  let short = 0
  for (let after = 0n; ;) {
    const page = await call('listChunks', { afterChunkId: after, chunksMax: chunksPerPage })
    for (const chunk of page.chunks) {
      after = chunk.chunkId
      // What came after the snapshot is none of its business.
      if (!expected.has(chunk.chunkId as never) || chunk.length === 0) continue
      const valid = chunk.replicas.filter(({ state }) => state === 'valid').length
      if (valid === 0 && chunk.sealed) findings.push({ what: lostSentence(chunk, check, page.serversAway) })
      else if (valid < chunk.copies) short++
      const corrupt = chunk.replicas.filter(({ state }) => state === 'corrupt')
      for (const { serverId } of corrupt) {
        findings.push({
          what: `the copy of chunk ${chunk.chunkId} on server ${serverId} is damaged; repair replaces it by itself`,
        })
      }
    }
    if (page.end) break
  }
  if (short > 0)
    findings.push({
      what: `${formatCount(short)} chunks have fewer copies than they should; repair makes them by itself`,
    })
}

const lostSentence = ({ chunkId }: ChunkStatus, check: StoreCheck, away: number): string => {
  const files = check.pathsOf(chunkId as never)
  const which = files.length === 0 ? 'no file' : files.join(', ')
  return (
    `no valid copy of chunk ${chunkId} is known, which ${which} needs` +
    (away > 0 ? ` (${away} servers are away, and may have one)` : '')
  )
}

const repairAll = async (call: AdminCall, snapshotId: bigint, findings: readonly Finding[]): Promise<string[]> => {
  const fixable = findings.filter(({ fix }) => fix !== undefined)
  if (fixable.length === 0) return []
  if (fixable.length > fixesPerCall) {
    throw new UsageError(
      `${fixable.length} things can be mended, which is more than one run may change; look at them without --repair first`,
    )
  }
  const { refused } = await call('repair', { snapshotId, fixes: fixable.map(({ fix }) => fix!) })
  return fixable.flatMap(({ what }, i) => (refused[i] === '' ? [] : [`${what}: not mended, ${refused[i]}`]))
}

export const fsckCommand = (): Command =>
  withAdminOptions(
    new Command('fsck')
      .description('check names, inodes, extents, chunks and copies against one another')
      .option('--repair', 'mend what can be mended without any loss; everything else is only reported')
      .option('--backup <file>', 'check a backup instead of a running cluster'),
  )
    .addHelpText(
      'after',
      `
The master goes on meanwhile: one moment of its data is checked, in this process, which needs some hundred bytes of memory for each file.
Whether the bytes of the copies are right is the business of shoal scrub.

With --repair: totals and counts are corrected, names are listed again, names that lead nowhere are removed, and files without a name get
one in /lost+found. No data is freed.

Exit codes: 0 all is well, 3 something was wrong and is mended, 4 something is wrong, 1 the check could not be made.

Examples:
  shoal fsck
  shoal fsck --repair
  shoal fsck --backup /backup/shoal.metadata`,
    )
    .action(async (options: FsckOptions, command: Command) => {
      const check = new StoreCheck()
      if (options.backup !== undefined) {
        if (options.repair === true)
          command.error('error: a backup is not repaired: restore it, and repair the cluster')
        await readBackup(options.backup, ({ key, value }) => check.add(key, value))
        tell(options, check, check.finish(), undefined)
        return
      }
      await withMaster(options, async (call) => {
        const terminal = new TerminalLine(process.stderr)
        const { snapshotId } = await call('openSnapshot', {})
        for await (const page of snapshotPages(call, snapshotId)) {
          for (const { key, value } of page) check.add(key, value)
          terminal.show(`${formatCount(check.totals.records)} records read`)
        }
        terminal.clear()
        const findings = check.finish()
        const left = options.repair === true ? await repairAll(call, snapshotId, findings) : undefined
        await checkReplicas(call, check, findings)
        tell(options, check, findings, left)
      })
    })

/** `left`: what a repair did not mend; undefined without one. */
const tell = (
  options: FsckOptions,
  check: StoreCheck,
  findings: readonly Finding[],
  left: readonly string[] | undefined,
): void => {
  const mended = left === undefined ? 0 : findings.filter(({ fix }) => fix !== undefined).length - left.length
  const open = findings.length - mended
  const { inodes, names, extents, chunks } = check.totals
  if (options.json === true) {
    const listed = findings.map(({ what, fix }) => ({ what, mendable: fix !== undefined }))
    process.stdout.write(json({ ...check.totals, findings: listed, mended, left: open, notMended: left ?? [] }))
  } else {
    const mark = ({ fix }: Finding): string =>
      fix === undefined ? '' : left === undefined ? ' (--repair mends it)' : ''
    print([
      ...findings.map((finding) => `${finding.what}${mark(finding)}`),
      ...(left ?? []),
      `${formatCount(inodes)} inodes, ${formatCount(names)} names, ${formatCount(extents)} extents, ${formatCount(chunks)} chunks: ` +
        (findings.length === 0 ? 'all is well' : `${open} things are wrong, ${mended} are mended`),
    ])
  }
  if (open > 0) process.exitCode = exitLeft
  else if (mended > 0) process.exitCode = exitMended
}
