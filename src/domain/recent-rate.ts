/** How often something has happened in the last `periodSeconds`, counted in whole seconds: a rate for whoever looks once. */

export const periodSeconds = 10

export class RecentRate {
  /** By second, modulo the period. */
  readonly #counts = Array.from({ length: periodSeconds }, () => 0)
  /** The second of the newest count. */
  #second = -Infinity

  add(nowMs: number): void {
    this.#forget(nowMs)
    const index = this.#second % periodSeconds
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
  }

  perSecond(nowMs: number): number {
    this.#forget(nowMs)
    return this.#counts.reduce((sum, count) => sum + count, 0) / periodSeconds
  }

  /** What is older than the period does not count any more. */
  #forget(nowMs: number): void {
    const second = Math.floor(nowMs / 1000)
    for (let past = Math.max(this.#second, second - periodSeconds) + 1; past <= second; past++) {
      this.#counts[past % periodSeconds] = 0
    }
    this.#second = second
  }
}
