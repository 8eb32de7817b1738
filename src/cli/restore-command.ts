/** `shoal restore`: makes the data directory of a master from a backup. The master must not run. */
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { Command } from 'commander'
import { UsageError } from '../domain/errors.ts'
import { tableBounds, counters as counterTable, formats } from '../master/keys.ts'
import type { CounterName } from '../master/keys.ts'
import { addedRecords, counterOf, identityOf, restoredRecord } from '../master/restore.ts'
import { StoreCheck } from '../master/fsck.ts'
import type { KvChange, KvEngine } from '../platform/kv-engine.ts'
import { realDisk } from '../platform/real-disk.ts'
import { json, print } from './administration.ts'
import { readBackup } from './backup-file.ts'
import { formatCount } from './quantity.ts'

interface RestoreOptions {
  data: string
  force?: boolean
  json?: boolean
}

const batchRecords = 2000

const messageOf = (caught: unknown): string => (caught instanceof Error ? caught.message : String(caught))

interface Held {
  /** undefined: it is damaged. */
  store: { clusterId: string; counters: Map<CounterName, bigint> } | undefined
  /** Until this no master can use it. Idempotent. Not after its directory was moved: RocksDB tidies up under the name that it knows. */
  release: () => Promise<void>
}

/** What the store in a directory is, taken hold of; undefined when there is nothing in it. UsageError when a master uses it. */
const lookInto = async (directory: string): Promise<Held | undefined> => {
  const names = await readdir(directory).catch((caught: unknown): string[] => {
    if (caught instanceof Error && 'code' in caught && caught.code === 'ENOENT') return []
    throw new UsageError(`cannot look into ${directory}: ${messageOf(caught)}`)
  })
  if (names.length === 0) return undefined
  if (!names.includes('CURRENT')) {
    throw new UsageError(`${directory} is not empty and holds no data of a master; name another directory`)
  }
  const { openRocksDb, DamagedDatabaseError } = await import('../platform/rocksdb-engine.ts')
  let kv: KvEngine
  try {
    kv = await openRocksDb(directory)
  } catch (caught) {
    if (caught instanceof DamagedDatabaseError) return { store: undefined, release: () => Promise.resolve() }
    throw caught
  }
  let released: Promise<void> | undefined
  const release = (): Promise<void> => (released ??= kv.close())
  try {
    const format = await kv.get(Buffer.from(formats.encodeKey(undefined), 'latin1'))
    const bounds = tableBounds(counterTable)
    const found = await kv.range({
      gte: Buffer.from(bounds.gte, 'latin1'),
      lt: Buffer.from(bounds.lt, 'latin1'),
      limit: 1000,
    })
    const counters = new Map<CounterName, bigint>()
    for (const record of found) {
      const counter = counterOf(record)
      if (counter) counters.set(...counter)
    }
    const clusterId = format === undefined ? '' : formats.decode(format).clusterId
    return { store: { clusterId, counters }, release }
  } catch {
    return { store: undefined, release }
  }
}

/** Ids count up, so what was made since the backup is the difference at most: mounts are given ranges of them in advance. */
const lossOf = (
  held: Held['store'],
  backup: { clusterId: string; counters: ReadonlyMap<CounterName, bigint> },
): string => {
  if (!held) return 'what it holds is damaged, and all that is not in the backup would be lost'
  if (held.clusterId !== backup.clusterId) {
    return `it holds cluster ${held.clusterId}, and the backup is of cluster ${backup.clusterId}: all of that would be lost`
  }
  const since = (name: CounterName): bigint => (held.counters.get(name) ?? 0n) - (backup.counters.get(name) ?? 0n)
  // Which makes the ids jump.
  if (since('restores') > 0n) {
    return 'it holds the same cluster, restored after this backup was made, and what changed since would be lost'
  }
  return (
    `it holds the same cluster, and what changed after the backup would be lost: at most ${formatCount(since('nextIno'))} files and directories ` +
    `and ${formatCount(since('nextChunk'))} chunks were made since`
  )
}

const load = async (kv: KvEngine, file: string): Promise<number> => {
  let batch: KvChange[] = []
  let count = 0
  const flush = async (sync: boolean): Promise<void> => {
    const changes = batch
    batch = []
    await kv.write(changes, { sync })
  }
  const counters = new Map<CounterName, bigint>()
  await readBackup(file, async (record) => {
    const counter = counterOf(record)
    if (counter) counters.set(...counter)
    const restored = restoredRecord(record)
    if (!restored) return
    batch.push({ type: 'put', ...restored })
    count++
    if (batch.length >= batchRecords) await flush(false)
  })
  for (const record of addedRecords(counters)) batch.push({ type: 'put', ...record })
  await flush(true)
  return count
}

/** Makes a store of its own from a backup; the number of records. */
const restoreInto = async (directory: string, file: string): Promise<number> => {
  await rm(directory, { recursive: true, force: true })
  await mkdir(directory, { recursive: true })
  const { openRocksDb } = await import('../platform/rocksdb-engine.ts')
  const kv = await openRocksDb(directory)
  try {
    return await load(kv, file)
  } finally {
    await kv.close()
  }
}

/** Puts a directory in place of another one, which is kept under the name `kept`, if given, and must be empty or missing if not. */
const putInPlace = async (restored: string, directory: string, kept: string | undefined): Promise<void> => {
  try {
    if (kept !== undefined) await rename(directory, kept)
    await rename(restored, directory)
    await realDisk.syncDirectory(dirname(resolve(directory)))
  } catch (caught) {
    throw new UsageError(
      `what was restored is in ${restored}, but could not be moved to ${directory} (a mount point?): ${messageOf(caught)}`,
    )
  }
}

export const restoreCommand = (): Command =>
  new Command('restore')
    .description('make the data directory of a master from a backup')
    .argument('<file>', 'a backup of shoal snapshot-metadata')
    .requiredOption('--data <dir>', 'data directory of the master, which must not run; made if missing')
    .option('--force', 'also when the directory holds a cluster; its data is kept beside it, under another name')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The backup is read and checked wholly before anything is written. After it, start the master as before: chunk servers and their data are
taken over, mounts begin anew. What was written after the backup is lost: the chunks that it does not name are removed from the chunk
servers a minute after the master's start. Files that were deleted or overwritten after the backup may be damaged: run shoal fsck.

Examples:
  shoal restore /backup/shoal-2026-01-31.metadata --data /var/lib/shoal/master`,
    )
    .action(async (file: string, options: RestoreOptions) => {
      const directory = options.data.replace(/(?<=.)\/+$/, '')
      const check = new StoreCheck()
      const counters = new Map<CounterName, bigint>()
      let identity: { clusterId: string; isNewer: boolean } | undefined
      const header = await readBackup(file, (record) => {
        check.add(record.key, record.value)
        identity ??= identityOf(record)
        const counter = counterOf(record)
        if (counter) counters.set(...counter)
      })
      if (!identity || identity.clusterId !== header.clusterId)
        throw new UsageError(`${file} is no usable backup: it names no cluster`)
      if (identity.isNewer) throw new UsageError(`${file} was written by a newer Shoal; restore it with that one`)
      const findings = check.finish()
      const held = await lookInto(directory)
      const kept = held && `${directory}.before-restore-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`
      let records: number
      try {
        if (held && options.force !== true) {
          throw new UsageError(
            `${directory} is in place: ${lossOf(held.store, { clusterId: header.clusterId, counters })}; --force restores all the same`,
          )
        }
        const restored = `${directory}.restoring`
        records = await restoreInto(restored, file)
        await held?.release()
        await putInPlace(restored, directory, kept)
      } finally {
        await held?.release()
      }
      const taken = new Date(header.takenMs).toISOString()
      if (options.json === true) {
        process.stdout.write(
          json({
            data: directory,
            clusterId: header.clusterId,
            taken,
            records,
            kept,
            findings: findings.map(({ what }) => what),
          }),
        )
      } else {
        print([
          `${directory}: cluster ${header.clusterId} as of ${taken}, ${formatCount(records)} records`,
          ...(kept === undefined ? [] : [`what was there before is in ${kept}`]),
          ...(findings.length === 0
            ? []
            : [`${findings.length} things are wrong in it (the first: ${findings[0]?.what}); run shoal fsck`]),
        ])
      }
      if (findings.length > 0) process.exitCode = 1
    })
