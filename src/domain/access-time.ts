/** When reading something changes its atime: mount(8)'s strictatime, relatime and noatime. */
import { compareTimespec } from './time.ts'
import type { Timespec } from './time.ts'

/** relative: at the first reading after a change, and once a day. */
export type AccessTimeMode = 'always' | 'relative' | 'never'

export interface AccessTimePolicy {
  readonly directories: AccessTimeMode
  readonly others: AccessTimeMode
}

/** What Linux mounts with unless it is told otherwise. */
export const relatime: AccessTimePolicy = { directories: 'relative', others: 'relative' }

const daySeconds = 86_400n

interface Times {
  readonly atime: Timespec
  readonly mtime: Timespec
  readonly ctime: Timespec
}

/** Whether reading at this time is to be noted. Source: relatime_need_update in fs/inode.c of Linux. */
export const isAccessDue = ({ atime, mtime, ctime }: Times, now: Timespec, mode: AccessTimeMode): boolean => {
  if (mode === 'never' || compareTimespec(now, atime) <= 0) return false
  if (mode === 'always' || compareTimespec(atime, mtime) <= 0 || compareTimespec(atime, ctime) <= 0) return true
  return now.seconds - atime.seconds >= daySeconds
}
