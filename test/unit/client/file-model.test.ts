/** Random work of three clients: names, data, sizes, attributes and extended attributes, each look compared with a model. */
import t from 'tap'
import type { Test } from 'tap'
import { fullCaching } from '../../../src/client/caching.ts'
import type { Caching } from '../../../src/client/caching.ts'
import { runFileModel } from '../../lib/file-model.ts'
import { InProcessActor } from '../../lib/in-process-actor.ts'
import { startInProcessCluster } from '../../lib/in-process-cluster.ts'

const seed = Number(process.env['TEST_SEED'] ?? 5)
const operations = Number(process.env['FILE_MODEL_OPERATIONS'] ?? 800)

const equalsModel = async (t: Test, cachings: readonly Caching[], leaseQuietMs: number): Promise<void> => {
  t.comment(`TEST_SEED=${seed}`)
  const cluster = await startInProcessCluster(t, { config: { leaseQuietMs } })
  const actors: InProcessActor[] = []
  for (const caching of cachings) actors.push(new InProcessActor(await cluster.mount({ caching })))
  const { differences, looks } = await runFileModel(actors, { seed, operations })
  t.comment(`${operations} operations, ${looks} looks`)
  t.strictSame(differences, [], 'nobody ever saw anything old')
}

t.test('under leases', (t) => equalsModel(t, [fullCaching, fullCaching, fullCaching], 0))

t.test('while leases are not given at once', (t) => equalsModel(t, [fullCaching, fullCaching, fullCaching], 20))

t.test('with clients that cache nothing or write everything through', (t) =>
  equalsModel(t, [fullCaching, { ...fullCaching, leases: false }, { ...fullCaching, writeBehind: false }], 0),
)
