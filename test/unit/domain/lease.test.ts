import t from 'tap'
import { asSessionId } from '../../../src/domain/ids.ts'
import type { SessionId } from '../../../src/domain/ids.ts'
import type { LeaseAction, LeaseEvent, LeaseState } from '../../../src/domain/lease.ts'
import { freeLease, heldMode, holdersOf, transition, waitersOf } from '../../../src/domain/lease.ts'
import { seededRandom } from '../../lib/master-store.ts'

const a = asSessionId(1n)
const b = asSessionId(2n)
const c = asSessionId(3n)
const names = new Map([
  [a, 'a'],
  [b, 'b'],
  [c, 'c'],
])

const after = (events: readonly LeaseEvent[], start: LeaseState = freeLease): LeaseState => {
  let state = start
  for (const event of events) state = transition(state, event).state
  return state
}

const ask = (session: SessionId, allowed: 'none' | 'read'): LeaseEvent => ({ kind: 'ask', session, allowed })
const grant = (session: SessionId, mode: 'read' | 'write', number: bigint): LeaseEvent => ({
  kind: 'grant',
  session,
  mode,
  grant: number,
})
const giveBack = (session: SessionId, mode: 'none' | 'read' | 'write', number: bigint): LeaseEvent => ({
  kind: 'return',
  session,
  mode,
  grant: number,
})
const end = (session: SessionId): LeaseEvent => ({ kind: 'end', session })
const abandon = (session: SessionId, allowed: 'none' | 'read'): LeaseEvent => ({ kind: 'abandon', session, allowed })
const declare = (session: SessionId, mode: 'read' | 'write', number: bigint): LeaseEvent => ({
  kind: 'declare',
  session,
  mode,
  grant: number,
})

const states = {
  free: freeLease,
  /** a reads under 1, b under 2. */
  shared: after([grant(a, 'read', 1n), grant(b, 'read', 2n)]),
  /** a writes under 1. */
  exclusive: after([grant(a, 'write', 1n)]),
  /** a writes under 1, b waits to write. */
  recalling: after([grant(a, 'write', 1n), ask(b, 'none')]),
  /** a gave back; it is b's turn to write. */
  reserved: after([grant(a, 'write', 1n), ask(b, 'none'), giveBack(a, 'none', 1n)]),
} satisfies Record<LeaseState['kind'], LeaseState>

const show = (action: LeaseAction): string => {
  switch (action.kind) {
    case 'recall':
      return `recall ${names.get(action.session)} #${action.grant} to ${action.to}`
    case 'wake':
      return `wake ${names.get(action.session)}`
    default:
      return action.kind
  }
}

t.test('each event in each state', async (t) => {
  const table: [keyof typeof states, LeaseEvent, LeaseState['kind'], string[]][] = [
    ['free', ask(a, 'none'), 'free', ['proceed']],
    ['free', ask(a, 'read'), 'free', ['proceed']],
    ['free', grant(a, 'read', 5n), 'shared', []],
    ['free', grant(a, 'write', 5n), 'exclusive', []],
    ['free', giveBack(a, 'none', 5n), 'free', []],
    ['free', end(a), 'free', []],
    ['free', abandon(a, 'none'), 'free', []],
    ['free', declare(a, 'read', 5n), 'shared', []],
    ['free', declare(a, 'write', 5n), 'exclusive', []],

    ['shared', ask(c, 'read'), 'shared', ['proceed']],
    ['shared', ask(a, 'read'), 'shared', ['proceed']],
    ['shared', ask(a, 'none'), 'recalling', ['wait', 'recall b #2 to none']],
    ['shared', ask(c, 'none'), 'recalling', ['wait', 'recall a #1 to none', 'recall b #2 to none']],
    ['shared', grant(c, 'read', 5n), 'shared', []],
    ['shared', giveBack(a, 'none', 1n), 'shared', []],
    ['shared', giveBack(a, 'none', 0n), 'shared', []],
    ['shared', giveBack(c, 'none', 1n), 'shared', []],
    ['shared', end(a), 'shared', []],
    ['shared', abandon(a, 'none'), 'shared', []],
    ['shared', declare(c, 'read', 5n), 'shared', []],
    ['shared', declare(c, 'write', 5n), 'shared', ['refuse']],

    ['exclusive', ask(a, 'none'), 'exclusive', ['proceed']],
    ['exclusive', ask(a, 'read'), 'exclusive', ['proceed']],
    ['exclusive', ask(b, 'none'), 'recalling', ['wait', 'recall a #1 to none']],
    ['exclusive', ask(b, 'read'), 'recalling', ['wait', 'recall a #1 to read']],
    ['exclusive', grant(a, 'read', 5n), 'exclusive', []],
    ['exclusive', giveBack(a, 'read', 1n), 'shared', []],
    ['exclusive', giveBack(a, 'none', 1n), 'free', []],
    ['exclusive', giveBack(a, 'write', 1n), 'exclusive', []],
    ['exclusive', giveBack(a, 'none', 0n), 'exclusive', []],
    ['exclusive', end(a), 'free', []],
    ['exclusive', end(b), 'exclusive', []],
    ['exclusive', abandon(b, 'none'), 'exclusive', []],
    ['exclusive', declare(a, 'write', 5n), 'exclusive', []],
    ['exclusive', declare(b, 'read', 5n), 'exclusive', ['refuse']],

    // The holder commits what it has; others stand in line.
    ['recalling', ask(a, 'none'), 'recalling', ['proceed']],
    ['recalling', ask(b, 'none'), 'recalling', ['wait']],
    ['recalling', ask(c, 'none'), 'recalling', ['wait']],
    ['recalling', ask(c, 'read'), 'recalling', ['wait']],
    ['recalling', grant(a, 'read', 5n), 'recalling', ['recall a #5 to none']],
    ['recalling', giveBack(a, 'none', 1n), 'reserved', ['wake b']],
    ['recalling', giveBack(a, 'read', 1n), 'recalling', []],
    ['recalling', giveBack(a, 'none', 0n), 'recalling', []],
    ['recalling', end(a), 'reserved', ['wake b']],
    ['recalling', end(b), 'exclusive', []],
    ['recalling', abandon(b, 'none'), 'exclusive', []],
    ['recalling', declare(b, 'read', 5n), 'recalling', ['refuse']],
    ['recalling', declare(a, 'write', 1n), 'recalling', ['recall a #1 to none']],

    ['reserved', ask(b, 'none'), 'free', ['proceed']],
    ['reserved', ask(a, 'none'), 'reserved', ['wait']],
    ['reserved', ask(c, 'read'), 'reserved', ['wait']],
    ['reserved', grant(b, 'write', 5n), 'reserved', []],
    ['reserved', giveBack(a, 'none', 1n), 'reserved', []],
    ['reserved', end(a), 'reserved', []],
    ['reserved', end(b), 'free', []],
    ['reserved', abandon(b, 'none'), 'free', []],
    ['reserved', declare(c, 'read', 5n), 'recalling', ['recall c #5 to none']],
  ]
  const seen = new Set<string>()
  for (const [from, event, to, actions] of table) {
    seen.add(`${from} ${event.kind}`)
    const step = transition(states[from], event)
    const name = `${from}: ${event.kind} ${names.get(event.session)}`
    t.equal(step.state.kind, to, `${name}: state`)
    t.same(step.actions.map(show), actions, `${name}: actions`)
    t.not(step.reason, '')
  }
  const kinds: LeaseEvent['kind'][] = ['ask', 'grant', 'return', 'end', 'abandon', 'declare']
  for (const state of Object.keys(states)) {
    for (const kind of kinds) t.ok(seen.has(`${state} ${kind}`), `${state} ${kind} is in the table`)
  }
})

t.test('a grant beside a writer is a broken invariant', async (t) => {
  t.throws(() => transition(states.exclusive, grant(b, 'read', 9n)), /broken invariant/)
  t.throws(() => transition(states.shared, grant(a, 'write', 9n)), /broken invariant/)
})

t.test('nobody overtakes a waiting writer, and readers behind it go together', async (t) => {
  const line = after([ask(c, 'read')], states.recalling)
  const free = transition(line, giveBack(a, 'none', 1n))
  t.same(free.actions.map(show), ['wake b'])
  const turn = transition(free.state, ask(b, 'none'))
  t.same(turn.actions.map(show), ['proceed', 'wake c'])
  const granted = transition(turn.state, grant(b, 'write', 7n))
  t.same(granted.actions.map(show), ['recall b #7 to read'])
  t.equal(heldMode(granted.state, b), 'write')
})

t.test('random walks keep the invariants, and everybody gets a turn', async (t) => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = seededRandom(seed)
    const sessions = [a, b, c]
    let state: LeaseState = freeLease
    let number = 0n
    const wants = new Map<SessionId, 'none' | 'read'>()
    const recalled = new Map<SessionId, { to: 'none' | 'read'; grant: bigint }>()
    const apply = (event: LeaseEvent): readonly LeaseAction[] => {
      const step = transition(state, event)
      state = step.state
      for (const action of step.actions) {
        if (action.kind === 'recall') recalled.set(action.session, { to: action.to, grant: action.grant })
      }
      const holders = [...holdersOf(state).values()]
      if (holders.some(({ mode }) => mode === 'write') && holders.length > 1) t.fail(`seed=${seed}: two writers`)
      if ((state.kind === 'recalling' || state.kind === 'reserved') !== waitersOf(state).length > 0) {
        t.fail(`seed=${seed}: ${state.kind} with ${waitersOf(state).length} waiters`)
      }
      return step.actions
    }
    const tryWork = (session: SessionId, allowed: 'none' | 'read'): boolean => {
      const actions = apply(ask(session, allowed))
      if (actions[0]?.kind !== 'proceed') return false
      for (const [other, { mode }] of holdersOf(state)) {
        if (other !== session && (allowed === 'none' || mode === 'write')) t.fail(`seed=${seed}: in the way`)
      }
      if (random.below(4) > 0) apply(grant(session, allowed === 'none' ? 'write' : 'read', ++number))
      return true
    }
    for (let i = 0; i < 300; i++) {
      const session = random.pick(sessions)
      const dice = random.below(10)
      if (dice < 5) {
        const allowed = wants.get(session) ?? random.pick(['none', 'read'] as const)
        if (tryWork(session, allowed)) wants.delete(session)
        else wants.set(session, allowed)
      } else if (dice < 8) {
        const recall = recalled.get(session)
        if (recall) apply(giveBack(session, recall.to, recall.grant))
      } else if (dice === 8) {
        apply(end(session))
        wants.delete(session)
        recalled.delete(session)
      } else {
        const held = holdersOf(state).get(session)
        if (held) apply(giveBack(session, random.pick(['none', 'read'] as const), held.grant - BigInt(random.below(2))))
      }
    }
    // From here on everybody does what it is asked to: each waiter must get its turn.
    for (let round = 0; wants.size > 0; round++) {
      if (round > 50) {
        t.fail(`seed=${seed}: ${wants.size} wait for ever in ${state.kind}`)
        break
      }
      for (const [session, recall] of recalled) apply(giveBack(session, recall.to, recall.grant))
      for (const [session, allowed] of wants) if (tryWork(session, allowed)) wants.delete(session)
    }
  }
  t.pass('60 walks')
})
