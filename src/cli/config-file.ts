/**
 * The configuration file: sections named for the roles, and in them one "option = value" a line, the options being those of the
 * command line without the dashes.
 *
 *     [master]
 *     data = /var/lib/shoal/master
 *     listen = 10.0.0.1:9320
 *
 * A line that begins with # is a comment; there is no quoting, a value goes to the end of its line. What is not understood is a
 * UsageError that names the file and the line, never ignored: a misspelt option would otherwise silently be its default.
 */
import { readFile } from 'node:fs/promises'
import { UsageError } from '../domain/errors.ts'
import { fileFailure } from './file-failure.ts'

export interface ConfigEntry {
  value: string
  /** FILE:LINE, for people. */
  where: string
}

/** By section, by option. */
export type ConfigFile = ReadonlyMap<string, ReadonlyMap<string, ConfigEntry>>

export const defaultConfigPath = '/etc/shoal/shoal.conf'

const shownMax = 60

/** What the file has there, even if it is no text at all. */
const shown = (line: string): string => JSON.stringify(line.length > shownMax ? `${line.slice(0, shownMax)}…` : line)

/** `known`: the options that each section may have. */
export const parseConfig = (
  text: string,
  path: string,
  known: ReadonlyMap<string, ReadonlySet<string>>,
): ConfigFile => {
  const sections = new Map<string, Map<string, ConfigEntry>>()
  let current: { name: string; entries: Map<string, ConfigEntry>; options: ReadonlySet<string> } | undefined
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.trim()
    const where = `${path}:${index + 1}`
    if (line === '' || line.startsWith('#')) continue
    const header = /^\[([^\]]*)\]$/.exec(line)
    if (header !== null) {
      const name = header[1]!.trim()
      const options = known.get(name)
      if (options === undefined)
        throw new UsageError(`${where}: there is no section [${name}]; there are ${[...known.keys()].join(', ')}`)
      const entries = sections.get(name) ?? new Map<string, ConfigEntry>()
      sections.set(name, entries)
      current = { name, entries, options }
      continue
    }
    const pair = /^([^=]*?)\s*=\s*(.*)$/.exec(line)
    const option = pair?.[1] ?? ''
    if (pair === null || option === '')
      throw new UsageError(`${where}: a line has to be "option = value", and not ${shown(line)}`)
    if (current === undefined) throw new UsageError(`${where}: "${option}" stands before the first [section]`)
    if (!current.options.has(option)) {
      throw new UsageError(
        `${where}: [${current.name}] has no option "${option}"; it has ${[...current.options].join(', ')}`,
      )
    }
    const before = current.entries.get(option)
    if (before !== undefined) throw new UsageError(`${where}: "${option}" is given at ${before.where} already`)
    if (pair[2] === '') throw new UsageError(`${where}: "${option}" has no value; leave the line out for the default`)
    current.entries.set(option, { value: pair[2]!, where })
  }
  return sections
}

/** Reads the file at `path`; without one the default file, which may be missing. */
export const readConfig = async (
  path: string | undefined,
  known: ReadonlyMap<string, ReadonlySet<string>>,
): Promise<ConfigFile> => {
  let text: string
  try {
    text = await readFile(path ?? defaultConfigPath, 'utf8')
  } catch (caught) {
    const { code } = caught as NodeJS.ErrnoException
    if (path === undefined && (code === 'ENOENT' || code === 'ENOTDIR')) return new Map()
    throw new UsageError(`cannot read the configuration file ${path ?? defaultConfigPath}: ${fileFailure(caught)}`)
  }
  return parseConfig(text, path ?? defaultConfigPath, known)
}
