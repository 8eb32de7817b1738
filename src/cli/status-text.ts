/** What `shoal status` prints: a StatusReply as tables for people, or as plain JSON for programs. Pure. */
import type { StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { formatBytes, formatCount, formatDuration } from './quantity.ts'

/** "1,234", "12.3 GiB". */
const quantityText = /^[\d.,]+( [KMGTPE]?i?B)?$/

/** Columns are as wide as their widest cell; a column of nothing but numbers is right-aligned. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string[] => {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const numeric = head.map((_, column) => rows.length > 0 && rows.every((row) => quantityText.test(row[column] ?? '')))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) =>
        numeric[column] === true ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [line(head), ...rows.map(line)]
}

const indent = (lines: readonly string[]): string[] => lines.map((line) => `  ${line}`)

const ago = (ms: bigint): string => (ms < 1500n ? 'now' : `${formatDuration(ms)} ago`)

const chunkLines = (status: StatusReply): string[] => {
  const { chunks } = status
  if (chunks === undefined) return []
  const lines = [
    `chunks    ${formatCount(chunks.total)}, of which ${formatCount(chunks.open)} open for writing; wanted: ${status.copies} copies`,
  ]
  for (const [copies, count] of chunks.byValidReplicas.entries()) {
    if (count === 0n) continue
    const remark = copies === 0 ? '  ← no valid copy is known' : ''
    lines.push(`          ${formatCount(count)} with ${copies} valid ${copies === 1 ? 'copy' : 'copies'}${remark}`)
  }
  // By each chunk's own number, which a directory may have.
  if (chunks.underReplicated > 0n) lines.push(`          ${formatCount(chunks.underReplicated)} under-replicated`)
  if (chunks.overReplicated > 0n) lines.push(`          ${formatCount(chunks.overReplicated)} with surplus copies`)
  return lines
}

/** The rate is of the last ten seconds, the rest since the master was started. */
const recallsText = ({ recalls, recallsPerSecond, recallMsMax }: StatusReply): string =>
  `${recallsPerSecond.toFixed(1)} recalls/s, ${formatCount(recalls)} in all, the longest ${formatCount(recallMsMax)} ms`

const repairLine = (status: StatusReply): string => {
  const { repair } = status
  if (repair === undefined) return 'repair    unknown'
  const busy = repair.queued + repair.running
  const history = [
    `${formatCount(repair.done)} done`,
    `${formatCount(repair.failed)} failed`,
    `${formatCount(repair.corruptReplaced)} corrupt replaced`,
  ].join(', ')
  if (busy === 0n) return `repair    idle; since the start ${history}`
  const eta = repair.etaMs === undefined ? 'time left unknown' : `about ${formatDuration(repair.etaMs)} left`
  return `repair    ${formatCount(repair.running)} running, ${formatCount(repair.queued)} queued, ${formatBytes(repair.bytesLeft)}, ${eta}; ${history}`
}

/** "1 chunk has", "2 chunks have". */
const have = (count: bigint, one: string, several: string): string =>
  count === 1n ? `1 ${one} has` : `${formatCount(count)} ${several} have`

/** Where the cluster is worse than it should be, most serious first; empty when all is well. */
export const troubles = (status: StatusReply): string[] => {
  const found: string[] = []
  const { chunks } = status
  if (chunks !== undefined && chunks.lost > 0n) {
    found.push(
      `${have(chunks.lost, 'chunk', 'chunks')} no valid copy: files are unreadable until their servers are back`,
    )
  }
  if (chunks !== undefined && chunks.underReplicated > 0n) {
    found.push(`${have(chunks.underReplicated, 'chunk', 'chunks')} too few copies`)
  }
  const up = status.servers.filter((server) => server.state === 'up').length
  if (up < status.servers.length)
    found.push(`${status.servers.length - up} of ${status.servers.length} chunk servers down`)
  if (up < status.copies) found.push(`${status.copies} copies need ${status.copies} chunk servers, ${up} are up`)
  const corrupt = status.servers.reduce((sum, server) => sum + server.corruptReplicas, 0n)
  if (corrupt > 0n) found.push(`corrupt copies that wait to be replaced: ${formatCount(corrupt)}`)
  return found
}

export const statusText = (status: StatusReply, master: string): string => {
  const total = status.servers.reduce(
    (sum, server) =>
      server.state === 'up'
        ? {
            capacity: sum.capacity + server.capacityBytes,
            used: sum.used + server.usedBytes,
            free: sum.free + server.freeBytes,
          }
        : sum,
    { capacity: 0n, used: 0n, free: 0n },
  )
  const found = troubles(status)
  const lines = [
    `cluster   ${status.clusterId}, master ${master}, version ${status.version}`,
    `          up ${formatDuration(status.uptimeMs)}, ${formatBytes(status.rssBytes)} of memory`,
    `health    ${found.length === 0 ? 'good' : found[0]}`,
    ...found.slice(1).map((trouble) => `          ${trouble}`),
    `files     ${formatCount(status.inodes)} inodes, ${formatBytes(status.liveBytes)} in one copy`,
    `space     ${formatBytes(total.used)} used, ${formatBytes(total.free)} free of ${formatBytes(total.capacity)} on servers that are up`,
    ...chunkLines(status),
    repairLine(status),
    `to free   ${formatCount(status.orphans)} unlinked files, ${formatCount(status.punchesPending)} ranges`,
    `leases    ${formatCount(status.leases)} held; ${recallsText(status)}`,
    '',
    `chunk servers (${status.servers.length})`,
    ...indent(
      table(
        ['id', 'address', 'rack', 'state', 'used', 'free', 'capacity', 'copies', 'corrupt', 'seen'],
        status.servers.map((server) => [
          `${server.serverId}`,
          server.address,
          server.rack === '' ? '-' : server.rack,
          server.state,
          formatBytes(server.usedBytes),
          formatBytes(server.freeBytes),
          formatBytes(server.capacityBytes),
          formatCount(server.replicas),
          formatCount(server.corruptReplicas),
          ago(server.lastSeenMsAgo),
        ]),
      ),
    ),
    '',
    `sessions (${status.sessions.length})`,
    ...indent(
      table(
        ['id', 'host', 'mount point', 'pid', 'state', 'open files', 'leases', 'seen'],
        status.sessions.map((session) => [
          `${session.sessionId}`,
          session.host,
          session.mountPoint,
          `${session.pid}`,
          session.state,
          formatCount(session.openFiles),
          formatCount(session.leases),
          ago(session.lastSeenMsAgo),
        ]),
      ),
    ),
  ]
  const events = status.repair?.recent ?? []
  if (events.length > 0) {
    lines.push('', 'recent repair events')
    const rows = events.map((event) => [
      new Date(Number(event.atMs)).toISOString().slice(0, 19).replace('T', ' '),
      `chunk ${event.chunkId.toString(16).padStart(16, '0')}`,
      `server ${event.serverId}`,
      event.what,
    ])
    lines.push(...indent(table(['time (UTC)', 'chunk', 'server', 'what'], rows)))
  }
  return `${lines.join('\n')}\n`
}

/** One line for a terminal that is looked at while the cluster runs. */
export const statusLine = (status: StatusReply): string => {
  const up = status.servers.filter((server) => server.state === 'up').length
  const { repair, chunks } = status
  const busy = (repair?.queued ?? 0n) + (repair?.running ?? 0n)
  const eta = repair?.etaMs === undefined ? '' : `, about ${formatDuration(repair.etaMs)} left`
  const lost = (chunks?.lost ?? 0n) === 0n ? '' : ` · ${formatCount(chunks?.lost ?? 0n)} chunks unreadable`
  return [
    `${formatCount(status.inodes)} inodes`,
    formatBytes(status.liveBytes),
    `${up}/${status.servers.length} servers up`,
    `repair: ${busy === 0n ? 'idle' : `${formatCount(busy)} chunks${eta}`}${lost}`,
  ].join(' · ')
}

/** JSON with numbers where the reply has bigints; all of them are below 2^53 in any cluster that this can run. */
export const statusJson = (status: StatusReply): string =>
  `${JSON.stringify(status, (_key, value: unknown) => (typeof value === 'bigint' ? Number(value) : value), 2)}\n`
