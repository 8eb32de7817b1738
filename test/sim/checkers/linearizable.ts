/**
 * Whether a history has an order that a sequential model explains and that respects time: Wing and Gong's search with Lowe's memory of
 * states that were seen already. Exponential in the number of operations that overlap, so for short histories of small objects.
 *
 * An operation whose end is Infinity may have taken effect at any time after its start, or never; nothing is known of its result.
 */
export interface HistoryOperation {
  start: number
  end: number
}

export interface SequentialModel<State, Operation> {
  initial: State
  /** The states in which it may leave the object, none when its result cannot be explained. */
  apply(state: State, operation: Operation): readonly State[]
  key(state: State): string
}

/** True: there is such an order. Undefined: the search was given up after `stepsMax`. */
export const isLinearizable = <State, Operation extends HistoryOperation>(
  history: readonly Operation[],
  model: SequentialModel<State, Operation>,
  stepsMax = 200_000,
): boolean | undefined => {
  const operations = history.toSorted((a, b) => a.start - b.start)
  const seen = new Set<string>()
  let steps = 0
  /** Operations before `from` are done but for those in `left`. */
  interface Node {
    state: State
    from: number
    left: number[]
  }
  const stack: Node[] = [{ state: model.initial, from: 0, left: [] }]
  for (;;) {
    const node = stack.pop()
    if (node === undefined) return false
    if (++steps > stepsMax) return undefined
    const { state, from, left } = node
    // Candidates: those that start before the first end of all that are not done.
    let firstEnd = Infinity
    for (const index of left) firstEnd = Math.min(firstEnd, operations[index]!.end)
    let next = from
    const candidates = [...left]
    while (next < operations.length && operations[next]!.start < firstEnd) {
      firstEnd = Math.min(firstEnd, operations[next]!.end)
      candidates.push(next)
      next++
    }
    if (candidates.every((index) => operations[index]!.end === Infinity) && next === operations.length) return true
    const usable = candidates.filter((index) => operations[index]!.start < firstEnd)
    for (const index of usable) {
      for (const after of model.apply(state, operations[index]!)) {
        const rest = candidates.filter((other) => other !== index)
        const key = `${model.key(after)}|${next}|${rest.join(',')}`
        if (seen.has(key)) continue
        seen.add(key)
        stack.push({ state: after, from: next, left: rest })
      }
    }
  }
}
