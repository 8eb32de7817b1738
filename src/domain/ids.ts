/**
 * Identifiers. Each is a branded type, so that one kind cannot be passed for another; the brand exists at compile time only.
 * 64-bit ids are bigint, as on the wire and in keys, so that no conversion can lose bits.
 */

declare const brand: unique symbol
type Branded<T, Name extends string> = T & { readonly [brand]: Name }

/** An inode: 1 is the root directory, never reused. 0 is no inode. */
export type Ino = Branded<bigint, 'Ino'>
/** A chunk, never reused. 0 is no chunk: an allocated range that was never written. */
export type ChunkId = Branded<bigint, 'ChunkId'>
/** A client's session with the master, never reused. 0 is no session. */
export type SessionId = Branded<bigint, 'SessionId'>
/** A chunk server, 1 .. 2^32 - 1, never reused. */
export type ServerId = Branded<number, 'ServerId'>

export const asIno = (value: bigint): Ino => value as Ino
export const asChunkId = (value: bigint): ChunkId => value as ChunkId
export const asSessionId = (value: bigint): SessionId => value as SessionId
export const asServerId = (value: number): ServerId => value as ServerId

export const rootIno = asIno(1n)
/** The chunk id of an extent that is allocated but was never written. */
export const unwrittenChunk = asChunkId(0n)
