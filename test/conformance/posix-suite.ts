/**
 * The rules of POSIX and Linux on names, permissions, times and attributes, as one suite for every file system: a local directory (the
 * oracle) and a mount. The rules are in test/conformance/posix, one file per area; they run in processes of their own, since the process
 * that serves a mount must not touch it. Needs root.
 */
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { check } from '../lib/sh.ts'

const program = fileURLToPath(new URL('posix/rules.py', import.meta.url))
const areas = [
  'access-lists',
  'xattrs',
  'file-handles',
  'inode-flags',
  'names',
  'permissions',
  'special-files',
  'times',
]

export const posixSuitePrograms = ['python3', 'setfacl', 'getfacl', 'rsync', 'cp']

interface Line {
  rule: string
  failed: string | null
}

export const posixSuite = async (t: Test, directory: string): Promise<void> => {
  for (const area of areas) {
    await t.test(area, async (t) => {
      const said = await check('python3', ['-B', program, area, directory], { timeoutMs: 120_000 })
      const lines = said.split('\n').filter((line) => line !== '')
      t.not(lines.length, 0, 'there are rules')
      for (const line of lines) {
        const { rule, failed } = JSON.parse(line) as Line
        t.equal(failed, null, rule)
      }
    })
  }
}
