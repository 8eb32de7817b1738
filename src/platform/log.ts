/**
 * One line per event, structured. Levels: error (somebody must act), warn (somebody may want to), info (a state changed),
 * debug (for developers). Nothing is logged again every second.
 */
import { pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'
export type LogFields = Record<string, unknown>

export interface Log {
  debug(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  error(event: string, fields?: LogFields): void
  /** The same log with these fields on every line. */
  with(fields: LogFields): Log
}

const bigintAsNumber = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? Number(value) : value)

type PinoLogger = ReturnType<typeof pino>

const plain = (fields: LogFields): LogFields => {
  const copy: LogFields = {}
  for (const [key, value] of Object.entries(fields)) {
    copy[key] = value instanceof Error ? `${value.name}: ${value.message}` : bigintAsNumber(key, value)
  }
  return copy
}

const adapt = (logger: PinoLogger): Log => {
  return {
    debug: (event, fields = {}) => logger.debug(plain(fields), event),
    info: (event, fields = {}) => logger.info(plain(fields), event),
    warn: (event, fields = {}) => logger.warn(plain(fields), event),
    error: (event, fields = {}) => {
      const { cause } = fields
      logger.error(cause instanceof Error ? { ...plain(fields), stack: cause.stack } : plain(fields), event)
    },
    with: (fields) => adapt(logger.child(plain(fields))),
  }
}

/** JSON lines on standard error, synchronously, so that the last line before a crash is there. */
export const stderrLog = (level: LogLevel, role: string): Log =>
  adapt(
    pino(
      { level, base: { role }, timestamp: pino.stdTimeFunctions.isoTime, messageKey: 'event' },
      pino.destination({ dest: 2, sync: true }),
    ),
  )

export const silentLog: Log = adapt(pino({ level: 'silent' }))
