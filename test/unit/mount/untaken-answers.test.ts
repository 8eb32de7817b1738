import t from 'tap'
import { UntakenAnswers } from '../../../mount/untaken-answers.ts'

t.test('threads that are gone are not remembered for ever', (t) => {
  const answers = new UntakenAnswers()
  const max = 16_384n
  for (let thread = 1n; thread <= max; thread++) answers.told(thread, thread + 100_000n)
  t.equal(answers.isUntaken(100_001n), true)
  answers.told(max + 1n, 1n)
  t.equal(answers.isUntaken(100_001n), false, 'the oldest')
  t.equal(answers.isUntaken(100_002n), true)
  t.equal(answers.isUntaken(1n), true)
  t.end()
})

t.test('an answer to a reader that cannot be told from others stands for those before it', (t) => {
  const answers = new UntakenAnswers()
  answers.told(-1n, 1n)
  const { last } = answers
  answers.told(-1n, 1n)
  answers.allTaken(1n, last)
  t.equal(answers.isUntaken(1n), true)
  answers.allTaken(1n)
  t.equal(answers.isUntaken(1n), false)
  t.end()
})
