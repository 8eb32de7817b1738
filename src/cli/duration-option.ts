/** An option whose value is a duration, with its default shown as a person would type it. */
import { Option } from 'commander'
import { argument } from './failure.ts'
import { parseDurationMs } from './quantity.ts'

/** The option's value is in milliseconds. */
export const durationOption = (flags: string, description: string, byDefault: string): Option =>
  new Option(flags, description).argParser(argument(parseDurationMs)).default(parseDurationMs(byDefault), byDefault)
