/**
 * Options as lines of fstab(5) have them: some are for mount(8) and systemd alone, some say how `shoal mount` is to do it, and the
 * rest is for the mount itself.
 */
import { UsageError } from '../domain/errors.ts'
import { parseDurationMs } from './quantity.ts'

/** They say when and by whom it is mounted, which is decided before a helper of mount(8) runs. Source: mount(8), systemd.mount(5). */
const decidedBefore = /^(defaults|auto|noauto|(no)?user|(no)?users|(no)?owner|(no)?group|nofail|_netdev|_rnetdev)$/
const forOthers = /^(x-|X-|user=|comment=)/

export interface FstabOptions {
  /** For the mount itself. */
  rest: string[]
  /** Directory of the cluster, below the one of the source. */
  subdir?: string
  connectTimeoutMs?: number
  logFile?: string
}

/** UsageError for a value that cannot be. */
export const splitFstabOptions = (options: readonly string[]): FstabOptions => {
  const found: FstabOptions = { rest: [] }
  for (const option of options) {
    const equals = option.indexOf('=')
    const [name, value] = equals < 0 ? [option, undefined] : [option.slice(0, equals), option.slice(equals + 1)]
    if (decidedBefore.test(option) || forOthers.test(option)) continue
    if (value === undefined || value === '') {
      if (['subdir', 'connect-timeout', 'log-file'].includes(name)) throw new UsageError(`-o ${name} needs a value`)
      found.rest.push(option)
    } else if (name === 'subdir') found.subdir = value
    else if (name === 'log-file') found.logFile = value
    else if (name === 'connect-timeout') {
      try {
        found.connectTimeoutMs = parseDurationMs(value)
      } catch (caught) {
        throw new UsageError(`-o ${option}: ${(caught as Error).message}`)
      }
    } else found.rest.push(option)
  }
  return found
}
