/**
 * Who a data directory is: store.json, one JSON object with a checksum over the rest.
 *
 * Invariant: a directory belongs to at most one cluster, for ever, and has the server id that this cluster gave it.
 */
import { crc32c } from '@node-rs/crc32'
import { PosixError, UsageError } from '../domain/errors.ts'
import type { Disk } from '../platform/disk.ts'
import type { Random } from '../platform/random.ts'

const magic = 'shoal-chunk-store'
export const storeFormatVersion = 1
export const identityFileName = 'store.json'

export interface StoreIdentity {
  /** Random, made with the directory. */
  storeId: string
  /** Empty: it has never belonged to a cluster. */
  clusterId: string
  /** 0: none yet. */
  serverId: number
}

const checksumOf = (fields: object): string => crc32c(JSON.stringify(fields)).toString(16).padStart(8, '0')

export const encodeIdentity = (identity: StoreIdentity): Buffer => {
  const fields = {
    magic,
    format: storeFormatVersion,
    store_id: identity.storeId,
    cluster_id: identity.clusterId,
    server_id: identity.serverId,
  }
  return Buffer.from(`${JSON.stringify({ ...fields, checksum: checksumOf(fields) }, undefined, 2)}\n`)
}

/** UsageError when the bytes are of a newer format or no identity at all; `path` is for the sentence. */
export const decodeIdentity = (bytes: Buffer, path: string): StoreIdentity => {
  const refuse = (why: string): never => {
    throw new UsageError(`${path} ${why}; restore it from a copy, or start with an empty directory`)
  }
  let parsed: unknown
  try {
    parsed = JSON.parse(bytes.toString('utf8'))
  } catch {
    return refuse('is damaged: it is not JSON')
  }
  if (typeof parsed !== 'object' || parsed === null) return refuse('is damaged: it is no JSON object')
  const { checksum, ...fields } = parsed as Record<string, unknown>
  if (fields['magic'] !== magic) return refuse('is not the identity of a Shoal chunk server')
  const format = fields['format']
  if (typeof format === 'number' && format > storeFormatVersion) {
    throw new UsageError(
      `${path} has format ${format}, written by a newer Shoal (this one knows up to ${storeFormatVersion}); run the newer version on it`,
    )
  }
  const { store_id: storeId, cluster_id: clusterId, server_id: serverId } = fields
  if (
    checksum !== checksumOf(fields) ||
    format !== storeFormatVersion ||
    typeof storeId !== 'string' ||
    typeof clusterId !== 'string' ||
    typeof serverId !== 'number'
  ) {
    return refuse('is damaged: its checksum does not match')
  }
  return { storeId, clusterId, serverId }
}

export const writeIdentity = (disk: Disk, directory: string, identity: StoreIdentity): Promise<void> =>
  disk.replaceFile(`${directory}/${identityFileName}`, encodeIdentity(identity))

/** UsageError when the directory is in other use; writes nothing. */
export const refuseForeignDirectory = async (disk: Disk, directory: string): Promise<void> => {
  const names = await disk.list(directory).catch((error: unknown): never => {
    if (!(error instanceof PosixError)) throw error
    const why = error.code === 'ENOTDIR' ? 'it is not a directory' : error.message
    throw new UsageError(`cannot use the data directory ${directory}: ${why}`)
  })
  const ours = (name: string): boolean => name === 'LOCK' || name === 'lost+found' || name.startsWith(identityFileName)
  const foreign = names.find((name) => !ours(name))
  if (foreign === undefined || names.includes(identityFileName)) return
  throw new UsageError(
    `${directory} has no ${identityFileName} but is not empty (${foreign}): give a chunk server an empty directory of its own`,
  )
}

/** The directory's identity, made when the directory is empty. UsageError when it is in other use. */
export const readOrMakeIdentity = async (disk: Disk, directory: string, random: Random): Promise<StoreIdentity> => {
  const path = `${directory}/${identityFileName}`
  const bytes = await disk.readFile(path)
  if (bytes) return decodeIdentity(bytes, path)
  await refuseForeignDirectory(disk, directory)
  const identity: StoreIdentity = { storeId: random.bytes(16).toString('hex'), clusterId: '', serverId: 0 }
  await writeIdentity(disk, directory, identity)
  return identity
}
