/** What a master tells Prometheus of its database and of the disk below it. */
import { gauge, type Figure } from '../platform/metrics.ts'
import type { DiskSpace } from '../platform/disk.ts'
import type { RocksDb } from '../platform/rocksdb-engine.ts'

export const rocksDbFigures = (db: RocksDb): Figure[] => [
  gauge('shoal_rocksdb_files_bytes', 'What the tables of the database occupy.', db.property('total-sst-files-size')),
  gauge(
    'shoal_rocksdb_live_bytes',
    'Of these, an estimate of what is not out of date.',
    db.property('estimate-live-data-size'),
  ),
  gauge(
    'shoal_rocksdb_write_buffers_bytes',
    'Memory of what is not in a table yet.',
    db.property('cur-size-all-mem-tables'),
  ),
  gauge('shoal_rocksdb_cache_bytes', 'Memory of blocks that were read.', db.property('block-cache-usage')),
  gauge(
    'shoal_rocksdb_compaction_pending_bytes',
    'What compaction still has to rewrite; when it grows, the disk is too slow for the changes.',
    db.property('estimate-pending-compaction-bytes'),
  ),
  gauge('shoal_rocksdb_level0_files', 'Tables that every look-up has to search.', db.property('num-files-at-level0')),
]

export const masterDiskFigures = ({ totalBytes, freeBytes }: DiskSpace): Figure[] => [
  gauge('shoal_master_disk_free_bytes', "Free on the disk of the master's data.", freeBytes),
  gauge('shoal_master_disk_total_bytes', "The size of the disk of the master's data.", totalBytes),
]
