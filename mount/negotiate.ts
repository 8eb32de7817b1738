/**
 * What a mount agrees on with the kernel: the answer to INIT, as a pure function of what the kernel offers.
 */
import { initFlag, majorVersion, minorVersion, minorVersionMin, pagesMax, transferBytesMax } from './protocol.ts'
import type { InitIn, InitOut } from './protocol.ts'

/** Requests that the kernel keeps under way without a caller that waits: read-ahead, asynchronous direct I/O, releases. */
const backgroundMax = 64
/** From here on the kernel calls the device congested and starts no more read-ahead. */
const congestionThreshold = 48

/**
 * What we want, where the kernel has it. Left out on purpose:
 * - WRITEBACK_CACHE: the kernel would own size and mtime, and never take them from the server again, so that no other mount's
 *   change would be seen.
 * - EXPLICIT_INVAL_DATA: AUTO_INVAL_DATA drops the pages of a file whose size or mtime turns out to be another, which also covers a lease
 *   that ended without a recall.
 */
const wanted =
  initFlag.ASYNC_READ |
  initFlag.POSIX_LOCKS |
  initFlag.ATOMIC_O_TRUNC |
  initFlag.EXPORT_SUPPORT |
  initFlag.BIG_WRITES |
  initFlag.DONT_MASK |
  initFlag.FLOCK_LOCKS |
  initFlag.AUTO_INVAL_DATA |
  initFlag.DO_READDIRPLUS |
  initFlag.READDIRPLUS_AUTO |
  initFlag.ASYNC_DIO |
  initFlag.PARALLEL_DIROPS |
  initFlag.POSIX_ACL |
  initFlag.ABORT_ERROR |
  // The target of a symlink never changes, and its inode number is never another's.
  initFlag.CACHE_SYMLINKS |
  initFlag.MAX_PAGES |
  initFlag.HANDLE_KILLPRIV_V2 |
  initFlag.SETXATTR_EXT |
  // Files that are open for appending go past the page cache, and can be mapped all the same.
  initFlag.DIRECT_IO_ALLOW_MMAP |
  initFlag.INIT_EXT

export type Negotiation =
  | { kind: 'agreed'; init: InitOut }
  /** The kernel speaks a newer major version: it is told ours and asks again. */
  | { kind: 'retry'; init: InitOut }
  | { kind: 'refused'; reason: string }

export const negotiate = (kernel: InitIn): Negotiation => {
  const init: InitOut = {
    minor: Math.min(kernel.minor, minorVersion),
    readAheadBytesMax: kernel.readAheadBytesMax,
    flags: kernel.flags & wanted,
    backgroundMax,
    congestionThreshold,
    writeBytesMax: transferBytesMax,
    pagesMax,
  }
  if (kernel.major > majorVersion) return { kind: 'retry', init: { ...init, minor: minorVersion } }
  if (kernel.major < majorVersion || kernel.minor < minorVersionMin) {
    return {
      kind: 'refused',
      reason: `the kernel speaks FUSE ${kernel.major}.${kernel.minor}, Shoal needs ${majorVersion}.${minorVersionMin} (Linux 5.4) or newer`,
    }
  }
  return { kind: 'agreed', init }
}
