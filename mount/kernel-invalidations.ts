/**
 * Taking back what the kernel was told with a validity, as the FileSystem port wants it: at once, and without locks.
 *
 * INVAL_ENTRY and INVAL_INODE with a range of bytes take locks of directories and pages that a request in flight may hold while it waits for
 * the master, which may be waiting for just this. So they are no part of giving a lease back. What is used instead takes none:
 *
 * - Names: INC_EPOCH. A dentry has the epoch that the connection had before the LOOKUP, CREATE, … was sent that made it, and is looked up
 *   again when that is not the present one. So an answer that is on its way brings nothing that outlives the increment. Not so with
 *   READDIRPLUS, where the kernel takes the epoch when it gets to the answer: names in listings are never told with a validity.
 * - Attributes: INVAL_INODE without a range. The kernel counts the version of an inode's attributes, and an answer to a LOOKUP, GETATTR or
 *   READDIRPLUS that was sent before the invalidation is not believed. (SETATTR and what makes inodes do not look at the version, so
 *   their answers are never told with a validity.) That needs the inode: when the kernel does not have it but was told of it, the answer
 *   that makes it is on its way to some process, or the FORGET is on its way to us. Neither waits for anything but a processor,
 *   so it is tried again until one of both has come.
 *
 * Replies and notifications are both written synchronously, so the kernel gets them in the order in which they were decided.
 * Source: fs/fuse/dir.c, inode.c, readdir.c of Linux 6.18.
 */
import type { Invalidations } from '../src/client/file-system.ts'
import type { Ino } from '../src/domain/ids.ts'
import type { Clock } from '../src/platform/clock.ts'
import type { Device } from './device.ts'
import type { Dispatcher } from './dispatcher.ts'
import { attributesInvalidation, dataInvalidation, epochIncrement, epochMinor } from './protocol.ts'

const againMs = 1

export interface KernelInvalidationsOptions {
  device: Pick<Device, 'send' | 'notify'>
  dispatcher: Pick<Dispatcher, 'nodeIdOf' | 'isReferenced' | 'minor'>
  clock: Clock
  /** False: the kernel is to cache no names. */
  cacheNames: boolean
}

export const kernelInvalidations = (options: KernelInvalidationsOptions): Invalidations => {
  const { device, dispatcher, clock, cacheNames } = options
  const epoch = epochIncrement()

  /** False: to be tried again. */
  const forgetAttributes = (ino: Ino): boolean => {
    const message = attributesInvalidation(dispatcher.nodeIdOf(ino))
    return device.send(message, message.length) !== 'gone' || !dispatcher.isReferenced(ino)
  }

  return {
    get canForgetNames() {
      return cacheNames && dispatcher.minor() >= epochMinor
    },
    forgetNames: () => void device.send(epoch, epoch.length),
    forgetAttributes: (ino) => {
      if (forgetAttributes(ino)) return undefined
      return new Promise((resolve) => {
        const again = (): void => {
          if (forgetAttributes(ino)) resolve()
          else clock.after(againMs, again)
        }
        clock.after(againMs, again)
      })
    },
    dropData: (ino, range) => device.notify(dataInvalidation(dispatcher.nodeIdOf(ino), range)),
  }
}
