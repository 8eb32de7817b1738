/**
 * What umount(8) looks at before it unmounts: the attributes of the root, and statfs of it. Without its master a mount must still be
 * unmountable, so while the master is away these, and nothing else, are told as they were last seen.
 */
import type { Clock, Timer } from '../platform/clock.ts'

/** How long a look waits for a master that is away. */
const patienceMs = 1_000

export class LastSeen<Value> {
  readonly #clock: Clock
  readonly #isAway: () => boolean
  #value: Value | undefined

  constructor(clock: Clock, isAway: () => boolean) {
    this.#clock = clock
    this.#isAway = isAway
  }

  see(value: Value): Value {
    this.#value = value
    return value
  }

  /** What the master answers or, when it is away, what was last seen. Waits when nothing was. */
  look(asked: Promise<Value>): Promise<Value> {
    return new Promise((resolve, reject) => {
      let timer: Timer
      const wait = (): void => {
        timer = this.#clock.after(patienceMs, () => {
          if (this.#isAway() && this.#value !== undefined) resolve(this.#value)
          else wait()
        })
      }
      wait()
      asked.then((value) => resolve(this.see(value)), reject).finally(() => timer.cancel())
    })
  }
}
