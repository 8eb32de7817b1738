/**
 * What is in a data directory after a start: the headers of sealed chunks are read, open chunks are checked block by block.
 *
 * An open chunk ends where its first block is that does not match: a torn tail, which nobody was promised. When good blocks follow,
 * it cannot be told from damage to acknowledged data; then the file is left as it is, and the chunk counts only up to that block; otherwise it is
 * cut there.
 * A block that the disk cannot read ends it too. That is no torn tail, so the file is left as it is.
 * One that a sync failed for is corrupt, however good it looks: it may have been read from memory.
 */
import { PosixError, UsageError } from '../domain/errors.ts'
import type { ChunkId } from '../domain/ids.ts'
import { blockBytes, transferBytesMax } from '../domain/limits.ts'
import type { Disk } from '../platform/disk.ts'
import type { Log } from '../platform/log.ts'
import { ChunkFile, readHeader } from './chunk-file.ts'
import type { ByteSpan } from './chunk-table.ts'
import type { Chunk } from './chunk.ts'
import {
  chunkDirectoryName,
  chunkFileName,
  chunkFormatVersion,
  copySuffix,
  damagedSuffix,
  dataStart,
  headerBytes,
  parseChunkFileName,
} from './format.ts'

/** Files that are looked at side by side. */
const scansMax = 8

export interface ScanOptions {
  disk: Disk
  /** The directory of the directories of chunk files. */
  directory: string
  clusterId: string
  log: Log
}

const directoryNames = Array.from({ length: 256 }, (_, index) => index.toString(16).padStart(2, '0'))

export const chunkDirectory = (directory: string, chunkId: ChunkId): string =>
  `${directory}/${chunkDirectoryName(chunkId)}`
export const chunkPath = (directory: string, chunkId: ChunkId): string =>
  `${chunkDirectory(directory, chunkId)}/${chunkFileName(chunkId)}`

/** Makes the directories that are missing. */
export const prepareDirectories = async (disk: Disk, directory: string): Promise<void> => {
  await makeDirectory(disk, directory)
  const there = new Set(await disk.list(directory))
  const missing = directoryNames.filter((name) => !there.has(name))
  for (const name of missing) await makeDirectory(disk, `${directory}/${name}`)
  if (missing.length > 0) await disk.syncDirectory(directory)
}

/** Being there already is fine. */
export const makeDirectory = async (disk: Disk, path: string): Promise<void> => {
  try {
    await disk.mkdir(path)
  } catch (error) {
    if (!(error instanceof PosixError && error.code === 'EEXIST')) throw error
  }
}

/** UsageError when a file is of a newer format. Files that are unusable are set aside and come back as unreadable chunks. */
export const scanChunks = async (options: ScanOptions): Promise<Map<ChunkId, Chunk>> => {
  const chunks = new Map<ChunkId, Chunk>()
  for (const name of directoryNames) {
    const names = await options.disk.list(`${options.directory}/${name}`)
    const pending = names.values()
    const worker = async (): Promise<void> => {
      for (const file of pending) {
        const chunk = await scanFile(options, name, file)
        // A chunk that was copied anew may have its old, unreadable file beside it: the readable one counts.
        if (chunk && (chunk.state !== 'unreadable' || !chunks.has(chunk.id))) chunks.set(chunk.id, chunk)
      }
    }
    await Promise.all(Array.from({ length: Math.min(scansMax, names.length) }, worker))
  }
  return chunks
}

const unreadable = (id: ChunkId): Chunk => ({
  id,
  lengthBytes: 0,
  extentBytes: 0,
  state: 'unreadable',
  corrupt: true,
  usedBytes: 0,
})

const scanFile = async (options: ScanOptions, directoryName: string, name: string): Promise<Chunk | undefined> => {
  const { disk, log } = options
  const directory = `${options.directory}/${directoryName}`
  const path = `${directory}/${name}`
  if (name.endsWith(copySuffix)) {
    await disk.unlink(path)
    return undefined
  }
  const setAside = name.endsWith(damagedSuffix)
  const id = parseChunkFileName(setAside ? name.slice(0, -damagedSuffix.length) : name)
  if (id === undefined || chunkDirectoryName(id) !== directoryName) {
    log.warn('a file that is no chunk is in the chunk directory', { path })
    return undefined
  }
  if (setAside) return unreadable(id)
  try {
    const found = await inspect(options, { directory, path, id })
    if (found !== 'unfinished') return found
    await disk.unlink(path)
    return undefined
  } catch (cause) {
    if (cause instanceof UsageError) throw cause
    if (cause instanceof PosixError && cause.code !== 'EIO') {
      // Not the file's fault: rights, descriptors, memory.
      throw new UsageError(`cannot open the chunk file ${path}: ${cause.message}`)
    }
    log.error('a chunk file cannot be read and is set aside', { chunk: id, path, cause })
    await disk.rename(path, `${path}${damagedSuffix}`).catch((cause: unknown) => {
      log.error('a damaged chunk file cannot be renamed', { chunk: id, path, cause })
    })
    return unreadable(id)
  }
}

interface Place {
  directory: string
  path: string
  id: ChunkId
}

/** "unfinished": its creation did not get as far as a header on disk, so nobody was promised anything of it. */
const inspect = async (options: ScanOptions, place: Place): Promise<Chunk | 'unfinished'> => {
  const { disk, clusterId } = options
  const { path, id } = place
  const { header, size, allocatedBytes } = await lookAt(disk, path)
  if ('problem' in header) {
    if (header.problem === 'newer') {
      throw new UsageError(
        `${path} has format ${header.version}, written by a newer Shoal (this one knows up to ${chunkFormatVersion}); run the newer version`,
      )
    }
    if (size <= headerBytes) return 'unfinished'
    throw new Error(header.why)
  }
  if (header.chunkId !== id) throw new Error(`it holds chunk ${header.chunkId}`)
  if (header.clusterId !== clusterId) throw new Error('it belongs to another cluster')
  if (!header.sealed) return inspectOpen(options, place)
  const cutShort = size < dataStart + header.length && size < (await sizeMin(disk, place))
  if (cutShort) options.log.error('a sealed chunk is shorter than its blocks', { chunk: id, path })
  return {
    id,
    lengthBytes: header.length,
    extentBytes: header.length,
    state: 'sealed',
    corrupt: header.corrupt || cutShort,
    usedBytes: allocatedBytes,
  }
}

const lookAt = async (disk: Disk, path: string): ReturnType<typeof readHeader> => {
  const file = await disk.open(path)
  try {
    return await readHeader(file)
  } finally {
    await file.close()
  }
}

const sizeMin = async (disk: Disk, { directory, path, id }: Place): Promise<number> => {
  const file = await ChunkFile.open({ disk, directory, path }, id)
  try {
    return file.sizeMin
  } finally {
    await file.close()
  }
}

const inspectOpen = async ({ disk, log }: ScanOptions, { directory, path, id }: Place): Promise<Chunk> => {
  const file = await ChunkFile.open({ disk, directory, path }, id)
  try {
    const { length: lengthBytes, more } = await goodBytes(file)
    if (lengthBytes < file.tableEnd) {
      log.warn('an open chunk has a block that does not match or cannot be read; it counts up to there', {
        chunk: id,
        length: lengthBytes,
        extent: file.tableEnd,
      })
    }
    if (!more) await file.cut(lengthBytes)
    const extentBytes = file.tableEnd
    const { allocatedBytes } = await file.stat()
    return { id, lengthBytes, extentBytes, state: 'open', corrupt: file.corrupt, usedBytes: allocatedBytes }
  } finally {
    await file.close()
  }
}

/** How many bytes from the start are what was written, and whether something may follow a bad block. */
const goodBytes = async (file: ChunkFile): Promise<{ length: number; more: boolean }> => {
  const end = file.tableEnd
  let length = end
  let wrongBytes = 0
  for (let offset = 0; offset < end; offset += transferBytesMax) {
    const piece = { offset, length: Math.min(transferBytesMax, end - offset) }
    const wrong = await wrongIn(file, piece)
    if (wrong === 'unreadable') return { length: Math.min(length, await readableEnd(file, piece)), more: true }
    length = Math.min(length, wrong[0]?.offset ?? end)
    wrongBytes += wrong.reduce((sum, range) => sum + range.length, 0)
  }
  return { length, more: wrongBytes < end - length }
}

const wrongIn = async (file: ChunkFile, { offset, length }: ByteSpan): Promise<ByteSpan[] | 'unreadable'> => {
  try {
    return (await file.read(offset, length)).wrong
  } catch (error) {
    if (error instanceof PosixError && error.code === 'EIO') return 'unreadable'
    throw error
  }
}

/** Where the good blocks at the start of these end, which the disk could not read together. */
const readableEnd = async (file: ChunkFile, { offset, length }: ByteSpan): Promise<number> => {
  const end = offset + length
  for (let at = offset; at < end; at += blockBytes) {
    const wrong = await wrongIn(file, { offset: at, length: blockBytes })
    if (wrong === 'unreadable' || wrong.length > 0) return at
  }
  return end
}
