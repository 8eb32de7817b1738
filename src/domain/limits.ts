/** Sizes and bounds that more than one part agrees on. Changing one changes a stored format or the wire contract. */

/** A chunk holds at most this many bytes; a file's extents are kept in segments of the same size. */
export const chunkBytes = 64 * 1024 * 1024
export const segmentBytes = chunkBytes
export const segmentShift = 26n
/** Appends start at multiples of this; one checksum covers one block. */
export const blockBytes = 4096
export const blocksPerChunk = chunkBytes / blockBytes
/** The largest append or read in one message. */
export const transferBytesMax = 1024 * 1024
/** The largest message that a peer accepts; a larger one ends the stream. */
export const messageBytesMax = 4 * 1024 * 1024
export const nameBytesMax = 255
export const symlinkBytesMax = 4095
export const linksMax = 65_000
export const xattrValueBytesMax = 65_536
/** 8 EiB - 1, the largest offset of off_t. */
export const fileBytesMax = (1n << 63n) - 1n

/** Places in a listing: 0, 1 and 2 are the start, "." and "..", and the first name of a directory gets this one. */
export const cookieFirst = 3n
