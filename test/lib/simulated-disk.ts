/**
 * A Disk in memory that keeps apart what was written and what would survive power loss.
 *
 * Fault model
 * - crash(): the machine loses power. Of the writes, truncations and punches of a file since its last sync, each is kept, lost or (a
 *   write) torn at a multiple of 512 bytes, independently of the others: later ones may survive earlier ones. What was synced stays.
 *   Of the changes of names (create, rename, unlink, mkdir) since the last syncDirectory of a directory concerned, the first few
 *   are kept and the rest is lost, as a journal does it. A new file whose name was lost is gone with its synced data.
 *   Every open file and lock of before is dead (EIO). Calls under way are carried out before or not at all.
 * - restart(): the process dies, the machine lives: nothing written is lost; open files and locks are dead.
 * - capacityBytes: writes beyond it fail with ENOSPC and change nothing; blocks are 4096 bytes, and holes cost nothing.
 * - fail(rule): calls of a kind on matching paths fail with a code, without effect, a number of times. A sync that fails leaves
 *   each of the changes since the last one on the medium, torn or not there, as a crash would. All of them can be read until a crash, but no
 *   later sync brings to the medium what is not written again: the kernel takes it for clean.
 * - misdirect(pattern): the next write to a file of such a path goes to another place: to another block, of this file or of another one of such a
 *   path. Its caller is told that all went well.
 * - flipBit(path, offset): one bit of the stored data changes, in the cache and on the medium.
 * Choices come from the seed alone. How long calls take is `wait`'s to say; one that it never lets go on belongs to a process that died.
 * Not modelled: links, permissions.
 */
import { PosixError, type ErrnoName } from '../../src/domain/errors.ts'
import { writeThenSync, type Disk, type DiskFile, type DiskSpace, type DiskWrite } from '../../src/platform/disk.ts'
import type { Random } from '../../src/platform/random.ts'
import { seededRandom } from './seeded-random.ts'

const blockBytes = 4096
const sectorBytes = 512

export type DiskCall =
  | 'open'
  | 'read'
  | 'write'
  | 'sync'
  | 'truncate'
  | 'punch'
  | 'stat'
  | 'readFile'
  | 'replaceFile'
  | 'mkdir'
  | 'list'
  | 'unlink'
  | 'rename'
  | 'syncDirectory'

export interface DiskFault {
  call: DiskCall
  /** All paths without it. */
  path?: RegExp
  code: ErrnoName
  /** How often; Infinity for ever. */
  times: number
}

export interface SimulatedDisk extends Disk {
  crash(): void
  restart(): void
  fail(fault: DiskFault): void
  clearFaults(): void
  setCapacity(bytes: number): void
  flipBit(path: string, offset: number): void
  misdirect(path: RegExp): void
  /** How often each call was made. */
  readonly calls: ReadonlyMap<DiskCall, number>
  /** What a file has now, without a call; undefined when there is none. */
  content(path: string): Buffer | undefined
  /** The part of a file that would be there if the power failed now and took all that was not synced; undefined when there is no file. */
  durable(path: string, offset: number, length: number): Buffer | undefined
  /** Every file's path, in the order of their making. */
  paths(): string[]
}

/** Content as blocks; a block that is missing is a hole. A block is never changed but replaced: images share them. */
interface Image {
  size: number
  blocks: Map<number, Buffer>
}

type Change =
  | { kind: 'write'; position: number; data: Buffer }
  | { kind: 'truncate'; length: number }
  | { kind: 'punch'; offset: number; length: number }

interface FileNode {
  kind: 'file'
  current: Image
  synced: Image
  unsynced: Change[]
}

interface DirectoryNode {
  kind: 'directory'
}

type Node = FileNode | DirectoryNode
type Names = Map<string, Node>

type NameChange =
  | { kind: 'put'; path: string; node: Node }
  | { kind: 'remove'; path: string }
  | { kind: 'rename'; source: string; target: string }

const parentOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf('/'), 0)) || '/'
const normal = (path: string): string => (path.length > 1 ? path.replace(/\/+$/, '') : path).replaceAll(/\/+/g, '/')
const copyOf = ({ size, blocks }: Image): Image => ({ size, blocks: new Map(blocks) })
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** What one call takes: when it is carried out, and when its caller learns it. */
export interface DiskTime {
  before(call: DiskCall | 'other'): Promise<void>
  after(call: DiskCall | 'other'): Promise<void>
}

const oneTurn: DiskTime = { before: turn, after: () => Promise.resolve() }

const withBytes = (block: Buffer | undefined, within: number, data: Buffer): Buffer => {
  const changed = block ? Buffer.from(block) : Buffer.alloc(blockBytes)
  data.copy(changed, within)
  return changed
}

const withZeros = (block: Buffer, from: number, to: number): Buffer => Buffer.from(block).fill(0, from, to)

/** A write's data belongs to the image afterwards. */
const applyChange = (image: Image, change: Change): void => {
  switch (change.kind) {
    case 'write': {
      let at = 0
      while (at < change.data.length) {
        const position = change.position + at
        const index = Math.floor(position / blockBytes)
        const within = position % blockBytes
        const length = Math.min(blockBytes - within, change.data.length - at)
        const data = change.data.subarray(at, at + length)
        image.blocks.set(index, length === blockBytes ? data : withBytes(image.blocks.get(index), within, data))
        at += length
      }
      if (change.data.length > 0) image.size = Math.max(image.size, change.position + change.data.length)
      return
    }
    case 'truncate': {
      for (const [index, block] of image.blocks) {
        if (index * blockBytes >= change.length) image.blocks.delete(index)
        else if ((index + 1) * blockBytes > change.length)
          image.blocks.set(index, withZeros(block, change.length - index * blockBytes, blockBytes))
      }
      image.size = change.length
      return
    }
    case 'punch': {
      const end = change.offset + change.length
      for (const [index, block] of image.blocks) {
        const start = index * blockBytes
        if (start >= end || start + blockBytes <= change.offset) continue
        if (start >= change.offset && start + blockBytes <= end) image.blocks.delete(index)
        else {
          const from = Math.max(0, change.offset - start)
          image.blocks.set(index, withZeros(block, from, Math.min(blockBytes, end - start)))
        }
      }
    }
  }
}

const readImage = (image: Image, buffer: Buffer, position: number): number => {
  const length = Math.max(0, Math.min(buffer.length, image.size - position))
  let at = 0
  while (at < length) {
    const within = (position + at) % blockBytes
    const size = Math.min(length - at, blockBytes - within)
    const block = image.blocks.get(Math.floor((position + at) / blockBytes))
    if (block) block.copy(buffer, at, within, within + size)
    else buffer.fill(0, at, at + size)
    at += size
  }
  return length
}

/** What the medium holds when not all that was to be written got there. */
const partlyWritten = (node: FileNode, random: Random): Image => {
  const image = copyOf(node.synced)
  for (const change of node.unsynced) {
    const fate = random.below(3)
    if (fate === 0) continue
    if (fate === 1 && change.kind === 'write') {
      const sectors = Math.ceil(change.data.length / sectorBytes)
      const torn = change.data.subarray(0, random.below(sectors + 1) * sectorBytes)
      applyChange(image, { ...change, data: torn })
    } else applyChange(image, change)
  }
  return image
}

const applyName = (names: Names, change: NameChange): void => {
  switch (change.kind) {
    case 'put':
      names.set(change.path, change.node)
      return
    case 'remove':
      names.delete(change.path)
      return
    case 'rename':
      if (change.source === change.target) return
      for (const [path, node] of names) {
        if (path !== change.source && !path.startsWith(`${change.source}/`)) continue
        names.delete(path)
        names.set(change.target + path.slice(change.source.length), node)
      }
  }
}

const concerns = (change: NameChange, directory: string): boolean =>
  change.kind === 'rename'
    ? parentOf(change.source) === directory || parentOf(change.target) === directory
    : parentOf(change.path) === directory

const byDirectory = (names: Names): Map<string, string[]> => {
  const listed = new Map<string, string[]>()
  for (const path of names.keys()) {
    if (path === '/') continue
    const name = path.slice(path.lastIndexOf('/') + 1)
    const siblings = listed.get(parentOf(path))
    if (siblings) siblings.push(name)
    else listed.set(parentOf(path), [name])
  }
  return listed
}

class Simulation implements SimulatedDisk {
  readonly calls = new Map<DiskCall, number>()
  private readonly random: Random
  private capacityBytes: number
  private names: Names = new Map([['/', { kind: 'directory' }]])
  private durableNames: Names = new Map(this.names)
  private nameChanges: NameChange[] = []
  private faults: DiskFault[] = []
  private misdirecting: RegExp | undefined
  private locks = new Map<string, symbol>()
  /** Grows with each crash or restart; files and locks of an earlier one are dead. */
  private life = 0
  private readonly time: DiskTime
  /** Names by directory; made anew when somebody lists after a change. */
  private listed: Map<string, string[]> | undefined

  constructor(options: { seed: number; capacityBytes: number; time: DiskTime }) {
    this.random = seededRandom(options.seed)
    this.time = options.time
    this.capacityBytes = options.capacityBytes
  }

  crash(): void {
    const survivors = this.random.below(this.nameChanges.length + 1)
    for (const change of this.nameChanges.slice(0, survivors)) applyName(this.durableNames, change)
    for (const node of new Set(this.durableNames.values())) {
      if (node.kind === 'directory') continue
      node.synced = partlyWritten(node, this.random)
      node.current = copyOf(node.synced)
      node.unsynced = []
    }
    this.names = new Map(this.durableNames)
    this.listed = undefined
    this.nameChanges = []
    this.restart()
  }

  restart(): void {
    this.life += 1
    this.locks = new Map()
  }

  fail(fault: DiskFault): void {
    this.faults.push({ ...fault })
  }

  clearFaults(): void {
    this.faults = []
    this.misdirecting = undefined
  }

  content(path: string): Buffer | undefined {
    const node = this.names.get(normal(path))
    if (node?.kind !== 'file') return undefined
    const content = Buffer.alloc(node.current.size)
    readImage(node.current, content, 0)
    return content
  }

  durable(path: string, offset: number, length: number): Buffer | undefined {
    const node = this.durableNames.get(normal(path))
    if (node?.kind !== 'file') return undefined
    const bytes = Buffer.alloc(length)
    return bytes.subarray(0, readImage(node.synced, bytes, offset))
  }

  paths(): string[] {
    return [...this.names].filter(([, node]) => node.kind === 'file').map(([path]) => path)
  }

  setCapacity(bytes: number): void {
    this.capacityBytes = bytes
  }

  flipBit(path: string, offset: number): void {
    const node = this.file(normal(path))
    for (const image of [node.current, node.synced]) {
      const index = Math.floor(offset / blockBytes)
      const block = image.blocks.get(index)
      if (!block) continue
      const flipped = Buffer.from(block)
      flipped[offset % blockBytes]! ^= 1
      image.blocks.set(index, flipped)
    }
  }

  misdirect(path: RegExp): void {
    this.misdirecting = path
  }

  /** Where a write really goes. */
  placeOf(path: string, node: FileNode, position: number): { node: FileNode; position: number } {
    if (this.misdirecting?.test(path) !== true) return { node, position }
    const pattern = this.misdirecting
    this.misdirecting = undefined
    const victims: FileNode[] = []
    for (const [name, other] of this.names) if (other.kind === 'file' && pattern.test(name)) victims.push(other)
    const victim = victims[this.random.below(Math.max(1, victims.length))] ?? node
    const block = this.random.below(Math.max(1, Math.ceil(victim.current.size / blockBytes)))
    return { node: victim, position: block * blockBytes + (position % blockBytes) }
  }

  async open(path: string, options: { create?: boolean; exclusive?: boolean } = {}): Promise<DiskFile> {
    const name = normal(path)
    return this.call('open', name, () => {
      let node = this.names.get(name)
      if (node && options.exclusive) throw new PosixError('EEXIST', `${name} exists`)
      if (node?.kind === 'directory') throw new PosixError('EISDIR', `${name} is a directory`)
      if (!node) {
        if (!options.create && !options.exclusive) throw new PosixError('ENOENT', `${name} is missing`)
        node = this.makeFile(name)
      }
      return new SimulatedFile(this, name, node)
    })
  }

  async readFile(path: string): Promise<Buffer | undefined> {
    const name = normal(path)
    return this.call('readFile', name, () => {
      if (!this.names.has(name)) return undefined
      const { current } = this.file(name)
      const content = Buffer.alloc(current.size)
      readImage(current, content, 0)
      return content
    })
  }

  async replaceFile(path: string, content: Buffer): Promise<void> {
    const name = normal(path)
    const temporary = `${name}.tmp`
    await this.call('replaceFile', name, () => {
      if (this.names.get(name)?.kind === 'directory') throw new PosixError('EISDIR', `${name} is a directory`)
      const node = this.makeFile(temporary)
      this.change(node, { kind: 'write', position: 0, data: Buffer.from(content) })
    })
    // A crash may come between any two steps.
    await this.step('sync', () => this.syncNode(this.file(temporary)))
    await this.step('rename', () => this.changeName({ kind: 'rename', source: temporary, target: name }))
    await this.step('syncDirectory', () => this.commitNames(parentOf(name)))
  }

  async mkdir(path: string): Promise<void> {
    const name = normal(path)
    return this.call('mkdir', name, () => {
      const missing: string[] = []
      for (let at = name; !this.names.has(at); at = parentOf(at)) missing.unshift(at)
      if (this.names.get(name)?.kind === 'file') throw new PosixError('EEXIST', `${name} is a file`)
      for (const each of missing) {
        this.parent(each)
        this.changeName({ kind: 'put', path: each, node: { kind: 'directory' } })
      }
    })
  }

  async list(path: string): Promise<string[]> {
    const name = normal(path)
    return this.call('list', name, () => {
      this.directory(name)
      this.listed ??= byDirectory(this.names)
      return [...(this.listed.get(name) ?? [])]
    })
  }

  async unlink(path: string): Promise<void> {
    const name = normal(path)
    return this.call('unlink', name, () => {
      if (!this.names.has(name)) return
      if (this.names.get(name)!.kind === 'directory') throw new PosixError('EISDIR', `${name} is a directory`)
      this.changeName({ kind: 'remove', path: name })
    })
  }

  async rename(source: string, target: string): Promise<void> {
    const [from, to] = [normal(source), normal(target)]
    return this.call('rename', from, () => {
      if (!this.names.has(from)) throw new PosixError('ENOENT', `${from} is missing`)
      this.parent(to)
      this.changeName({ kind: 'rename', source: from, target: to })
    })
  }

  async syncDirectory(path: string): Promise<void> {
    const name = normal(path)
    return this.call('syncDirectory', name, () => {
      this.directory(name)
      this.commitNames(name)
    })
  }

  async space(_path: string): Promise<DiskSpace> {
    await this.time.before('other')
    const freeBytes = Math.max(0, this.capacityBytes - this.usedBytes())
    return { fileSystem: 'simulated', totalBytes: this.capacityBytes, freeBytes }
  }

  async lock(path: string): Promise<{ release(): Promise<void> }> {
    const name = normal(path)
    await this.time.before('other')
    this.directory(name)
    if (this.locks.has(name)) throw new PosixError('EBUSY', `${name} is in use by another process`)
    const holder = Symbol(name)
    this.locks.set(name, holder)
    if (!this.names.has(`${name}/LOCK`)) this.makeFile(`${name}/LOCK`)
    return {
      release: async () => {
        if (this.locks.get(name) === holder) this.locks.delete(name)
      },
    }
  }

  /** Carries out one call, or fails it as the faults say; `failed` is what a failure does. */
  async call<T>(call: DiskCall, path: string, act: () => T, life = this.life, failed?: () => void): Promise<T> {
    this.calls.set(call, (this.calls.get(call) ?? 0) + 1)
    return this.step(
      call,
      () => {
        const fault = this.faults.find(
          (each) => each.call === call && each.times > 0 && (each.path?.test(path) ?? true),
        )
        if (fault) {
          fault.times -= 1
          failed?.()
          throw new PosixError(fault.code, `${call} ${path}: a simulated fault`)
        }
        return act()
      },
      life,
    )
  }

  isAlive(life: number): boolean {
    return life === this.life
  }

  currentLife(): number {
    return this.life
  }

  change(node: FileNode, change: Change): void {
    if (change.kind === 'write') {
      const first = Math.floor(change.position / blockBytes)
      const end = Math.ceil((change.position + change.data.length) / blockBytes)
      let added = 0
      for (let index = first; index < end; index++) if (!node.current.blocks.has(index)) added += blockBytes
      if (added > 0 && this.usedBytes() + added > this.capacityBytes) throw new PosixError('ENOSPC', 'the disk is full')
    }
    applyChange(node.current, change)
    node.unsynced.push(change)
  }

  syncNode(node: FileNode): void {
    for (const change of node.unsynced) applyChange(node.synced, change)
    node.unsynced = []
  }

  failSync(node: FileNode): void {
    node.synced = partlyWritten(node, this.random)
    node.unsynced = []
  }

  private async step<T>(call: DiskCall, act: () => T, life = this.life): Promise<T> {
    await this.time.before(call)
    if (!this.isAlive(life)) throw new PosixError('EIO', 'the machine went down')
    const result = act()
    await this.time.after(call)
    return result
  }

  private usedBytes(): number {
    let bytes = 0
    for (const node of this.names.values()) {
      if (node.kind === 'file') bytes += node.current.blocks.size * blockBytes
    }
    return bytes
  }

  private file(name: string): FileNode {
    const node = this.names.get(name)
    if (!node) throw new PosixError('ENOENT', `${name} is missing`)
    if (node.kind === 'directory') throw new PosixError('EISDIR', `${name} is a directory`)
    return node
  }

  private directory(name: string): void {
    const node = this.names.get(name)
    if (!node) throw new PosixError('ENOENT', `${name} is missing`)
    if (node.kind === 'file') throw new PosixError('ENOTDIR', `${name} is a file`)
  }

  private parent(name: string): void {
    this.directory(parentOf(name))
  }

  private makeFile(name: string): FileNode {
    this.parent(name)
    const empty = (): Image => ({ size: 0, blocks: new Map() })
    const node: FileNode = { kind: 'file', current: empty(), synced: empty(), unsynced: [] }
    this.changeName({ kind: 'put', path: name, node })
    return node
  }

  private changeName(change: NameChange): void {
    applyName(this.names, change)
    this.listed = undefined
    this.nameChanges.push(change)
  }

  private commitNames(directory: string): void {
    const last = this.nameChanges.findLastIndex((change) => concerns(change, directory))
    for (const change of this.nameChanges.splice(0, last + 1)) applyName(this.durableNames, change)
  }
}

class SimulatedFile implements DiskFile {
  private readonly disk: Simulation
  private readonly path: string
  private readonly node: FileNode
  private readonly life: number
  private closed = false

  constructor(disk: Simulation, path: string, node: FileNode) {
    this.disk = disk
    this.path = path
    this.node = node
    this.life = disk.currentLife()
  }

  read(buffer: Buffer, position: number): Promise<number> {
    return this.call('read', () => readImage(this.node.current, buffer, position))
  }

  write(buffers: readonly Buffer[], position: number): Promise<void> {
    return this.call('write', () => {
      const { node, position: at } = this.disk.placeOf(this.path, this.node, position)
      this.disk.change(node, { kind: 'write', position: at, data: Buffer.concat(buffers) })
    })
  }

  sync(): Promise<void> {
    return this.call(
      'sync',
      () => this.disk.syncNode(this.node),
      () => this.disk.failSync(this.node),
    )
  }

  writeAndSync(writes: readonly DiskWrite[]): Promise<Error | undefined> {
    return writeThenSync(this, writes)
  }

  truncate(length: number): Promise<void> {
    return this.call('truncate', () => this.disk.change(this.node, { kind: 'truncate', length }))
  }

  punch(range: { offset: number; length: number }): Promise<void> {
    return this.call('punch', () => this.disk.change(this.node, { kind: 'punch', ...range }))
  }

  stat(): Promise<{ size: number; allocatedBytes: number }> {
    return this.call('stat', () => ({
      size: this.node.current.size,
      allocatedBytes: this.node.current.blocks.size * blockBytes,
    }))
  }

  async close(): Promise<void> {
    this.closed = true
  }

  private call<T>(call: DiskCall, act: () => T, failed?: () => void): Promise<T> {
    if (this.closed) return Promise.reject(new PosixError('EBADF', `${this.path} is closed`))
    return this.disk.call(call, this.path, act, this.life, failed)
  }
}

/** See the top of the file. Paths are absolute; only "/" is there at first. */
export const simulatedDisk = (
  options: { seed?: number; capacityBytes?: number; time?: DiskTime } = {},
): SimulatedDisk =>
  new Simulation({
    seed: options.seed ?? 1,
    capacityBytes: options.capacityBytes ?? 1024 * 1024 * 1024,
    time: options.time ?? oneTurn,
  })
