/** The chunk store on a real disk: what it keeps, refuses, finds damaged and gives back after a restart. */
import { open, readFile, readdir, stat, writeFile, mkdir, rename, rm, truncate } from 'node:fs/promises'
import t from 'tap'
import { zeroBlockChecksum } from '../../../src/domain/checksum.ts'
import { blockChecksums, firstCorruptBlock } from '../../../src/platform/block-checksums.ts'
import { PosixError, UsageError } from '../../../src/domain/errors.ts'
import { chunkBytes } from '../../../src/domain/limits.ts'
import { dataStart, tableStart } from '../../../src/chunkserver/format.ts'
import { pendingBytesMax, type ChunkStore } from '../../../src/chunkserver/store.ts'
import type { Disk } from '../../../src/platform/disk.ts'
import { realDisk } from '../../../src/platform/real-disk.ts'
import { append, blocks, openStore, padded, pattern } from '../../lib/chunk-store.ts'
import { simulatedDisk } from '../../lib/simulated-disk.ts'

const fileOf = (directory: string, chunkId: bigint): string => {
  const name = chunkId.toString(16).padStart(16, '0')
  return `${directory}/chunks/${name.slice(-2)}/${name}`
}

const flip = async (path: string, position: number): Promise<void> => {
  const file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, position)
  byte[0]! ^= 0x10
  await file.write(byte, 0, 1, position)
  await file.close()
}

const readAll = async (store: ChunkStore, chunkId: bigint, length: number): Promise<Buffer> => {
  const { data, checksums } = await store.read({ chunkId, offset: 0, length })
  if (firstCorruptBlock(data, checksums) !== -1) throw new Error('the checksums are not those of the data')
  return data
}

/** Holds up whoever waits for it until it is opened. */
const gate = (): { opened: Promise<void>; open(): void } => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open: () => open() }
}

const refusal = (code: string) => ({ name: 'PosixError', code })

t.test('what was appended is read back, before and after a restart', async (t) => {
  const directory = t.testdir()
  let store = await openStore(directory)
  const first = pattern(1, blocks(3))
  const second = pattern(2, 5000)
  t.equal(await append(store, 7n, 0, first), blocks(3))
  t.equal(await append(store, 7n, blocks(3), second, { sync: true }), blocks(5), 'filled up to whole blocks')
  const whole = Buffer.concat([first, padded(second)])
  t.ok((await readAll(store, 7n, blocks(5))).equals(whole))
  const { data } = await store.read({ chunkId: 7n, offset: blocks(3), length: blocks(1) })
  t.ok(data.equals(second.subarray(0, blocks(1))))
  await store.close()

  store = await openStore(directory)
  t.same(store.state(7n), {
    chunkId: 7n,
    length: blocks(5),
    sealed: false,
    corrupt: false,
    deleted: false,
    more: false,
  })
  t.equal(store.chunkIdMax, 7n)
  t.ok((await readAll(store, 7n, blocks(5))).equals(whole))
  t.equal(await append(store, 7n, blocks(5), pattern(3, 1), { create: false }), blocks(6), 'and it goes on')
  await store.close()
})

t.test('a block whose zeros at the end did not reach the file is sealed as a whole one', async (t) => {
  const directory = t.testdir()
  let store = await openStore(directory)
  const data = padded(Buffer.concat([pattern(1, blocks(1)), pattern(2, 1000)]))
  await append(store, 7n, 0, data, { sync: true })
  await store.close()
  // As a loss of power may leave it.
  await truncate(fileOf(directory, 7n), dataStart + blocks(1) + 1000)

  store = await openStore(directory)
  await store.seal(7n, blocks(2))
  await store.close()
  store = await openStore(directory)
  t.match(store.state(7n), { length: blocks(2), sealed: true, corrupt: false })
  t.ok((await readAll(store, 7n, blocks(2))).equals(data))
  await store.close()
})

t.test('an append that is not in its place is refused, one that is there already is not', async (t) => {
  const store = await openStore(t.testdir())
  const data = pattern(1, blocks(2))
  await t.rejects(append(store, 1n, 0, data, { create: false }), refusal('ESTALE'), 'an unknown chunk')
  await t.rejects(append(store, 1n, blocks(1), data, { create: true }), refusal('ESTALE'), 'a hole at the start')
  await append(store, 1n, 0, data)
  t.equal(await append(store, 1n, 0, data), blocks(2), 'the same again')
  t.equal(await append(store, 1n, 0, data.subarray(0, blocks(1)), { sync: true }), blocks(1), 'a part of it again')
  await t.rejects(append(store, 1n, 0, pattern(2, blocks(2))), refusal('ESTALE'), 'other bytes')
  await t.rejects(append(store, 1n, blocks(3), data), refusal('ESTALE'), 'a gap')
  await t.rejects(append(store, 1n, blocks(1), pattern(9, blocks(2))), refusal('ESTALE'), 'an overlap')
  await t.rejects(append(store, 1n, 100, data), refusal('EINVAL'), 'not at a block')
  await t.rejects(append(store, 0n, 0, data), refusal('EINVAL'), 'no chunk')
  await t.rejects(append(store, 1n, blocks(2), Buffer.alloc(1024 * 1024 + 1)), refusal('EINVAL'), 'too big')
  await t.rejects(append(store, 1n, chunkBytes, pattern(1, 1)), refusal('EFBIG'), 'beyond the largest chunk')
  const wrong = Buffer.alloc(8, 1)
  await t.rejects(append(store, 1n, blocks(2), data, { checksums: wrong }), refusal('EBADMSG'), 'wrong checksums')
  await t.rejects(append(store, 1n, blocks(2), data, { checksums: Buffer.alloc(3) }), refusal('EBADMSG'), 'too few')
  t.ok((await readAll(store, 1n, blocks(2))).equals(data), 'nothing of it left a trace')
  t.equal(await append(store, 1n, blocks(2), Buffer.alloc(0), { sync: true }), blocks(2), 'a sync alone')
  await t.rejects(
    append(store, 1n, blocks(3), Buffer.alloc(0), { sync: true }),
    refusal('ESTALE'),
    'of what is not there',
  )
  await store.close()
})

t.test('a chunk is full at 64 MiB', async (t) => {
  const store = await openStore(t.testdir())
  const mebibyte = pattern(5, 1024 * 1024)
  for (let offset = 0; offset < chunkBytes; offset += mebibyte.length) await append(store, 1n, offset, mebibyte)
  t.equal(store.state(1n)?.length, chunkBytes)
  await t.rejects(append(store, 1n, chunkBytes, pattern(1, 1)), refusal('EFBIG'))
  await store.seal(1n, chunkBytes)
  t.same((await store.check(1n)).corrupt, [])
  await store.close()
})

t.test('many appends at a time are written in order', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  const pieces = Array.from({ length: 400 }, (_, index) => pattern(index, 1 + ((index * 37) % blocks(2))))
  let offset = 0
  const lengths = await Promise.all(
    pieces.map((piece, index) => {
      const done = append(store, 3n, offset, piece, { sync: index % 50 === 49 })
      offset += padded(piece).length
      return done
    }),
  )
  t.same(
    lengths,
    lengths.toSorted((a, b) => a - b),
  )
  t.equal(lengths.at(-1), offset)
  const whole = Buffer.concat(pieces.map(padded))
  for (let at = 0; at < offset; at += blocks(64)) {
    const length = Math.min(blocks(64), offset - at)
    const { data } = await store.read({ chunkId: 3n, offset: at, length })
    if (!data.equals(whole.subarray(at, at + length))) t.fail(`bytes from ${at} on differ`)
  }
  await store.close()
})

t.test('too much at a time is refused and harms nothing', async (t) => {
  const store = await openStore(t.testdir())
  const mebibyte = pattern(5, 1024 * 1024)
  const count = pendingBytesMax / mebibyte.length
  const outcomes = await Promise.allSettled(
    Array.from({ length: count + 4 }, (_, index) =>
      append(store, BigInt(1 + (index >> 5)), (index & 31) * mebibyte.length, mebibyte),
    ),
  )
  const refused = outcomes.filter((outcome) => outcome.status === 'rejected')
  t.equal(refused.length, 4)
  for (const { reason } of refused) t.match(reason, refusal('EAGAIN'))
  t.equal(await append(store, 100n, 0, mebibyte), mebibyte.length, 'there is room again')
  await store.close()
})

t.test('reads are checked for their range', async (t) => {
  const store = await openStore(t.testdir())
  await append(store, 1n, 0, pattern(1, blocks(2)))
  await t.rejects(store.read({ chunkId: 2n, offset: 0, length: blocks(1) }), refusal('ENOENT'))
  await t.rejects(store.read({ chunkId: 1n, offset: blocks(1), length: blocks(2) }), refusal('ERANGE'))
  await t.rejects(store.read({ chunkId: 1n, offset: 1, length: blocks(1) }), refusal('EINVAL'))
  await t.rejects(store.read({ chunkId: 1n, offset: 0, length: 0 }), refusal('EINVAL'))
  await t.rejects(store.read({ chunkId: 1n, offset: 0, length: 1024 * 1024 + blocks(1) }), refusal('EINVAL'))
  await store.close()
})

t.test('seal cuts, is for ever and can be said twice', async (t) => {
  const directory = t.testdir()
  let store = await openStore(directory)
  const data = pattern(1, blocks(4))
  await append(store, 1n, 0, data)
  await t.rejects(store.seal(2n, 0), refusal('ENOENT'))
  await t.rejects(store.seal(1n, blocks(5)), refusal('ERANGE'))
  await t.rejects(store.seal(1n, 100), refusal('EINVAL'))
  await store.seal(1n, blocks(3))
  await store.seal(1n, blocks(3))
  await t.rejects(store.seal(1n, blocks(2)), refusal('EINVAL'), 'at another length')
  await t.rejects(append(store, 1n, blocks(3), data), refusal('EROFS'))
  t.equal(await append(store, 1n, 0, data.subarray(0, blocks(3)), { sync: true }), blocks(3), 'what is there is there')
  await t.rejects(store.read({ chunkId: 1n, offset: blocks(3), length: blocks(1) }), refusal('ERANGE'))
  await store.close()
  t.equal((await stat(fileOf(directory, 1n))).size, dataStart + blocks(3))

  store = await openStore(directory)
  t.same(store.state(1n), { chunkId: 1n, length: blocks(3), sealed: true, corrupt: false, deleted: false, more: false })
  t.ok((await readAll(store, 1n, blocks(3))).equals(data.subarray(0, blocks(3))))
  await t.rejects(append(store, 1n, blocks(3), data), refusal('EROFS'))
  await store.close()
})

t.test('appends, a seal and reads of one chunk at the same time', async (t) => {
  const store = await openStore(t.testdir())
  const data = pattern(1, blocks(1))
  const appends = Array.from({ length: 50 }, (_, index) => append(store, 1n, blocks(index), data))
  const sealed = store.seal(1n, blocks(20))
  const late = append(store, 1n, blocks(50), data)
  await Promise.all(appends)
  await sealed
  await t.rejects(late, refusal('EROFS'))
  t.equal(store.state(1n)?.length, blocks(20))
  await store.close()
})

t.test('a read of what a seal is just cutting off finds no damage', async (t) => {
  const cutting = gate()
  const wasRead = gate()
  const store = await openStore(t.testdir(), {
    disk: {
      ...realDisk,
      open: async (path, options) => {
        const file = await realDisk.open(path, options)
        const truncate = file.truncate.bind(file)
        file.truncate = async (length) => {
          cutting.open()
          await wasRead.opened
          await truncate(length)
        }
        return file
      },
    },
  })
  await append(store, 1n, 0, pattern(1, blocks(8)))
  const sealed = store.seal(1n, blocks(4))
  await cutting.opened
  await t.rejects(store.read({ chunkId: 1n, offset: blocks(2), length: blocks(4) }), refusal('ERANGE'))
  wasRead.open()
  await sealed
  t.match(store.state(1n), { length: blocks(4), sealed: true, corrupt: false })
  t.same(await store.check(1n), { length: blocks(4), sealed: true, corrupt: [] })
  await store.close()
})

t.test('a seal that cannot cut the file off is one all the same', async (t) => {
  const disk = simulatedDisk()
  const store = await openStore('/data', { disk })
  await append(store, 1n, 0, pattern(1, blocks(8)))
  disk.fail({ call: 'truncate', path: /0001$/, code: 'EIO', times: 1 })
  await t.rejects(store.seal(1n, blocks(4)), refusal('EIO'))
  t.match(store.state(1n), { length: blocks(4), sealed: true, corrupt: false }, 'as its file says')
  await t.rejects(append(store, 1n, blocks(8), pattern(2, blocks(1))), refusal('EROFS'))
  await store.seal(1n, blocks(4))
  await t.rejects(store.read({ chunkId: 1n, offset: blocks(4), length: blocks(1) }), refusal('ERANGE'))
  await store.close()
})

t.test('punched blocks are zeros, free space, and stay so', async (t) => {
  const directory = t.testdir()
  let store = await openStore(directory)
  const data = pattern(1, blocks(256))
  await append(store, 1n, 0, data)
  await store.seal(1n, blocks(256))
  const before = (await store.figures()).usedBytes
  await store.punch(1n, [
    { offset: blocks(10), length: blocks(100) },
    { offset: blocks(110), length: blocks(50) },
    { offset: blocks(250), length: blocks(1000) },
  ])
  await store.punch(1n, [{ offset: blocks(10), length: blocks(5) }])
  await t.rejects(store.punch(1n, [{ offset: 1, length: 4096 }]), refusal('EINVAL'))
  await t.rejects(store.punch(2n, [{ offset: 0, length: 4096 }]), refusal('ENOENT'))
  const expected = Buffer.from(data).fill(0, blocks(10), blocks(160)).fill(0, blocks(250))
  t.ok((await readAll(store, 1n, blocks(256))).equals(expected))
  const { checksums } = await store.read({ chunkId: 1n, offset: blocks(12), length: blocks(1) })
  t.equal(checksums.readUInt32LE(0), zeroBlockChecksum)
  const freed = before - (await store.figures()).usedBytes
  t.ok(freed >= blocks(150), `${freed} bytes came back`)
  await store.close()

  store = await openStore(directory)
  t.equal((await store.figures()).usedBytes, before - freed, 'counted the same after a restart')
  t.ok((await readAll(store, 1n, blocks(256))).equals(expected))
  t.same((await store.check(1n)).corrupt, [])
  await store.close()
})

t.test('a hole that could not be written down is, when it is punched again', async (t) => {
  const disk = simulatedDisk()
  let store = await openStore('/data', { disk })
  const data = pattern(1, blocks(4))
  await append(store, 1n, 0, data)
  await store.seal(1n, blocks(4))
  for (const [call, code] of [
    ['write', 'EIO'],
    ['write', 'ENOSPC'],
    ['punch', 'EIO'],
  ] as const) {
    disk.fail({ call, path: /0001$/, code, times: 1 })
    await t.rejects(store.punch(1n, [{ offset: blocks(1), length: blocks(2) }]), refusal(code))
  }
  await store.punch(1n, [{ offset: blocks(1), length: blocks(2) }])
  t.same(await store.check(1n), { length: blocks(4), sealed: true, corrupt: [] }, 'a check opens the file anew')
  disk.crash()
  store = await openStore('/data', { disk })
  t.same(await store.check(1n), { length: blocks(4), sealed: true, corrupt: [] })
  const holed = Buffer.from(data).fill(0, blocks(1), blocks(3))
  t.ok((await readAll(store, 1n, blocks(4))).equals(holed))
  await store.close()
})

t.test('reads while blocks are punched see either, never damage', async (t) => {
  const store = await openStore(t.testdir())
  await append(store, 1n, 0, pattern(1, blocks(64)))
  const reads = []
  for (let index = 0; index < 32; index++) {
    const punched = store.punch(1n, [{ offset: blocks(index * 2), length: blocks(1) }])
    reads.push(punched, ...Array.from({ length: 4 }, () => readAll(store, 1n, blocks(64))))
  }
  await Promise.all(reads)
  t.equal(store.state(1n)?.corrupt, false)
  await store.close()
})

t.test('deleted chunks are gone and reported', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  await append(store, 1n, 0, pattern(1, blocks(4)))
  await append(store, 2n, 0, pattern(1, blocks(4)))
  t.same(
    store.takeChanges(10).map(({ chunkId }) => chunkId),
    [1n, 2n],
  )
  t.same(store.takeChanges(10), [])
  await store.delete(1n)
  await store.delete(1n)
  await store.delete(77n)
  const changes = store.takeChanges(10)
  t.same(changes, [{ chunkId: 1n, length: 0, sealed: false, corrupt: false, deleted: true, more: false }])
  store.changedAgain(changes)
  t.same(store.takeChanges(10), changes)
  await t.rejects(store.read({ chunkId: 1n, offset: 0, length: 4096 }), refusal('ENOENT'))
  t.same(await readdir(`${directory}/chunks/01`), [])
  await store.delete(2n)
  t.equal((await store.figures()).usedBytes, 0)
  await store.close()
})

t.test('a chunk that could not be deleted is there, wholly', async (t) => {
  const disk = simulatedDisk()
  const store = await openStore('/data', { disk })
  const data = pattern(1, blocks(2))
  await append(store, 1n, 0, data)
  await store.seal(1n, blocks(2))
  for (const path of [/0001$/, /0001\.damaged$/]) {
    disk.fail({ call: 'unlink', path, code: 'EIO', times: 1 })
    await t.rejects(store.delete(1n), refusal('EIO'))
    t.same(await store.check(1n), { length: blocks(2), sealed: true, corrupt: [] })
    t.ok((await readAll(store, 1n, blocks(2))).equals(data))
  }
  await store.delete(1n)
  t.equal(store.state(1n), undefined)
  t.same(
    disk.paths().filter((path) => path.includes('/chunks/')),
    [],
  )
  await store.close()
})

t.test('more chunks than open files', async (t) => {
  const store = await openStore(t.testdir())
  const ids = Array.from({ length: 600 }, (_, index) => BigInt(index + 1))
  await Promise.all(ids.map((id) => append(store, id, 0, pattern(Number(id), 100))))
  await Promise.all(ids.map((id) => append(store, id, blocks(1), pattern(Number(id) + 1, 100), { sync: true })))
  // Files are closed beside the work, each after a sync.
  let openFiles = Infinity
  for (let tries = 0; tries < 100 && openFiles >= 400; tries++) {
    openFiles = (await readdir('/proc/self/fd')).length
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  t.ok(openFiles < 400, `${openFiles} descriptors`)
  for (const id of ids) {
    const data = await readAll(store, id, blocks(2))
    if (!data.subarray(0, 100).equals(pattern(Number(id), 100))) t.fail(`chunk ${id} differs`)
  }
  await store.close()
})

t.test('a flipped bit in sealed data is noticed, told and remembered; the rest is readable', async (t) => {
  const directory = t.testdir()
  let store = await openStore(directory)
  await append(store, 1n, 0, pattern(1, blocks(8)))
  await store.seal(1n, blocks(8))
  store.takeChanges(10)
  await flip(fileOf(directory, 1n), dataStart + blocks(5) + 17)
  t.ok((await readAll(store, 1n, blocks(5))).length > 0)
  await t.rejects(store.read({ chunkId: 1n, offset: blocks(4), length: blocks(2) }), refusal('EBADMSG'))
  const corrupt = { chunkId: 1n, length: blocks(8), sealed: true, corrupt: true, deleted: false, more: false }
  t.same(store.takeChanges(10), [corrupt])
  t.same(await store.check(1n), {
    length: blocks(8),
    sealed: true,
    corrupt: [{ offset: blocks(5), length: blocks(1) }],
  })
  await store.close()

  store = await openStore(directory)
  t.same(store.state(1n), corrupt)
  await store.close()
})

t.test('a check notices that the file of a sealed chunk was removed although it is still open', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  await append(store, 1n, 0, pattern(1, blocks(8)))
  await store.seal(1n, blocks(8))
  store.takeChanges(10)
  await rm(fileOf(directory, 1n))
  await t.rejects(store.check(1n), refusal('EIO'))
  t.match(store.takeChanges(10), [{ chunkId: 1n, corrupt: true }])
  await store.close()
})

t.test('a damaged table entry is noticed', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  await append(store, 1n, 0, pattern(1, blocks(8)))
  await store.seal(1n, blocks(8))
  await store.close()
  await flip(fileOf(directory, 1n), tableStart + 3 * 8 + 6)
  const again = await openStore(directory)
  t.same((await again.check(1n)).corrupt, [{ offset: blocks(3), length: blocks(1) }])
  t.equal(again.state(1n)?.corrupt, true)
  await again.close()
})

t.test('a torn tail of an open chunk is cut; damage before good blocks is kept but not counted', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  const data = pattern(1, blocks(8))
  for (const id of [1n, 2n, 3n]) await append(store, id, 0, data, { sync: true })
  await store.close()
  // 1: the data of the last block is not there. 2: damage in the middle. 3: data that no table entry knows.
  await truncate(fileOf(directory, 1n), dataStart + blocks(7) + 100)
  await flip(fileOf(directory, 2n), dataStart + blocks(4))
  await writeFile(fileOf(directory, 3n), pattern(3, 3000), { flag: 'a' })

  const again = await openStore(directory)
  t.equal(again.state(1n)?.length, blocks(7))
  t.same(again.state(2n), {
    chunkId: 2n,
    length: blocks(4),
    sealed: false,
    corrupt: false,
    deleted: false,
    more: true,
  })
  t.match(again.state(1n), { more: false })
  t.equal(again.state(3n)?.length, blocks(8))
  t.equal((await stat(fileOf(directory, 3n))).size, dataStart + blocks(8))
  const { data: behind } = await again.read({ chunkId: 2n, offset: blocks(5), length: blocks(3) })
  t.ok(behind.equals(data.subarray(blocks(5))), 'what follows the damage is still there')
  await t.rejects(again.seal(2n, blocks(8)), refusal('ERANGE'))
  await again.seal(2n, blocks(3))
  const fresh = pattern(9, blocks(2))
  t.equal(await append(again, 1n, blocks(7), fresh, { create: false, sync: true }), blocks(9))
  await again.close()

  const third = await openStore(directory)
  const expected = Buffer.concat([data.subarray(0, blocks(7)), fresh])
  t.ok((await readAll(third, 1n, blocks(9))).equals(expected))
  t.ok((await readAll(third, 2n, blocks(3))).equals(data.subarray(0, blocks(3))))
  await third.close()
})

t.test('an open chunk ends where the disk cannot read it; what is behind that is kept', async (t) => {
  const directory = t.testdir()
  const data = pattern(1, blocks(8))
  for (const bad of [7, 4]) {
    const id = BigInt(bad)
    let store = await openStore(directory)
    await append(store, id, 0, data, { sync: true })
    await store.close()

    const disk: Disk = {
      ...realDisk,
      open: async (path, options) => {
        const file = await realDisk.open(path, options)
        if (path !== fileOf(directory, id)) return file
        const from = dataStart + blocks(bad)
        const read = file.read.bind(file)
        file.read = async (buffer, position) => {
          if (position < from + blocks(1) && position + buffer.length > from) {
            throw new PosixError('EIO', 'the disk has tried it for long')
          }
          return read(buffer, position)
        }
        return file
      },
    }
    store = await openStore(directory, { disk })
    t.match(store.state(id), { length: blocks(bad), sealed: false, corrupt: false, more: true })
    t.ok((await readAll(store, id, blocks(bad))).equals(data.subarray(0, blocks(bad))))
    if (bad < 7) {
      const { data: behind } = await store.read({ chunkId: id, offset: blocks(bad + 1), length: blocks(7 - bad) })
      t.ok(behind.equals(data.subarray(blocks(bad + 1))))
    }
    await t.rejects(store.read({ chunkId: id, offset: blocks(bad), length: blocks(1) }), refusal('EIO'))
    t.match(store.state(id), { corrupt: false }, 'that was known')
    await store.close()

    store = await openStore(directory)
    t.ok((await readAll(store, id, blocks(8))).equals(data), 'when the disk can read it again')
    await store.close()
  }
})

t.test('chunk files that cannot be read are set aside, told, and go when they are replaced or deleted', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  for (const id of [1n, 2n, 3n, 4n, 5n]) {
    await append(store, id, 0, pattern(Number(id), blocks(2)))
    await store.seal(id, blocks(2))
  }
  await store.close()
  await flip(fileOf(directory, 1n), 30)
  await writeFile(fileOf(directory, 2n), 'no chunk at all'.repeat(1000))
  await writeFile(fileOf(directory, 3n), '')
  await rename(fileOf(directory, 4n), fileOf(directory, 0x104n))
  await truncate(fileOf(directory, 5n), dataStart + blocks(1))
  await writeFile(`${directory}/chunks/00/README`, 'not ours')
  await writeFile(`${fileOf(directory, 9n)}.copy`, 'half a copy')

  let again = await openStore(directory)
  const lost = { length: 0, sealed: false, corrupt: true, deleted: false, more: false }
  t.same(again.state(1n), { chunkId: 1n, ...lost })
  t.same(again.state(2n), { chunkId: 2n, ...lost })
  t.equal(again.state(3n), undefined, 'never finished')
  t.same(again.state(0x104n), { chunkId: 0x104n, ...lost }, 'another chunk under its name')
  t.match(again.state(5n), { length: blocks(2), sealed: true, corrupt: true }, 'cut short')
  await t.rejects(again.read({ chunkId: 1n, offset: 0, length: 4096 }), refusal('EIO'))
  t.same((await readdir(`${directory}/chunks/01`)).length, 1)
  t.same(await readdir(`${directory}/chunks/09`), [], 'half a copy is of no use')
  t.same(await readdir(`${directory}/chunks/00`), ['README'], 'a stranger is left alone')
  await again.close()
  again = await openStore(directory)
  t.same(again.state(1n), { chunkId: 1n, ...lost }, 'also at the next start')
  await again.delete(1n)
  t.same(await readdir(`${directory}/chunks/01`), [])
  await again.close()
})

t.test('a copy that ends in freed blocks is whole after a restart', async (t) => {
  const directory = t.testdir()
  const data = pattern(3, blocks(2))
  const store = await openStore(directory)
  await store.receive(1n, blocks(5), async (incoming) => {
    await incoming.write({ data, checksums: blockChecksums(data) })
    await incoming.hole(blocks(3))
  })
  await store.receive(2n, blocks(3), (incoming) => incoming.hole(blocks(3)))
  await store.close()

  const again = await openStore(directory)
  t.match(again.state(1n), { length: blocks(5), sealed: true, corrupt: false })
  t.match(again.state(2n), { length: blocks(3), sealed: true, corrupt: false })
  t.ok((await readAll(again, 1n, blocks(5))).equals(Buffer.concat([data, Buffer.alloc(blocks(3))])))
  t.ok((await readAll(again, 2n, blocks(3))).equals(Buffer.alloc(blocks(3))))
  await again.close()
  await truncate(fileOf(directory, 1n), dataStart + blocks(1))
  const cut = await openStore(directory)
  t.match(cut.state(1n), { corrupt: true }, 'without a block that has data')
  await cut.close()
})

t.test('a copy replaces what was there, whole or not at all', async (t) => {
  const directory = t.testdir()
  const source = await openStore(`${directory}/source`)
  const target = await openStore(`${directory}/target`)
  const data = Buffer.concat([pattern(1, blocks(4)), Buffer.alloc(blocks(4)), pattern(2, blocks(4))])
  await append(source, 1n, 0, data)
  const piece = await source.read({ chunkId: 1n, offset: 0, length: data.length })
  await append(target, 1n, 0, pattern(7, blocks(1)))
  await t.rejects(
    target.receive(1n, data.length, async () => {
      throw new PosixError('EIO', 'the source went away')
    }),
    refusal('EIO'),
  )
  await t.rejects(
    target.receive(1n, data.length, async () => {}),
    refusal('EIO'),
    'too short',
  )
  t.equal(target.state(1n)?.length, blocks(1), 'the old one is still there')
  await target.receive(1n, data.length, (incoming) => incoming.write(piece))
  t.same(target.state(1n), {
    chunkId: 1n,
    length: data.length,
    sealed: true,
    corrupt: false,
    deleted: false,
    more: false,
  })
  t.ok((await readAll(target, 1n, data.length)).equals(data))
  t.same(await readdir(`${directory}/target/chunks/01`), ['0000000000000001'])
  const { usedBytes } = await target.figures()
  await target.close()
  const again = await openStore(`${directory}/target`)
  t.equal((await again.figures()).usedBytes, usedBytes)
  await again.close()
  await source.close()
})

t.test('what goes wrong with a file that a copy has replaced is not held against the copy', async (t) => {
  const failing = gate()
  const replaced = gate()
  let failed = 0
  const failLate = async (): Promise<never> => {
    failed++
    failing.open()
    await replaced.opened
    throw new PosixError('EIO', 'the disk has tried it for long')
  }
  let late: 'read' | 'sync' | undefined
  const store = await openStore(t.testdir(), {
    disk: {
      ...realDisk,
      open: async (path, options) => {
        const file = await realDisk.open(path, options)
        const { read, sync } = file
        file.read = (buffer, position) =>
          late === 'read' && position >= dataStart ? failLate() : read.call(file, buffer, position)
        file.sync = () => (late === 'sync' && !path.endsWith('.copy') ? failLate() : sync.call(file))
        return file
      },
    },
  })
  const data = pattern(1, blocks(2))
  for (const id of [1n, 2n]) await append(store, id, 0, data)
  late = 'read'
  const read = t.rejects(store.read({ chunkId: 1n, offset: 0, length: blocks(2) }), refusal('EIO'))
  await failing.opened
  late = 'sync'
  const synced = t.rejects(append(store, 2n, blocks(2), pattern(2, blocks(1)), { sync: true }), refusal('EIO'))
  while (failed < 2) await new Promise((resolve) => setImmediate(resolve))
  for (const id of [1n, 2n]) {
    await store.receive(id, blocks(2), (incoming) => incoming.write({ data, checksums: blockChecksums(data) }))
  }
  late = undefined
  replaced.open()
  await Promise.all([read, synced])
  for (const id of [1n, 2n]) {
    t.match(store.state(id), { length: blocks(2), sealed: true, corrupt: false })
    t.ok((await readAll(store, id, blocks(2))).equals(data))
  }
  await store.close()
})

t.test('capacity and a full disk are ENOSPC and harm nothing', async (t) => {
  const directory = t.testdir()
  let freeBytes = 10 * 1024 ** 3
  let writesLeft = Infinity
  const store = await openStore(directory, {
    capacityBytes: 3 * 1024 * 1024,
    disk: {
      ...realDisk,
      space: async () => ({ fileSystem: 'test', totalBytes: 100 * 1024 ** 3, freeBytes }),
      open: async (path, options) => {
        const file = await realDisk.open(path, options)
        const write = file.write.bind(file)
        file.write = async (buffers, position) => {
          if (position >= dataStart && writesLeft-- <= 0) {
            // As a disk that gets full: a part is written.
            await write([buffers[0]!.subarray(0, 5000)], position)
            throw new PosixError('ENOSPC')
          }
          await write(buffers, position)
        }
        return file
      },
    },
  })
  const mebibyte = pattern(1, 1024 * 1024)
  await append(store, 1n, 0, mebibyte)
  await append(store, 1n, mebibyte.length, mebibyte)
  await t.rejects(append(store, 1n, 2 * mebibyte.length, mebibyte), refusal('ENOSPC'), 'beyond the capacity')
  t.equal(await append(store, 1n, 2 * mebibyte.length, pattern(2, blocks(2))), 2 * mebibyte.length + blocks(2))
  const { capacityBytes, usedBytes, freeBytes: room } = await store.figures()
  t.equal(capacityBytes, 3 * 1024 * 1024)
  t.equal(usedBytes + room, capacityBytes)

  writesLeft = 0
  const length = store.state(1n)!.length
  await t.rejects(append(store, 1n, length, pattern(4, blocks(3)), { sync: true }), refusal('ENOSPC'), 'in the middle')
  t.equal(store.state(1n)?.length, length)
  t.equal((await store.figures()).usedBytes, usedBytes)
  writesLeft = Infinity
  t.equal(await append(store, 1n, length, pattern(5, blocks(1)), { sync: true }), length + blocks(1))
  t.ok((await readAll(store, 1n, blocks(8))).equals(mebibyte.subarray(0, blocks(8))))

  freeBytes = 1000 * 1024 * 1024
  await new Promise((resolve) => setTimeout(resolve, 60))
  await t.rejects(append(store, 2n, 0, pattern(4, blocks(3))), refusal('ENOSPC'), 'only the reserve is left')
  t.equal(store.state(2n), undefined)
  t.equal((await store.figures()).freeBytes, 0)
  await store.delete(1n)
  await store.close()
  const again = await openStore(directory)
  t.equal((await again.figures()).usedBytes, 0)
  await again.close()
})

t.test('a sync that failed never succeeds later', async (t) => {
  const directory = t.testdir()
  let failures = 1
  const disk: Disk = {
    ...realDisk,
    open: async (path, options) => {
      const file = await realDisk.open(path, options)
      const sync = file.sync.bind(file)
      file.sync = async () => {
        if (failures-- > 0) throw new PosixError('EIO', 'the device is gone')
        await sync()
      }
      return file
    },
  }
  let store = await openStore(directory, { disk })
  await append(store, 1n, 0, pattern(1, blocks(1)))
  store.takeChanges(10)
  await t.rejects(append(store, 1n, blocks(1), pattern(1, blocks(1)), { sync: true }), refusal('EIO'))
  await t.rejects(append(store, 1n, blocks(2), Buffer.alloc(0), { sync: true }), refusal('EIO'))
  await t.rejects(append(store, 1n, blocks(2), pattern(1, blocks(1))), refusal('EIO'))
  await t.rejects(store.seal(1n, blocks(1)), refusal('EIO'))
  t.match(store.takeChanges(10), [{ chunkId: 1n, corrupt: true }])
  t.equal(await append(store, 2n, 0, pattern(1, blocks(1)), { sync: true }), blocks(1), 'other chunks go on')
  for (let id = 3n; id < 300n; id++) await append(store, id, 0, pattern(1, blocks(1)))
  await t.rejects(store.seal(1n, blocks(1)), refusal('EIO'), 'nor after its file was closed in favour of others')
  await append(store, 300n, 0, pattern(1, blocks(1)))
  failures = 1
  await store.close()

  // The process is another one, the machine is not: it still has in memory what is not on disk, and the device is well again.
  store = await openStore(directory, { disk })
  const corrupt = [...store.replicas(1000)].flat().filter((replica) => replica.corrupt)
  t.equal(corrupt.length, 2, 'the one of before, and the one that failed when all was brought to disk at the end')
  for (const { chunkId, length } of [...corrupt, store.state(1n)!]) {
    t.match(store.state(chunkId), { corrupt: true, sealed: false })
    await t.rejects(
      append(store, chunkId, length, Buffer.alloc(0), { sync: true }),
      refusal('EIO'),
      'not after a restart',
    )
    await t.rejects(append(store, chunkId, length, pattern(1, blocks(1)), { sync: true }), refusal('EIO'))
    await t.rejects(store.seal(chunkId, length), refusal('EIO'))
  }
  await store.close()
})

t.test('what a failed sync left in memory alone is never sealed after a restart', async (t) => {
  for (let seed = 0; seed < 20; seed++) {
    const disk = simulatedDisk({ seed })
    let store = await openStore('/data', { disk })
    await append(store, 1n, 0, pattern(1, blocks(2)), { sync: true })
    disk.fail({ call: 'sync', path: /0001$/, code: 'EIO', times: 1 })
    await t.rejects(append(store, 1n, blocks(2), pattern(2, blocks(2)), { sync: true }), refusal('EIO'))
    disk.restart()
    store = await openStore('/data', { disk })
    const sealed = await store.seal(1n, blocks(4)).then(
      () => true,
      () => false,
    )
    disk.crash()
    store = await openStore('/data', { disk })
    if (sealed && (await store.check(1n)).corrupt.length > 0) t.fail(`seed=${seed}: sealed, and not on disk`)
    await store.close()
  }
  t.pass('20 seeds')
})

t.test('a little that is to be on disk at once takes one call, and fails as two would', async (t) => {
  const calls: string[] = []
  let writing: PosixError | undefined
  let syncing: PosixError | undefined
  const directory = t.testdir()
  const store = await openStore(directory, {
    disk: {
      ...realDisk,
      open: async (path, options) => {
        const file = await realDisk.open(path, options)
        const { write, sync, writeAndSync } = file
        file.write = (buffers, position) => (calls.push('write'), write.call(file, buffers, position))
        file.sync = () => (calls.push('sync'), sync.call(file))
        file.writeAndSync = async (writes) => {
          calls.push('writeAndSync')
          if (writing !== undefined) throw writing
          await writeAndSync.call(file, writes)
          return syncing
        }
        return file
      },
    },
  })
  const appended = async (block: number, count = 1): Promise<string[]> => {
    calls.length = 0
    const length = await append(store, 1n, blocks(block), pattern(block, blocks(count)), { sync: true })
    t.equal(length, blocks(block + count))
    return [...calls]
  }
  t.ok((await appended(0)).includes('sync'), 'the first sync sees to the name of the file')
  t.same(await appended(1), ['writeAndSync'])
  t.same(await appended(2, 32), ['write', 'write', 'sync'], 'much is written first')
  t.same(await appended(34, 2), ['writeAndSync'])
  t.equal(await append(store, 1n, blocks(36), Buffer.alloc(0), { sync: true }), blocks(36))
  t.same(calls, ['writeAndSync'], 'everything is on disk already')

  calls.length = 0
  const synced = append(store, 1n, blocks(36), pattern(36, blocks(1)), { sync: true })
  const unsynced = append(store, 1n, blocks(37), pattern(37, blocks(1)))
  t.same(await Promise.all([synced, unsynced]), [blocks(37), blocks(38)])
  t.notOk(calls.includes('writeAndSync'), 'others do not wait for a sync')

  writing = new PosixError('ENOSPC')
  await t.rejects(append(store, 1n, blocks(38), pattern(38, blocks(1)), { sync: true }), refusal('ENOSPC'))
  t.match(store.state(1n), { length: blocks(38), corrupt: false })
  writing = undefined
  t.same(await appended(38), ['writeAndSync'])
  t.ok((await readAll(store, 1n, blocks(2))).equals(Buffer.concat([pattern(0, blocks(1)), pattern(1, blocks(1))])))

  syncing = new PosixError('EIO', 'the device is gone')
  await t.rejects(append(store, 1n, blocks(39), pattern(39, blocks(1)), { sync: true }), refusal('EIO'))
  syncing = undefined
  t.match(store.state(1n), { corrupt: true })
  await t.rejects(append(store, 1n, blocks(40), Buffer.alloc(0), { sync: true }), refusal('EIO'), 'nor later')
  await store.close()
  const again = await openStore(directory)
  t.match(again.state(1n), { corrupt: true }, 'nor after a restart')
  await again.close()
})

t.test('data directories that do not fit are refused in a sentence', async (t) => {
  const directory = t.testdir({ other: { file: 'something' }, master: { CURRENT: '', chunks: {} } })
  await t.rejects(openStore(`${directory}/other`), { name: 'UsageError', message: /is not empty \(file\)/ })
  await t.rejects(openStore(`${directory}/master`), { name: 'UsageError', message: /is not empty/ })
  t.same(await readdir(`${directory}/other`), ['file'], 'and left as they are')
  await t.rejects(openStore(`${directory}/other/file/x`), {
    name: 'UsageError',
    message: /cannot make the data directory/,
  })

  const store = await openStore(`${directory}/store`)
  await t.rejects(openStore(`${directory}/store`), {
    name: 'UsageError',
    message: /is in use by another Shoal chunk server/,
  })
  await t.rejects(store.adopt({ clusterId: 'another', serverId: 3 }), {
    name: 'UsageError',
    message: /belongs to cluster cluster-of-a-test, but the master's is another/,
  })
  await append(store, 1n, 0, pattern(1, blocks(1)), { sync: true })
  await store.close()

  const identity = `${directory}/store/store.json`
  const good = await readFile(identity, 'utf8')
  await writeFile(identity, good.replace('"format": 1', '"format": 2'))
  await t.rejects(openStore(`${directory}/store`), {
    name: 'UsageError',
    message: /format 2, written by a newer Shoal.*run the newer version/,
  })
  await writeFile(identity, good.replace('cluster-of-a-test', 'cluster-of-a-tess'))
  await t.rejects(openStore(`${directory}/store`), { name: 'UsageError', message: /damaged/ })
  await writeFile(identity, '{')
  await t.rejects(openStore(`${directory}/store`), { name: 'UsageError', message: /damaged/ })
  await writeFile(identity, good)

  const file = await open(fileOf(`${directory}/store`, 1n), 'r+')
  const header = Buffer.alloc(4096)
  await file.read(header, 0, 4096, 0)
  header.writeUInt32LE(2, 8)
  const { crc32c } = await import('@node-rs/crc32')
  header.writeUInt32LE(crc32c(header.subarray(0, 508)), 508)
  await file.write(header, 0, 4096, 0)
  await file.close()
  await t.rejects(openStore(`${directory}/store`), UsageError, 'a chunk of a newer format')
  t.same(await readdir(`${directory}/store/chunks/01`), ['0000000000000001'], 'is left as it is')
})

t.test('a store is usable by the next one as soon as it is closed, and refuses work after', async (t) => {
  const directory = t.testdir()
  await mkdir(`${directory}/store`)
  const store = await openStore(`${directory}/store`)
  const pending = append(store, 1n, 0, pattern(1, blocks(1)), { sync: true })
  const closing = store.close()
  t.equal(await pending, blocks(1), 'what was asked before is done')
  await closing
  await t.rejects(append(store, 1n, blocks(1), pattern(1, blocks(1))), refusal('EIO'))
  await t.rejects(store.delete(1n), refusal('EIO'))
  const again = await openStore(`${directory}/store`)
  t.equal(again.state(1n)?.length, blocks(1))
  await again.close()
})
