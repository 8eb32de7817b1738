/** ChunkStore.Append as the transport sees it. */
import t from 'tap'
import { appendService } from '../../../src/chunkserver/append-service.ts'
import { Activity } from '../../../src/domain/activity.ts'
import { realClock } from '../../../src/platform/clock.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { RequestLog } from '../../../src/platform/request-log.ts'
import { SendQueue } from '../../../src/platform/send-queue.ts'
import { encodeAppend } from '../../../src/protocol/bulk.ts'
import { until } from '../../lib/chunk-server-peers.ts'
import { openStore } from '../../lib/chunk-store.ts'

t.test('a peer that never reads its replies loses its stream', async (t) => {
  const store = await openStore(t.testdir())
  t.teardown(() => store.close())
  const load = { count: 0, activity: new Activity(), clock: realClock }
  const [, accept] = appendService({ store, load, log: silentLog, requestLog: new RequestLog(silentLog, realClock) })
  const unread = new SendQueue(1000)
  let aborted = false
  const handlers = accept(
    {
      send: (...parts) => unread.added(parts.reduce((sum, part) => sum + part.length, 0)),
      drained: () => unread.drained(),
      end: () => undefined,
      abort: () => {
        aborted = true
      },
    },
    'a peer',
  )
  const nothing = Buffer.alloc(0)
  const append = (requestId: number): void => {
    const request = { requestId, chunkId: 1n, offset: 0, sync: false, create: false, checksums: nothing, data: nothing }
    handlers.message(Buffer.concat(encodeAppend(request)))
  }
  append(1)
  await until(() => load.count === 0, 'the first is answered')
  t.notOk(aborted)
  for (let requestId = 2; requestId <= 1000; requestId++) append(requestId)
  await until(() => load.count === 0, 'all are answered')
  t.ok(aborted)
})
