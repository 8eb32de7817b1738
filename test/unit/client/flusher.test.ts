/** What a file's data goes through on its way to the disks, with chunk servers that answer when they are told to. */
import t from 'tap'
import { setImmediate as turn } from 'node:timers/promises'
import { AppendQueue } from '../../../src/client/append-queue.ts'
import { ByteBudget } from '../../../src/client/byte-budget.ts'
import { Flusher } from '../../../src/client/flusher.ts'
import { Inodes } from '../../../src/client/inode.ts'
import type { Inode } from '../../../src/client/inode.ts'
import { Locations } from '../../../src/client/locations.ts'
import { RoomWatch } from '../../../src/client/room-watch.ts'
import { UnsyncedChunks } from '../../../src/client/unsynced-chunks.ts'
import { asChunkId, asIno } from '../../../src/domain/ids.ts'
import type { ChunkId } from '../../../src/domain/ids.ts'
import { PosixError } from '../../../src/domain/errors.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const chunkId = asChunkId(7n)
const bytes = 4096

/** Everything is appended to one chunk and committed at once, unless `append` or `commit` see to something else; each sync waits to be answered. */
const startFlusher = ({
  append = () => Promise.resolve(),
  commit = () => Promise.resolve(),
}: { append?(): Promise<void>; commit?(): Promise<void> } = {}): {
  inode: Inode
  write(): void
  flusher: Flusher
  unsynced: UnsyncedChunks
  syncs: Sync[]
} => {
  const clock = manualClock()
  const budget = new ByteBudget(1024 * 1024)
  const inodes = new Inodes(() => undefined)
  const unsynced = new UnsyncedChunks()
  const syncs: Sync[] = []
  let length = 0
  const appends = new AppendQueue({
    append: async (pieces) => {
      await append()
      const placed = pieces.map((data, piece) => {
        const chunkOffset = length
        length += data.length
        return { piece, pieceOffset: 0, length: data.length, chunkId, chunkOffset }
      })
      return { placed, results: [{ chunkId, length, serverIds: [1] }], locations: new Map() }
    },
    committed: () => {},
  })
  const flusher = new Flusher({
    clock,
    log: silentLog,
    inodes,
    budget,
    appends,
    unsynced,
    locations: new Locations(),
    room: new RoomWatch(clock, 0),
    inlineBytesMax: () => 0,
    copies: () => 1,
    commit,
    learnLayout: async () => {},
    syncChunks: (chunkIds) => new Promise((resolve) => syncs.push({ chunkIds, answer: resolve })),
    isOver: () => false,
  })
  t.teardown(() => flusher.stop())
  const inode = inodes.use(asIno(2n))
  inode.planned = { kind: 'extents' }
  inode.unsyncedComplete = true
  const write = (): void => {
    budget.force(inode.dirty.write(inode.size, Buffer.alloc(bytes, 'x')))
    inode.localSize = inode.size + BigInt(bytes)
    flusher.written(inode)
  }
  return { inode, write, flusher, unsynced, syncs }
}

interface Sync {
  readonly chunkIds: readonly ChunkId[]
  answer(): void
}

t.test('what is appended while a sync is under way is synced by the next fsync', async (t) => {
  const { inode, write, flusher, unsynced, syncs } = startFlusher()
  write()
  // Without sync, as a stream or the tick does it.
  await flusher.flush(inode, { sync: false })
  const first = flusher.flush(inode, { sync: true })
  await turn()
  write()
  await flusher.flush(inode, { sync: false })
  t.equal(syncs.length, 1)
  syncs[0]!.answer()
  await first
  t.ok(unsynced.has(chunkId), 'the first sync does not cover it')
  const second = flusher.flush(inode, { sync: true })
  await turn()
  t.strictSame(syncs[1]?.chunkIds, [chunkId], 'the second one asks for it')
  syncs[1]?.answer()
  await second
  t.notOk(unsynced.has(chunkId))
  t.equal(inode.unsynced.size, 0, 'nothing is left')
})

for (const outcome of ['refused', 'carried out'] as const) {
  t.test(`data is refused while a commit of earlier data is on its way, which is then ${outcome}`, async (t) => {
    const commits: { answer(): void; refuse(error: Error): void }[] = []
    let isFull = false
    const { inode, write, flusher } = startFlusher({
      append: async () => {
        if (isFull) throw new PosixError('ENOSPC')
      },
      commit: () => new Promise((answer, refuse) => commits.push({ answer, refuse })),
    })
    write()
    flusher.freeze(inode, { sync: false })
    await turn()
    isFull = true
    write()
    await flusher.flush(inode, { sync: false })
    t.ok(inode.errors.untold, 'both are lost')
    isFull = false
    // As a read learns it that overtakes the first commit.
    inode.segments.set(0n, [])
    inode.planned = { kind: 'extents' }
    write()
    let isFlushed = false
    const flushed = flusher.flush(inode, { sync: false }).then(() => (isFlushed = true))
    await turn()
    t.equal(commits.length, 1, 'commits of one file follow each other')
    if (outcome === 'refused') commits[0]!.refuse(new PosixError('ESTALE'))
    else commits[0]!.answer()
    await turn()
    if (outcome === 'carried out')
      t.equal(inode.segments.size, 0, 'a layout without what was committed is not believed')
    commits[1]?.answer()
    await turn()
    t.ok(isFlushed, 'what was written afterwards is committed')
    if (isFlushed) await flushed
  })
}
