/**
 * Runs seeds in child processes, one seed at a time in each, so that all cores have work: a child asks for the next seed by telling the
 * result of its last one.
 *
 * Invariant: every seed that was given out is in the report, also when its process dies or does not come to an end.
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { runSeed } from './run-seed.ts'
import type { SeedResult } from './run-seed.ts'

/** Much of a seed's memory dies with its events: a large young generation lets it die there. */
const nodeOptions = ['--no-warnings', '--max-semi-space-size=64']
const tickMs = 5000
/** A seed takes a second or a few. Counted in ticks, so that time in which everything is stopped does not count. */
const ticksMax = 120

export interface ChildrenOptions {
  jobs: number
  /** Ends each run with the first violation. */
  stopAtFirst: boolean
  /** Undefined: there are no more. */
  next(): number | undefined
  ended(result: SeedResult): void
}

/** The program of a child. */
export const serveSeeds = ({ stopAtFirst }: { stopAtFirst: boolean }): void => {
  process.on('message', (seed: number) => {
    void runSeed({ seed, stopAtFirst }).then((result) => process.send!(result))
  })
  process.on('disconnect', () => process.exit())
}

const lost = (seed: number, why: string): SeedResult => ({
  seed,
  violations: [why],
  simulatedMs: 0,
  events: 0,
  lines: 0,
  digest: '',
  steps: 0,
  faults: new Map(),
  processorMs: 0,
})

/** One child until there are no more seeds, or until it is lost with its seed. */
const runChild = (program: string, options: ChildrenOptions): Promise<void> =>
  new Promise((resolve) => {
    const { next, ended, stopAtFirst } = options
    let running: number | undefined
    let ticks = 0
    const child: ChildProcess = fork(program, stopAtFirst ? ['--child', '--until-failure'] : ['--child'], {
      execArgv: nodeOptions,
      serialization: 'advanced',
    })
    const watch = setInterval(() => {
      if (++ticks > ticksMax) child.kill('SIGKILL')
    }, tickMs)
    const giveNext = (): void => {
      running = next()
      ticks = 0
      if (running === undefined) child.disconnect()
      else child.send(running)
    }
    child.on('message', (result: SeedResult) => {
      ended(result)
      giveNext()
    })
    child.once('exit', (code, signal) => {
      clearInterval(watch)
      if (running !== undefined) ended(lost(running, `the process ended with ${signal ?? `code ${code}`}`))
      resolve(running === undefined ? undefined : runChild(program, options))
    })
    giveNext()
  })

/** `program`: what calls serveSeeds when it is told --child. */
export const runInChildren = async (program: string, options: ChildrenOptions): Promise<void> => {
  await Promise.all(Array.from({ length: options.jobs }, () => runChild(program, options)))
}
