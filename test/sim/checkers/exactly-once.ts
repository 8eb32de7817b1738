/**
 * Whether a request is carried out once: its result is stored with its changes, so a result that is stored under a request that has one
 * already shows a request that was carried out again.
 */
import { results } from '../../../src/master/keys.ts'
import type { KvEngine } from '../../../src/platform/kv-engine.ts'
import type { MemoryKv } from '../../lib/memory-kv.ts'

const prefix = results.prefix.charCodeAt(0)

/** The engine, watched. */
export const watchResults = (kv: MemoryKv, violation: (what: string) => void): KvEngine => ({
  get: (key) => kv.get(key),
  getMany: (keys) => kv.getMany(keys),
  range: (range) => kv.range(range),
  openSnapshot: () => kv.openSnapshot(),
  close: () => kv.close(),
  write: (changes, options) => {
    for (const { type, key } of changes) {
      if (type !== 'put' || key[0] !== prefix || kv.peek(key) === undefined) continue
      const { session, request } = results.decodeKey(key.toString('latin1'))
      violation(`request ${request} of session ${session} was carried out again`)
    }
    return kv.write(changes, options)
  },
})
