import t from 'tap'
import { RecentRate } from '../../../src/domain/recent-rate.ts'

t.test('counts of the last ten seconds', async (t) => {
  const rate = new RecentRate()
  t.equal(rate.perSecond(5_000), 0)
  for (let i = 0; i < 30; i++) rate.add(5_999)
  for (let i = 0; i < 20; i++) rate.add(12_000)
  t.equal(rate.perSecond(12_000), 5)
  t.equal(rate.perSecond(14_999), 5, 'to the end of the period')
  t.equal(rate.perSecond(15_000), 2, 'and one past it')
  t.equal(rate.perSecond(21_999), 2)
  t.equal(rate.perSecond(22_000), 0)
  rate.add(1_000_000)
  t.equal(rate.perSecond(1_000_000), 0.1, 'after a long silence')
})
