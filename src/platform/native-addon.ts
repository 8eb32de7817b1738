/** Finds a native addon, which `npm ci` builds beside its source; the same place for the sources and for compiled code. */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's root: this file is in src/platform of it, or of its dist or another folder one or two levels down. */
const roots = ['../..', '../../..', '../../../..'].map((up) => join(dirname(fileURLToPath(import.meta.url)), up))

/** The addon's exports, whose shape the caller knows, or undefined where it was not built or was built for another machine. */
export const loadAddon = (folder: string, name: string): unknown => {
  const require = createRequire(import.meta.url)
  for (const root of roots) {
    try {
      return require(join(root, folder, 'build/Release', `${name}.node`)) as unknown
    } catch {
      // Not here; the last resort does without.
    }
  }
  return undefined
}
