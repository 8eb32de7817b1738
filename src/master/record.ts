/**
 * The compact binary encoding of the master's records: a version byte, then fields in a fixed order. Unsigned integers are varints
 * (7 bits per byte, least significant first), signed ones zigzag varints, bytes and strings a varint length and the bytes.
 *
 * New fields are added at the end with a new version; a reader accepts each version it knows and gives later fields their default.
 */

const safeMax = BigInt(Number.MAX_SAFE_INTEGER)

/** Grows as needed and is used again for the next record; `finish` copies what was written. */
export class RecordWriter {
  #buffer = Buffer.allocUnsafe(1024)
  #at = 0

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#at + bytes))
    this.#buffer.copy(grown, 0, 0, this.#at)
    this.#buffer = grown
  }

  start(version: number): this {
    // A very large record must not keep its memory for ever.
    if (this.#buffer.length > 1024 * 1024) this.#buffer = Buffer.allocUnsafe(1024)
    this.#at = 0
    this.#buffer[this.#at++] = version
    return this
  }

  /** 0 .. 2^53 - 1. */
  number(value: number): this {
    this.#room(10)
    let rest = value
    while (rest >= 0x80) {
      this.#buffer[this.#at++] = (rest % 0x80) | 0x80
      rest = Math.floor(rest / 0x80)
    }
    this.#buffer[this.#at++] = rest
    return this
  }

  /** 0 .. 2^64 - 1. */
  bigint(value: bigint): this {
    if (value <= safeMax) return this.number(Number(value))
    this.#room(10)
    let rest = value
    while (rest >= 0x80n) {
      this.#buffer[this.#at++] = Number(rest & 0x7fn) | 0x80
      rest >>= 7n
    }
    this.#buffer[this.#at++] = Number(rest)
    return this
  }

  /** -2^63 .. 2^63 - 1. */
  signed(value: bigint): this {
    return this.bigint(value >= 0n ? value * 2n : -value * 2n - 1n)
  }

  boolean(value: boolean): this {
    return this.number(value ? 1 : 0)
  }

  bytes(value: Uint8Array): this {
    this.number(value.length)
    this.#room(value.length)
    this.#buffer.set(value, this.#at)
    this.#at += value.length
    return this
  }

  string(value: string): this {
    return this.bytes(Buffer.from(value, 'utf8'))
  }

  finish(): Buffer {
    return Buffer.from(this.#buffer.subarray(0, this.#at))
  }
}

/** Reads what a RecordWriter wrote. Each method throws a RangeError where the record ends too early. */
export class RecordReader {
  readonly version: number
  #buffer: Buffer
  #at = 1

  /** Throws when the version is none of 1 .. versionMax: the record was written by a newer Shoal, or is not a record. */
  constructor(buffer: Buffer, versionMax: number) {
    const version = buffer[0]
    if (version === undefined || version < 1 || version > versionMax) {
      throw new RangeError(`record version ${version ?? 'missing'} is not one of 1 .. ${versionMax}`)
    }
    this.version = version
    this.#buffer = buffer
  }

  #byte(): number {
    const byte = this.#buffer[this.#at++]
    if (byte === undefined) throw new RangeError('the record ends too early')
    return byte
  }

  number(): number {
    let byte = this.#byte()
    if (byte < 0x80) return byte
    let value = byte & 0x7f
    let scale = 0x80
    do {
      byte = this.#byte()
      value += (byte & 0x7f) * scale
      scale *= 0x80
    } while (byte >= 0x80)
    if (value > Number.MAX_SAFE_INTEGER) throw new RangeError('a number in the record is too large')
    return value
  }

  bigint(): bigint {
    const start = this.#at
    let length = 1
    while (this.#byte() >= 0x80) length++
    // Up to seven bytes are 49 bits, which a number holds exactly.
    if (length <= 7) {
      this.#at = start
      return BigInt(this.number())
    }
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 7n) | BigInt(this.#buffer[start + i]! & 0x7f)
    return value
  }

  signed(): bigint {
    const value = this.bigint()
    return (value & 1n) === 0n ? value >> 1n : -(value >> 1n) - 1n
  }

  boolean(): boolean {
    return this.number() !== 0
  }

  /** A copy: the record's own buffer may be a piece of a larger one. */
  bytes(): Buffer {
    const length = this.number()
    if (this.#at + length > this.#buffer.length) throw new RangeError('the record ends too early')
    const value = Buffer.from(this.#buffer.subarray(this.#at, this.#at + length))
    this.#at += length
    return value
  }

  string(): string {
    return this.bytes().toString('utf8')
  }
}
