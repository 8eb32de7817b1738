/** What `shoal up` ends before it starts: its own of before, and nobody else's. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import t from 'tap'
import { endLeftovers } from '../../../src/cli/up-command.ts'

t.test('a process that was given the id of one of before is left alone', async (t) => {
  const script = `${t.testdir()}/shoal.js`
  await writeFile(script, 'setInterval(() => undefined, 1000)')
  const start = (...args: string[]): ChildProcess => {
    const child = spawn(process.execPath, [script, ...args], { stdio: 'ignore' })
    t.teardown(() => child.kill('SIGKILL'))
    return child
  }
  const stranger = start('master', '--data=/srv/shoal')
  const leftover = start('master', '--exit-with-parent', '5000')
  const ended = once(leftover, 'exit')
  await endLeftovers([stranger.pid!, leftover.pid!])
  t.same(await ended, [null, 'SIGTERM'])
  t.equal(stranger.signalCode, null)
})
