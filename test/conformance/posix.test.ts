/** The rules themselves are right: a local file system of Linux keeps them. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { needs } from '../lib/needs.ts'
import { posixSuite, posixSuitePrograms } from './posix-suite.ts'

t.test('a local directory', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, programs: posixSuitePrograms }))) return
  const directory = await mkdtemp(join(tmpdir(), 'shoal-posix-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await posixSuite(t, directory)
})
