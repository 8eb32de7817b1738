/**
 * What `shoal up` remembers in DATA/up.json: the ports, so that a restart finds the same addresses, and the processes, so that the
 * next start can wait for those that a killed one left behind. Written whole and atomically; what cannot be read is refused.
 */
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../domain/errors.ts'

export interface UpState {
  masterPort: number
  /** One per chunk server, in their order. */
  serverPorts: number[]
  pids: number[]
}

const pathIn = (data: string): string => join(data, 'up.json')

const isPorts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item > 0)

/** Undefined when there was no start yet. */
export const readUpState = async (data: string): Promise<UpState | undefined> => {
  let text: string
  try {
    text = await readFile(pathIn(data), 'utf8')
  } catch (caught) {
    const { code, message } = caught as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new UsageError(`cannot read ${pathIn(data)}: ${message}`)
  }
  let value: Partial<UpState> = {}
  try {
    value = JSON.parse(text) as Partial<UpState>
  } catch {
    // Refused below.
  }
  if (!isPorts([value.masterPort]) || !isPorts(value.serverPorts) || !isPorts(value.pids)) {
    throw new UsageError(`${pathIn(data)} is damaged; remove it: the next start chooses new ports, no file is lost`)
  }
  return value as UpState
}

export const writeUpState = async (data: string, state: UpState): Promise<void> => {
  await writeFile(`${pathIn(data)}.new`, `${JSON.stringify(state, undefined, 2)}\n`)
  await rename(`${pathIn(data)}.new`, pathIn(data))
}
