/**
 * Bytes of a file that were written and are not committed yet, as owned copies.
 *
 * They are kept in slots of 1 MiB of the file; a slot has runs of bytes, sorted, not overlapping. A run has room to grow, so that
 * small sequential writes are copied once and a sequential stream ends up in whole slots.
 *
 * Invariant: `bytes` is the sum of the lengths of all runs.
 */
import { blockBytes } from '../domain/limits.ts'

/** A segment is a whole number of slots, so a slot never crosses one. */
export const slotBytes = 1024 * 1024
const slotShift = 20n
const slotMask = BigInt(slotBytes - 1)

interface Run {
  /** Within the slot; the byte at `start` is buffer[0]. */
  start: number
  end: number
  buffer: Buffer
}

interface Slot {
  runs: Run[]
  bytes: number
}

/** Bytes at a place in the file. */
export interface FilePart {
  offset: bigint
  data: Buffer
}

export class DirtyData {
  #slots = new Map<bigint, Slot>()
  #bytes = 0

  get bytes(): number {
    return this.#bytes
  }

  get empty(): boolean {
    return this.#bytes === 0
  }

  /** Copies the data. Returns how many bytes are held in addition. */
  write(offset: bigint, data: Buffer): number {
    const before = this.#bytes
    for (let at = 0; at < data.length;) {
      const position = offset + BigInt(at)
      const within = Number(position & slotMask)
      const length = Math.min(data.length - at, slotBytes - within)
      this.#writeSlot(position >> slotShift, within, data.subarray(at, at + length))
      at += length
    }
    return this.#bytes - before
  }

  /** Adds data only where nothing is held. */
  fill(offset: bigint, data: Buffer): void {
    let at = offset
    const end = offset + BigInt(data.length)
    for (const part of [...this.parts(offset, data.length), { offset: end, data: Buffer.alloc(0) }]) {
      if (part.offset > at) this.write(at, data.subarray(Number(at - offset), Number(part.offset - offset)))
      at = part.offset + BigInt(part.data.length)
    }
  }

  /** What is held of a range, in order. The buffers are views that change with later writes. */
  parts(offset: bigint, length: number): FilePart[] {
    const found: FilePart[] = []
    if (this.#bytes === 0) return found
    const end = offset + BigInt(length)
    for (let index = offset >> slotShift; index << slotShift < end; index++) {
      const slot = this.#slots.get(index)
      if (slot === undefined) continue
      const slotStart = index << slotShift
      const from = offset > slotStart ? Number(offset - slotStart) : 0
      const to = end < slotStart + BigInt(slotBytes) ? Number(end - slotStart) : slotBytes
      for (let i = firstEndingAfter(slot.runs, from); i < slot.runs.length; i++) {
        const run = slot.runs[i]!
        if (run.start >= to) break
        const start = Math.max(run.start, from)
        const data = run.buffer.subarray(start - run.start, Math.min(run.end, to) - run.start)
        found.push({ offset: slotStart + BigInt(start), data })
      }
    }
    return found
  }

  /** Offset after the last byte that is held; 0 when there is none. */
  get end(): bigint {
    let last = -1n
    for (const index of this.#slots.keys()) if (index > last) last = index
    const run = this.#slots.get(last)?.runs.at(-1)
    return run === undefined ? 0n : (last << slotShift) + BigInt(run.end)
  }

  /** Bytes in slots that are wholly written. */
  get fullBytes(): number {
    let bytes = 0
    for (const slot of this.#slots.values()) if (slot.bytes === slotBytes) bytes += slotBytes
    return bytes
  }

  /** Moves slots out, lowest first, until about `bytesMax` are taken (one slot at least); with `full` only wholly written ones. */
  take(options: { bytesMax: number; full: boolean }): DirtyData {
    const taken = new DirtyData()
    const indexes = [...this.#slots.keys()].toSorted((a, b) => (a < b ? -1 : 1))
    for (const index of indexes) {
      const slot = this.#slots.get(index)!
      if (options.full && slot.bytes < slotBytes) continue
      if (taken.#bytes > 0 && taken.#bytes + slot.bytes > options.bytesMax) break
      this.#slots.delete(index)
      this.#bytes -= slot.bytes
      taken.#slots.set(index, slot)
      taken.#bytes += slot.bytes
    }
    return taken
  }

  /** Everything that is held as contiguous pieces that do not cross a 64 MiB segment, in order. */
  pieces(): FilePart[] {
    const found: FilePart[] = []
    for (const index of [...this.#slots.keys()].toSorted((a, b) => (a < b ? -1 : 1))) {
      const { runs } = this.#slots.get(index)!
      const slotStart = index << slotShift
      for (let i = 0; i < runs.length;) {
        let j = i + 1
        while (j < runs.length && runs[j]!.start === runs[j - 1]!.end) j++
        const group = runs.slice(i, j).map(({ buffer, start, end }) => buffer.subarray(0, end - start))
        found.push({
          offset: slotStart + BigInt(runs[i]!.start),
          data: group.length === 1 ? group[0]! : Buffer.concat(group),
        })
        i = j
      }
    }
    return found
  }

  #writeSlot(index: bigint, start: number, data: Buffer): void {
    let slot = this.#slots.get(index)
    if (slot === undefined) {
      slot = { runs: [], bytes: 0 }
      this.#slots.set(index, slot)
    }
    const { runs } = slot
    const end = start + data.length
    for (let at = start; at < end;) {
      const i = firstEndingAfter(runs, at)
      const next = runs[i]
      if (next !== undefined && next.start <= at) {
        const stop = Math.min(next.end, end)
        data.copy(next.buffer, at - next.start, at - start, stop - start)
        at = stop
        continue
      }
      const limit = next?.start ?? slotBytes
      const before = runs[i - 1]
      const follows = before !== undefined && before.end === at ? before : undefined
      const room = follows === undefined ? 0 : follows.buffer.length - (follows.end - follows.start)
      const stop = Math.min(limit, end, room > 0 ? at + room : end)
      if (room > 0) {
        data.copy(follows!.buffer, at - follows!.start, at - start, stop - start)
        follows!.end = stop
      } else {
        const wish = follows === undefined ? this.#streamBytes(index, at) : 2 * (follows.end - follows.start)
        const capacity = Math.min(limit - at, Math.max(stop - at, wish, blockBytes))
        const buffer = Buffer.allocUnsafeSlow(capacity)
        data.copy(buffer, 0, at - start, stop - start)
        runs.splice(i, 0, { start: at, end: stop, buffer })
      }
      slot.bytes += stop - at
      this.#bytes += stop - at
      at = stop
    }
  }

  /** A slot that continues a stream is going to be filled. */
  #streamBytes(index: bigint, at: number): number {
    const last = at === 0 ? this.#slots.get(index - 1n)?.runs.at(-1) : undefined
    return last?.end === slotBytes && last.end - last.start > slotBytes / 4 ? slotBytes : 0
  }
}

const firstEndingAfter = (runs: readonly Run[], offset: number): number => {
  let low = 0
  let high = runs.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (runs[middle]!.end > offset) high = middle
    else low = middle + 1
  }
  return low
}
