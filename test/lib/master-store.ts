/**
 * A master's store over any engine, and an operation context whose leases, open files and chunk servers are plain data that a test
 * sets and looks at.
 */
import { asChunkId } from '../../src/domain/ids.ts'
import type { ChunkId, Ino, SessionId } from '../../src/domain/ids.ts'
import { PosixError } from '../../src/domain/errors.ts'
import { asSessionId } from '../../src/domain/ids.ts'
import { isErrnoName } from '../../src/domain/errors.ts'
import type { KvEngine } from '../../src/platform/kv-engine.ts'
import { silentLog } from '../../src/platform/log.ts'
import type { Random } from '../../src/platform/random.ts'
import { LeaseMode } from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { Request } from '../../src/protocol/gen/shoal/v1/session.pb.ts'
import type { LeaseGate, LeaseHold, OpContext } from '../../src/master/context.ts'
import { chunks, counters } from '../../src/master/keys.ts'
import { executeRequest } from '../../src/master/ops/index.ts'
import type { Result } from '../../src/master/ops/operation.ts'
import { Store } from '../../src/master/store.ts'
import type { StoreOptions } from '../../src/master/store.ts'
import { manualClock } from './manual-clock.ts'

/** Repeatable numbers from a seed (mulberry32). */
export const seededRandom = (seed: number): Random & { pick<T>(list: readonly T[]): T } => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let value = Math.imul(state ^ (state >>> 15), state | 1)
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61)
    return (value ^ (value >>> 14)) >>> 0
  }
  const below = (bound: number): number => next() % bound
  return {
    bytes: (count) => Buffer.from(Array.from({ length: count }, () => below(256))),
    below,
    pick: (list) => list[below(list.length)]!,
  }
}

export const openStore = (kv: KvEngine, options: Partial<StoreOptions> = {}): Promise<Store> =>
  Store.open({
    kv,
    clock: manualClock(),
    random: seededRandom(1),
    log: silentLog,
    onFatal: (error) => {
      throw error
    },
    ...options,
  })

/** State in memory that several sessions' contexts share. */
export interface FakeCluster {
  leases: Map<Ino, Map<SessionId, LeaseHold>>
  opens: Map<Ino, Set<SessionId>>
  freed: ChunkId[]
  reaped: Ino[]
  /** What an operation waits for when another session holds too much. */
  recall: (ino: Ino) => Promise<void>
  bytesFree: bigint
  context(session: SessionId): OpContext
}

export const fakeCluster = (): FakeCluster => {
  const strength: Record<LeaseHold, number> = { none: 0, read: 1, write: 2 }
  let grants = 0n
  const gate: LeaseGate = {
    reduceOthers: (asking, ino, allowed) => {
      const conflict = [...(cluster.leases.get(ino) ?? [])].some(
        ([holder, mode]) => holder !== asking && strength[mode] > strength[allowed],
      )
      return conflict ? cluster.recall(ino) : undefined
    },
    writtenByOther: (asking, ino) =>
      [...(cluster.leases.get(ino) ?? [])].some(([holder, mode]) => holder !== asking && mode === 'write'),
    grant: (holder, ino, mode) => {
      const held = cluster.leases.get(ino) ?? new Map<SessionId, LeaseHold>()
      cluster.leases.set(ino, held)
      const before = held.get(holder) ?? 'none'
      const after = strength[before] > strength[mode] ? before : mode
      held.set(holder, after)
      const wire = after === 'write' ? LeaseMode.LEASE_MODE_WRITE : LeaseMode.LEASE_MODE_READ
      return { ino, mode: wire, grant: ++grants }
    },
    leave: () => undefined,
    hurryOthers: () => undefined,
    offer: (holder, ino) => {
      if ([...(cluster.leases.get(ino) ?? [])].some(([other, mode]) => other !== holder && mode === 'write')) {
        return { ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 0n }
      }
      return gate.grant(holder, ino, 'read')
    },
    offerWrite: (holder, ino) => gate.holding(holder, ino),
    made: (holder, ino) => void gate.grant(holder, ino, 'write'),
    holding: (holder, ino) => {
      const mode = cluster.leases.get(ino)?.get(holder) ?? 'none'
      return mode === 'none' ? { ino, mode: LeaseMode.LEASE_MODE_NONE, grant: 0n } : gate.grant(holder, ino, mode)
    },
    held: (holder, ino) => cluster.leases.get(ino)?.get(holder) ?? 'none',
  }
  const cluster: FakeCluster = {
    leases: new Map(),
    opens: new Map(),
    freed: [],
    reaped: [],
    recall: async (ino) => {
      cluster.leases.delete(ino)
    },
    bytesFree: 1n << 40n,
    context: (session) => ({
      session,
      leases: gate,
      opens: {
        open: (holder, ino) => {
          const set = cluster.opens.get(ino) ?? new Set()
          cluster.opens.set(ino, set.add(holder))
        },
        close: (holder, ino) => {
          const set = cluster.opens.get(ino)
          set?.delete(holder)
          if (set?.size === 0) cluster.opens.delete(ino)
        },
        isOpen: (ino, except) => [...(cluster.opens.get(ino) ?? [])].some((session) => session !== except),
      },
      chunks: {
        locate: () => [],
        appended: () => undefined,
        wanted: () => undefined,
        freed: (chunk) => void cluster.freed.push(chunk),
      },
      cluster: {
        copies: 3,
        copiesMin: 2,
        inlineBytesMax: 4096,
        statistics: () => ({ bytesTotal: 1n << 41n, bytesFree: cluster.bytesFree }),
      },
      reap: (ino) => void cluster.reaped.push(ino),
    }),
  }
  return cluster
}

/** The session that most tests speak as. */
export const sessionOne = asSessionId(1n)
export const sessionTwo = asSessionId(2n)

type Op = NonNullable<Request['op']>
type OpName = Op['$case']
type RequestOf<Name extends OpName> = Extract<Op, { $case: Name }>['value']
type ResultValue<Name extends Result['$case']> = Extract<Result, { $case: Name }>['value']

/** Sends requests to the operations as one session would; each request gets a new id. */
export const requester = (store: Store, context: OpContext, options: { firstId?: bigint } = {}) => {
  let id = options.firstId ?? 1n
  const send = (op: Op, withId = id++): Promise<Result> => executeRequest(store, context, { id: withId, op })
  return {
    send,
    /** The value of the expected kind of result; a failure is thrown. */
    call: async <Name extends OpName, Kind extends Result['$case']>(
      name: Name,
      kind: Kind,
      value: RequestOf<Name>,
    ): Promise<ResultValue<Kind>> => {
      const result = await send({ $case: name, value } as Op)
      if (result.$case === 'failure') {
        const { code, message } = result.value
        throw isErrnoName(code) ? new PosixError(code, message) : new Error(`unknown code ${code}`)
      }
      if (result.$case !== kind) throw new Error(`${name} gave ${result.$case} instead of ${kind}`)
      return result.value as ResultValue<Kind>
    },
  }
}

export type Requester = ReturnType<typeof requester>

/** A new chunk that the session may append to. */
export const newChunk = (store: Store, owner: SessionId): Promise<ChunkId> =>
  store.execute((tx) => {
    const id = asChunkId(tx.get(counters, 'nextChunk') ?? 1n)
    tx.put(counters, 'nextChunk', id + 1n)
    tx.put(chunks, id, {
      copies: 3,
      committedBytes: 0,
      sealed: false,
      liveBlocks: 0,
      referenceIntervals: 0,
      owner,
      created: tx.now,
    })
    return id
  })
