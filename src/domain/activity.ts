/** What a process has done since it began, as totals that only grow: rates and mean latencies are differences of two looks. */

export type ActivityKind = 'read' | 'write' | 'other'

/** As it travels. Microseconds are from the arrival of a request to its answer, all requests together. */
export interface ActivityTotals {
  reads: bigint
  readBytes: bigint
  readMicros: bigint
  writes: bigint
  writeBytes: bigint
  writeMicros: bigint
  others: bigint
  otherMicros: bigint
}

export class Activity {
  // Numbers and not bigints: they are added to for every request, and 2^53 is beyond what a process does.
  readonly #count = { read: 0, write: 0, other: 0 }
  readonly #bytes = { read: 0, write: 0, other: 0 }
  readonly #ms = { read: 0, write: 0, other: 0 }

  /** One request is answered. */
  add(kind: ActivityKind, bytes: number, ms: number): void {
    this.#count[kind]++
    this.#bytes[kind] += bytes
    this.#ms[kind] += ms
  }

  totals(): ActivityTotals {
    const micros = (ms: number): bigint => BigInt(Math.round(ms * 1000))
    return {
      reads: BigInt(this.#count.read),
      readBytes: BigInt(this.#bytes.read),
      readMicros: micros(this.#ms.read),
      writes: BigInt(this.#count.write),
      writeBytes: BigInt(this.#bytes.write),
      writeMicros: micros(this.#ms.write),
      others: BigInt(this.#count.other),
      otherMicros: micros(this.#ms.other),
    }
  }
}
