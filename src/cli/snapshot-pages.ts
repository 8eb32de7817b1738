/** The pages of a snapshot of a running master. */
import type { AdminCall } from '../main/admin-client.ts'
import type { StoreRecord } from '../master/restore.ts'

export async function* snapshotPages(call: AdminCall, snapshotId: bigint): AsyncGenerator<StoreRecord[]> {
  for (;;) {
    const { records, last } = await call('readSnapshot', { snapshotId })
    yield records.map(({ key, value }) => ({ key: Buffer.from(key), value: Buffer.from(value) }))
    if (last) return
  }
}
