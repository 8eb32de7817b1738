import t from 'tap'
import { UnavailableError, UsageError } from '../../../src/domain/errors.ts'
import { follow } from '../../../src/cli/administration.ts'

t.test('whoever waits for the cluster outlives a short absence of the master', async (t) => {
  const answers = [1, new UnavailableError('no master', { maybeCommitted: false }), 2, 3]
  const look = async (): Promise<number> => {
    const answer = answers.shift()!
    if (answer instanceof Error) throw answer
    return answer
  }
  t.equal(await follow(look, { line: String, isOver: (value) => value === 3 }), 3)
})

t.test('a refusal ends the waiting', async (t) => {
  const look = (): Promise<never> => Promise.reject(new UsageError('There is no server 9.'))
  await t.rejects(follow(look, { line: String, isOver: () => true }), { message: 'There is no server 9.' })
})
