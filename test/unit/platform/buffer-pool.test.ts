/** Receive buffers: used again when they are given back, never lent twice at a time, bounded in number. */
import t from 'tap'
import {
  giveBackBuffer,
  giveBackWhenSent,
  holdBuffer,
  isAligned,
  keptBytesMax,
  takeBuffer,
  wasSent,
} from '../../../src/platform/buffer-pool.ts'
import { nativeDisk } from '../../../src/platform/native-disk.ts'

const mebibyte = 1024 * 1024

t.test('what was given back is taken again, by one at a time', async (t) => {
  const first = takeBuffer(mebibyte + 100)
  t.equal(first.length, mebibyte + 100)
  const second = takeBuffer(mebibyte + 100)
  t.not(first.buffer, second.buffer)
  giveBackBuffer(first.subarray(50, 60))
  giveBackBuffer(first)
  const third = takeBuffer(mebibyte + 50)
  t.equal(third.buffer, first.buffer, 'a view stands for the whole')
  t.equal(third.length, mebibyte + 50)
  t.not(takeBuffer(mebibyte + 50).buffer, first.buffer, 'given back twice, lent once')
  giveBackBuffer(third)
  t.not(takeBuffer(mebibyte * 2).buffer, third.buffer, 'another size')
})

t.test('everybody who holds it gives it back', async (t) => {
  const size = 5 * mebibyte
  const shared = takeBuffer(size)
  holdBuffer(shared.subarray(10))
  giveBackBuffer(shared)
  t.not(takeBuffer(size).buffer, shared.buffer, 'one still holds it')
  giveBackBuffer(shared.subarray(10))
  t.equal(takeBuffer(size).buffer, shared.buffer)
})

t.test('one that is a little larger will do', async (t) => {
  const larger = takeBuffer(9 * mebibyte)
  giveBackBuffer(larger)
  t.not(takeBuffer(4 * mebibyte).buffer, larger.buffer, 'too large')
  const smaller = takeBuffer(8 * mebibyte)
  t.equal(smaller.buffer, larger.buffer)
  t.equal(smaller.length, 8 * mebibyte)
  giveBackBuffer(smaller)
  t.equal(takeBuffer(9 * mebibyte).buffer, larger.buffer, 'it is as large as before')
})

t.test('small ones and strangers are left alone', async (t) => {
  const small = takeBuffer(100)
  t.equal(small.length, 100)
  giveBackBuffer(small)
  giveBackBuffer(Buffer.alloc(mebibyte))
  t.not(takeBuffer(100).buffer, undefined)
})

t.test('only so much is kept', async (t) => {
  const count = keptBytesMax / mebibyte + 5
  const taken = Array.from({ length: count }, () => takeBuffer(mebibyte))
  for (const buffer of taken) giveBackBuffer(buffer)
  const known = new Set(taken.map(({ buffer }) => buffer))
  const again = Array.from({ length: count }, () => takeBuffer(mebibyte))
  const reused = again.filter(({ buffer }) => known.has(buffer)).length
  t.ok(reused > 0 && reused * mebibyte <= keptBytesMax, `${reused} were kept`)
})

t.test('what is sent is given back once it has left, and nothing else', async (t) => {
  const size = 3 * mebibyte
  const kept = takeBuffer(size)
  wasSent(kept)
  t.not(takeBuffer(size).buffer, kept.buffer, 'its owner still has it')
  const sent = takeBuffer(size)
  giveBackWhenSent(sent.subarray(4096))
  t.not(takeBuffer(size).buffer, sent.buffer, 'it has not left yet')
  wasSent(sent.subarray(4096))
  const again = takeBuffer(size)
  t.equal(again.buffer, sent.buffer)
  wasSent(again)
  t.not(takeBuffer(size).buffer, again.buffer, 'the next taker did not send it')
  const stranger = Buffer.alloc(size)
  giveBackWhenSent(stranger)
  wasSent(stranger)
  t.not(takeBuffer(size).buffer, stranger.buffer)
})

t.test('a new one may contain anything but is as long and aligned as it was asked for', async (t) => {
  for (const size of [64 * 1024, 100_001, mebibyte + 4096]) {
    const buffer = takeBuffer(size)
    t.equal(buffer.length, size)
    t.equal(isAligned(buffer) && isAligned(buffer.subarray(8192)), nativeDisk !== undefined)
    t.notOk(isAligned(buffer.subarray(1)))
    buffer.fill(1)
  }
  t.notOk(isAligned(Buffer.alloc(8192)), 'nobody knows')
})
