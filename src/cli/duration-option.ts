/** An option whose value is a duration, with its default shown as a person would type it. */
import { Option } from 'commander'
import { argument } from './failure.ts'
import { parseDurationMs, parseDurationWithin } from './quantity.ts'

const longest = '1d'

/** The option's value is in milliseconds. `shortest`: as a person would type it. */
export const durationOption = (flags: string, description: string, byDefault: string, shortest = '1ms'): Option =>
  new Option(flags, description)
    .argParser(argument(parseDurationWithin([shortest, longest])))
    .default(parseDurationMs(byDefault), byDefault)
