/**
 * Large buffers of messages, used again. A new megabyte for each message makes the garbage collector run over the whole heap
 * every few messages; a receiver that knows when it is done with a message gives its buffer back, one that does not leaves it to
 * the collector as ever. They start at a multiple of `alignmentBytes` in memory where the addon can tell, so that a disk can take
 * bytes directly from them.
 *
 * Invariant: a buffer is free again when each of its holders has given it back: its taker, and whoever was let hold it too. Giving back what
 * is not lent does nothing.
 * At most `keptBytesMax` wait for their next use.
 */
import { nativeDisk } from './native-disk.ts'

/** Below this, an ordinary allocation is as cheap. */
const pooledBytesMin = 64 * 1024
const capacityStep = 128 * 1024
export const keptBytesMax = 12 * 1024 * 1024
/** A page, and the largest sector of a disk. */
export const alignmentBytes = 4096

const free = new Map<number, ArrayBufferLike[]>()
/** With how many hold it. */
const lent = new WeakMap<ArrayBufferLike, number>()
/** Lent, and to be given back once it was sent. */
const leaving = new WeakSet<ArrayBufferLike>()
/** Where in its memory a buffer starts. */
const starts = new WeakMap<ArrayBufferLike, number>()
let keptBytes = 0

const allocate = (capacity: number): ArrayBufferLike => {
  const buffer = Buffer.allocUnsafeSlow(capacity + alignmentBytes)
  const beyond = nativeDisk?.addressWithin(buffer, alignmentBytes) ?? 0
  starts.set(buffer.buffer, (alignmentBytes - beyond) % alignmentBytes)
  return buffer.buffer
}

/** The smallest that is free and large enough, but not much larger: what is kept must not all be of a size that nobody asks for any more. */
const reuse = (capacity: number): ArrayBufferLike | undefined => {
  for (let size = capacity; size <= 2 * capacity; size += capacityStep) {
    const memory = free.get(size)?.pop()
    if (memory === undefined) continue
    keptBytes -= size
    return memory
  }
  return undefined
}

/** A buffer of this length with any content. */
export const takeBuffer = (length: number): Buffer => {
  if (length < pooledBytesMin) return Buffer.allocUnsafe(length)
  const capacity = Math.ceil(length / capacityStep) * capacityStep
  const memory = reuse(capacity) ?? allocate(capacity)
  lent.set(memory, 1)
  return Buffer.from(memory, starts.get(memory), length)
}

/** One more holder, who gives it back as well. Only for whoever holds it already. */
export const holdBuffer = (view: Buffer): void => {
  const holders = lent.get(view.buffer)
  if (holders !== undefined) lent.set(view.buffer, holders + 1)
}

/** A holder of the buffer (who took it, got it from a transport, or was let hold it), or of a view of it, is done with it and all its views. */
export const giveBackBuffer = (view: Buffer): void => giveBackMemory(view.buffer)

const giveBackMemory = (memory: ArrayBufferLike): void => {
  const holders = lent.get(memory)
  if (holders === undefined) return
  if (holders > 1) {
    lent.set(memory, holders - 1)
    return
  }
  lent.delete(memory)
  const capacity = memory.byteLength - alignmentBytes
  if (keptBytes + capacity > keptBytesMax) return
  keptBytes += capacity
  const waiting = free.get(capacity)
  if (waiting) waiting.push(memory)
  else free.set(capacity, [memory])
}

/** What is sent next, on one stream, is nobody's afterwards: a transport that knows when it has left gives it back. */
export const giveBackWhenSent = (view: Buffer): void => {
  if (lent.has(view.buffer)) leaving.add(view.buffer)
}

/** For transports: this was sent. */
export const wasSent = (view: Uint8Array): void => {
  if (leaving.delete(view.buffer)) giveBackMemory(view.buffer)
}

/** The view is known to start at a multiple of `alignmentBytes` in memory. */
export const isAligned = (view: Buffer): boolean => {
  const start = nativeDisk && starts.get(view.buffer)
  return start !== undefined && (view.byteOffset - start) % alignmentBytes === 0
}
