/**
 * What the master stores of requests: the result of each that changed something, in the batch with its changes. So a result that is stored under a
 * request that has one already shows a request that was carried out again, and one that is stored for a session that has ended shows a
 * session that changes something after others may have been given what it held.
 */
import { results } from '../../../src/master/keys.ts'
import type { KvEngine } from '../../../src/platform/kv-engine.ts'
import type { MemoryKv } from '../../lib/memory-kv.ts'

const prefix = results.prefix.charCodeAt(0)

export class ResultWatch {
  readonly #violation: (what: string) => void
  /** Batches that were written. */
  #written = 0
  /** By session that has ended: the last batch that may have something of it. */
  readonly #lastBatch = new Map<bigint, number>()

  constructor(violation: (what: string) => void) {
    this.#violation = violation
  }

  /** What it has changed by now is in the batch that is being written, or in the one that is gathered meanwhile. */
  sessionEnded(session: bigint): void {
    this.#lastBatch.set(session, this.#written + 2)
  }

  /** The engine, watched, for a master that starts. */
  watched(kv: MemoryKv): KvEngine {
    this.#lastBatch.clear()
    return {
      get: (key) => kv.get(key),
      getMany: (keys) => kv.getMany(keys),
      range: (range) => kv.range(range),
      openSnapshot: () => kv.openSnapshot(),
      close: () => kv.close(),
      write: async (changes, options) => {
        for (const { type, key } of changes) if (type === 'put' && key[0] === prefix) this.#judge(kv, key)
        await kv.write(changes, options)
        this.#written++
      },
    }
  }

  #judge(kv: MemoryKv, key: Buffer): void {
    const { session, request } = results.decodeKey(key.toString('latin1'))
    const name = `request ${request} of session ${session}`
    if (kv.peek(key) !== undefined) this.#violation(`${name} was carried out again`)
    if (this.#written + 1 > (this.#lastBatch.get(session) ?? Infinity)) {
      this.#violation(`${name} was carried out after the session had ended`)
    }
  }
}
