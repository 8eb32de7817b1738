/**
 * One process of a simulated cluster on a machine of its own, through all its lives, with a supervisor that starts it again when it ends by
 * itself.
 *
 * Fault model: kill ends the process, its machine and disk live on; power ends the machine, with what its disk had not synced; pause stops
 * the process for a while. A life that was ended never acts again.
 */
import type { FaultPoint, Faults } from '../../src/platform/faults.ts'
import type { Log, LogFields } from '../../src/platform/log.ts'
import type { Random } from '../../src/platform/random.ts'
import type { Transport } from '../../src/platform/transport.ts'
import { seededRandom } from '../lib/seeded-random.ts'
import type { SimulatedNetwork } from '../lib/simulated-network.ts'
import { Life, rateSpread, SimulatedClock } from '../lib/simulated-time.ts'
import type { SimulatedTime } from '../lib/simulated-time.ts'
import type { FaultTraps } from './fault-traps.ts'
import { fieldsText } from './trace.ts'
import type { Trace } from './trace.ts'

export interface Surroundings {
  time: SimulatedTime
  network: SimulatedNetwork
  trace: Trace
  traps: FaultTraps
  random: Random
  /** Something that must never happen has happened. */
  violation: (what: string) => void
}

/** What one life of a process is given. */
export interface Started {
  life: Life
  clock: SimulatedClock
  random: Random
  log: Log
  faults: Faults
  transport: () => Transport
}

export interface Role {
  /** Resolves when it serves; `ended` settles when it ends by itself. */
  start(started: Started): Promise<{ ended: Promise<unknown> }>
  /** The disk's part in the end of a life. */
  stopped(how: 'kill' | 'power'): void
  /** Sees each line of its log. */
  logged?(level: string, event: string, fields: LogFields): void
  /** Its disk may bring this about. */
  excuses?(event: string): boolean
}

const restartMs = 300

/** Failures that no outside world explains. A warning may be about a damaged file, which is an ordinary Error. */
const isBug = (level: string, cause: unknown): cause is Error => {
  if (!(cause instanceof Error)) return false
  if (cause instanceof TypeError || cause instanceof RangeError || cause instanceof ReferenceError) return true
  return cause.message.startsWith('broken invariant') || (level === 'error' && cause.name === 'Error')
}

export class SimulatedProcess {
  readonly name: string
  readonly #role: Role
  readonly #around: Surroundings
  life: Life | undefined
  clock: SimulatedClock | undefined
  /** Resolves when the present life serves. */
  #serving: Promise<void> = Promise.resolve()
  /** Somebody ended it and has not started it again. */
  isDown = true

  constructor(name: string, role: Role, around: Surroundings) {
    this.name = name
    this.#role = role
    this.#around = around
  }

  start(): Promise<void> {
    this.isDown = false
    this.#around.network.silentHosts.delete(this.name)
    const { time, network, random, trace, traps } = this.#around
    trace.line(this.name, 'starts')
    const life = new Life(this.name)
    const own = seededRandom(random.below(2 ** 32))
    const clock = new SimulatedClock({
      time,
      life,
      startMs: own.below(1_000_000),
      rate: 1 + ((own.below(2001) - 1000) / 1000) * rateSpread,
    })
    this.life = life
    this.clock = clock
    const started = {
      life,
      clock,
      random: own,
      log: this.#log(life, {}),
      faults: { point: (name: FaultPoint) => traps.passed(this, life, name) },
      transport: () => network.transport(this.name, life),
    }
    this.#serving = new Promise((resolve) => {
      this.#role.start(started).then(
        ({ ended }) => {
          trace.line(this.name, 'serves')
          resolve()
          ended.then(
            () => this.#endedByItself(life, undefined),
            (cause: unknown) => this.#endedByItself(life, cause),
          )
        },
        (cause: unknown) => this.#endedByItself(life, cause),
      )
    })
    return this.#serving
  }

  /** Resolves when it serves, at once or in a later life. */
  async serves(): Promise<void> {
    for (;;) {
      const serving = this.#serving
      await Promise.race([serving, this.#around.time.sleep(1000)])
      if (serving === this.#serving && this.life?.alive === true) {
        const done = await Promise.race([serving.then(() => true), this.#around.time.sleep(0).then(() => false)])
        if (done) return
      }
      // It may have ended by itself, and its supervisor has not started it again.
      await this.#around.time.sleep(10)
    }
  }

  end(how: 'kill' | 'power'): void {
    this.isDown = true
    this.#stop(how)
  }

  pause(ms: number): void {
    const { life } = this
    const { nowMs } = this.#around.time
    if (life === undefined) return
    if (life.pausedUntilMs <= nowMs) life.pausedSinceMs = nowMs
    life.pausedUntilMs = Math.max(life.pausedUntilMs, nowMs + ms)
  }

  #stop(how: 'kill' | 'power'): void {
    const { life } = this
    if (life === undefined || !life.alive) return
    const { network, trace } = this.#around
    trace.line(this.name, how)
    this.#role.stopped(how)
    if (how === 'power') network.silentHosts.add(this.name)
    life.end()
    network.died(life, { silent: how === 'power' })
  }

  #endedByItself(life: Life, cause: unknown): void {
    if (!life.alive) return
    this.#around.trace.line(this.name, `ended by itself: ${cause instanceof Error ? cause.message : 'in good order'}`)
    this.#stop('kill')
    this.#around.time.post(undefined, restartMs, () => {
      if (!this.isDown && this.life === life) void this.start()
    })
  }

  #log(life: Life, common: LogFields): Log {
    const { trace } = this.#around
    const line =
      (level: string) =>
      (event: string, fields: LogFields = {}): void => {
        if (!life.alive) return
        const all = { ...common, ...fields }
        trace.line(this.name, `${level} ${event} ${fieldsText(all)}`)
        this.#role.logged?.(level, event, all)
        const { cause } = all
        if (isBug(level, cause) && this.#role.excuses?.(event) !== true) {
          this.#around.violation(`${this.name}: ${event}: ${cause.stack ?? cause.message}`)
        }
      }
    return {
      debug: line('debug'),
      info: line('info'),
      warn: line('warn'),
      error: line('error'),
      with: (fields) => this.#log(life, { ...common, ...fields }),
    }
  }
}
