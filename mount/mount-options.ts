/** How a mount is asked for: the driver, and what may follow `-o`: mount(8)'s options that make sense for Shoal. */
import type { AccessTimePolicy } from '../src/domain/access-time.ts'
import type { Caching } from '../src/client/caching.ts'
import { UsageError } from '../src/domain/errors.ts'

/** Who speaks with the kernel: this program itself, or libfuse 2 through the npm package fuse-native, which can do less (docs/fuse.md). */
export const mountDrivers = ['kernel', 'fuse-native'] as const
export type MountDriver = (typeof mountDrivers)[number]

/** Passed on to mount(8). */
const passedOn = new Set([
  'ro',
  'rw',
  'suid',
  'nosuid',
  'dev',
  'nodev',
  'exec',
  'noexec',
  'atime',
  'noatime',
  'diratime',
  'nodiratime',
  'relatime',
  'norelatime',
  'strictatime',
])
/** Always so: the kernel checks permissions, for every user. */
const always = ['allow_other', 'default_permissions']
/** For Shoal itself. */
const ours = ['nonempty', 'nonamecache', 'noleases', 'sync', 'async']

const known = [...passedOn, ...always, ...ours]

/** Of options that contradict each other the last one counts. */
const lastOf = (given: readonly string[], options: readonly string[]): string | undefined =>
  given.findLast((option) => options.includes(option))

/** Which readings are noted. A mount that is only read notes none, nor does one that keeps no leases: it notes them under these. */
const accessTimesOf = (given: readonly string[]): AccessTimePolicy => {
  const policy = lastOf(given, ['atime', 'noatime', 'relatime', 'strictatime'])
  const isNever = policy === 'noatime' || lastOf(given, ['ro', 'rw']) === 'ro' || given.includes('noleases')
  const others = isNever ? 'never' : policy === 'strictatime' ? 'always' : 'relative'
  return { others, directories: lastOf(given, ['diratime', 'nodiratime']) === 'nodiratime' ? 'never' : others }
}

export interface MountOptions {
  /** For mount(8), without those that every mount has. */
  forKernel: string[]
  /** The mount point may have files, which the mount hides. */
  nonEmpty: boolean
  /** The kernel may cache names. What else is mounted on directories of the mount goes when another mount changes names. */
  cacheNames: boolean
  /** Other users than the one who mounts may use it, if he may say so; root's mounts are for everybody. */
  allowOther: boolean
  accessTimes: AccessTimePolicy
  caching: Caching
}

/** UsageError for an option that is not known; "a,b" counts as two. */
export const parseMountOptions = (options: readonly string[]): MountOptions => {
  const given = options.flatMap((option) => option.split(',')).filter((option) => option !== '')
  for (const option of given) {
    if (!known.includes(option)) throw new UsageError(`unknown mount option "${option}"; known are ${known.join(', ')}`)
  }
  return {
    forKernel: given.filter((option) => passedOn.has(option)),
    nonEmpty: given.includes('nonempty'),
    cacheNames: !given.includes('nonamecache'),
    allowOther: given.includes('allow_other'),
    accessTimes: accessTimesOf(given),
    caching: { leases: !given.includes('noleases'), writeBehind: lastOf(given, ['sync', 'async']) !== 'sync' },
  }
}
