/**
 * Whether the history of one register is linearizable, when every written value is written once: Gibbons and Korach, "Testing Shared
 * Memories" (1997), in O(n log n). All operations with one value form a cluster; the time between the first end and the last start of its
 * operations is its zone. The value must be in the register during the whole of a forward zone (first end before last start), and at one
 * moment of a backward zone.
 *
 * Moments are numbers of one global order. A write whose end is Infinity may have taken effect at any time after its start, or never.
 */
export interface RegisterOperation {
  kind: 'write' | 'read'
  value: string
  start: number
  end: number
  /** For the sentence about a violation. */
  who: string
}

interface Zone {
  value: string
  low: number
  high: number
  forward: boolean
}

/** Undefined: it is linearizable. The register starts with `initial`. */
export const registerViolation = (operations: readonly RegisterOperation[], initial: string): string | undefined => {
  const writes = new Map<string, RegisterOperation>([
    [initial, { kind: 'write', value: initial, start: -1, end: -1, who: 'nobody' }],
  ])
  const reads = new Map<string, RegisterOperation[]>()
  for (const operation of operations) {
    if (operation.kind === 'write') {
      if (writes.has(operation.value)) throw new Error(`${operation.value} was written twice`)
      writes.set(operation.value, operation)
    } else {
      const same = reads.get(operation.value)
      if (same) same.push(operation)
      else reads.set(operation.value, [operation])
    }
  }
  for (const [value, [first]] of reads) {
    if (!writes.has(value)) return `${first!.who} read ${value}, which nobody wrote`
  }
  const zones: Zone[] = []
  for (const [value, write] of writes) {
    const readers = reads.get(value) ?? []
    if (write.end === Infinity && readers.length === 0) continue
    for (const read of readers) {
      if (read.end < write.start) return `${read.who} read ${value} before ${write.who} wrote it`
    }
    const firstEnd = Math.min(write.end, ...readers.map(({ end }) => end))
    const lastStart = Math.max(write.start, ...readers.map(({ start }) => start))
    const forward = firstEnd < lastStart
    zones.push({ value, low: Math.min(firstEnd, lastStart), high: Math.max(firstEnd, lastStart), forward })
  }
  const describe = (value: string): string => {
    const write = writes.get(value)!
    const span = ({ who, start, end }: RegisterOperation): string => `${who} ${start}..${end}`
    return `${value} (written by ${span(write)}; read by ${(reads.get(value) ?? []).map(span).join(', ') || 'nobody'})`
  }
  const forward = zones.filter((zone) => zone.forward).toSorted((a, b) => a.low - b.low)
  for (let index = 1; index < forward.length; index++) {
    const [before, after] = [forward[index - 1]!, forward[index]!]
    if (after.low < before.high) {
      return `two values at once: ${describe(before.value)} and ${describe(after.value)}`
    }
  }
  for (const zone of zones) {
    if (zone.forward) continue
    const around = forward.find(({ low, high }) => low < zone.low && zone.high < high)
    if (around)
      return `${describe(zone.value)} was lost or came too late: all the time it was ${describe(around.value)}`
  }
  return undefined
}
