/** Sums up runs of seeds: how many, how fast, which faults, and what failed. */
import { faultKinds } from './nemesis.ts'
import type { SeedResult } from './run-seed.ts'

export class SeedReport {
  readonly failures: string[] = []
  ran = 0
  readonly #startedMs = performance.now()
  readonly #faults = new Map<string, number>()
  #simulatedMs = 0
  #processorMs = 0
  #events = 0
  #steps = 0

  get seconds(): number {
    return (performance.now() - this.#startedMs) / 1000
  }

  /** Returns the sentences about what failed, if anything did. */
  add({ seed, simulatedMs, events, steps, faults, violations, processorMs }: SeedResult): string | undefined {
    this.ran++
    this.#processorMs += processorMs
    this.#simulatedMs += simulatedMs
    this.#events += events
    this.#steps += steps
    for (const [kind, count] of faults) this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + count)
    if (violations.length === 0) return undefined
    const failure = `seed=${seed}: ${violations.slice(0, 5).join('\n  ')}`
    this.failures.push(failure)
    return failure
  }

  /** One line. */
  progress(): string {
    const { seconds, ran } = this
    const figures = [
      `${ran} seeds, ${this.failures.length} failed`,
      `${(ran / seconds).toFixed(2)} seeds/s`,
      `${(this.#simulatedMs / 3_600_000).toFixed(2)} simulated hours`,
      `${(this.#simulatedMs / 1000 / seconds).toFixed(1)} simulated seconds per second`,
      `${(this.#processorMs / 1000).toFixed(0)} s of processor`,
      `${this.#steps} steps of programs`,
      `${this.#events} events`,
    ]
    return figures.join(', ')
  }

  summary(): string {
    const faults = faultKinds.map((kind) => `${kind} ${this.#faults.get(kind) ?? 0}`)
    return `${this.progress()}\nfaults: ${faults.join(', ')}`
  }
}
