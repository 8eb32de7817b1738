/** What a master tells Prometheus of its cluster: the same as `shoal status`. */
import { gauge, counter, type Figure } from '../platform/metrics.ts'
import type { ServerStatus, StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'

const perServer = (
  servers: readonly ServerStatus[],
  name: string,
  help: string,
  valueOf: (server: ServerStatus) => number | bigint,
): Figure => ({
  name,
  help,
  type: 'gauge',
  values: servers.map((server) => ({
    labels: { server: server.serverId, address: server.address, rack: server.rack },
    value: Number(valueOf(server)),
  })),
})

export const masterFigures = (status: StatusReply): Figure[] => {
  const { servers, sessions, chunks, repair } = status
  const zeros = { lost: 0n, underReplicated: 0n, overReplicated: 0n, open: 0n, total: 0n, byValidReplicas: [] }
  const counts = chunks ?? zeros
  return [
    {
      name: 'shoal_cluster_info',
      help: 'Always 1; the labels say which cluster and which version.',
      type: 'gauge',
      values: [{ labels: { cluster: status.clusterId, version: status.version }, value: 1 }],
    },
    gauge('shoal_uptime_seconds', 'Since the master was started.', Number(status.uptimeMs) / 1000),
    gauge('shoal_copies', 'Copies that each chunk is to have.', status.copies),
    gauge('shoal_copies_min', 'Copies on disk before fsync returns.', status.copiesMin),
    gauge('shoal_chunks', 'Chunks, open ones included.', counts.total),
    gauge('shoal_chunks_open', 'Chunks that a mount still writes.', counts.open),
    gauge(
      'shoal_chunks_under_replicated',
      'Chunks with fewer valid replicas than they are to have.',
      counts.underReplicated,
    ),
    gauge(
      'shoal_chunks_over_replicated',
      'Chunks with more valid replicas than they are to have.',
      counts.overReplicated,
    ),
    gauge('shoal_chunks_lost', 'Chunks of which no valid replica is known.', counts.lost),
    {
      name: 'shoal_chunks_by_valid_replicas',
      help: 'Chunks by the number of their valid replicas.',
      type: 'gauge',
      values: counts.byValidReplicas.map((value, replicas) => ({ labels: { replicas }, value: Number(value) })),
    },
    gauge('shoal_repair_queued', 'Repairs that wait.', repair?.queued ?? 0n),
    gauge('shoal_repair_running', 'Repairs that run.', repair?.running ?? 0n),
    gauge('shoal_repair_left_bytes', 'Bytes that repair still has to copy.', repair?.bytesLeft ?? 0n),
    counter('shoal_repair_done_total', 'Repairs that came to their end.', repair?.done ?? 0n),
    counter('shoal_repair_failed_total', 'Repairs that failed; each is tried again.', repair?.failed ?? 0n),
    counter(
      'shoal_replicas_corrupt_replaced_total',
      'Corrupt replicas that were replaced.',
      repair?.corruptReplaced ?? 0n,
    ),
    perServer(servers, 'shoal_server_up', '1: its heartbeats come.', ({ state }) => (state === 'up' ? 1 : 0)),
    perServer(
      servers,
      'shoal_server_heartbeat_age_seconds',
      'Since the last heartbeat.',
      (server) => Number(server.lastSeenMsAgo) / 1000,
    ),
    perServer(servers, 'shoal_server_capacity_bytes', 'What it may hold.', (server) => server.capacityBytes),
    perServer(servers, 'shoal_server_used_bytes', 'What its chunks occupy.', (server) => server.usedBytes),
    perServer(servers, 'shoal_server_free_bytes', 'What it can still take.', (server) => server.freeBytes),
    perServer(servers, 'shoal_server_replicas', 'Replicas that it holds.', (server) => server.replicas),
    perServer(
      servers,
      'shoal_server_replicas_corrupt',
      'Replicas with a wrong checksum.',
      (server) => server.corruptReplicas,
    ),
    {
      name: 'shoal_sessions',
      help: 'Mounts, by whether they are connected.',
      type: 'gauge',
      values: ['connected', 'away'].map((state) => ({
        labels: { state },
        value: sessions.filter((session) => session.state === state).length,
      })),
    },
    gauge(
      'shoal_open_files',
      'Files that mounts have open.',
      sessions.reduce((sum, { openFiles }) => sum + openFiles, 0n),
    ),
    gauge('shoal_leases', 'Leases that mounts hold.', status.leases),
    counter('shoal_lease_recalls_total', 'Leases that were asked back.', status.recalls),
    gauge('shoal_lease_recall_max_seconds', 'The longest that an answer to a recall took.', status.recallMsMax / 1000),
    gauge('shoal_inodes', 'Files, directories, links and devices.', status.inodes),
    gauge('shoal_live_bytes', 'One copy of what files hold.', status.liveBytes),
    gauge('shoal_orphans', 'Unlinked files that wait to be freed.', status.orphans),
    gauge('shoal_punches_pending', 'Freed ranges that wait to be given back to disks.', status.punchesPending),
  ]
}
