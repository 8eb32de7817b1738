/** A local directory passes the suite: so what fails on a mount is the mount's fault. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { needs } from '../lib/needs.ts'
import { posixDataSuite } from './posix-data-suite.ts'

t.test('a local directory', async (t) => {
  if (!(await needs(t, { programs: ['python3'] }))) return
  const directory = await mkdtemp(join(tmpdir(), 'shoal-posix-data-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await posixDataSuite(t, directory)
})
