/**
 * Which records of a backup a restored store begins with. A backup is older than what chunk servers and clients have seen, so no number
 * that was given out since may be given out again: all of them jump. Sessions and their results are gone; their open chunks are sealed at
 * the master's start.
 */
import { counters, formatNumber, formats, results, sessions } from './keys.ts'
import type { CounterName } from './keys.ts'

export interface StoreRecord {
  key: Buffer
  value: Buffer
}

/** More than a cluster gives out between two backups. */
const jumps: Partial<Record<CounterName, bigint>> = {
  nextIno: 1n << 40n,
  nextChunk: 1n << 40n,
  nextSession: 1n << 40n,
  nextServer: 10_000n,
}

/** The record as it is to be restored; undefined: not at all. */
export const restoredRecord = ({ key, value }: StoreRecord): StoreRecord | undefined => {
  const name = key.toString('latin1')
  if (name.startsWith(sessions.prefix) || name.startsWith(results.prefix)) return undefined
  if (!name.startsWith(counters.prefix)) return { key, value }
  const counter = counters.decodeKey(name)
  if (counter === 'restores') return undefined
  return { key, value: counters.encode(counters.decode(value) + (jumps[counter] ?? 0n)) }
}

/** What comes on top of all others. `countersSeen`: those that the backup has. */
export const addedRecords = (countersSeen: ReadonlyMap<CounterName, bigint>): StoreRecord[] => {
  const record = (name: CounterName, value: bigint): StoreRecord => ({
    key: Buffer.from(counters.encodeKey(name), 'latin1'),
    value: counters.encode(value),
  })
  const added = [record('restores', (countersSeen.get('restores') ?? 0n) + 1n)]
  // A counter that is not there stands for its first number.
  for (const [name, jump] of Object.entries(jumps) as [CounterName, bigint][]) {
    if (!countersSeen.has(name)) added.push(record(name, jump + 1n))
  }
  return added
}

/** The counter that a record is, if it is one. */
export const counterOf = ({ key, value }: StoreRecord): [CounterName, bigint] | undefined => {
  const name = key.toString('latin1')
  return name.startsWith(counters.prefix) ? [counters.decodeKey(name), counters.decode(value)] : undefined
}

/** Which cluster a store is of, and which format it has; undefined for every other record. */
export const identityOf = ({ key, value }: StoreRecord): { clusterId: string; isNewer: boolean } | undefined => {
  if (key.toString('latin1') !== formats.encodeKey(undefined)) return undefined
  const { number, clusterId } = formats.decode(value)
  return { clusterId, isNewer: number > formatNumber }
}
