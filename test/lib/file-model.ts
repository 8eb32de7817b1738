/**
 * Random system calls of several actors on one file system, each compared with a model of it: what came of every step, of whichever actor,
 * has to be what the model says. Actors work one after another, so every look is a first look at what others have done.
 *
 * The model has three directories with a few names in each: files, symbolic links that lead nowhere, and empty directories. Of the times it
 * knows that they are what was set, change with a change (which nobody can foresee) and are the same for all until the next one.
 */
import type { Came, Step } from './agent.ts'
import { seededRandom } from './seeded-random.ts'

/** Carries out steps (see agent.py), with paths relative to the root of the file system. */
export interface Actor {
  does(...step: Step): Promise<Came>
}

export interface Difference {
  operation: number
  actor: number
  step: Step
  came: unknown
  wanted: unknown
}

export interface FileModelResult {
  operations: number
  looks: number
  differences: Difference[]
}

interface Node {
  kind: 'file' | 'directory' | 'symlink'
  mode: number
  nlink: number
  uid: number
  gid: number
  content: string
  readonly xattrs: Map<string, string>
  mtimeNs: number | undefined
  ctimeNs: number | undefined
  /** Known since it was looked at first. */
  ino: number | undefined
}

const formatBits = { file: 0o100000, directory: 0o040000, symlink: 0o120000 }
const directories = ['d0', 'd1', 'd2']
const names = ['a', 'b', 'c', 'd', 'e']
const linkTarget = 'nowhere'
const contentMax = 40_000
const differencesMax = 20

const newNode = (kind: Node['kind'], mode: number, content = ''): Node => ({
  kind,
  mode,
  nlink: kind === 'directory' ? 2 : 1,
  uid: 0,
  gid: 0,
  content,
  xattrs: new Map(),
  mtimeNs: undefined,
  ctimeNs: undefined,
  ino: undefined,
})

class Failure extends Error {}

const fail = (code: string): never => {
  throw new Failure(code)
}

/** The file system as it should be. */
class Model {
  readonly #entries = new Map<string, Node>()
  readonly #directories = new Map<string, Node>()
  /** By actor: the file that it has open. */
  readonly held = new Map<number, Node>()

  constructor() {
    for (const directory of directories) this.#directories.set(directory, newNode('directory', 0o755))
  }

  get(path: string): Node | undefined {
    return this.#directories.get(path) ?? this.#entries.get(path)
  }

  paths(directory: string): string[] {
    return [...this.#entries.keys()].filter((path) => path.startsWith(`${directory}/`)).toSorted()
  }

  /** Carries out a step; gives what is to come of it. A stat gives the node. */
  apply(actor: number, [name, ...args]: Step): unknown {
    const [first, second, third] = args
    const path = String(first)
    const text = String(second ?? '')
    switch (name) {
      case 'create':
        return this.#make(path, newNode('file', 0o644, text))
      case 'mkdir':
        return this.#make(path, newNode('directory', 0o755))
      case 'symlink':
        return this.#make(text, newNode('symlink', 0o777, path))
      case 'write':
        return this.#write(this.#file(path), 0, text)
      case 'rewrite': {
        const node = this.#file(path)
        node.content = ''
        return this.#write(node, 0, text)
      }
      case 'append': {
        const node = this.#file(path)
        return this.#write(node, node.content.length, text)
      }
      case 'truncate': {
        const node = this.#file(path)
        node.content = node.content.slice(0, Number(second)).padEnd(Number(second), '\0')
        return this.#written(node)
      }
      case 'unlink': {
        const node = this.#entry(path)
        if (node.kind === 'directory') fail('EISDIR')
        return this.#remove(path, node)
      }
      case 'rmdir': {
        const node = this.#entry(path)
        if (node.kind !== 'directory') fail('ENOTDIR')
        return this.#remove(path, node)
      }
      case 'rename':
        return this.#rename(path, text)
      case 'link': {
        const node = this.#entry(path)
        if (this.#entries.has(text)) fail('EEXIST')
        if (node.kind === 'directory') fail('EPERM')
        node.nlink++
        node.ctimeNs = undefined
        this.#entries.set(text, node)
        return this.#changed(text)
      }
      case 'chmod':
        return this.#attributes(path, (node) => (node.mode = Number(second)))
      case 'chown':
        return this.#attributes(path, (node) => {
          node.uid = Number(second)
          node.gid = Number(third)
        })
      case 'utime':
        return this.#attributes(path, (node) => (node.mtimeNs = Number(second)))
      case 'setxattr':
        return this.#attributes(path, (node) => node.xattrs.set(text, String(third)))
      case 'removexattr':
        return this.#attributes(path, (node) => {
          if (!node.xattrs.delete(text)) fail('ENODATA')
        })
      case 'hold':
        this.held.set(actor, this.#file(text))
        return null
      case 'let_go':
        this.held.delete(actor)
        return null
      case 'pwrite': {
        this.#write(this.held.get(actor)!, Number(third), text)
        return text.length
      }
      case 'pread': {
        const { content } = this.held.get(actor)!
        return content.slice(Number(third), Number(third) + Number(second))
      }
      case 'fstat_size':
        return this.held.get(actor)!.content.length
      case 'fstat_links':
        return this.held.get(actor)!.nlink
      case 'exists':
        return this.get(path) !== undefined
      case 'stat':
        return this.get(path) ?? fail('ENOENT')
      case 'read': {
        const node = this.#followed(path)
        return node.kind === 'directory' ? fail('EISDIR') : node.content
      }
      case 'readlink': {
        const node = this.get(path) ?? fail('ENOENT')
        return node.kind === 'symlink' ? node.content : fail('EINVAL')
      }
      case 'list':
        return this.paths(path).map((entry) => entry.slice(path.length + 1))
      case 'getxattr':
        return this.#followed(path).xattrs.get(text) ?? fail('ENODATA')
      case 'listxattr':
        return [...this.#followed(path).xattrs.keys()].toSorted()
      default:
        throw new Error(`no model of ${name}`)
    }
  }

  #entry(path: string): Node {
    return this.#entries.get(path) ?? fail('ENOENT')
  }

  #followed(path: string): Node {
    const node = this.get(path) ?? fail('ENOENT')
    return node.kind === 'symlink' ? fail('ENOENT') : node
  }

  #file(path: string): Node {
    const node = this.#followed(path)
    return node.kind === 'directory' ? fail('EISDIR') : node
  }

  #make(path: string, node: Node): null {
    if (this.#entries.has(path)) fail('EEXIST')
    this.#entries.set(path, node)
    if (node.kind === 'directory') this.#parent(path).nlink++
    return this.#changed(path)
  }

  #remove(path: string, node: Node): null {
    this.#entries.delete(path)
    this.#gone(path, node)
    return this.#changed(path)
  }

  #gone(path: string, node: Node): void {
    node.nlink = node.kind === 'directory' ? 0 : node.nlink - 1
    node.ctimeNs = undefined
    if (node.kind === 'directory') this.#parent(path).nlink--
  }

  #rename(source: string, target: string): null {
    const node = this.#entry(source)
    const replaced = this.#entries.get(target)
    if (replaced === node) return null
    if (replaced !== undefined) {
      if (replaced.kind === 'directory' && node.kind !== 'directory') fail('EISDIR')
      if (replaced.kind !== 'directory' && node.kind === 'directory') fail('ENOTDIR')
      this.#gone(target, replaced)
    }
    this.#entries.delete(source)
    this.#entries.set(target, node)
    node.ctimeNs = undefined
    if (node.kind === 'directory') {
      this.#parent(source).nlink--
      this.#parent(target).nlink++
    }
    this.#changed(source)
    return this.#changed(target)
  }

  #write(node: Node, offset: number, text: string): null {
    if (text === '') return this.#written(node)
    const before = node.content.padEnd(offset, '\0')
    node.content = before.slice(0, offset) + text + before.slice(offset + text.length)
    return this.#written(node)
  }

  #written(node: Node): null {
    node.mtimeNs = undefined
    node.ctimeNs = undefined
    return null
  }

  #attributes(path: string, change: (node: Node) => unknown): null {
    const node = this.#followed(path)
    change(node)
    node.ctimeNs = undefined
    return null
  }

  #parent(path: string): Node {
    return this.#directories.get(path.slice(0, path.indexOf('/')))!
  }

  #changed(path: string): null {
    return this.#written(this.#parent(path))
  }
}

/** What a stat has to give, where it gave this. What the model cannot foresee it takes over. */
const sees = (node: Node, found: readonly number[]): number[] => {
  const [ino, , , , , size, mtimeNs, ctimeNs] = found
  node.ino ??= ino!
  node.mtimeNs ??= mtimeNs!
  node.ctimeNs ??= ctimeNs!
  const { mode, nlink, uid, gid, content } = node
  const bytes = node.kind === 'directory' ? size! : content.length
  return [node.ino, formatBits[node.kind] | mode, nlink, uid, gid, bytes, node.mtimeNs, node.ctimeNs]
}

/** In an empty file system. */
export const runFileModel = async (
  actors: readonly Actor[],
  { seed, operations }: { seed: number; operations: number },
): Promise<FileModelResult> => {
  const random = seededRandom(seed)
  const model = new Model()
  const result: FileModelResult = { operations: 0, looks: 0, differences: [] }
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!
  const anyPath = (): string => `${pick(directories)}/${pick(names)}`
  /** Rather one that is there. */
  const path = (): string => {
    const there = model.paths(pick(directories))
    return there.length > 0 && random.below(4) > 0 ? pick(there) : anyPath()
  }
  const size = (): number => pick([0, 1, 1 + random.below(100), random.below(5000), 4096, random.below(20_000)])
  const text = (length = size()): string => {
    const mark = `<${random.below(1_000_000)}>`
    return mark.repeat(Math.ceil(length / mark.length)).slice(0, length)
  }

  const step = async (actor: number, taken: Step): Promise<void> => {
    let wanted: unknown
    let code: string | undefined
    try {
      wanted = model.apply(actor, taken)
    } catch (caught) {
      if (!(caught instanceof Failure)) throw caught
      code = caught.message
    }
    const came = await actors[actor]!.does(...taken)
    let is: unknown = came.fails ?? came.is
    if (came.fails === undefined && taken[0] === 'stat' && code === undefined) {
      wanted = sees(wanted as Node, came.is as number[])
    }
    if (code !== undefined) wanted = code
    if (came.fails === undefined && code === undefined && wanted === null) is = null
    if (JSON.stringify(is) === JSON.stringify(wanted)) return
    result.differences.push({ operation: result.operations, actor, step: taken, came: is, wanted })
  }

  const look = (at: string): Step => {
    const what = random.below(16)
    if (what < 5) return ['stat', at]
    if (what < 9) return ['read', at]
    if (what < 10) return ['exists', at]
    if (what < 11) return ['list', at.slice(0, 2)]
    if (what < 12) return ['stat', at.slice(0, 2)]
    if (what < 13) return ['readlink', at]
    return what < 15 ? ['getxattr', at, pick(['user.a', 'user.b'])] : ['listxattr', at]
  }

  const change = (actor: number): { taken: Step; at: string } => {
    const at = path()
    const short = (): boolean => (model.get(at)?.content.length ?? 0) < contentMax
    const held = model.held.get(actor)
    switch (random.below(24)) {
      case 0:
      case 1:
      case 2:
        return { taken: ['create', at, text()], at }
      case 3:
        return { taken: ['mkdir', at], at }
      case 4:
        return { taken: ['symlink', linkTarget, at], at }
      case 5:
      case 6:
        return { taken: ['write', at, text()], at }
      case 7:
        return { taken: ['rewrite', at, text()], at }
      case 8:
      case 9:
        return short() ? { taken: ['append', at, text()], at } : { taken: ['truncate', at, size()], at }
      case 10:
        return { taken: ['truncate', at, size()], at }
      case 11:
      case 12:
        return { taken: ['unlink', at], at }
      case 13:
        return { taken: ['rmdir', at], at }
      case 14:
      case 15:
      case 16: {
        const target = path()
        return { taken: ['rename', at, target], at: target }
      }
      case 17: {
        const target = path()
        // Whether link(2) follows is a matter of the caller.
        return model.get(at)?.kind === 'symlink'
          ? { taken: ['unlink', at], at }
          : { taken: ['link', at, target], at: target }
      }
      case 18:
        return { taken: ['chmod', at, 0o700 + random.below(64)], at }
      case 19:
        return { taken: ['chown', at, random.below(3), random.below(3)], at }
      case 20:
        return { taken: ['utime', at, random.below(1_000_000) * 1_000_000], at }
      case 21:
        return { taken: ['setxattr', at, pick(['user.a', 'user.b']), text(1 + random.below(50))], at }
      case 22:
        return { taken: ['removexattr', at, pick(['user.a', 'user.b'])], at }
      default:
        if (held === undefined) return { taken: ['hold', 'h', at, 2], at }
        if (random.below(3) === 0) return { taken: ['let_go', 'h'], at }
        return held.content.length < contentMax
          ? { taken: ['pwrite', 'h', text(1 + random.below(9000)), random.below(held.content.length + 10)], at }
          : { taken: ['pread', 'h', contentMax * 2, 0], at }
    }
  }

  for (const directory of directories) await actors[0]!.does('mkdir', directory)
  while (result.operations < operations && result.differences.length < differencesMax) {
    result.operations++
    const who = random.below(actors.length)
    const { taken, at } = change(who)
    await step(who, taken)
    // Others look at what was changed, or at anything.
    for (let left = random.below(4); left > 0; left--) {
      const looker = random.below(actors.length)
      result.looks++
      const heldLooks: Step[] = [
        ['pread', 'h', contentMax * 2, 0],
        ['fstat_size', 'h'],
        ['fstat_links', 'h'],
      ]
      if (model.held.has(looker) && random.below(4) === 0) await step(looker, pick(heldLooks))
      else await step(looker, look(random.below(4) === 0 ? path() : at))
    }
  }
  // In the end everybody sees everything alike.
  for (const actor of actors.keys()) {
    for (const directory of directories) {
      await step(actor, ['list', directory])
      for (const entry of model.paths(directory)) for (const what of ['stat', 'read']) await step(actor, [what, entry])
    }
  }
  return result
}
