/** What a mount tells Prometheus: the operations of programs in it, and what it holds. */
import type { ClientFigures } from '../client/client-file-system.ts'
import type { FileSystem } from '../client/file-system.ts'
import type { OperationObserver } from '../domain/operation-times.ts'
import { realClock } from '../platform/clock.ts'
import { measured, type Watched } from '../platform/measured.ts'
import { gauge, type Figure } from '../platform/metrics.ts'

const watched: Watched<FileSystem> = {
  lookup: 'time',
  getattr: 'time',
  setattr: 'time',
  readlink: 'time',
  mknod: 'time',
  mkdir: 'time',
  symlink: 'time',
  link: 'time',
  unlink: 'time',
  rmdir: 'time',
  rename: 'time',
  open: 'time',
  create: 'time',
  read: (_args, result) => (result as Buffer).length,
  write: (args) => (args[3] as Buffer).length,
  flush: 'time',
  release: 'time',
  fsync: 'time',
  readdir: 'time',
  fsyncdir: 'time',
  syncfs: 'time',
  statfs: 'time',
  getxattr: 'time',
  setxattr: 'time',
  listxattr: 'time',
  removexattr: 'time',
  fallocate: 'time',
  lseek: 'time',
  copyFileRange: (_args, result) => Number(result),
  getlk: 'time',
  setlk: 'time',
}

/** The same file system with its operations counted. A buffer that was written is looked at after the call, for its length alone. */
export const measuredFileSystem = (fileSystem: FileSystem, operations: OperationObserver): FileSystem =>
  measured(fileSystem, watched, operations, () => realClock.nowMs())

export const mountFigures = (figures: ClientFigures): Figure[] => [
  gauge('shoal_mount_master_up', '1: the session with the master is there.', figures.masterAway ? 0 : 1),
  gauge('shoal_mount_dirty_bytes', 'Written by programs, and not stored yet.', figures.dirtyBytes),
  gauge('shoal_mount_cache_bytes', 'Read ahead, and not read yet.', figures.cacheBytes),
  gauge('shoal_mount_leases', 'Leases held, each with the attributes of an inode.', figures.leases),
]
