/**
 * A backup of the master's store in one file: 8 bytes of magic, a header (length:4 big-endian, then JSON), records (key length:4, value
 * length:4, key, value), an end mark (0xffffffff, number of records:8), and the SHA-256 of all before it.
 *
 * Invariant: a file under its final name is whole; it is written under another one, synced, and renamed.
 * Invariant: nothing of a file is used before all of it was read and its checksum is right.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { UnavailableError, UsageError } from '../domain/errors.ts'
import type { StoreRecord } from '../master/restore.ts'
import { fileFailure } from './file-failure.ts'

const magic = Buffer.from('SHOALBK1', 'latin1')
const endMark = 0xffff_ffff
const bufferBytes = 1024 * 1024
/** No record of the store comes near this. */
const recordBytesMax = 64 * 1024 * 1024

export interface BackupHeader {
  clusterId: string
  version: string
  /** Wall time of the moment that the backup shows. */
  takenMs: number
}

/** A device or a pipe would be replaced by the backup, and a backup is never written into one. */
const refuseSpecialFile = async (path: string): Promise<void> => {
  const found = await stat(path).catch(() => undefined)
  if (found?.isDirectory() === true) throw new UsageError(`cannot write ${path}: it is a directory; name a file in it`)
  if (found?.isFile() === false) throw new UsageError(`cannot write ${path}: it is no ordinary file`)
}

/** The number of records. UsageError: the file cannot be written. Pages come in order; a failure leaves no file. */
export const writeBackup = async (
  path: string,
  header: BackupHeader,
  pages: AsyncIterable<readonly StoreRecord[]>,
): Promise<number> => {
  await refuseSpecialFile(path)
  const unfinished = `${path}.unfinished`
  const file = await open(unfinished, 'w', 0o600).catch((caught: unknown) => {
    throw new UsageError(`cannot write ${unfinished}: ${fileFailure(caught)}`)
  })
  const hash = createHash('sha256')
  let waiting: Buffer[] = []
  let waitingBytes = 0
  const flush = async (): Promise<void> => {
    const bytes = Buffer.concat(waiting)
    waiting = []
    waitingBytes = 0
    await file.writeFile(bytes)
  }
  const put = async (bytes: Buffer): Promise<void> => {
    hash.update(bytes)
    waiting.push(bytes)
    waitingBytes += bytes.length
    if (waitingBytes >= bufferBytes) await flush()
  }
  try {
    const text = Buffer.from(JSON.stringify(header))
    await put(magic)
    await put(number32(text.length))
    await put(text)
    let count = 0
    for await (const page of pages) {
      for (const { key, value } of page) {
        await put(Buffer.concat([number32(key.length), number32(value.length), key, value]))
        count++
      }
    }
    const end = Buffer.alloc(12)
    end.writeUInt32BE(endMark, 0)
    end.writeBigUInt64BE(BigInt(count), 4)
    await put(end)
    await flush()
    await file.writeFile(hash.digest())
    await file.sync()
    await file.close()
    await rename(unfinished, path)
    const directory = await open(dirname(path))
    await directory.sync()
    await directory.close()
    return count
  } catch (caught) {
    await file.close().catch(() => undefined)
    await unlink(unfinished).catch(() => undefined)
    if (caught instanceof UsageError || caught instanceof UnavailableError) throw caught
    throw new UsageError(`cannot write ${path}: ${fileFailure(caught)}`)
  }
}

const number32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** Cuts a stream of buffers into pieces of the wanted lengths; what was taken is hashed. */
class Pieces {
  readonly #source: AsyncIterator<Buffer>
  readonly hash = createHash('sha256')
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]()
  }

  /** Undefined: the stream ends before. */
  async take(length: number, { hashed = true } = {}): Promise<Buffer | undefined> {
    const parts = [this.#rest]
    let have = this.#rest.length
    while (have < length) {
      const next = await this.#source.next()
      if (next.done === true) return undefined
      parts.push(next.value)
      have += next.value.length
    }
    const all = parts.length === 1 ? this.#rest : Buffer.concat(parts, have)
    const piece = all.subarray(0, length)
    this.#rest = all.subarray(length)
    if (hashed) this.hash.update(piece)
    return piece
  }

  async atEnd(): Promise<boolean> {
    return (await this.take(1, { hashed: false })) === undefined
  }
}

/** Reads a backup to its end. UsageError when it is no backup, cut short or damaged: `record` may have been called until then. */
export const readBackup = async (
  path: string,
  record: (record: StoreRecord) => void | Promise<void>,
): Promise<BackupHeader & { records: number }> => {
  const damaged = (why: string): UsageError => new UsageError(`${path} is no usable backup: ${why}`)
  try {
    const pieces = new Pieces(createReadStream(path, { highWaterMark: bufferBytes }) as AsyncIterable<Buffer>)
    const start = await pieces.take(magic.length)
    if (!start?.equals(magic)) throw damaged('it does not begin as one')
    const headerBytes = (await pieces.take(4))?.readUInt32BE() ?? 0
    const text = headerBytes > bufferBytes ? undefined : await pieces.take(headerBytes)
    if (!text) throw damaged('it is cut short')
    let records = 0
    for (;;) {
      const keyBytes = (await pieces.take(4))?.readUInt32BE()
      if (keyBytes === endMark) break
      const valueBytes = (await pieces.take(4))?.readUInt32BE()
      if (keyBytes === undefined || valueBytes === undefined) throw damaged('it is cut short')
      if (keyBytes + valueBytes > recordBytesMax) throw damaged('it is damaged')
      const both = await pieces.take(keyBytes + valueBytes)
      if (!both) throw damaged('it is cut short')
      records++
      await record({ key: Buffer.from(both.subarray(0, keyBytes)), value: Buffer.from(both.subarray(keyBytes)) })
    }
    const count = (await pieces.take(8))?.readBigUInt64BE()
    const digest = pieces.hash.digest()
    const stored = await pieces.take(digest.length, { hashed: false })
    if (!stored || count !== BigInt(records) || !(await pieces.atEnd())) throw damaged('it is cut short')
    if (!stored.equals(digest)) throw damaged('its checksum is wrong')
    return { ...(JSON.parse(text.toString('utf8')) as BackupHeader), records }
  } catch (caught) {
    if (caught instanceof UsageError) throw caught
    if (caught instanceof SyntaxError || caught instanceof RangeError) throw damaged('it is damaged')
    throw new UsageError(`cannot read ${path}: ${fileFailure(caught)}`)
  }
}
