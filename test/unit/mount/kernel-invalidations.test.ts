import t from 'tap'
import { kernelInvalidations } from '../../../mount/kernel-invalidations.ts'
import type { Sent } from '../../../mount/device.ts'
import { asIno } from '../../../src/domain/ids.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const ino = asIno(9n)

const setUp = (options: { minor?: number; cacheNames?: boolean } = {}) => {
  const clock = manualClock()
  const state = { outcome: 'sent' as Sent, referenced: true, sent: [] as string[], notified: 0 }
  const invalidations = kernelInvalidations({
    clock,
    cacheNames: options.cacheNames ?? true,
    dispatcher: {
      nodeIdOf: (which) => which,
      isReferenced: () => state.referenced,
      minor: () => options.minor ?? 44,
    },
    device: {
      send: (head) => {
        state.sent.push(head.toString('hex', 4, 8))
        return state.outcome
      },
      notify: () => void state.notified++,
    },
  })
  return { clock, state, invalidations }
}

t.test('what the kernel has is taken back at once', (t) => {
  const { state, invalidations } = setUp()
  t.equal(invalidations.forgetAttributes(ino), undefined)
  invalidations.forgetNames()
  t.strictSame(state.sent, ['02000000', '08000000'], 'INVAL_INODE, INC_EPOCH')
  invalidations.dropData(ino, { offset: 0n, length: -1n })
  t.equal(state.notified, 1, 'that may wait for locks, so nobody waits for it')
  t.end()
})

t.test('what the kernel does not have is forgotten, when it was never told of it', (t) => {
  const { state, invalidations } = setUp()
  state.outcome = 'gone'
  state.referenced = false
  t.equal(invalidations.forgetAttributes(ino), undefined)
  t.end()
})

t.test('an answer that the kernel has not got to yet is waited for', async (t) => {
  const { clock, state, invalidations } = setUp()
  state.outcome = 'gone'
  let done = false
  const told = Promise.resolve(invalidations.forgetAttributes(ino)).then(() => (done = true))
  await clock.advance(5)
  t.equal(done, false)
  t.ok(state.sent.length > 2, 'tried again')
  state.outcome = 'sent'
  await clock.advance(1)
  await told
  t.equal(done, true)

  state.outcome = 'gone'
  const forgotten = invalidations.forgetAttributes(ino)
  t.ok(forgotten)
  state.referenced = false
  await clock.advance(1)
  await forgotten
})

t.test('a mount that is gone believes nothing', (t) => {
  const { state, invalidations } = setUp()
  state.outcome = 'ended'
  t.equal(invalidations.forgetAttributes(ino), undefined)
  t.end()
})

t.test('kernels that cannot forget names, and mounts that must not', (t) => {
  t.equal(setUp({ minor: 43 }).invalidations.canForgetNames, false)
  t.equal(setUp({ minor: 44 }).invalidations.canForgetNames, true)
  t.equal(setUp({ cacheNames: false }).invalidations.canForgetNames, false)
  t.end()
})
