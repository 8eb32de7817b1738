/**
 * Attributes and statistics as the addon of fuse-native takes them: arrays of 32-bit numbers, low half before high half, with times in
 * milliseconds.
 */
import type { Attributes, FileSystemStatistics } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import type { Timespec } from '../../src/domain/time.ts'

const statWords = 18
const statfsWords = 11
const sectorBytes = 512n
const blockBytes = 4096
const wordMax = 0xffff_ffffn
const statWord = {
  mode: 0,
  uid: 1,
  gid: 2,
  size: 3,
  nlink: 6,
  ino: 7,
  rdev: 8,
  blksize: 9,
  blocks: 10,
  atime: 12,
  mtime: 14,
  ctime: 16,
} as const

/** What goes along with an error. */
export const noStat = new Uint32Array(statWords)
export const noStatfs = new Uint32Array(statfsWords)

/** Two halves as the addon passes 64-bit numbers. */
export const unsignedOf = (low: number, high: number): bigint => (BigInt(high) << 32n) | BigInt(low)
export const signedOf = (low: number, high: number): bigint => BigInt.asIntN(64, unsignedOf(low, high))

const setLong = (words: Uint32Array, at: number, value: bigint): void => {
  words[at] = Number(value & wordMax)
  words[at + 1] = Number(value >> 32n)
}

/** Times before 1970 cannot be said: they become 1970. */
const millisecondsOf = ({ seconds, nanos }: Timespec): bigint =>
  seconds < 0n ? 0n : seconds * 1000n + BigInt(Math.floor(nanos / 1_000_000))

/** Milliseconds may be below 0. */
export const timespecOf = (milliseconds: bigint): Timespec => {
  const rest = ((milliseconds % 1000n) + 1000n) % 1000n
  return { seconds: (milliseconds - rest) / 1000n, nanos: Number(rest) * 1_000_000 }
}

/** EOVERFLOW for an inode number that does not fit: half of one would make two files the same. */
export const encodeStat = (attributes: Attributes): Uint32Array => {
  if (attributes.ino > wordMax) throw new PosixError('EOVERFLOW')
  const words = new Uint32Array(statWords)
  words[statWord.mode] = attributes.mode
  words[statWord.uid] = attributes.uid
  words[statWord.gid] = attributes.gid
  setLong(words, statWord.size, attributes.size)
  words[statWord.nlink] = attributes.nlink
  words[statWord.ino] = Number(attributes.ino)
  words[statWord.rdev] = attributes.rdev
  words[statWord.blksize] = blockBytes
  setLong(words, statWord.blocks, attributes.allocated / sectorBytes)
  setLong(words, statWord.atime, millisecondsOf(attributes.atime))
  setLong(words, statWord.mtime, millisecondsOf(attributes.mtime))
  setLong(words, statWord.ctime, millisecondsOf(attributes.ctime))
  return words
}

/** What a listing tells of an entry; stat(2) is asked for the rest. */
export const encodeListed = (ino: Ino, type: number): Uint32Array => {
  const words = new Uint32Array(statWords)
  words[statWord.mode] = type
  words[statWord.ino] = Number(BigInt(ino) & wordMax)
  return words
}

/** In blocks so large that their number fits; inodes as many as fit, with the right number of them in use. */
export const encodeStatfs = (statistics: FileSystemStatistics): Uint32Array => {
  let block = BigInt(statistics.blockBytes)
  while (statistics.bytesTotal / block > wordMax) block *= 2n
  const free = Number(statistics.bytesFree / block)
  const inodes = statistics.inodesUsed + statistics.inodesFree
  const inodesShown = inodes < wordMax ? inodes : wordMax
  const inodesFree = inodesShown > statistics.inodesUsed ? Number(inodesShown - statistics.inodesUsed) : 0
  return Uint32Array.of(
    Number(block),
    Number(block),
    Number(statistics.bytesTotal / block),
    free,
    free,
    Number(inodesShown),
    inodesFree,
    inodesFree,
    0,
    0,
    statistics.nameBytesMax,
  )
}
