/**
 * readdir: the entries of a directory after a cookie, in the order in which they were made. An entry that is there all the time is seen
 * exactly once, whatever else comes and goes. "." and ".." are the client's.
 *
 * With `plus` also attributes and leases, except of what another session is changing: a listing must not wait for many recalls.
 * ESTALE, ENOTDIR, EINVAL (entries_max not 1 .. 4096).
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { DirectoryEntry, ReaddirRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { inodes, listingBounds, listings } from '../keys.ts'
import { attributesOf, directory, readable } from './operation.ts'
import type { Operation } from './operation.ts'

export const readdirEntriesMax = 4096
/** The largest cookie; what is greater is the end. */
const cookieMax = (1n << 64n) - 1n

export const readdir: Operation<ReaddirRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { entriesMax } = request
  if (entriesMax < 1 || entriesMax > readdirEntriesMax) throw new PosixError('EINVAL')
  const inode = directory(tx, ino)
  readable(context, ino)
  if (inode.entries === 0 || request.cookie >= cookieMax) {
    const lease = context.leases.offer(context.session, ino)
    return { $case: 'readdir', value: { entries: [], end: true, parent: inode.parent, lease } }
  }
  const found = tx.range(listings, listingBounds(ino, request.cookie), entriesMax + 1)
  const page = found.slice(0, entriesMax)
  const targets = request.plus
    ? tx.getMany(
        inodes,
        page.map(([, listing]) => listing.ino),
      )
    : []
  const entries = page.map(([key, listing], i): DirectoryEntry => {
    const target = targets[i]
    const hidden = target === undefined || context.leases.writtenByOther(context.session, listing.ino)
    return {
      name: listing.name,
      ino: listing.ino,
      type: listing.type,
      cookie: key.cookie,
      attributes: hidden ? undefined : attributesOf(context, listing.ino, target),
      lease: hidden ? undefined : context.leases.offer(context.session, listing.ino),
    }
  })
  const lease = context.leases.offer(context.session, ino)
  return { $case: 'readdir', value: { entries, end: found.length <= entriesMax, parent: inode.parent, lease } }
}
