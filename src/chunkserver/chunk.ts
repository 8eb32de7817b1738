/**
 * What the store knows of one chunk without opening its file. There is one of these in memory for each chunk on disk, so it is small.
 */
import type { ChunkId } from '../domain/ids.ts'

export interface Chunk {
  readonly id: ChunkId
  /** Bytes that are provably good, or (sealed) that ought to be; a multiple of the block size. */
  lengthBytes: number
  /**
   * Where the last written block ends. Greater than the length when an open chunk was found with a block that does not match:
   * what follows that block is neither served nor thrown away until the master says where the chunk ends.
   */
  extentBytes: number
  /**
   * open: takes appends. sealed: never changes, but for holes. unreadable: the file's header is lost and the file was set aside;
   * length 0.
   */
  state: 'open' | 'sealed' | 'unreadable'
  /** A stored checksum did not match, a sync failed, or the file cannot be read. Never taken back but by a new copy. */
  corrupt: boolean
  /** Bytes on disk, the header and the table included. */
  usedBytes: number
}
