#!/usr/bin/env node
/** The `shoal` command. Exit codes: 0 done, 1 failed, 2 the command line was wrong. */
import { exitUsage, report } from './failure.ts'
import { buildProgram } from './program.ts'

const program = buildProgram()

// A reader that has gone (`shoal status | head`) is no failure.
process.stdout.on('error', () => undefined)

try {
  if (process.argv.length <= 2) {
    program.outputHelp({ error: true })
    process.exitCode = exitUsage
  } else {
    await program.parseAsync()
  }
} catch (caught) {
  process.exitCode = report(caught)
}
