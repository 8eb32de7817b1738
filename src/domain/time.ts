/** Points in time as the kernel has them: seconds since 1970 (negative before) and nanoseconds that count forward. */

export interface Timespec {
  seconds: bigint
  /** 0 .. 999,999,999. */
  nanos: number
}

export const compareTimespec = (a: Timespec, b: Timespec): number =>
  a.seconds === b.seconds ? a.nanos - b.nanos : a.seconds < b.seconds ? -1 : 1

export const laterOf = (a: Timespec, b: Timespec): Timespec => (compareTimespec(a, b) >= 0 ? a : b)
