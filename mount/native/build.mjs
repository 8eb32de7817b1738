/**
 * Builds the native addons (for /dev/fuse, and for the disks of chunk servers) with node-gyp, against the headers that came with the Node that
 * runs this: nothing is downloaded. Where one cannot be built, one sentence says so: the mount reads the device through Node's own
 * fs functions and chunk servers call fallocate(1), both slower. Runs as the install script of the package, so it never fails.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const folders = [here, resolve(here, '../../src/platform/native')]

/** A directory whose include/node has the headers of this very Node; version managers, tarballs and Debian's packages all keep this layout. */
const headersRoot = () => {
  const candidates = [process.env.npm_config_nodedir, resolve(dirname(process.execPath), '..'), '/usr']
  return candidates.find((root) => root !== undefined && existsSync(join(root, 'include/node/node_api.h')))
}

/** npm's own node-gyp, or the one that another dependency brought. */
const nodeGyp = () => {
  const require = createRequire(import.meta.url)
  const candidates = [process.env.npm_config_node_gyp]
  try {
    candidates.push(require.resolve('node-gyp/bin/node-gyp.js'))
  } catch {
    // Not installed here; npm brings one.
  }
  const npmRoot = resolve(dirname(process.execPath), '../lib/node_modules/npm/node_modules')
  candidates.push(join(npmRoot, 'node-gyp/bin/node-gyp.js'))
  return candidates.find((path) => path !== undefined && existsSync(path))
}

const build = (folder) => {
  if (process.platform !== 'linux') return 'it is for Linux only'
  const root = headersRoot()
  if (root === undefined) return `there are no Node headers at ${resolve(dirname(process.execPath), '../include/node')}`
  const gyp = nodeGyp()
  if (gyp === undefined) return 'node-gyp was not found'
  const { status, stdout, stderr, error } = spawnSync(
    process.execPath,
    [gyp, 'rebuild', '--silent', '-C', folder, `--nodedir=${root}`],
    { encoding: 'utf8', timeout: 300_000 },
  )
  if (status === 0) return undefined
  const lines = `${stdout ?? ''}\n${stderr ?? ''}`.split('\n').filter((line) => /error|not found|ERR!/i.test(line))
  return error?.message ?? lines[0]?.trim() ?? 'the compiler failed (gcc, make and python3 are needed)'
}

const why = folders.map(build).find((reason) => reason !== undefined)
if (why !== undefined) {
  console.warn(`shoal: the native addons were not built (${why}); everything works without them, but slower.`)
}
