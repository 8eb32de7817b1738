/** Random system calls on three mounts with their kernels' caches: every look at its first look equals a model. */
import t from 'tap'
import { Agent } from '../lib/agent.ts'
import { startCluster } from '../lib/cluster.ts'
import { runFileModel } from '../lib/file-model.ts'
import { needs } from '../lib/needs.ts'

const seed = Number(process.env['TEST_SEED'] ?? 5)
const operations = Number(process.env['FILE_MODEL_OPERATIONS'] ?? 600)

t.test('three mounts equal a model', async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3'] }))) return
  const cluster = await startCluster(t, { servers: 1, mounts: 3 })
  const actors: Agent[] = []
  for (const { directory } of cluster.mounts) {
    const agent = new Agent(t)
    await agent.must(['chdir', directory])
    actors.push(agent)
  }
  t.comment(`TEST_SEED=${seed}`)
  const beganMs = performance.now()
  const { operations: done, looks, differences } = await runFileModel(actors, { seed, operations })
  t.comment(`${done} operations, ${looks} looks in ${Math.round((performance.now() - beganMs) / 1000)} s`)
  t.strictSame(differences, [], 'nobody ever saw anything old')
})
