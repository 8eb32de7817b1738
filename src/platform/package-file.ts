/** Files that belong to the package and are no code; the same place for the sources and for compiled code. */
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's root: this file is in src/platform of it, or of its dist or another folder one or two levels down. */
const roots = ['../..', '../../..', '../../../..'].map((up) => join(dirname(fileURLToPath(import.meta.url)), up))

/** Undefined when there is no such file. The path is the program's own, never a stranger's. */
export const readPackageFile = async (path: string): Promise<Buffer | undefined> => {
  for (const root of roots) {
    try {
      return await readFile(join(root, path))
    } catch {
      // Not here.
    }
  }
  return undefined
}
