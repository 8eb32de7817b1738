import t from 'tap'
import { RoomWatch } from '../../../src/client/room-watch.ts'
import { manualClock } from '../../lib/manual-clock.ts'

t.test('room is short while little is free, and for a while after data was refused', async (t) => {
  const clock = manualClock()
  const room = new RoomWatch(clock, 1000)
  t.notOk(room.isShort, 'nothing is known')
  room.known(999n)
  t.ok(room.isShort)
  room.known(1000n)
  t.notOk(room.isShort)
  room.refused()
  t.ok(room.isShort, 'whatever the sum of all disks is')
  await clock.advance(29_999)
  t.ok(room.isShort)
  await clock.advance(1)
  t.notOk(room.isShort)
})
