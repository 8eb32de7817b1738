/**
 * Entries that several clients move between directories. However it goes, each is in exactly one place: with unknown outcomes, with
 * masters that restart, with clients that die in the middle.
 */
import type { Ino } from '../../../src/domain/ids.ts'
import { isErrno, openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'

const directories = 3
const entries = 6
const renameNoReplace = 1
const renameExchange = 2

export class RenameRing implements Workload {
  readonly name = 'rename-ring'
  readonly #inos: Ino[] = []
  readonly #complaints: string[] = []

  async setUp(mount: Mount): Promise<void> {
    const parent = await mount.mkdir(mount.root, 'ring')
    for (let index = 0; index < directories; index++) this.#inos.push(await mount.mkdir(parent, `d${index}`))
    for (let index = 0; index < entries; index++) {
      const { handle } = await mount.create(this.#inos[0]!, `e${index}`, openFlags.readWrite)
      await mount.close(handle)
    }
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(500)
    const entry = (): string => `e${mount.random.below(entries)}`
    const directory = (): Ino => this.#inos[mount.random.below(directories)]!
    try {
      if (mount.random.below(4) === 0) {
        await mount.rename(
          { parent: directory(), name: entry() },
          { parent: directory(), name: entry() },
          renameExchange,
        )
        return
      }
      const name = entry()
      await mount.rename({ parent: directory(), name }, { parent: directory(), name }, renameNoReplace)
    } catch (caught) {
      if (!isErrno(caught, 'ENOENT', 'EEXIST')) throw caught
    }
    if (mount.random.below(10) === 0) await mount.list(directory())
  }

  lost(): void {
    // A rename takes effect as a whole or not at all.
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    const found = [...this.#complaints]
    for (const mount of mounts) {
      const places: string[] = []
      for (const ino of this.#inos) places.push(...(await mount.list(ino)))
      const expected = Array.from({ length: entries }, (_, index) => `e${index}`)
      // Exchanges may leave one name in two directories, as two entries: what counts is that none was lost or made.
      if (places.length !== expected.length) found.push(`${mount.name} finds ${places.toSorted().join(' ')}`)
      const inos: Ino[] = []
      for (const ino of this.#inos) {
        for (const name of await mount.list(ino)) inos.push((await mount.lookup(ino, name)).attributes.ino)
      }
      if (new Set(inos).size !== entries) found.push(`${mount.name} finds inodes ${inos.map(String).join(' ')}`)
    }
    return found
  }
}
