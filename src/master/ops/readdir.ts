/**
 * readdir: the entries of a directory after a cookie, in the order in which they were made. An entry that is there all the time is seen
 * exactly once, whatever else comes and goes. "." and ".." are the client's.
 *
 * With `plus` also attributes and leases, except of what another session is changing: a listing must not wait for many recalls.
 *
 * With `remove_from` for a session that removes one entry after the other: it gets what it needs to do so on its own.
 * ESTALE, ENOTDIR, EINVAL (entries_max not 1 .. 4096).
 */
import { PosixError } from '../../domain/errors.ts'
import { asIno } from '../../domain/ids.ts'
import type { Ino } from '../../domain/ids.ts'
import type { DirectoryEntry, ReaddirRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { LeaseMode } from '../../protocol/gen/shoal/v1/session.pb.ts'
import type { OpContext } from '../context.ts'
import { dentries, inodes, listingBounds, listingBoundsBetween, listings } from '../keys.ts'
import type { Listing, ListingKey } from '../keys.ts'
import type { Tx } from '../store.ts'
import type { Place } from './entries.ts'
import { attributesOf, directory, readable } from './operation.ts'
import type { Operation, Result } from './operation.ts'

export const readdirEntriesMax = 4096
/** The largest cookie; what is greater is the end. */
const cookieMax = (1n << 64n) - 1n

export const readdir: Operation<ReaddirRequest> = (tx, request, context) => {
  const ino = asIno(request.ino)
  const { entriesMax } = request
  if (entriesMax < 1 || entriesMax > readdirEntriesMax) throw new PosixError('EINVAL')
  const inode = directory(tx, ino)
  readable(context, ino)
  if (request.removeFrom !== undefined) return entriesToRemove(tx, ino, request.removeFrom, entriesMax, context)
  if (inode.entries === 0 || request.cookie >= cookieMax) {
    const lease = context.leases.offer(context.session, ino)
    return {
      $case: 'readdir',
      value: { entries: [], end: true, parent: inode.parent, lease, nextCookie: inode.nextCookie },
    }
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
  const end = found.length <= entriesMax
  return {
    $case: 'readdir',
    value: { entries, end, parent: inode.parent, lease, nextCookie: inode.nextCookie },
  }
}

/**
 * Cookies are looked through up to this many times as far as entries are wanted: where most are gone, a longer search costs more than it
 * finds.
 */
const spreadMax = 4n

const entriesToRemove = (tx: Tx, parent: Ino, name: Buffer, entriesMax: number, context: OpContext): Result => {
  const { leases, session } = context
  const found = leases.held(session, parent) === 'write' ? listingsFrom(tx, { parent, name }, entriesMax) : []
  const targets = tx.getMany(
    inodes,
    found.map(([, { ino }]) => ino),
  )
  const entries: DirectoryEntry[] = []
  for (const [i, [{ cookie }, listing]] of found.entries()) {
    const { ino } = listing
    const inode = targets[i]
    if (inode === undefined) continue
    leases.hurryOthers(session, ino)
    const lease = leases.offerWrite(session, ino, (effect) => tx.onApply(effect))
    if (lease.mode !== LeaseMode.LEASE_MODE_WRITE) continue
    entries.push({ cookie, attributes: attributesOf(context, ino, inode), lease, ...listing })
  }
  const lease = leases.holding(session, parent)
  return {
    $case: 'readdir',
    value: { entries, end: false, parent: directory(tx, parent).parent, lease, nextCookie: 0n },
  }
}

const listingsFrom = (tx: Tx, place: Place, entriesMax: number): [ListingKey, Listing][] => {
  const first = tx.get(dentries, place)
  if (first === undefined) return []
  const end = first.cookie + spreadMax * BigInt(entriesMax)
  return tx.range(listings, listingBoundsBetween(place.parent, first.cookie, end), entriesMax)
}
