/** What happened in a simulated cluster, line by line: a digest always, the text only when somebody wants to read it. */
import { createHash } from 'node:crypto'

/** The digest takes so many characters at a time. */
const charactersMax = 32_768

export class Trace {
  readonly #digest = createHash('sha256')
  readonly #nowMs: () => number
  readonly #print: ((line: string) => void) | undefined
  lines = 0
  #waiting = ''

  constructor(nowMs: () => number, print?: (line: string) => void) {
    this.#nowMs = nowMs
    this.#print = print
  }

  line(who: string, what: string): void {
    const line = `${this.#nowMs().toFixed(3).padStart(12)} ${who} ${what}`
    this.#waiting += line
    if (this.#waiting.length > charactersMax) this.#digestWaiting()
    this.lines++
    this.#print?.(line)
  }

  /** Of everything so far. */
  digest(): string {
    this.#digestWaiting()
    return this.#digest.copy().digest('hex')
  }

  #digestWaiting(): void {
    this.#digest.update(this.#waiting)
    this.#waiting = ''
  }
}

const plain = (value: unknown): string => {
  if (value instanceof Error) return `${value.name}: ${value.message}`
  if (typeof value === 'bigint') return value.toString()
  return (
    JSON.stringify(value, (_key, inner: unknown) => (typeof inner === 'bigint' ? inner.toString() : inner)) ??
    'undefined'
  )
}

/** Fields of a log line as text. */
export const fieldsText = (fields: Readonly<Record<string, unknown>>): string =>
  Object.entries(fields)
    .map(([key, value]) => `${key}=${plain(value)}`)
    .join(' ')
