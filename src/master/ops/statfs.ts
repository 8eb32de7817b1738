/** statfs: the capacity for files in one copy, and how many inodes there are. */
import type { StatfsRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { counters } from '../keys.ts'
import type { Operation } from './operation.ts'

export const statfs: Operation<StatfsRequest> = (tx, _request, context) => {
  const { bytesTotal, bytesFree } = context.cluster.statistics()
  return { $case: 'statfs', value: { bytesTotal, bytesFree, inodesUsed: tx.get(counters, 'inodes') ?? 0n } }
}
