/**
 * A few names of one directory as objects: made exclusively, looked at, linked and removed by several clients. Each name's history must be
 * linearizable; the inode number tells one file of a name from the next. Between the programs and each client is a kernel that believes what
 * it was told for as long as it was told, also while its client is paused.
 */
import type { Context } from '../../../src/client/file-system.ts'
import type { Ino } from '../../../src/domain/ids.ts'
import { KernelModel } from '../../lib/kernel-model.ts'
import { isLinearizable } from '../checkers/linearizable.ts'
import type { HistoryOperation, SequentialModel } from '../checkers/linearizable.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { SimulatedClient } from '../simulated-cluster.ts'

const names = ['a', 'b', 'c', 'd', 'e']

type State = bigint | 'absent' | 'unknown file'

interface NameOperation extends HistoryOperation {
  kind: 'create' | 'unlink' | 'look'
  /** What it said: an inode that is there now (create, look), done, or why not; undefined when nobody heard. */
  result: bigint | 'done' | 'there already' | 'missing' | undefined
  who: string
}

/** Undefined results come with an end of Infinity. */
const model: SequentialModel<State, NameOperation> = {
  initial: 'absent',
  key: String,
  apply: (state, { kind, result }) => {
    const isThere = state !== 'absent'
    switch (kind) {
      case 'create':
        if (result === undefined) return isThere ? [state] : ['unknown file']
        if (result === 'there already') return isThere ? [state] : []
        return isThere || typeof result !== 'bigint' ? [] : [result]
      case 'unlink':
        if (result === undefined) return ['absent']
        if (result === 'missing') return isThere ? [] : [state]
        return isThere ? ['absent'] : []
      case 'look':
        if (result === undefined) return [state]
        if (result === 'missing') return isThere ? [] : [state]
        if (state === 'unknown file') return typeof result === 'bigint' ? [result] : []
        return state === result ? [state] : []
    }
  },
}

export class Names implements Workload {
  readonly name = 'names'
  readonly #histories = new Map<string, NameOperation[]>(names.map((name) => [name, []]))
  readonly #kernels = new Map<Mount, KernelModel>()
  #parent: Ino | undefined
  #now = 0

  async setUp(mount: Mount): Promise<void> {
    this.#parent = await mount.mkdir(mount.root, 'names')
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(700)
    const choice = mount.random.below(4)
    const name = names[mount.random.below(names.length)]!
    const kind = choice === 0 ? 'create' : choice === 1 ? 'unlink' : 'look'
    await this.#do(mount, name, kind)
  }

  /** What it did may be lost with it, and then what it saw of that itself says nothing. */
  lost(client: SimulatedClient): void {
    for (const [name, history] of this.#histories) {
      const own = (operation: NameOperation): boolean => operation.who === client.host
      for (const operation of history) if (own(operation)) operation.end = Infinity
      const kept = history.filter((operation) => !(own(operation) && operation.kind === 'look'))
      this.#histories.set(name, kept)
    }
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    for (const mount of mounts) for (const name of names) await this.#do(mount, name, 'look')
    const found: string[] = []
    for (const [name, history] of this.#histories) {
      if (isLinearizable(history, model) === false) {
        const text = history.map(
          ({ who, kind, result, start, end }) => `${who} ${kind}=${String(result)} ${start}..${end}`,
        )
        found.push(`name ${name} has no order that explains it:\n    ${text.join('\n    ')}`)
      }
    }
    return found
  }

  #kernel(mount: Mount): KernelModel {
    let kernel = this.#kernels.get(mount)
    if (kernel === undefined) {
      const context = (): Context => ({ uid: 0, gid: 0, pid: 1, umask: 0, signal: new AbortController().signal })
      kernel = new KernelModel(mount.fileSystem, context, mount.nowMs)
      this.#kernels.set(mount, kernel)
    }
    return kernel
  }

  async #do(mount: Mount, name: string, kind: NameOperation['kind']): Promise<void> {
    const parent = this.#parent!
    const kernel = this.#kernel(mount)
    const operation: NameOperation = {
      kind,
      result: undefined,
      start: this.#now++,
      end: Infinity,
      who: mount.life.name,
    }
    // A look that nobody heard the answer of says nothing.
    if (kind !== 'look') this.#histories.get(name)!.push(operation)
    try {
      if (kind === 'create') {
        let handle = 0n
        operation.result = await mount.call(`create ${name}`, (fs, context) =>
          kernel.make(parent, name, async () => {
            const flags = openFlags.readWrite | openFlags.exclusive
            const { entry, opened } = await fs.create(context, parent, Buffer.from(name), 0o644, flags)
            ;({ handle } = opened)
            return entry
          }),
        )
        operation.end = this.#now++
        await mount.close(handle)
        return
      }
      if (kind === 'unlink') {
        await mount.call(`unlink ${name}`, (fs, context) =>
          kernel.remove(parent, name, () => fs.unlink(context, parent, Buffer.from(name))),
        )
        operation.result = 'done'
      } else {
        operation.result = (await mount.call(`look ${name}`, () => kernel.name(parent, name))) ?? 'missing'
      }
    } catch (caught) {
      if (operation.end < Infinity) throw caught
      if (isErrno(caught, 'ENOENT')) operation.result = 'missing'
      else if (isErrno(caught, 'EEXIST')) operation.result = 'there already'
      else throw caught
    }
    operation.end = this.#now++
    if (kind === 'look') this.#histories.get(name)!.push(operation)
  }
}
