/** Who made a request, as the FileSystem port wants to know it. */
import { PosixError } from '../src/domain/errors.ts'
import type { Context } from '../src/client/file-system.ts'
import { Interrupt } from '../src/client/interrupt.ts'

export interface Caller extends Context {
  umask: number
  /** Aborts the signal. */
  interrupt(): void
}

export const callerOf = ({ uid, gid, pid }: { uid: number; gid: number; pid: number }): Caller => {
  const interrupt = new Interrupt()
  return {
    uid,
    gid,
    pid,
    umask: 0,
    signal: interrupt.signal,
    interrupt: () => interrupt.abort(new PosixError('EINTR')),
  }
}
