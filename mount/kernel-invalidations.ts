/**
 * Taking back what the kernel was told with a validity, as the FileSystem port wants it: at once, and without locks.
 *
 * INVAL_ENTRY and INVAL_INODE with a range of bytes take locks of directories and pages that a request in flight may hold while it waits for
 * the master, which may be waiting for just this. So they are no part of giving a lease back. What is used instead takes none:
 *
 * - Names: INC_EPOCH. A dentry has the epoch that the connection had before the LOOKUP, CREATE, … was sent that made it, and is looked up
 *   again when that is not the present one. So an answer that is on its way brings nothing that outlives the increment. Not so with
 *   READDIRPLUS, where the kernel takes the epoch when it gets to the answer. So when a listing of the directory may not have been read
 *   yet (see untaken-answers.ts), that is waited for, and the epoch incremented once more. Whoever reads it wants nothing but a processor.
 *   An INVAL_ENTRY of any name beside it tells when it was: it takes the directory's lock. What may hold that lock for longer is a LOOKUP
 *   that waits for the master, which may wait for just this; should that ever be so, the wait ends after `waitMsMax`.
 * - Attributes: INVAL_INODE without a range. The kernel counts the version of an inode's attributes, and an answer to a LOOKUP, GETATTR or
 *   READDIRPLUS that was sent before the invalidation is not believed. That needs the inode: when the kernel does not have it but was told
 *   of it, the answer that makes it is on its way to some process, or the FORGET is on its way to us. Neither waits for anything but a
 *   processor, so it is tried again until one of both has come. What makes inodes does not look at the version: an answer that the
 *   kernel may not have taken over yet is waited for as a listing is, and the inode invalidated once more. (SETATTR, LINK and TMPFILE do not
 *   look either, and hold no lock that would tell; their answers are never told with a validity.)
 * - Listings: see doubtful-listings.ts. What may not have been taken over is waited for as above.
 * - Mapped memory: INVAL_INODE with a range. It waits for pages that a READ or WRITE holds, which may wait for the lease that is to be given
 *   back. Nobody waits for it then: who reads a mapping at the same moment as another mount writes may see either. The device has only a few
 *   notifications under way, so two that wait like that hold up all others, while what they wait for may be waiting for one of those
 *   at another mount, and the other way round: that wait, too, ends after `waitMsMax`.
 *
 * Replies and notifications are both written synchronously, so the kernel gets them in the order in which they were decided.
 * Source: fs/fuse/dir.c, inode.c, readdir.c of Linux 6.18.
 */
import type { Invalidations } from '../src/client/file-system.ts'
import type { Ino } from '../src/domain/ids.ts'
import type { Clock } from '../src/platform/clock.ts'
import type { Device } from './device.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { DoubtfulListings } from './doubtful-listings.ts'
import { attributesInvalidation, dataInvalidation, epochIncrement, epochMinor } from './protocol.ts'
import type { UntakenAnswers } from './untaken-answers.ts'

const againMs = 1
/** Well below the time after which a session that gives no lease back is ended. */
const waitMsMax = 4_000

export interface KernelInvalidationsOptions {
  device: Pick<Device, 'send' | 'notify'>
  dispatcher: Pick<Dispatcher, 'nodeIdOf' | 'isReferenced' | 'isDataBusy' | 'minor'>
  listings: UntakenAnswers
  /** What was made. */
  made: UntakenAnswers
  doubtful: DoubtfulListings
  clock: Clock
  /** False: the kernel is to cache no names. */
  cacheNames: boolean
}

export const kernelInvalidations = (options: KernelInvalidationsOptions): Invalidations => {
  const { device, dispatcher, listings, made, doubtful, clock, cacheNames } = options
  const epoch = epochIncrement()

  /** False: to be tried again. */
  const forgetAttributes = (ino: Ino): boolean => {
    const message = attributesInvalidation(dispatcher.nodeIdOf(ino))
    return device.send(message, message.length) !== 'gone' || !dispatcher.isReferenced(ino)
  }

  /** Again and again until the kernel has it or has forgotten it. Undefined: at once. */
  const forgetAttributesSoon = (ino: Ino): Promise<void> | undefined => {
    if (forgetAttributes(ino)) return undefined
    return new Promise((resolve) => {
      const again = (): void => {
        if (forgetAttributes(ino)) resolve()
        else clock.after(againMs, again)
      }
      clock.after(againMs, again)
    })
  }

  const untilTaken = async (answers: UntakenAnswers, directory: bigint): Promise<void> => {
    const { last } = answers
    const timer = clock.after(waitMsMax, () => answers.allTaken(directory, last))
    answers.askForLock(device, directory)
    await answers.untilTaken(directory, last)
    timer.cancel()
  }

  return {
    get canForgetNames() {
      return cacheNames && dispatcher.minor() >= epochMinor
    },
    forgetNames: (ino) => {
      device.send(epoch, epoch.length)
      const directory = dispatcher.nodeIdOf(ino)
      if (!listings.isUntaken(directory)) return undefined
      return untilTaken(listings, directory).then(() => void device.send(epoch, epoch.length))
    },
    forgetAttributes: (ino) => {
      const directory = made.directoryOf(dispatcher.nodeIdOf(ino))
      if (directory === undefined) return forgetAttributesSoon(ino)
      return untilTaken(made, directory).then(() => forgetAttributesSoon(ino))
    },
    forgetListing: async (ino) => {
      const directory = dispatcher.nodeIdOf(ino)
      doubtful.add(directory)
      if (listings.isUntaken(directory)) await untilTaken(listings, directory)
      await doubtful.drop(directory)
    },
    dropData: (ino, range) =>
      new Promise((resolve) => {
        let isDone = false
        const done = (): void => {
          isDone = true
          resolve()
        }
        device.notify(dataInvalidation(dispatcher.nodeIdOf(ino), range), done)
        const endMs = clock.nowMs() + waitMsMax
        const look = (): void => {
          if (isDone) return
          if (dispatcher.isDataBusy(ino) || clock.nowMs() >= endMs) done()
          else clock.after(againMs, look)
        }
        look()
      }),
  }
}
