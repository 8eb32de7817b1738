/** A process that makes system calls in a mount step by step (agent.py), so that the test itself never touches the mount. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('agent.py', import.meta.url))
const stepMsMax = 60_000

export type Step = readonly [name: string, ...args: (string | number)[]]
/** What came of a step. */
export type Came = { is?: unknown; fails?: string }

interface Teardown {
  teardown(work: () => Promise<void> | void): unknown
}

export class Agent {
  readonly #child: ChildProcess
  readonly #waiting: ((line: string | undefined) => void)[] = []

  constructor(t: Teardown) {
    const child = spawn('python3', [program], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#child = child
    child.stdin.on('error', () => undefined)
    const lines = createInterface(child.stdout)
    lines.on('line', (line) => this.#waiting.shift()?.(line))
    lines.on('close', () => {
      for (const settle of this.#waiting.splice(0)) settle(undefined)
    })
    t.teardown(() => void child.kill('SIGKILL'))
  }

  /** Rejects when it takes too long: nothing may hang. */
  async all(steps: readonly Step[]): Promise<Came[]> {
    let timer: NodeJS.Timeout | undefined
    const line = await new Promise<string | undefined>((resolve, reject) => {
      this.#waiting.push(resolve)
      timer = setTimeout(
        () => reject(new Error(`no end of ${JSON.stringify(steps)} within ${stepMsMax} ms`)),
        stepMsMax,
      )
      this.#child.stdin!.write(`${JSON.stringify(steps)}\n`)
    }).finally(() => clearTimeout(timer))
    if (line === undefined) throw new Error(`the agent ended during ${JSON.stringify(steps)}`)
    return JSON.parse(line) as Came[]
  }

  async does(...step: Step): Promise<Came> {
    return (await this.all([step]))[0]!
  }

  /** Rejects when one of the steps fails. */
  async must(...steps: Step[]): Promise<unknown[]> {
    const came = await this.all(steps)
    for (const [index, { fails }] of came.entries()) {
      if (fails !== undefined) throw new Error(`${JSON.stringify(steps[index])} fails with ${fails}`)
    }
    return came.map(({ is }) => is)
  }
}
