/**
 * Operations on file data against a naive model: each 512-byte unit of a file is a hole, allocated zeros, or one unit of a chunk that has
 * never been anywhere else. After each step content, holes, allocated bytes and the space accounts of every chunk are compared.
 */
import t from 'tap'
import type { Test } from 'tap'
import { asChunkId, asIno, rootIno } from '../../../src/domain/ids.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { segmentBytes } from '../../../src/domain/limits.ts'
import { S_IFREG } from '../../../src/domain/mode.ts'
import { chunks, counters, inodes, pendingFrees, references, segments, tableBounds } from '../../../src/master/keys.ts'
import { blocksOf, deleteChunk } from '../../../src/master/space.ts'
import { Reaper } from '../../../src/master/reaper.ts'
import type { Store } from '../../../src/master/store.ts'
import type { Segment } from '../../../src/protocol/gen/shoal/v1/types.pb.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { memoryKv } from '../../lib/memory-kv.ts'
import { fakeCluster, newChunk, openStore, requester, seededRandom, sessionOne } from '../../lib/master-store.ts'

const unit = 512
const unitsPerBlock = 8
/** Files begin to have content shortly before the end of their first segment, so that every operation also meets its edge. */
const baseUnit = segmentBytes / unit - 40
const unitsMax = 96

type Cell = 'hole' | 'zero' | { chunk: bigint; unit: number }

interface ModelFile {
  ino: Ino
  /** From baseUnit on. */
  cells: Cell[]
  /** In units, from baseUnit on. */
  size: number
}

const bytes = (units: number): bigint => BigInt((baseUnit + units) * unit)

const byName = (counts: Iterable<[string, number]>): [string, number][] =>
  [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1))

/** Compares the accounts of all chunks with a count of every block that any extent of any file touches. */
const checkAccounts = async (t: Test, store: Store, where: string): Promise<void> => {
  const state = await store.execute((tx) => ({
    segments: tx.range(segments, tableBounds(segments), 10_000),
    chunks: tx.range(chunks, tableBounds(chunks), 10_000),
    references: tx.range(references, tableBounds(references), 10_000),
    frees: tx.range(pendingFrees, tableBounds(pendingFrees), 10_000),
    liveBytes: tx.get(counters, 'liveBytes') ?? 0n,
  }))
  const counts = new Map<string, number>()
  for (const [, extents] of state.segments) {
    for (const extent of extents) {
      if (extent.chunkId === 0n) continue
      const { first, end } = blocksOf(extent)
      for (let block = first; block < end; block++) {
        const name = `${extent.chunkId}/${block}`
        counts.set(name, (counts.get(name) ?? 0) + 1)
      }
    }
  }
  const shared = [...counts].filter(([, count]) => count > 1)
  const recorded = new Map<string, number>()
  let before = { chunk: 0n, end: -1, count: 0 }
  const intervals = new Map<bigint, number>()
  for (const [{ chunk, block }, { blocks, count }] of state.references) {
    const first = block + 1 - blocks
    const touches = before.chunk === chunk && before.end >= first
    if (count < 2 || (touches && (before.end > first || before.count === count)))
      t.fail(`${where}: interval ${chunk}/${first}`)
    for (let at = first; at <= block; at++) recorded.set(`${chunk}/${at}`, count)
    before = { chunk, end: block + 1, count }
    intervals.set(chunk, (intervals.get(chunk) ?? 0) + 1)
  }
  t.strictSame(byName(recorded), byName(shared), `${where}: reference counts`)
  const free = new Set<string>()
  for (const [{ chunk, block }, blocks] of state.frees) {
    for (let at = block; at < block + blocks; at++) {
      const name = `${chunk}/${at}`
      if (free.has(name) || counts.has(name)) t.fail(`${where}: block ${name} is freed twice or live`)
      free.add(name)
    }
  }
  let live = 0
  for (const [id, chunk] of state.chunks) {
    const ofChunk = [...counts.keys()].filter((name) => name.startsWith(`${id}/`)).length
    const freeOfChunk = [...free].filter((name) => name.startsWith(`${id}/`)).length
    live += ofChunk
    if (chunk.liveBlocks !== ofChunk)
      t.fail(`${where}: chunk ${id} has ${chunk.liveBlocks} live blocks, not ${ofChunk}`)
    if (chunk.referenceIntervals !== (intervals.get(id) ?? 0)) t.fail(`${where}: intervals of chunk ${id}`)
    // Every committed block of this test is either live or waits to be punched.
    if ((ofChunk + freeOfChunk) * 4096 !== chunk.committedBytes) t.fail(`${where}: chunk ${id} lost blocks`)
  }
  t.equal(state.liveBytes, BigInt(live) * 4096n, `${where}: live bytes`)
}

const checkFile = async (t: Test, store: Store, file: ModelFile, where: string): Promise<void> => {
  const { inode, found } = await store.execute((tx) => ({
    inode: tx.get(inodes, file.ino)!,
    found: tx.getMany(
      segments,
      [0n, 1n, 2n].map((index) => ({ ino: file.ino, index })),
    ),
  }))
  const cells: Cell[] = Array.from({ length: unitsMax * 2 }, () => 'hole')
  for (const [index, extents] of found.entries()) {
    for (const extent of extents ?? []) {
      for (let at = 0; at < extent.length; at += unit) {
        const cell = index * (segmentBytes / unit) + (extent.offset + at) / unit - baseUnit
        cells[cell] = extent.chunkId === 0n ? 'zero' : { chunk: extent.chunkId, unit: (extent.chunkOffset + at) / unit }
      }
    }
  }
  const expected = Array.from(cells, (_, i) => file.cells[i] ?? 'hole')
  t.strictSame(cells, expected, `${where}: content of ${file.ino}`)
  const size = file.size === 0 ? 0n : bytes(file.size)
  t.equal(inode.size, size, `${where}: size of ${file.ino}`)
  let blocks = 0
  for (let i = 0; i < expected.length; i += unitsPerBlock) {
    if (expected.slice(i, i + unitsPerBlock).some((cell) => cell !== 'hole')) blocks++
  }
  t.equal(inode.allocated, BigInt(blocks) * 4096n, `${where}: allocated bytes of ${file.ino}`)
}

for (const seed of [1, 2, 3, 4]) {
  void t.test(`random operations on data, seed ${seed}`, async (t) => {
    const random = seededRandom(seed)
    const kv = memoryKv()
    let store = await openStore(kv, { cacheEntriesMax: seed % 2 === 0 ? 1 : 1000 })
    const cluster = fakeCluster()
    const context = cluster.context(sessionOne)
    let requests = requester(store, context)
    const files: ModelFile[] = []
    let made = 0
    const make = async (): Promise<void> => {
      const name = Buffer.from(`f${made++}`)
      const entry = await requests.call('mknod', 'entry', {
        parent: 1n,
        name,
        mode: S_IFREG | 0o644,
        rdev: 0,
        caller: undefined,
        open: false,
      })
      const ino = asIno(entry.attributes!.ino)
      context.leases.grant(sessionOne, ino, 'write')
      files.push({ ino, cells: [], size: 0 })
    }
    for (let i = 0; i < 3; i++) await make()
    let chunk = await newChunk(store, sessionOne)
    let chunkBlock = 0

    const grow = (file: ModelFile, size: number): void => void (file.size = Math.max(file.size, size))
    const fill = (file: ModelFile, at: number, cells: readonly Cell[]): void => {
      for (const [i, cell] of cells.entries()) file.cells[at + i] = cell
    }

    const steps: Record<string, (file: ModelFile) => Promise<void>> = {
      write: async (file) => {
        const list: {
          index: bigint
          extents: { offset: number; length: number; chunkId: bigint; chunkOffset: number }[]
        }[] = []
        let at = random.below(unitsMax - 20)
        for (let pieces = 1 + random.below(3); pieces > 0 && at < unitsMax - 10; pieces--) {
          const absolute = baseUnit + at
          const index = Math.floor((absolute * unit) / segmentBytes)
          const room = ((index + 1) * segmentBytes) / unit - absolute
          const length = Math.min(1 + random.below(30), room, unitsMax - at)
          const extent = {
            offset: absolute * unit - index * segmentBytes,
            length: length * unit,
            chunkId: chunk as bigint,
            chunkOffset: chunkBlock * 4096,
          }
          const segment = list.at(-1)
          if (segment?.index === BigInt(index)) segment.extents.push(extent)
          else list.push({ index: BigInt(index), extents: [extent] })
          fill(
            file,
            at,
            Array.from({ length }, (_, i) => ({ chunk, unit: chunkBlock * unitsPerBlock + i })),
          )
          chunkBlock += Math.ceil(length / unitsPerBlock)
          at += length
          grow(file, at)
          at += random.below(3)
        }
        await requests.call('commit', 'attributesAndLease', {
          ino: file.ino,
          segments: list,
          size: bytes(file.size),
          mtime: undefined,
          ctime: undefined,
          appended: [],
          killPrivileges: false,
        })
        if (random.below(8) === 0) {
          chunk = await newChunk(store, sessionOne)
          chunkBlock = 0
        }
      },
      truncate: async (file) => {
        const size = random.below(unitsMax)
        await requests.call('setattr', 'attributesAndLease', {
          ...noChange,
          ino: file.ino,
          size: size === 0 ? 0n : bytes(size),
        })
        for (let i = size; i < unitsMax * 2; i++) if (size <= file.size) file.cells[i] = 'hole'
        file.size = size
      },
      fallocate: async (file) => {
        const mode = random.pick([0, 1, 3, 16, 17])
        const at = random.below(unitsMax - 20)
        const length = 1 + random.below(20)
        await requests.call('fallocate', 'attributesAndLease', {
          ino: file.ino,
          mode,
          offset: bytes(at),
          length: BigInt(length * unit),
        })
        for (let i = at; i < at + length; i++) {
          if (mode === 3) file.cells[i] = 'hole'
          else if (mode >= 16 || (file.cells[i] ?? 'hole') === 'hole') file.cells[i] = 'zero'
        }
        if (mode === 0 || mode === 16) grow(file, at + length)
      },
      collapse: async (file) => {
        const at = random.below(5) * unitsPerBlock
        const length = (1 + random.below(5)) * unitsPerBlock
        const collapse = random.below(2) === 0
        const result = await requests.send({
          $case: 'fallocate',
          value: { ino: file.ino, mode: collapse ? 8 : 32, offset: bytes(at), length: BigInt(length * unit) },
        })
        const allowed = file.size > 0 && (collapse ? at + length < file.size : at < file.size)
        t.equal(result.$case, allowed ? 'attributesAndLease' : 'failure')
        if (!allowed) return
        const cells = Array.from({ length: unitsMax * 2 }, (_, i) => file.cells[i] ?? 'hole')
        const holes = Array.from({ length }, (): Cell => 'hole')
        if (collapse) cells.splice(at, length)
        else cells.splice(at, 0, ...holes)
        file.cells = cells
        file.size += collapse ? -length : length
        // Keep the model's window: what was pushed out of it goes.
        if (file.size > unitsMax) {
          await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: file.ino, size: bytes(unitsMax) })
          file.size = unitsMax
          file.cells.length = unitsMax
        }
      },
      copy: async (file) => {
        const source = random.pick(files)
        const from = random.below(unitsMax - 20)
        const to = random.below(unitsMax - 30)
        const length = 1 + random.below(30)
        const result = await requests.send({
          $case: 'copyFileRange',
          value: {
            source: source.ino,
            sourceOffset: bytes(from),
            target: file.ino,
            targetOffset: bytes(to),
            length: BigInt(length * unit),
          },
        })
        if (source === file && from < to + length && to < from + length) {
          t.match(result, { value: { code: 'EINVAL' } })
          return
        }
        const copied = Math.max(0, Math.min(length, source.size - from))
        t.match(result, { value: { copied: BigInt(copied * unit) } })
        if (copied === 0) return
        fill(
          file,
          to,
          Array.from({ length: copied }, (_, i) => source.cells[from + i] ?? 'hole'),
        )
        grow(file, to + copied)
      },
      seek: async (file) => {
        const at = random.below(unitsMax)
        for (const whence of [3, 4]) {
          const result = await requests.send({ $case: 'lseek', value: { ino: file.ino, offset: bytes(at), whence } })
          if (at >= file.size) {
            t.match(result, { value: { code: 'ENXIO' } })
            continue
          }
          let expected = at
          while (expected < file.size && (typeof (file.cells[expected] ?? 'hole') === 'object') !== (whence === 3))
            expected++
          if (whence === 3 && expected >= file.size) t.match(result, { value: { code: 'ENXIO' } })
          else t.strictSame(result, { $case: 'offset', value: bytes(expected) })
        }
      },
      remove: async (file) => {
        const name = (
          await requests.call('readdir', 'readdir', { ino: 1n, cookie: 0n, entriesMax: 100, plus: false })
        ).entries.find(({ ino }) => ino === file.ino)!.name
        await requests.call('unlink', 'changed', { parent: 1n, name })
        files.splice(files.indexOf(file), 1)
        await make()
        const reaper = new Reaper({ store, opens: context.opens, chunks: context.chunks, log: silentLog })
        if (random.below(2) === 0) await reaper.start()
        for (const ino of cluster.reaped.splice(0)) reaper.kick(ino)
        await reaper.idle()
      },
      restart: async () => {
        await store.close()
        store = await openStore(kv.reopen())
        requests = requester(store, context, { firstId: BigInt(1_000_000 + made++ * 1_000_000) })
      },
    }
    const names = [
      'write',
      'write',
      'write',
      'truncate',
      'fallocate',
      'fallocate',
      'copy',
      'copy',
      'copy',
      'seek',
      'collapse',
      'remove',
    ]
    for (let step = 0; step < 120; step++) {
      const name = step % 40 === 39 ? 'restart' : random.pick(names)
      const file = random.pick(files)
      await steps[name]!(file)
      const where = `step ${step} ${name}`
      if (!files.includes(file)) await checkAccounts(t, store, where)
      else {
        await checkFile(t, store, file, where)
        if (step % 3 === 0) await checkAccounts(t, store, where)
      }
      if (!t.passing()) break
    }
    for (const file of files) await checkFile(t, store, file, 'at the end')
    // When everything is truncated nothing is live, and empty chunks can go.
    for (const file of files)
      await requests.call('setattr', 'attributesAndLease', { ...noChange, ino: file.ino, size: 0n })
    await checkAccounts(t, store, 'emptied')
    t.equal(await store.execute((tx) => tx.get(counters, 'liveBytes')), 0n)
    const ids = await store.execute((tx) => tx.range(chunks, tableBounds(chunks), 1000).map(([id]) => asChunkId(id)))
    for (const id of ids) await store.execute((tx) => deleteChunk(tx, id))
    t.strictSame(await store.execute((tx) => tx.range(pendingFrees, tableBounds(pendingFrees), 10)), [])
  })
}

t.test('what a large file is made of is read in few steps, since each is one more run of the operation', async (t) => {
  const count = 1000
  const kv = memoryKv()
  let store = await openStore(kv)
  const context = fakeCluster().context(sessionOne)
  let requests = requester(store, context)
  const make = async (name: string): Promise<Ino> => {
    const { attributes } = await requests.call('mknod', 'entry', {
      parent: rootIno,
      name: Buffer.from(name),
      mode: S_IFREG | 0o644,
      rdev: 0,
      caller: undefined,
      open: true,
    })
    return asIno(attributes!.ino)
  }
  const files = [await make('large'), await make('copy'), await make('punched')] as const
  const length = BigInt(count) * BigInt(segmentBytes)
  const added: Segment[] = []
  for (let i = 0; i < count; i++) {
    const chunkId = await newChunk(store, sessionOne)
    added.push({ index: BigInt(i), extents: [{ offset: 0, length: 4096, chunkId, chunkOffset: 0 }] })
  }
  await requests.call('commit', 'attributesAndLease', {
    ino: files[0],
    segments: added,
    size: length,
    mtime: undefined,
    ctime: undefined,
    appended: [],
    killPrivileges: false,
    inlineData: undefined,
  })
  for (const target of files.slice(1)) {
    const range = { source: files[0], sourceOffset: 0n, target, targetOffset: 0n, length }
    await requests.call('copyFileRange', 'copyFileRange', range)
  }
  /** What is asked for in one turn is one step. */
  let steps = 0
  let isAsking = false
  const asked = (): void => {
    if (isAsking) return
    isAsking = true
    steps++
    setImmediate(() => (isAsking = false))
  }
  let firstId = 1_000_000n
  const restart = async (): Promise<void> => {
    await store.close()
    const engine = kv.reopen()
    const { getMany, range } = engine
    engine.getMany = (keys) => {
      asked()
      return getMany.call(engine, keys)
    }
    engine.range = (bounds) => {
      asked()
      return range.call(engine, bounds)
    }
    store = await openStore(engine)
    requests = requester(store, context, { firstId: (firstId += 1_000_000n) })
    steps = 0
  }
  await restart()
  await requests.call('fallocate', 'attributesAndLease', { ino: files[2], mode: 3, offset: 0n, length })
  t.ok(steps < 30, `punched in ${steps} steps`)
  for (const ino of [files[1], files[0]]) {
    await restart()
    await requests.call('setattr', 'attributesAndLease', { ...noChange, ino, size: 0n })
    t.ok(steps < 30, `truncated in ${steps} steps`)
  }
  await checkAccounts(t, store, 'emptied')
  t.equal(await store.execute((tx) => tx.get(counters, 'liveBytes')), 0n)
})

t.test(
  'many new files: their content needs nothing to be loaded, and when they are removed they share syncs',
  async (t) => {
    const kv = memoryKv()
    let loads = 0
    const getMany = kv.getMany.bind(kv)
    kv.getMany = (keys) => {
      loads++
      return getMany(keys)
    }
    const store = await openStore(kv)
    const cluster = fakeCluster()
    const context = cluster.context(sessionOne)
    const requests = requester(store, context)
    const chunk = await newChunk(store, sessionOne)
    const count = 48
    const inos: Ino[] = []
    const name = (i: number): Buffer => Buffer.from(`f${i}`)
    for (let i = 0; i < count; i++) {
      const made = { parent: 1n, name: name(i), mode: S_IFREG | 0o644, rdev: 0, caller: undefined, open: false }
      const ino = asIno((await requests.call('mknod', 'entry', made)).attributes!.ino)
      context.leases.grant(sessionOne, ino, 'write')
      inos.push(ino)
    }
    const commit = (i: number): Promise<unknown> =>
      requests.call('commit', 'attributesAndLease', {
        ino: inos[i]!,
        segments: [{ index: 0n, extents: [{ offset: 0, length: 4096, chunkId: chunk, chunkOffset: i * 4096 }] }],
        size: 4096n,
        mtime: undefined,
        ctime: undefined,
        appended: [],
        inlineData: undefined,
        killPrivileges: false,
      })
    await commit(0)
    loads = 0
    await Promise.all(inos.slice(1).map((_, i) => commit(i + 1)))
    t.equal(loads, 0)
    await checkAccounts(t, store, 'written')

    for (let i = 0; i < count; i++) await requests.call('unlink', 'changed', { parent: 1n, name: name(i) })
    t.equal(cluster.reaped.length, count)
    const reaper = new Reaper({ store, opens: context.opens, chunks: context.chunks, log: silentLog })
    const { batches } = store.statistics
    for (const ino of cluster.reaped) reaper.kick(ino)
    await reaper.idle()
    t.ok(store.statistics.batches - batches <= count / 4, 'several with one sync', {
      found: store.statistics.batches - batches,
    })
    await checkAccounts(t, store, 'freed')
    t.equal(await store.execute((tx) => tx.range(inodes, tableBounds(inodes), 100).length), 1, 'the root is left')
  },
)

const noChange = {
  caller: undefined,
  atime: undefined,
  mtime: undefined,
  ctime: undefined,
  atimeNow: false,
  mtimeNow: false,
  killPrivileges: false,
}
