/**
 * What must hold in the master's store and on the chunk servers' disks when nobody does anything: names and inodes agree, counts are exact,
 * every block that an extent touches is there in each replica with the same bytes, and nothing else is.
 */
import { crc32c } from '@node-rs/crc32'
import { chunkPath } from '../../../src/chunkserver/scan.ts'
import { dataStart, decodeHeader, entryBytes, headerBytes, tableStart } from '../../../src/chunkserver/format.ts'
import { blockBytes, blocksPerChunk } from '../../../src/domain/limits.ts'
import {
  chunks as chunkTable,
  counters,
  dentries,
  inodes,
  listings,
  orphans,
  pendingFrees,
  references,
  segments,
  servers as serverTable,
} from '../../../src/master/keys.ts'
import type { Table } from '../../../src/master/keys.ts'
import type { KvEntry } from '../../../src/platform/kv-engine.ts'
import type { SimulatedDisk } from '../../lib/simulated-disk.ts'

const rootIno = 1n

const records = <K, V>(entries: readonly KvEntry[], table: Table<K, V>): [K, V][] =>
  entries
    .filter(({ key }) => key[0] === table.prefix.charCodeAt(0))
    .map(({ key, value }) => [table.decodeKey(key.toString('latin1')), table.decode(value)])

/** How many extents touch each block of each chunk. */
const touches = (entries: readonly KvEntry[]): Map<bigint, Uint16Array> => {
  const found = new Map<bigint, Uint16Array>()
  for (const [, extents] of records(entries, segments)) {
    for (const { chunkId, chunkOffset, length } of extents) {
      if (chunkId === 0n || length === 0) continue
      let counts = found.get(chunkId)
      if (counts === undefined) found.set(chunkId, (counts = new Uint16Array(blocksPerChunk)))
      const first = Math.floor(chunkOffset / blockBytes)
      const end = Math.ceil((chunkOffset + length) / blockBytes)
      for (let block = first; block < end; block++) counts[block]!++
    }
  }
  return found
}

/** What is wrong in the store of a cluster with so many servers. One that is gone with its disk is still waited for with what is to be punched. */
export const storeProblems = (entries: readonly KvEntry[], serversHere: number): string[] => {
  const problems: string[] = []
  const inodeOf = new Map(records(entries, inodes).map(([ino, inode]) => [BigInt(ino), inode]))
  const names = records(entries, dentries)
  const listed = new Map(
    records(entries, listings).map(([{ parent, cookie }, value]) => [`${parent}/${cookie}`, value]),
  )
  const links = new Map<bigint, number>()
  const children = new Map<bigint, number>()
  const subdirectories = new Map<bigint, number>()
  for (const [{ parent, name }, { ino, cookie }] of names) {
    const inode = inodeOf.get(ino)
    if (inode === undefined) problems.push(`name ${parent}/${name.toString()} leads to inode ${ino}, which is missing`)
    const entry = listed.get(`${parent}/${cookie}`)
    if (entry === undefined || !entry.name.equals(name) || entry.ino !== ino) {
      problems.push(`name ${parent}/${name.toString()} is not listed under its cookie`)
    }
    links.set(ino, (links.get(ino) ?? 0) + 1)
    children.set(parent, (children.get(parent) ?? 0) + 1)
    if (inode !== undefined && (inode.mode & 0o170000) === 0o040000) {
      subdirectories.set(parent, (subdirectories.get(parent) ?? 0) + 1)
      if (inode.parent !== parent) problems.push(`directory ${ino} is in ${parent} and says ${inode.parent}`)
    }
  }
  if (listed.size !== names.length) problems.push(`${names.length} names and ${listed.size} listed ones`)
  const orphaned = new Set(records(entries, orphans).map(([ino]) => BigInt(ino)))
  for (const [ino, inode] of inodeOf) {
    const isDirectory = (inode.mode & 0o170000) === 0o040000
    const nlink = isDirectory ? 2 + (subdirectories.get(ino) ?? 0) : (links.get(ino) ?? 0)
    if (inode.nlink !== nlink && !orphaned.has(ino))
      problems.push(`inode ${ino} has nlink ${inode.nlink} instead of ${nlink}`)
    if (isDirectory && inode.entries !== (children.get(ino) ?? 0)) {
      problems.push(`directory ${ino} counts ${inode.entries} names and has ${children.get(ino) ?? 0}`)
    }
    if (ino !== rootIno && !links.has(ino) && !orphaned.has(ino))
      problems.push(`inode ${ino} has no name and is no orphan`)
  }
  for (const ino of orphaned) problems.push(`inode ${ino} is an orphan that nobody has open`)
  const totals = new Map(records(entries, counters))
  if (totals.get('inodes') !== BigInt(inodeOf.size)) {
    problems.push(`the counter says ${totals.get('inodes')} inodes and there are ${inodeOf.size}`)
  }
  let liveBlocks = 0
  const touched = touches(entries)
  const known = new Map(records(entries, chunkTable).map(([id, chunk]) => [BigInt(id), chunk]))
  const shared = new Map<string, number>()
  for (const [{ chunk, block }, { blocks, count }] of records(entries, references)) {
    for (let at = block - blocks + 1; at <= block; at++) {
      shared.set(`${chunk}/${at}`, count)
      if (count > 0 && (touched.get(chunk)?.[at] ?? 0) === 0)
        problems.push(`block ${at} of chunk ${chunk} is in no extent, ${count} are counted`)
    }
  }
  for (const [id, chunk] of known) {
    const counts = touched.get(id)
    let live = 0
    for (let block = 0; counts !== undefined && block < blocksPerChunk; block++) {
      const count = counts[block]!
      if (count === 0) continue
      live++
      if ((block + 1) * blockBytes > chunk.committedBytes) {
        problems.push(`block ${block} of chunk ${id} is in use beyond ${chunk.committedBytes}`)
      }
      const said = shared.get(`${id}/${block}`) ?? 1
      if (said !== count) problems.push(`block ${block} of chunk ${id} is in ${count} extents, ${said} are counted`)
    }
    if (live !== chunk.liveBlocks) problems.push(`chunk ${id} counts ${chunk.liveBlocks} live blocks and has ${live}`)
    if (chunk.sealed && live === 0) problems.push(`chunk ${id} is dead and still known`)
    liveBlocks += live
  }
  for (const id of touched.keys()) if (!known.has(id)) problems.push(`chunk ${id} is in use and not known`)
  if ((totals.get('liveBytes') ?? 0n) !== BigInt(liveBlocks * blockBytes)) {
    problems.push(`the counter says ${totals.get('liveBytes')} live bytes and there are ${liveBlocks * blockBytes}`)
  }
  const serversKnown = records(entries, serverTable).filter(([, { removed }]) => !removed).length
  for (const [{ chunk, block }] of serversKnown > serversHere ? [] : records(entries, pendingFrees)) {
    problems.push(`block ${block} of chunk ${chunk} was not punched`)
  }
  return problems
}

/** A block of a chunk's file if it is what its checksum says; beyond the end of the file there are zeros. */
const goodBlock = (content: Buffer, block: number): Buffer | undefined => {
  const bytes = Buffer.alloc(blockBytes)
  content.subarray(dataStart + block * blockBytes).copy(bytes)
  const entry = Buffer.alloc(entryBytes)
  content.subarray(tableStart + block * entryBytes).copy(entry)
  return crc32c(bytes) === entry.readUInt32LE() ? bytes : undefined
}

/** Good blocks follow a bad one. */
const hasMore = (content: Buffer): boolean => {
  const blocks = Array.from({ length: Math.ceil((content.length - dataStart) / blockBytes) }, (_, block) => block)
  const firstBad = blocks.findIndex((block) => goodBlock(content, block) === undefined)
  return firstBad >= 0 && blocks.slice(firstBad).some((block) => goodBlock(content, block) !== undefined)
}

/**
 * After the ends of chunks were lost everywhere: of what is in use, whatever the longest replica has must be in all that there should be, unless
 * some replica has more behind a bad block.
 */
export const keptProblems = (
  entries: readonly KvEntry[],
  disks: readonly SimulatedDisk[],
  chunkRoot: string,
): string[] => {
  const problems: string[] = []
  const touched = touches(entries)
  for (const [id, { copies }] of records(entries, chunkTable)) {
    const inUse = [...(touched.get(id) ?? []).entries()].flatMap(([block, count]) => (count > 0 ? [block] : []))
    const contents = disks.flatMap((disk) => disk.content(chunkPath(chunkRoot, id)) ?? [])
    const kept = contents.map((content) => {
      const firstBad = inUse.findIndex((block) => goodBlock(content, block) === undefined)
      return firstBad < 0 ? inUse.length : firstBad
    })
    const most = Math.max(0, ...kept)
    const enough = kept.filter((blocks) => blocks === most).length
    if (most > 0 && enough < copies && !contents.some(hasMore))
      problems.push(`${most} blocks of chunk ${id} are left, and on ${enough} disks instead of ${copies}`)
  }
  return problems
}

/**
 * What is wrong with the replicas of what the store has. Where bits were flipped there may be damage that nobody has read yet, as long as
 * its checksum shows it.
 */
export const replicaProblems = (
  entries: readonly KvEntry[],
  disks: readonly { name: string; disk: SimulatedDisk }[],
  flipped: string | undefined,
): string[] => {
  const problems: string[] = []
  const touched = touches(entries)
  const known = new Map(records(entries, chunkTable).map(([id, chunk]) => [BigInt(id), chunk]))
  const replicas = new Map<bigint, { name: string; content: Buffer }[]>()
  for (const { name, disk } of disks) {
    for (const path of disk.paths()) {
      const file = /\/([0-9a-f]{16})(\.copy|\.damaged)?$/.exec(path)
      if (file === null) continue
      const id = BigInt(`0x${file[1]!}`)
      if (file[2] !== undefined) {
        if (file[2] === '.copy') problems.push(`${name} keeps ${path}`)
        continue
      }
      if (!known.has(id)) {
        problems.push(`${name} keeps chunk ${id}, which is not known`)
        continue
      }
      const list = replicas.get(id) ?? []
      list.push({ name, content: disk.content(path)! })
      replicas.set(id, list)
    }
  }
  for (const [id, chunk] of known) {
    const held = replicas.get(id) ?? []
    if (held.length !== chunk.copies) {
      problems.push(
        `chunk ${id} has ${held.length} replicas (${held.map(({ name }) => name).join(' ')}) instead of ${chunk.copies}`,
      )
    }
    const counts = touched.get(id)
    for (const { name, content } of held) {
      const header = decodeHeader(content.subarray(0, headerBytes))
      if (name === flipped) continue
      if ('problem' in header) problems.push(`chunk ${id} on ${name} has no good header`)
      else if (header.corrupt) problems.push(`chunk ${id} on ${name} is marked corrupt`)
    }
    for (let block = 0; counts !== undefined && block < blocksPerChunk; block++) {
      if (counts[block] === 0) continue
      const good: Buffer[] = []
      for (const { name, content } of held) {
        const bytes = goodBlock(content, block)
        if (bytes !== undefined) good.push(bytes)
        else if (name !== flipped) problems.push(`block ${block} of chunk ${id} on ${name} does not match its checksum`)
      }
      if (good.some((bytes) => !bytes.equals(good[0]!))) {
        problems.push(`block ${block} of chunk ${id} differs between ${held.map(({ name }) => name).join(' ')}`)
        break
      }
    }
  }
  return problems
}
