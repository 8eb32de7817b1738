import t from 'tap'
import type { Log, LogFields } from '../../../src/platform/log.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { RequestLog, slowMsMin } from '../../../src/platform/request-log.ts'
import { manualClock } from '../../lib/manual-clock.ts'

const ids = (id: number) => () => ({ request: 'commit', session: 7n, id })

t.test('requests that went badly are told, with their ids', async (t) => {
  const clock = manualClock()
  const lines: [string, LogFields][] = []
  const log: Log = { ...silentLog, warn: (event, fields = {}) => lines.push([event, fields]) }
  const requestLog = new RequestLog(log, clock)
  const told = (): [string, LogFields][] => lines.splice(0)

  requestLog.ended({ startMs: 0 }, ids(1))
  requestLog.ended({ startMs: 0, failure: 'ENOENT' }, ids(2))
  t.strictSame(told(), [], 'an answer for the program is nobody else’s business')

  requestLog.ended({ startMs: 0, failure: 'EIO' }, ids(3))
  requestLog.ended({ startMs: 0, noAnswer: 'the stream closed' }, ids(4))
  t.strictSame(told(), [
    ['a request failed', { request: 'commit', session: 7n, id: 3, ms: 0, code: 'EIO' }],
    ['a request failed', { request: 'commit', session: 7n, id: 4, ms: 0, why: 'the stream closed' }],
  ])

  await clock.advance(slowMsMin - 1)
  requestLog.ended({ startMs: 0 }, ids(5))
  t.strictSame(told(), [])
  await clock.advance(1)
  requestLog.ended({ startMs: 0, failure: 'ENOENT' }, ids(6))
  t.strictSame(told(), [
    ['a request was slow', { request: 'commit', session: 7n, id: 6, ms: slowMsMin, code: 'ENOENT' }],
  ])
})

t.test('a minute has at most twenty lines, and the next says how many were left out', async (t) => {
  const clock = manualClock()
  const lines: LogFields[] = []
  const log: Log = { ...silentLog, warn: (_event, fields = {}) => lines.push(fields) }
  const requestLog = new RequestLog(log, clock)
  for (let id = 1; id <= 25; id++) requestLog.ended({ startMs: clock.nowMs(), failure: 'EIO' }, ids(id))
  t.equal(lines.length, 20)
  await clock.advance(60_000)
  requestLog.ended({ startMs: clock.nowMs(), failure: 'EIO' }, ids(26))
  requestLog.ended({ startMs: clock.nowMs(), failure: 'EIO' }, ids(27))
  t.equal(lines[20]?.['leftOut'], 5)
  t.notOk('leftOut' in lines[21]!)
})
