/**
 * The program of the previous commit, for tests of mixed clusters: its sources from the repository's history, compiled with the present
 * packages and native addons.
 */
import { mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { run, sh } from './sh.ts'

interface Teardown {
  teardown(work: () => Promise<void>): unknown
}

/** What is built once for the machine, and not again for the other commit while its sources are the same. */
const shared = ['node_modules', 'mount/native/build', 'src/platform/native/build']

export type PreviousBuild = { cli: string; commit: string } | { why: string }

/** `why`: a sentence that says why there is none. `SHOAL_PREVIOUS` names another commit than the one before this. */
export const previousBuild = async (t: Teardown): Promise<PreviousBuild> => {
  const wanted = process.env['SHOAL_PREVIOUS'] ?? 'HEAD~1'
  const found = await run('git', ['rev-parse', '--verify', '--quiet', `${wanted}^{commit}`])
  if (found.code !== 0) return { why: `there is no commit ${wanted} here: a shallow clone, or no clone at all` }
  const commit = found.stdout.trim()
  const directory = await mkdtemp(join(tmpdir(), 'shoal-previous-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await sh(`git archive ${commit} | tar -x -C '${directory}'`)
  const sameAddons = await run('git', ['diff', '--quiet', commit, '--', 'mount/native', 'src/platform/native'])
  for (const path of sameAddons.code === 0 ? shared : shared.slice(0, 1)) {
    await symlink(resolve(path), join(directory, path))
  }
  if (sameAddons.code !== 0) await sh(`cd '${directory}' && node mount/native/build.mjs`)
  // Its types were checked when it was committed.
  await sh(
    `cd '${directory}' && node node_modules/typescript/bin/tsc -p tsconfig.build.json --noCheck --sourceMap false`,
  )
  return { cli: join(directory, 'dist/src/cli/shoal.js'), commit }
}
