/**
 * How many operations of each kind there were, how long they took, how many failed and how many bytes they moved. Recording is an index
 * into an array, a fraction of a microsecond, so that every operation is counted; the text is made when somebody asks for it.
 *
 * Invariant: the bounds are powers of two of 1/16 ms, so the bucket is the number of bits of the time in that unit.
 */
import type { OperationObserver } from '../domain/operation-times.ts'
import type { Figure } from './metrics.ts'

/** 62.5 µs up to 8.192 s, and one for what took longer. */
const boundCount = 18
const unitMs = 1 / 16
const boundsSeconds = Array.from({ length: boundCount }, (_, index) => (unitMs * 2 ** index) / 1000)

class Series {
  readonly buckets = new Float64Array(boundCount + 1)
  sumMs = 0
  failures = 0
  bytes = 0
}

/** The first bucket whose bound is not below the time. */
const bucketOf = (ms: number): number => {
  const units = Math.ceil(ms / unitMs)
  // Beyond 2^31 units the conversion to 32 bits would wrap.
  return units >= 2 ** boundCount ? boundCount : Math.min(boundCount, 32 - Math.clz32(Math.max(0, units - 1)))
}

export class OperationHistogram implements OperationObserver {
  readonly #name: string
  readonly #what: string
  readonly #series = new Map<string, Series>()

  /** `name`: "shoal_fs"; `what`: for people, "Operations of …". */
  constructor(name: string, what: string) {
    this.#name = name
    this.#what = what
  }

  observe(operation: string, ms: number, outcome?: { failed?: boolean; bytes?: number }): void {
    let series = this.#series.get(operation)
    if (series === undefined) {
      series = new Series()
      this.#series.set(operation, series)
    }
    series.buckets[bucketOf(ms)]! += 1
    series.sumMs += ms
    if (outcome === undefined) return
    if (outcome.failed === true) series.failures += 1
    if (outcome.bytes !== undefined) series.bytes += outcome.bytes
  }

  figures(): Figure[] {
    const durations: Figure = {
      name: `${this.#name}_duration_seconds`,
      help: `${this.#what}: how long they took.`,
      type: 'histogram',
      values: [],
    }
    const failures: Figure = {
      name: `${this.#name}_failures_total`,
      help: `${this.#what}: answered with an error, which may be the right answer.`,
      type: 'counter',
      values: [],
    }
    const bytes: Figure = {
      name: `${this.#name}_bytes_total`,
      help: `${this.#what}: bytes of payload.`,
      type: 'counter',
      values: [],
    }
    for (const [operation, series] of this.#series) {
      let count = 0
      for (const [index, inBucket] of series.buckets.entries()) {
        count += inBucket
        const le = boundsSeconds[index] ?? '+Inf'
        durations.values.push({ suffix: '_bucket', labels: { operation, le }, value: count })
      }
      durations.values.push({ suffix: '_sum', labels: { operation }, value: series.sumMs / 1000 })
      durations.values.push({ suffix: '_count', labels: { operation }, value: count })
      if (series.failures > 0) failures.values.push({ labels: { operation }, value: series.failures })
      if (series.bytes > 0) bytes.values.push({ labels: { operation }, value: series.bytes })
    }
    return [durations, failures, bytes]
  }
}
