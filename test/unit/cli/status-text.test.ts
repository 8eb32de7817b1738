import t from 'tap'
import { statusJson, statusLine, statusText, table, troubles } from '../../../src/cli/status-text.ts'
import type { ServerStatus, StatusReply } from '../../../src/protocol/gen/shoal/v1/admin.pb.ts'

const server = (serverId: number, changes: Partial<ServerStatus> = {}): ServerStatus => ({
  serverId,
  address: `127.0.0.1:${9330 + serverId}`,
  rack: '',
  host: 'a',
  state: 'up',
  capacityBytes: 100n << 30n,
  usedBytes: 1n << 30n,
  freeBytes: 99n << 30n,
  replicas: 16n,
  corruptReplicas: 0n,
  lastSeenMsAgo: 300n,
  label: '',
  drain: undefined,
  activity: undefined,
  fillPermille: 10,
  ...changes,
})

const good: StatusReply = {
  clusterId: 'c1',
  version: '0.1.0',
  uptimeMs: 3_600_000n,
  servers: [server(1), server(2), server(3)],
  chunks: {
    total: 16n,
    open: 1n,
    byValidReplicas: [0n, 0n, 0n, 16n],
    underReplicated: 0n,
    overReplicated: 0n,
    lost: 0n,
  },
  repair: { queued: 0n, running: 0n, done: 4n, failed: 0n, bytesLeft: 0n, corruptReplaced: 1n, recent: [] },
  sessions: [],
  inodes: 12_345n,
  liveBytes: 1n << 30n,
  orphans: 0n,
  punchesPending: 0n,
  copies: 3,
  copiesMin: 2,
  recalls: 12n,
  recallsPerSecond: 0.25,
  recallMsMax: 40,
  leases: 0n,
  rssBytes: 100n << 20n,
  rebalance: undefined,
  scrub: undefined,
  copiesJobs: [],
}

const bad: StatusReply = {
  ...good,
  servers: [server(1), server(2, { state: 'down', lastSeenMsAgo: 65_000n }), server(3, { corruptReplicas: 2n })],
  chunks: {
    total: 16n,
    open: 0n,
    byValidReplicas: [1n, 0n, 14n, 1n],
    underReplicated: 14n,
    overReplicated: 0n,
    lost: 1n,
  },
  repair: {
    queued: 12n,
    running: 2n,
    done: 0n,
    failed: 1n,
    bytesLeft: 896n << 20n,
    etaMs: 90_000n,
    corruptReplaced: 0n,
    recent: [{ atMs: 0n, chunkId: 255n, serverId: 2, what: 'lost replica' }],
  },
}

t.test('a cluster that is well', async (t) => {
  t.same(troubles(good), [])
  const text = statusText(good, '127.0.0.1:9320')
  t.match(text, /health +good/)
  t.match(text, /16 with 3 valid copies\n/)
  t.match(text, /repair +idle; since the start 4 done, 0 failed, 1 corrupt replaced/)
  t.match(text, /leases +\d+ held; 0\.3 recalls\/s, 12 in all, the longest 40 ms\n/)
  t.notMatch(text, /recent repair events/)
  t.equal(statusLine(good), '12,345 inodes · 1.00 GiB · 3/3 servers up · repair: idle')
})

t.test('a cluster in trouble says so, the worst first', async (t) => {
  t.same(troubles(bad), [
    '1 chunk has no valid copy: files are unreadable until their servers are back',
    '14 chunks have too few copies',
    '1 of 3 chunk servers down',
    '3 copies need 3 chunk servers, 2 are up',
    'corrupt copies that wait to be replaced: 2',
  ])
  const text = statusText(bad, '127.0.0.1:9320')
  t.match(text, /14 with 2 valid copies\n/)
  t.match(text, /14 under-replicated\n/)
  t.match(text, /1 with 0 valid copies {2}← no valid copy is known/)
  t.match(text, /repair +2 running, 12 queued, 896 MiB, about 1 min 30 s left/)
  t.match(text, /1970-01-01 00:00:00 +chunk 00000000000000ff +server 2 +lost replica/)
  t.match(text, /down .* 1 min 5 s ago/)
  t.match(statusLine(bad), /2\/3 servers up · repair: 14 chunks, about 1 min 30 s left · 1 chunks unreadable/)
})

t.test('JSON has numbers', async (t) => {
  t.match(JSON.parse(statusJson(good)), {
    inodes: 12_345,
    servers: [{ serverId: 1, capacityBytes: 107_374_182_400 }, {}, {}],
  })
})

t.test('a table', async (t) => {
  t.same(
    table(
      ['name', 'n'],
      [
        ['a', '1'],
        ['bcdef', '10'],
      ],
    ),
    ['name    n', 'a       1', 'bcdef  10'],
  )
  t.same(table(['a', 'b'], []), ['a  b'])
})
