/**
 * What a test needs of the machine. Where it is missing the test is skipped and says why; with SHOAL_REQUIRE_ALL=1 it fails instead.
 *
 *     if (!(await needs(t, { root: true, fuse: true, programs: ['rsync'] }))) return
 */
import { access, constants } from 'node:fs/promises'
import { delimiter, join } from 'node:path'

export interface Needs {
  root?: boolean
  /** /dev/fuse can be opened. */
  fuse?: boolean
  programs?: readonly string[]
  /** What the test itself has found to be missing. */
  lacking?: readonly string[]
}

/** The part of tap's test object that is used here. */
interface Reporter {
  fail(message: string): unknown
  pass(message: string, options: { skip: string }): unknown
}

const can = async (path: string, mode: number): Promise<boolean> => {
  try {
    await access(path, mode)
    return true
  } catch {
    return false
  }
}

const isInstalled = async (program: string): Promise<boolean> => {
  const path = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']
  for (const directory of path) if (await can(join(directory, program), constants.X_OK)) return true
  return false
}

export const missing = async (wanted: Needs): Promise<string[]> => {
  const found: string[] = []
  if (wanted.root === true && process.getuid?.() !== 0) found.push('root')
  if (wanted.fuse === true && !(await can('/dev/fuse', constants.R_OK | constants.W_OK))) found.push('/dev/fuse')
  for (const program of wanted.programs ?? []) if (!(await isInstalled(program))) found.push(program)
  found.push(...(wanted.lacking ?? []))
  return found
}

/** True when everything is there. */
export const needs = async (t: Reporter, wanted: Needs): Promise<boolean> => {
  const lacks = await missing(wanted)
  if (lacks.length === 0) return true
  const sentence = `this machine lacks ${lacks.join(', ')}`
  if (process.env['SHOAL_REQUIRE_ALL'] === '1') t.fail(sentence)
  else t.pass('skipped', { skip: sentence })
  return false
}
