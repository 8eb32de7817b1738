/** The open chunk files of a store: which are closed, and when. */
import t from 'tap'
import { asChunkId } from '../../../src/domain/ids.ts'
import { blockChecksums } from '../../../src/domain/checksum.ts'
import { ChunkFile } from '../../../src/chunkserver/chunk-file.ts'
import { FileCache } from '../../../src/chunkserver/file-cache.ts'
import { realDisk } from '../../../src/platform/real-disk.ts'
import { blocks, pattern } from '../../lib/chunk-store.ts'

t.test('a file that was written to while it was brought to disk is not closed before that is there, too', async (t) => {
  const directory = t.testdir()
  const calls: string[] = []
  let duringSync: (() => Promise<unknown>) | undefined
  const place = (id: number) => ({
    directory,
    path: `${directory}/${id}`,
    disk: {
      ...realDisk,
      open: async (path: string, options: object = {}) => {
        const file = await realDisk.open(path, options)
        const { write, sync, close } = file
        file.write = (buffers, position) => (calls.push('write'), write.call(file, buffers, position))
        file.sync = async () => {
          calls.push('sync')
          await sync.call(file)
          const during = duringSync
          duringSync = undefined
          await during?.()
        }
        file.close = () => (calls.push('close'), close.call(file))
        return file
      },
    },
  })
  const files = new FileCache({
    open: (chunkId) => ChunkFile.open(place(Number(chunkId)), chunkId),
    syncFailed: (_, cause) => t.fail(String(cause)),
    filesMax: 1,
  })
  const [first, second] = [asChunkId(1n), asChunkId(2n)]
  for (const chunkId of [first, second])
    await ChunkFile.create(place(Number(chunkId)), { clusterId: 'a', chunkId }).then((file) => file.close())
  const write = (): Promise<number> =>
    files.use(first, (file) => {
      const data = pattern(1, blocks(1))
      return file.write(0, [{ data, checksums: blockChecksums(data) }])
    })

  await write()
  duringSync = write
  calls.length = 0
  await files.use(second, async () => undefined)
  for (let tries = 0; tries < 200 && !calls.includes('close'); tries++)
    await new Promise((resolve) => setTimeout(resolve, 5))
  t.ok(calls.includes('close'), 'one was closed')
  t.ok(calls.slice(0, calls.indexOf('close')).lastIndexOf('sync') > calls.lastIndexOf('write'), calls.join(' '))
  await files.close()
})
