/** The steps do as they should in a local directory, and the same in the library, without a kernel. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { Agent } from '../lib/agent.ts'
import { startInProcessCluster } from '../lib/in-process-cluster.ts'
import { LibraryAgent } from '../lib/library-agent.ts'
import { needs } from '../lib/needs.ts'
import type { Doer } from './posix-steps-suite.ts'
import { posixComparison, posixRules } from './posix-steps-suite.ts'

t.test('a local directory and the library', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, programs: ['python3'] }))) return
  const directory = await mkdtemp(join(tmpdir(), 'shoal-posix-steps-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const local = async (name: string): Promise<Doer> => {
    await mkdir(join(directory, name))
    const agent = new Agent(t)
    await agent.must(['chdir', join(directory, name)])
    return agent
  }
  await t.test('the rules in a local directory', (t) => posixRules(t, local))

  const cluster = await startInProcessCluster(t)
  const fileSystem = await cluster.mount()
  const library = async (name: string): Promise<Doer> => {
    const agent = new LibraryAgent(fileSystem)
    await agent.all([['mkdir', name]])
    return new LibraryAgent(await cluster.mount({ rootPath: `/${name}` }))
  }
  await t.test('the rules in the library', (t) => posixRules(t, library))
  await t.test('random steps in both', async (t) => {
    for (let seed = 1; seed <= 4; seed++) {
      const [oracle, subject] = await Promise.all([local(`seed-${seed}`), library(`seed-${seed}`)])
      await posixComparison(t, { oracle, subject, seed, steps: 400 })
    }
  })
})
