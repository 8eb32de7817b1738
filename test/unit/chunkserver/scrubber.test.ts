/** The scrubber: finds damage by itself, keeps to its rate, and goes on after a restart where it was. */
import { open } from 'node:fs/promises'
import t from 'tap'
import { dataStart } from '../../../src/chunkserver/format.ts'
import { Scrubber } from '../../../src/chunkserver/scrubber.ts'
import { realClock } from '../../../src/platform/clock.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { realDisk } from '../../../src/platform/real-disk.ts'
import { append, blocks, openStore, pattern } from '../../lib/chunk-store.ts'
import { manualClock, type ManualClock } from '../../lib/manual-clock.ts'

/** Moves the time second by second, with time for the disk in between; true when the condition came about. */
const passes = async (clock: ManualClock, seconds: number, condition: () => boolean): Promise<boolean> => {
  for (let second = 0; second < seconds; second++) {
    if (condition()) return true
    await clock.advance(1000)
    await realClock.sleep(3)
  }
  return condition()
}

t.test('damage is found at the rate that was asked for', async (t) => {
  const directory = t.testdir()
  const store = await openStore(directory)
  for (const id of [1n, 2n, 3n]) {
    await append(store, id, 0, pattern(Number(id), blocks(100)))
    await store.seal(id, blocks(100))
  }
  await append(store, 4n, 0, pattern(4, blocks(1)))
  const file = await open(`${directory}/chunks/03/0000000000000003`, 'r+')
  await file.write(Buffer.from('damage'), 0, 6, dataStart + blocks(50))
  await file.close()
  const clock = manualClock()
  const options = { store, directory, disk: realDisk, clock, log: silentLog, bytesPerSecond: blocks(10) }
  let scrubber = new Scrubber(options)
  t.notOk(await passes(clock, 25, () => store.state(3n)!.corrupt), 'it takes ten seconds per chunk')
  await scrubber.close()
  store.takeChanges(10)

  scrubber = new Scrubber(options)
  t.ok(await passes(clock, 60, () => store.state(3n)!.corrupt), 'it is found')
  t.match(store.takeChanges(10), [{ chunkId: 3n, corrupt: true }])
  t.notOk(store.state(1n)!.corrupt || store.state(2n)!.corrupt)
  await clock.advance(1000)
  await realClock.sleep(50)
  await scrubber.close()

  const saved = JSON.parse((await realDisk.readFile(`${directory}/scrub.json`))!.toString()) as unknown
  t.match(saved, { version: 1, checked_up_to: '3', finished: true })
  scrubber = new Scrubber(options)
  let reads = 0
  const check = store.check.bind(store)
  store.check = (...args) => {
    reads++
    return check(...args)
  }
  await passes(clock, 100, () => false)
  t.equal(reads, 0, 'a pass is not begun again at once')
  await clock.advance(24 * 60 * 60 * 1000)
  t.ok(await passes(clock, 200, () => reads >= 3), 'but after a day')
  await scrubber.close()
  await store.close()
})

t.test('progress that cannot be read costs a pass and nothing else', async (t) => {
  const directory = t.testdir({ 'scrub.json': '{"version":1,"pass_started":"never"' })
  const store = await openStore(`${directory}/store`)
  const clock = manualClock()
  const scrubber = new Scrubber({ store, directory, disk: realDisk, clock, log: silentLog, bytesPerSecond: 1e6 })
  await passes(clock, 5, () => false)
  await scrubber.close()
  t.match((await realDisk.readFile(`${directory}/scrub.json`))?.toString(), /"finished":true/)
  await store.close()
})
