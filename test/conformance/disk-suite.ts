/** What every Disk must do, as tests. The factory gives a disk and an empty directory on it. */
import type { Test } from 'tap'
import type { Disk, DiskFile } from '../../src/platform/disk.ts'

export interface DiskFixture {
  disk: Disk
  directory: string
}

const blockBytes = 4096

export const diskSuite = (t: Test, name: string, factory: (t: Test) => Promise<DiskFixture>): Promise<unknown> =>
  t.test(name, async (t) => {
    const withFile = async (t: Test): Promise<DiskFixture & { file: DiskFile; path: string }> => {
      const fixture = await factory(t)
      const path = `${fixture.directory}/file`
      const file = await fixture.disk.open(path, { create: true })
      t.teardown(() => file.close())
      return { ...fixture, file, path }
    }

    await t.test('open: missing, create, exclusive', async (t) => {
      const { disk, directory } = await factory(t)
      const path = `${directory}/file`
      await t.rejects(disk.open(path), { name: 'PosixError', code: 'ENOENT' })
      const made = await disk.open(path, { create: true, exclusive: true })
      await made.write([Buffer.from('kept')], 0)
      await made.close()
      await t.rejects(disk.open(path, { create: true, exclusive: true }), { name: 'PosixError', code: 'EEXIST' })
      const again = await disk.open(path, { create: true })
      t.equal((await again.stat()).size, 4, 'creating what is there changes nothing')
      await again.close()
      await t.rejects(disk.open(`${directory}/none/file`, { create: true }), { name: 'PosixError', code: 'ENOENT' })
    })

    await t.test('read and write at positions, several buffers, short only at the end', async (t) => {
      const { file } = await withFile(t)
      await file.write([Buffer.from('hello '), Buffer.alloc(0), Buffer.from('world')], 10)
      await file.write([], 0)
      t.equal((await file.stat()).size, 21)
      const buffer = Buffer.alloc(30, 9)
      t.equal(await file.read(buffer, 0), 21)
      t.equal(buffer.toString('latin1', 0, 22), `${'\0'.repeat(10)}hello world\x09`, 'a gap reads as zeros')
      t.equal(await file.read(buffer, 21), 0)
      t.equal(await file.read(buffer, 1000), 0)
      t.equal(await file.read(buffer.subarray(0, 5), 16), 5)
      t.equal(buffer.toString('latin1', 0, 5), 'world')
      t.equal(await file.read(Buffer.alloc(0), 0), 0)
    })

    await t.test('many pieces and megabytes in one write', async (t) => {
      const { file } = await withFile(t)
      const pieces = Array.from({ length: 2500 }, (_, i) => Buffer.alloc(1000 + (i % 7), i))
      await file.write(pieces, 3)
      const wanted = Buffer.concat(pieces)
      const found = Buffer.alloc(wanted.length)
      t.equal(await file.read(found, 3), wanted.length)
      t.ok(found.equals(wanted))
    })

    await t.test('writes to different places at once', async (t) => {
      const { file } = await withFile(t)
      await Promise.all(Array.from({ length: 32 }, (_, i) => file.write([Buffer.alloc(5000, i + 1)], i * 5000)))
      await file.sync()
      const found = Buffer.alloc(160_000)
      t.equal(await file.read(found, 0), 160_000)
      t.ok(
        Array.from({ length: 32 }, (_, i) => i).every(
          (i) => found[i * 5000] === i + 1 && found[i * 5000 + 4999] === i + 1,
        ),
      )
    })

    await t.test('writes and a sync in one call', async (t) => {
      const { file } = await withFile(t)
      const first = { buffers: [Buffer.alloc(5000, 1), Buffer.alloc(0), Buffer.alloc(3192, 2)], position: 8192 }
      t.equal(await file.writeAndSync([first, { buffers: [Buffer.from('entry')], position: 100 }]), undefined)
      t.equal(await file.writeAndSync([]), undefined)
      const wanted = Buffer.alloc(16_384).fill(1, 8192).fill(2, 13_192)
      wanted.write('entry', 100)
      const found = Buffer.alloc(wanted.length + 1)
      t.equal(await file.read(found, 0), wanted.length)
      t.ok(found.subarray(0, wanted.length).equals(wanted))
    })

    await t.test('truncate shortens and lengthens with zeros', async (t) => {
      const { file } = await withFile(t)
      await file.write([Buffer.alloc(10_000, 7)], 0)
      await file.truncate(100)
      await file.truncate(10_000)
      const found = Buffer.alloc(10_000, 1)
      t.equal(await file.read(found, 0), 10_000)
      t.ok(found.subarray(0, 100).equals(Buffer.alloc(100, 7)))
      t.ok(found.subarray(100).equals(Buffer.alloc(9900)), 'what was cut off does not come back')
    })

    await t.test('punch frees blocks, reads as zeros and keeps the size', async (t) => {
      const { file } = await withFile(t)
      const size = 64 * blockBytes
      await file.write([Buffer.alloc(size, 5)], 0)
      await file.sync()
      const before = await file.stat()
      await file.punch({ offset: 8 * blockBytes, length: 40 * blockBytes })
      await file.punch({ offset: 60 * blockBytes, length: 100 * blockBytes })
      await file.punch({ offset: 0, length: 0 })
      const after = await file.stat()
      t.equal(after.size, size)
      t.ok(after.allocatedBytes <= before.allocatedBytes - 40 * blockBytes, 'blocks are free again')
      const found = Buffer.alloc(size)
      await file.read(found, 0)
      const wanted = Buffer.alloc(size, 5)
        .fill(0, 8 * blockBytes, 48 * blockBytes)
        .fill(0, 60 * blockBytes)
      t.ok(found.equals(wanted))
    })

    await t.test('several holes are punched at once', async (t) => {
      const { file } = await withFile(t)
      await file.write([Buffer.alloc(16 * blockBytes, 5)], 0)
      await Promise.all([1, 5, 9].map((block) => file.punch({ offset: block * blockBytes, length: blockBytes })))
      const found = Buffer.alloc(16 * blockBytes)
      await file.read(found, 0)
      t.same(
        Array.from({ length: 16 }, (_, block) => found[block * blockBytes]).map((byte) => byte === 0),
        Array.from({ length: 16 }, (_, block) => [1, 5, 9].includes(block)),
      )
    })

    await t.test('an unlinked or replaced file stays readable where it is open', async (t) => {
      const { disk, file, path, directory } = await withFile(t)
      await file.write([Buffer.from('old')], 0)
      await disk.replaceFile(path, Buffer.from('new'))
      t.equal(String(await disk.readFile(path)), 'new')
      const found = Buffer.alloc(3)
      await file.read(found, 0)
      t.equal(String(found), 'old')
      await disk.unlink(path)
      await disk.unlink(path)
      t.same(await disk.list(directory), [], 'no temporary file is left either')
    })

    await t.test('readFile, replaceFile', async (t) => {
      const { disk, directory } = await factory(t)
      const path = `${directory}/state`
      t.equal(await disk.readFile(path), undefined)
      await disk.replaceFile(path, Buffer.alloc(0))
      t.equal((await disk.readFile(path))?.length, 0)
      await Promise.all(Array.from({ length: 10 }, (_, i) => disk.replaceFile(path, Buffer.alloc(10_000, i))))
      const last = await disk.readFile(path)
      t.ok(last?.equals(Buffer.alloc(10_000, last[0])), 'whole, whichever it is')
      await t.rejects(disk.replaceFile(`${directory}/none/state`, Buffer.from('x')), { code: 'ENOENT' })
    })

    await t.test('directories: mkdir, list, rename, sync', async (t) => {
      const { disk, directory } = await factory(t)
      t.same(await disk.list(directory), [])
      await t.rejects(disk.list(`${directory}/none`), { name: 'PosixError', code: 'ENOENT' })
      await disk.mkdir(`${directory}/a/b`)
      await disk.mkdir(`${directory}/a/b`)
      await disk.replaceFile(`${directory}/a/one`, Buffer.from('1'))
      t.same((await disk.list(`${directory}/a`)).toSorted(), ['b', 'one'])
      await disk.replaceFile(`${directory}/two`, Buffer.from('2'))
      await disk.rename(`${directory}/two`, `${directory}/a/one`)
      t.equal(String(await disk.readFile(`${directory}/a/one`)), '2', 'rename replaces')
      t.same(await disk.list(directory), ['a'])
      await disk.syncDirectory(directory)
      await disk.syncDirectory(`${directory}/a`)
      await t.rejects(disk.syncDirectory(`${directory}/none`), { code: 'ENOENT' })
      await t.rejects(disk.rename(`${directory}/none`, `${directory}/some`), { code: 'ENOENT' })
      await t.rejects(disk.unlink(`${directory}/a`), { name: 'PosixError' })
      await t.rejects(disk.open(`${directory}/a`), { code: 'EISDIR' })
    })

    await t.test('space', async (t) => {
      const { disk, directory } = await factory(t)
      const { totalBytes, freeBytes } = await disk.space(directory)
      t.ok(totalBytes > 0 && freeBytes > 0 && freeBytes <= totalBytes)
    })

    await t.test('a directory is locked once, until it is released', async (t) => {
      const { disk, directory } = await factory(t)
      const held = await disk.lock(directory)
      await t.rejects(disk.lock(directory), { name: 'PosixError', code: 'EBUSY' })
      await held.release()
      const again = await disk.lock(directory)
      await held.release()
      await t.rejects(disk.lock(directory), { code: 'EBUSY' }, 'releasing twice releases nothing else')
      await again.release()
      const racing = await Promise.allSettled([disk.lock(directory), disk.lock(directory), disk.lock(directory)])
      const won = racing.filter((result) => result.status === 'fulfilled')
      t.equal(won.length, 1, 'one of several at once')
      await won[0]!.value.release()
      await t.rejects(disk.lock(`${directory}/none`), { code: 'ENOENT' })
    })
  })
