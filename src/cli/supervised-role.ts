/**
 * A child process that is kept running: when it ends without being asked to, it is started again, after a pause that doubles from
 * half a second to ten seconds while it keeps failing.
 *
 * Invariant: at most one child at a time, and none after `stop` has resolved.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { UsageError } from '../domain/errors.ts'
import { describeEnd, startChild, type Child, type Ended } from './child.ts'

export interface SupervisedRoleOptions {
  /** For people: "master", "chunk server 2". */
  name: string
  args: readonly string[]
  logPath: string
  /** Before each start, the first one included; when it throws the start has failed. */
  prepare?: () => Promise<void>
  /** A role that ends with exit code 0 by itself has done its work: it is not started again and this is called. */
  finished?: () => void
  /** Something happened that a person may want to know. */
  note: (text: string) => void
  /** The process id changed. */
  changed: () => void
}

const pauseMsMin = 500
const pauseMsMax = 10_000
/** A child that lived this long was healthy: the pause starts again at its minimum. */
const healthyMs = 60_000

export class SupervisedRole {
  readonly name: string
  readonly #options: SupervisedRoleOptions
  readonly #stopping = new AbortController()
  #child: Child | undefined
  #loop: Promise<void> = Promise.resolve()

  constructor(options: SupervisedRoleOptions) {
    this.name = options.name
    this.#options = options
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Resolves with the role's address when it is ready for the first time; a UsageError says why it did not get there. */
  async start(): Promise<string> {
    const startedMs = performance.now()
    const { child, address } = await this.#startOnce()
    this.#loop = this.#keepRunning(child, startedMs)
    return address
  }

  /** SIGTERM, then after the grace SIGKILL. Tells whether it ended by itself. */
  async stop(graceMs: number): Promise<boolean> {
    this.#stopping.abort()
    const child = this.#child
    let orderly = true
    if (child !== undefined) {
      child.kill('SIGTERM')
      const late = new AbortController()
      const timeout = sleep(graceMs, 'late', { signal: late.signal }).catch(() => undefined)
      if ((await Promise.race([child.ended, timeout])) === 'late') {
        orderly = false
        child.kill('SIGKILL')
        await child.ended
      }
      late.abort()
    }
    await this.#loop
    return orderly
  }

  /** At once, without any order. */
  kill(): void {
    this.#stopping.abort()
    this.#child?.kill('SIGKILL')
  }

  async #startOnce(): Promise<{ child: Child; address: string }> {
    const { name, logPath } = this.#options
    try {
      await this.#options.prepare?.()
      if (this.#stopping.signal.aborted) throw new UsageError('it was told to stop')
      const child = startChild({ args: this.#options.args, logPath, holdStdin: true })
      this.#child = child
      this.#options.changed()
      void child.ended.then(() => {
        if (this.#child === child) this.#child = undefined
      })
      return { child, address: await child.ready }
    } catch (caught) {
      if (!(caught instanceof UsageError)) throw caught
      throw new UsageError(`the ${name} did not start: ${caught.message} (log: ${logPath})`)
    }
  }

  async #keepRunning(first: Child, firstStartedMs: number): Promise<void> {
    const stopping = this.#stopping.signal
    let child: Child | undefined = first
    let startedMs = firstStartedMs
    let pauseMs = pauseMsMin
    while (child !== undefined) {
      const end: Ended = await child.ended
      if (stopping.aborted) return
      if (end.code === 0 && this.#options.finished !== undefined) return this.#options.finished()
      if (performance.now() - startedMs > healthyMs) pauseMs = pauseMsMin
      this.#options.note(`the ${this.name} ended ${describeEnd(end)}; it is started again`)
      child = undefined
      while (child === undefined) {
        await sleep(pauseMs, undefined, { signal: stopping }).catch(() => undefined)
        pauseMs = Math.min(pauseMs * 2, pauseMsMax)
        if (stopping.aborted) return
        startedMs = performance.now()
        try {
          ;({ child } = await this.#startOnce())
        } catch (caught) {
          if (stopping.aborted) return
          this.#options.note(caught instanceof Error ? caught.message : String(caught))
        }
      }
    }
  }
}
