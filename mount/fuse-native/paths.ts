/**
 * Paths, which libfuse 2 has instead of inodes, to inodes: a lookup for each name of it. Whoever is asked has the answers in memory as long as
 * its leases last, so nothing is kept here.
 *
 * Every lookup is a reference, which is given back when the call is over. A file that is open needs none.
 */
import type { Attributes, Context, Entry, FileSystem } from '../../src/client/file-system.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'

/** What became of bytes that are not UTF-8: the addon has made a string of them, and which bytes they were is lost. */
const replacement = '\uFFFD'

/** The bytes of a string from the addon. EINVAL where they are not known: another file would be meant. */
export const bytesOf = (text: string): Buffer => {
  if (text.includes(replacement)) throw new PosixError('EINVAL')
  return Buffer.from(text)
}

/** "/a/b": a, b. "/": none. */
const namesOf = (path: string): Buffer[] =>
  path
    .split('/')
    .filter((name) => name !== '')
    .map(bytesOf)

export class Paths {
  readonly #fs: FileSystem

  constructor(fs: FileSystem) {
    this.#fs = fs
  }

  /** Calls with the inode of a path; attributes, where the last lookup has told them. */
  async at<T>(context: Context, path: string, use: (ino: Ino, attributes?: Attributes) => Promise<T>): Promise<T> {
    return this.#walk(context, namesOf(path), use)
  }

  /** Calls with the directory that a path's last name is in, and that name. */
  async in<T>(context: Context, path: string, use: (parent: Ino, name: Buffer) => Promise<T>): Promise<T> {
    const names = namesOf(path)
    const name = names.pop()
    // The root has no name; the kernel does not ask.
    if (name === undefined) throw new PosixError('EBUSY')
    return this.#walk(context, names, (parent) => use(parent, name))
  }

  /** Gives back the reference that comes with an entry. */
  forget({ attributes }: Entry): void {
    if (attributes.ino !== this.#fs.root) this.#fs.forget(attributes.ino, 1n)
  }

  async #walk<T>(
    context: Context,
    names: readonly Buffer[],
    use: (ino: Ino, attributes?: Attributes) => Promise<T>,
  ): Promise<T> {
    let found: Entry | undefined
    try {
      for (const name of names) {
        const next = await this.#fs.lookup(context, found?.attributes.ino ?? this.#fs.root, name)
        if (found !== undefined) this.forget(found)
        found = next
      }
      return await use(found?.attributes.ino ?? this.#fs.root, found?.attributes)
    } finally {
      if (found !== undefined) this.forget(found)
    }
  }
}
