/**
 * Namespaces of a test's own: a first process holds them, and when it ends nothing that ran or was mounted in there is left. This
 * machine sees none of it.
 */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

export type NamespaceKind = 'mount' | 'net'

export interface NamespacesTest {
  teardown(handler: () => Promise<void>): void
}

/**
 * Runs a bash script as the first process of new namespaces (besides the kinds that are named, always one of processes). It says
 * `ready` when everything is in place and then lives until its standard input ends. Resolves to the arguments with which nsenter(1)
 * goes there; rejects when the script ends without having said so.
 */
export const startNamespaces = async (
  t: NamespacesTest,
  kinds: readonly NamespaceKind[],
  script: string,
  args: readonly string[] = [],
): Promise<string[]> => {
  const flags = kinds.map((kind) => `--${kind}`)
  const holder = spawn(
    'unshare',
    [...flags, '--pid', '--fork', '--kill-child', '--mount-proc', 'bash', '-c', script, 'holder', ...args],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  const ended = new Promise((resolve) => {
    holder.once('error', resolve)
    holder.once('exit', resolve)
  })
  t.teardown(async () => {
    holder.stdin.end()
    holder.kill('SIGKILL')
    await ended
  })
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: holder.stdout }).on('line', (line) => {
      if (line === 'ready') resolve()
    })
    void ended.then(() => reject(new Error('the namespaces could not be made')))
  })
  const children = await readFile(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8')
  const [first = ''] = children.trim().split(' ')
  return ['--target', first, '--pid', ...flags]
}
