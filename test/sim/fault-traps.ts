/**
 * What happens at the points of src/platform/faults.ts.
 *
 * Fault model: who steps into a trap goes no further there, and is to be ended at the same moment, when all else that it was doing has settled.
 * Who is held at a point goes on after a while; the rest of its process does not wait.
 */
import type { FaultPoint } from '../../src/platform/faults.ts'
import type { Random } from '../../src/platform/random.ts'
import type { Life, SimulatedTime } from '../lib/simulated-time.ts'
import type { SimulatedProcess } from './simulated-process.ts'

const never = new Promise<never>(() => undefined)

export class FaultTraps {
  readonly #time: SimulatedTime
  readonly #random: Random
  #trap: { name: FaultPoint; caught: (process: SimulatedProcess) => void } | undefined
  #hold: { oneIn: number; msMax: number } | undefined

  constructor(time: SimulatedTime, random: Random) {
    this.#time = time
    this.#random = random
  }

  /** Catches the next process at this point: whoever awaits it must end the process at once. Undefined: none came there in this time. */
  victimAt(name: FaultPoint, withinMs: number): Promise<SimulatedProcess | undefined> {
    return new Promise((resolve) => {
      const trap = { name, caught: resolve }
      this.#trap = trap
      this.#time.post(undefined, withinMs, () => {
        if (this.#trap === trap) this.#trap = undefined
        resolve(undefined)
      })
    })
  }

  /** From now on one in so many that come to any point waits there. */
  hold(hold: { oneIn: number; msMax: number } | undefined): void {
    this.#hold = hold
  }

  passed(process: SimulatedProcess, life: Life, name: FaultPoint): Promise<void> | undefined {
    const trap = this.#trap
    if (trap?.name === name && life.alive) {
      this.#trap = undefined
      this.#time.post(undefined, 0, () => trap.caught(process))
      return never
    }
    const hold = this.#hold
    if (hold === undefined || this.#random.below(hold.oneIn) > 0) return undefined
    return new Promise((resolve) => void this.#time.post(life, this.#random.below(hold.msMax), resolve))
  }
}
