/**
 * Which signals end a request. A local file system lets no signal end an fsync(2) or a stat(2), and programs do not expect EINTR there: only
 * a wait for a lock ends with any signal, everything else when its caller is being killed. The kernel sends INTERRUPT once, with the first
 * signal of whatever kind, and waits for the answer even when the caller is killed after that. So the caller is looked at again and again for as
 * long as its request is under way.
 *
 * Source: request_wait_answer in fs/fuse/dev.c, complete_signal in kernel/signal.c: every signal that kills becomes a pending SIGKILL.
 */
import { readFile } from 'node:fs/promises'
import type { Clock } from '../src/platform/clock.ts'

export interface Callers {
  /** Calls `interrupt` when the thread is being killed, unless `isOver` says that nobody needs it any more. */
  whenKilled(pid: number, isOver: () => boolean, interrupt: () => void): void
}

const againMs = 200
const sigkillBit = 1n << 8n

/**
 * Also true for a thread that is not there any more. False where nothing can be known: the kernel gives 0 for a caller in a pid namespace that
 * this process does not see, /proc may hide other users' threads, and descriptors may be short.
 */
const isKilled = async (pid: number): Promise<boolean> => {
  if (pid === 0) return false
  try {
    const status = await readFile(`/proc/${pid}/status`, 'latin1')
    const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(status)?.[1]
    return pending === undefined || (BigInt(`0x${pending}`) & sigkillBit) !== 0n
  } catch {
    return !isThere(pid)
  }
}

const isThere = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (caught) {
    return caught instanceof Error && 'code' in caught && caught.code === 'EPERM'
  }
}

export const realCallers = (clock: Clock): Callers => {
  const look = async (pid: number, isOver: () => boolean, interrupt: () => void): Promise<void> => {
    while (!isOver()) {
      if (await isKilled(pid)) {
        if (!isOver()) interrupt()
        return
      }
      await clock.sleep(againMs)
    }
  }
  return { whenKilled: (pid, isOver, interrupt) => void look(pid, isOver, interrupt) }
}
