/** What a process tells about itself: counting operations, watching a port from outside, and the text over HTTP. */
import t from 'tap'
import { UsageError } from '../../../src/domain/errors.ts'
import { silentLog } from '../../../src/platform/log.ts'
import { measured } from '../../../src/platform/measured.ts'
import { counter, gauge, serveMetrics } from '../../../src/platform/metrics.ts'
import { OperationHistogram } from '../../../src/platform/operation-histogram.ts'

const bucketsOf = (histogram: OperationHistogram): Map<unknown, number> => {
  const [durations] = histogram.figures()
  const buckets = durations?.values.filter(({ suffix }) => suffix === '_bucket') ?? []
  return new Map(buckets.map(({ labels, value }) => [labels?.['le'], value]))
}

t.test('a time is counted in the first bucket that it is not above', async (t) => {
  for (const [ms, le] of [
    [0, 0.0000625],
    [0.0625, 0.0000625],
    [0.0626, 0.000125],
    [0.125, 0.000125],
    [1, 0.001],
    [1.001, 0.002],
    [8192, 8.192],
    [8192.1, '+Inf'],
    [1e12, '+Inf'],
  ] as const) {
    const histogram = new OperationHistogram('x', 'X')
    histogram.observe('a', ms)
    const first = [...bucketsOf(histogram)].find(([, count]) => count === 1)
    t.equal(first?.[0], le, `${ms} ms`)
  }
})

t.test('sums, failures and bytes', async (t) => {
  const histogram = new OperationHistogram('x', 'X')
  histogram.observe('read', 10, { bytes: 100 })
  histogram.observe('read', 30, { bytes: 50 })
  histogram.observe('read', 1, { failed: true })
  histogram.observe('open', 2)
  const [durations, failures, bytes] = histogram.figures()
  t.match(
    durations?.values.filter(({ suffix }) => suffix !== '_bucket'),
    [
      { suffix: '_sum', labels: { operation: 'read' }, value: 0.041 },
      { suffix: '_count', labels: { operation: 'read' }, value: 3 },
      { suffix: '_sum', labels: { operation: 'open' }, value: 0.002 },
      { suffix: '_count', labels: { operation: 'open' }, value: 1 },
    ],
  )
  t.same(failures?.values, [{ labels: { operation: 'read' }, value: 1 }])
  t.same(bytes?.values, [{ labels: { operation: 'read' }, value: 150 }])
})

t.test('a port is watched from outside', async (t) => {
  class Port {
    #secret = 7
    get secret(): number {
      return this.#secret
    }
    async read(length: number): Promise<number> {
      if (length < 0) throw new RangeError('negative')
      return length + this.#secret
    }
    plain(): number {
      return this.#secret++
    }
  }
  let now = 0
  const seen: unknown[] = []
  const port = measured(
    new Port(),
    { read: (args, result) => Number(args[0]) + Number(result) },
    { observe: (...call) => seen.push(call) },
    () => now++,
  )
  t.equal(await port.read(1), 8)
  await t.rejects(port.read(-1), RangeError)
  t.equal(port.plain(), 7)
  t.equal(port.secret, 8, 'a getter is asked each time')
  t.same(seen, [
    ['read', 1, { bytes: 9 }],
    ['read', 1, { failed: true }],
  ])
})

t.test('over HTTP', async (t) => {
  const listener = await serveMetrics({
    listen: '127.0.0.1:0',
    sources: [
      () => Promise.reject(new Error('away')),
      () => [gauge('a_bytes', 'With "quotes"\nand lines.', 5n), counter('b_total', 'B.', 2)],
    ],
    log: silentLog,
  })
  t.teardown(() => listener.close())
  const url = `http://${listener.address}/metrics`
  const response = await fetch(url)
  const text = await response.text()
  t.match(response.headers.get('content-type'), 'text/plain; version=0.0.4')
  t.match(text, '# TYPE a_bytes gauge\na_bytes 5\n', 'one source that fails does not hide the others')
  t.match(text, '# TYPE b_total counter\nb_total 2\n')
  t.match(text, /^process_resident_memory_bytes \d+$/m)
  t.match(text, /^nodejs_eventloop_lag_p99_seconds /m)
  t.equal((await fetch(url, { method: 'POST' })).status, 405)
  t.equal((await fetch(`http://${listener.address}/`)).status, 404)
  await t.rejects(serveMetrics({ listen: listener.address, sources: [], log: silentLog }), {
    constructor: UsageError,
    message: /^cannot listen on .*: the address is in use by another process$/,
  })
})
