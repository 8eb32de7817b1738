/** Read-only looks into the namespace for people: the entries of a directory, and on which servers the bytes of a file are. */
import { PosixError } from '../domain/errors.ts'
import { segmentStart } from '../domain/extents.ts'
import type { ChunkId } from '../domain/ids.ts'
import { asChunkId } from '../domain/ids.ts'
import { segmentBytes } from '../domain/limits.ts'
import { isDirectory, isRegular } from '../domain/mode.ts'
import type {
  ListReply,
  ListRequest,
  LocatePathReply,
  LocatePathRequest,
  Piece,
  ReplicaPlace,
} from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { ChunkEntry, ChunkMap } from './chunk-map.ts'
import { isValid } from './chunk-map.ts'
import type { OpContext } from './context.ts'
import { inodes, listingBounds, listings, segmentBounds, segments } from './keys.ts'
import { readable } from './ops/operation.ts'
import { resolvePath } from './paths.ts'
import type { ServerTable } from './servers.ts'
import type { Store } from './store.ts'

export interface BrowseOptions {
  store: Store
  chunks: ChunkMap
  servers: ServerTable
  context: OpContext
}

export const piecesMax = 4096
export const listEntriesMax = 1000
const segmentsPerPage = 16

/** ENOENT, ENOTDIR, EISDIR, EINVAL. */
export const locatePath = (options: BrowseOptions, request: LocatePathRequest): Promise<LocatePathReply> => {
  const { store, context, chunks, servers } = options
  const { path, offset, piecesMax: wanted } = request
  if (wanted < 1 || wanted > piecesMax) throw new PosixError('EINVAL', `A page has 1 to ${piecesMax} pieces.`)
  return store.execute((tx) => {
    const { ino, inode } = resolvePath(tx, path, context)
    readable(context, ino)
    if (isDirectory(inode.mode)) throw new PosixError('EISDIR', `${path} is a directory; name a file in it.`)
    if (!isRegular(inode.mode)) throw new PosixError('EINVAL', `${path} is no regular file and has no data.`)
    const reply: LocatePathReply = {
      ino,
      size: inode.size,
      copies: inode.copies === 0 ? context.cluster.copies : inode.copies,
      inline: inode.content !== undefined,
      pieces: [],
      nextOffset: 0n,
    }
    if (reply.inline) return reply
    const first = offset / BigInt(segmentBytes)
    const found = tx.range(segments, segmentBounds(ino, first), segmentsPerPage)
    for (const [{ index }, extents] of found) {
      for (const extent of extents) {
        const start = segmentStart(index) + BigInt(extent.offset)
        if (start < offset) continue
        if (reply.pieces.length === wanted) {
          reply.nextOffset = start
          return reply
        }
        const chunk = chunks.get(asChunkId(extent.chunkId))
        reply.pieces.push({
          offset: start,
          length: BigInt(extent.length),
          chunkId: extent.chunkId,
          chunkOffset: extent.chunkOffset,
          copies: chunk?.copies ?? 0,
          sealed: chunk?.sealed ?? false,
          replicas: chunk ? replicaPlaces(chunk, servers) : [],
        } satisfies Piece)
      }
    }
    if (found.length === segmentsPerPage) reply.nextOffset = segmentStart(found.at(-1)![0].index + 1n)
    return reply
  })
}

/** ENOENT, ENOTDIR, EINVAL. */
export const list = (options: BrowseOptions, request: ListRequest): Promise<ListReply> => {
  const { store, context } = options
  const { path, cookie, entriesMax } = request
  if (entriesMax < 1 || entriesMax > listEntriesMax) {
    throw new PosixError('EINVAL', `A page has 1 to ${listEntriesMax} entries.`)
  }
  return store.execute((tx) => {
    const { ino, inode } = resolvePath(tx, path, context)
    readable(context, ino)
    if (!isDirectory(inode.mode)) throw new PosixError('ENOTDIR', `${path} is not a directory.`)
    const found = tx.range(listings, listingBounds(ino, cookie), entriesMax + 1)
    const page = found.slice(0, entriesMax)
    const targets = tx.getMany(
      inodes,
      page.map(([, listing]) => listing.ino),
    )
    const entries = page.map(([key, listing], i) => {
      const target = targets[i]
      return {
        name: listing.name,
        cookie: key.cookie,
        ino: listing.ino,
        mode: target?.mode ?? listing.type,
        size: target?.size ?? 0n,
        allocated: target?.allocated ?? 0n,
        copies: target === undefined || target.copies === 0 ? context.cluster.copies : target.copies,
        mtimeMs: target === undefined ? 0n : target.mtime.seconds < 0n ? 0n : target.mtime.seconds * 1000n,
      }
    })
    return { entries, end: found.length <= entriesMax }
  })
}

/** Where the replicas of a chunk are, and how each is; of an open chunk also where it was placed. */
export const replicaPlaces = (entry: ChunkEntry, servers: ServerTable): ReplicaPlace[] => {
  const places = entry.replicas.map((replica): ReplicaPlace => {
    const state = !servers.isUp(replica.server)
      ? 'away'
      : replica.corrupt
        ? 'corrupt'
        : isValid(entry, replica)
          ? 'valid'
          : 'short'
    return { serverId: replica.server, state }
  })
  for (const id of entry.allocated) {
    if (!places.some(({ serverId }) => serverId === id)) {
      places.push({ serverId: id, state: servers.isUp(id) ? 'short' : 'away' })
    }
  }
  return places.toSorted((a, b) => a.serverId - b.serverId)
}

/** Chunks by id, after one of them. */
export const chunksAfter = (chunks: ChunkMap, after: bigint, max: number): ChunkEntry[] => {
  const ids: ChunkId[] = []
  for (const entry of chunks.entries()) if (entry.id > after) ids.push(entry.id)
  ids.sort((a, b) => (a < b ? -1 : 1))
  return ids.slice(0, max).flatMap((id) => chunks.get(id) ?? [])
}
