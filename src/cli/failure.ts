/**
 * How the shoal command ends: exit code 0 when it did what was asked, 1 when it failed, 2 when the command line was wrong.
 * A person's mistake is one sentence without a stack. Anything unexpected is one line, with the stack when SHOAL_DEBUG=1.
 */
import { CommanderError, InvalidArgumentError } from 'commander'
import { PosixError, UnavailableError, UsageError } from '../domain/errors.ts'

export const exitOk = 0
export const exitFailure = 1
export const exitUsage = 2

/** For commander's argument parsers: a UsageError of `parse` becomes commander's kind, which names the option. */
export const argument =
  <T>(parse: (text: string) => T) =>
  (text: string): T => {
    try {
      return parse(text)
    } catch (caught) {
      if (caught instanceof UsageError) throw new InvalidArgumentError(caught.message)
      throw caught
    }
  }

/** One line for any caught value. */
export const sentenceOf = (caught: unknown): string => {
  if (caught instanceof UsageError) return caught.message
  if (caught instanceof PosixError || caught instanceof UnavailableError) return caught.message
  const message = caught instanceof Error ? `${caught.name}: ${caught.message}` : String(caught)
  return `unexpected failure: ${message.replaceAll('\n', ' ')} (SHOAL_DEBUG=1 shows where)`
}

/** Prints what there is to say about a failure and gives the exit code. */
export const report = (caught: unknown): number => {
  // Commander has printed its own sentence; help and version come this way too, with code 0.
  if (caught instanceof CommanderError) return caught.exitCode === 0 ? exitOk : exitUsage
  process.stderr.write(`shoal: ${sentenceOf(caught)}\n`)
  if (process.env['SHOAL_DEBUG'] === '1' && caught instanceof Error) process.stderr.write(`${caught.stack ?? ''}\n`)
  return exitFailure
}
