/**
 * Numbers with units, as people type and read them: bytes ("100GiB", "1.5T", "4096"), durations ("10s", "500ms", "2h") and counts.
 * Parsing throws a UsageError that says what would have been right; results are exact non-negative safe integers.
 */
import { UsageError } from '../domain/errors.ts'
import { chunkBytes } from '../domain/limits.ts'

const kib = 1024
const byteUnits: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['b', 1],
  ...['k', 'm', 'g', 't', 'p'].flatMap((letter, index): [string, number][] => [
    // A bare letter is binary, as in coreutils; "MB" is decimal and "MiB" binary, as in the standards.
    [letter, kib ** (index + 1)],
    [`${letter}ib`, kib ** (index + 1)],
    [`${letter}b`, 1000 ** (index + 1)],
  ]),
])

const durationUnits: ReadonlyMap<string, number> = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['min', 60_000],
  ['h', 3_600_000],
  ['d', 86_400_000],
])

const quantity = (text: string, units: ReadonlyMap<string, number>): number | undefined => {
  const match = /^(\d+(?:\.\d+)?) *([a-z]*)$/i.exec(text.trim())
  const factor = units.get((match?.[2] ?? '-').toLowerCase())
  if (match?.[1] === undefined || factor === undefined) return undefined
  const value = Math.round(Number(match[1]) * factor)
  return Number.isSafeInteger(value) ? value : undefined
}

/** "100GiB" → 107374182400. */
export const parseBytes = (text: string): number => {
  const value = quantity(text, byteUnits)
  if (value === undefined) throw new UsageError('It has to be a size such as 500MiB, 100GiB, 2TB or a number of bytes.')
  return value
}

/** Of a chunk server; less than one chunk is of no use. */
export const parseCapacity = (text: string): number => {
  const bytes = parseBytes(text)
  if (bytes < chunkBytes) throw new UsageError(`It has to be at least ${formatBytes(chunkBytes)}.`)
  return bytes
}

/** "10s" → 10000 (milliseconds). A number needs its unit, except 0. */
export const parseDurationMs = (text: string): number => {
  const value = text.trim() === '0' ? 0 : quantity(text, durationUnits)
  if (value === undefined) throw new UsageError('It has to be a duration such as 500ms, 10s, 5m or 2h.')
  return value
}

/** A duration within these bounds, both included; they are shown as a person would type them. */
export const parseDurationWithin =
  ([min, max]: readonly [string, string]) =>
  (text: string): number => {
    const value = parseDurationMs(text)
    if (value < parseDurationMs(min) || value > parseDurationMs(max)) {
      throw new UsageError(`It has to be a duration from ${min} to ${max}.`)
    }
    return value
  }

/** A whole number within these bounds, both included. */
export const parseCount =
  (bounds: { min: number; max: number }) =>
  (text: string): number => {
    const value = /^\d+$/.test(text.trim()) ? Number(text) : Number.NaN
    if (!(value >= bounds.min && value <= bounds.max)) {
      throw new UsageError(`It has to be a whole number from ${bounds.min} to ${bounds.max}.`)
    }
    return value
  }

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']

/** 107374182400 → "100 GiB"; three significant digits. */
export const formatBytes = (bytes: number | bigint): string => {
  let value = Number(bytes)
  let unit = 0
  // 999.5 and not 1024, so that there are never four digits before the unit.
  while (value >= 999.5 && unit < binaryUnits.length - 1) {
    value /= kib
    unit += 1
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2
  return `${value.toFixed(digits)} ${binaryUnits[unit]}`
}

/** 93784000 → "1 d 2 h"; at most two units, the smaller one cut. */
export const formatDuration = (ms: number | bigint): string => {
  const seconds = Math.round(Number(ms) / 1000)
  const units: readonly [string, number][] = [
    ['d', 86_400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ]
  const first = units.findIndex(([, size]) => seconds >= size)
  if (first < 0) return '0 s'
  let rest = seconds
  const parts: string[] = []
  for (const [name, size] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / size)
    rest -= count * size
    if (count > 0) parts.push(`${count} ${name}`)
  }
  return parts.join(' ')
}

/** 1234567 → "1,234,567". */
export const formatCount = (value: number | bigint): string => value.toLocaleString('en-US')
