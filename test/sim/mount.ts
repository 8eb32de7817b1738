/**
 * One life of a client as a workload sees it: every call is traced, bounded and judged. A call ends with an answer within its deadline, and
 * with no error that the promises exclude.
 */
import type { Context, Entry, FileSystem, Handle } from '../../src/client/file-system.ts'
import { Interrupt } from '../../src/client/interrupt.ts'
import { operationDeadlineMs } from '../../src/client/operation-guard.ts'
import { PosixError } from '../../src/domain/errors.ts'
import type { ErrnoName } from '../../src/domain/errors.ts'
import type { Ino } from '../../src/domain/ids.ts'
import type { Random } from '../../src/platform/random.ts'
import type { Life } from '../lib/simulated-time.ts'
import type { SimulatedClient, SimulatedCluster } from './simulated-cluster.ts'

/** The process that called is gone; nobody hears what came of it. */
export class LifeEnded extends Error {
  constructor() {
    super('the client died')
    this.name = 'LifeEnded'
  }
}

/** A tick and a pause of the machine more than the deadline. */
const graceMs = 5_000

export const isErrno = (caught: unknown, ...codes: ErrnoName[]): boolean =>
  caught instanceof PosixError && codes.includes(caught.code)

export const openFlags = { readWrite: 2, create: 0o100, exclusive: 0o200, truncate: 0o1000, append: 0o2000 } as const

export class Mount {
  readonly client: SimulatedClient
  readonly fileSystem: FileSystem
  readonly life: Life
  readonly random: Random
  readonly #cluster: SimulatedCluster
  /** No error at all is due: nothing happens that could cost this client anything. */
  readonly #isErrorExcused: () => boolean
  /** 0: none is interrupted. */
  readonly #interruptsOneIn: () => number

  constructor(options: {
    cluster: SimulatedCluster
    client: SimulatedClient
    fileSystem: FileSystem
    life: Life
    random: Random
    isErrorExcused: () => boolean
    interruptsOneIn: () => number
  }) {
    this.#cluster = options.cluster
    this.client = options.client
    this.fileSystem = options.fileSystem
    this.life = options.life
    this.random = options.random
    this.#isErrorExcused = options.isErrorExcused
    this.#interruptsOneIn = options.interruptsOneIn
  }

  get root(): Ino {
    return this.fileSystem.root
  }

  /** The clock of its machine. */
  readonly nowMs = (): number => this.client.process.clock!.nowMs()

  get name(): string {
    return this.client.host
  }

  /** PosixError or LifeEnded. A few calls are interrupted; what became of them is unknown. */
  async call<T>(
    what: string,
    act: (fileSystem: FileSystem, context: Context) => Promise<T>,
    options: { interruptible?: boolean; needsLease?: boolean; patienceMs?: number } = {},
  ): Promise<T> {
    const { time, trace } = this.#cluster
    if (!this.life.alive) throw new LifeEnded()
    const startMs = time.nowMs
    const interrupt = new Interrupt()
    const context: Context = { uid: 0, gid: 0, pid: 1, umask: 0o022, signal: interrupt.signal }
    const oneIn = options.interruptible === false ? 0 : this.#interruptsOneIn()
    if (oneIn > 0 && this.random.below(oneIn) === 0) {
      time.post(this.life, this.random.below(20_000) / 1000, () => interrupt.abort())
    }
    if (options.patienceMs !== undefined) time.post(this.life, options.patienceMs, () => interrupt.abort())
    trace.line(this.name, `${what} …`)
    try {
      const result = await new Promise<T>((resolve, reject) => {
        const forget = this.life.onEnd(() => reject(new LifeEnded()))
        const watch = time.post(this.life, operationDeadlineMs * 1.05 + graceMs, () =>
          this.#cluster.violation(`${this.name}: ${what} has no answer after ${time.nowMs - startMs} ms`),
        )
        act(this.fileSystem, context)
          .then(resolve, reject)
          .finally(() => {
            forget()
            watch.cancel()
          })
          .catch(() => undefined)
      })
      trace.line(this.name, `${what} done`)
      if (options.needsLease === true) this.#checkLease(what, startMs)
      return result
    } catch (caught) {
      trace.line(
        this.name,
        `${what} ${caught instanceof PosixError ? `${caught.code} ${caught.message}` : String(caught)}`,
      )
      if (caught instanceof PosixError) {
        const isUnexpected =
          caught.code === 'EIO' ||
          caught.code === 'EPROTO' ||
          (caught.code === 'EINTR' && !interrupt.aborted && this.client.sessionsLost === 0)
        const excused = this.client.sessionsLost > 0 || this.#isErrorExcused()
        if (isUnexpected && !excused)
          this.#cluster.violation(`${this.name}: ${what} failed: ${caught.code} ${caught.message}`)
      } else if (!(caught instanceof LifeEnded)) {
        this.#cluster.violation(`${this.name}: ${what} threw ${String(caught)}`)
      }
      throw caught
    }
  }

  /** Leases by true time: once the master may have given them to others, nothing is answered from what they covered. */
  #checkLease(what: string, startMs: number): void {
    const since = this.#cluster.unheardSinceMs(this.client)
    if (since === undefined || startMs - since <= this.#cluster.leaseMsMin) return
    this.#cluster.violation(
      `${this.name}: ${what} was answered although the master had not heard of it for ${(startMs - since).toFixed(0)} ms`,
    )
  }

  /** Lets up to this much time pass, as programs do between calls. */
  async think(msMax: number): Promise<void> {
    await this.#cluster.time.sleep(this.random.below(msMax * 1000) / 1000)
    if (!this.life.alive) throw new LifeEnded()
  }

  lookup(parent: Ino, name: string): Promise<Entry> {
    return this.call(`lookup ${parent}/${name}`, (fs, context) => fs.lookup(context, parent, Buffer.from(name)), {
      needsLease: true,
    })
  }

  async walk(path: string): Promise<Ino> {
    let ino = this.root
    for (const name of path.split('/').filter((part) => part !== ''))
      ino = (await this.lookup(ino, name)).attributes.ino
    return ino
  }

  async mkdir(parent: Ino, name: string): Promise<Ino> {
    const entry = await this.call(`mkdir ${parent}/${name}`, (fs, context) =>
      fs.mkdir(context, parent, Buffer.from(name), 0o755),
    )
    return entry.attributes.ino
  }

  async open(ino: Ino, flags: number): Promise<Handle> {
    return (await this.call(`open ${ino} ${flags.toString(8)}`, (fs, context) => fs.open(context, ino, flags))).handle
  }

  create(parent: Ino, name: string, flags: number): Promise<{ ino: Ino; handle: Handle }> {
    return this.call(`create ${parent}/${name} ${flags.toString(8)}`, async (fs, context) => {
      const { entry, opened } = await fs.create(context, parent, Buffer.from(name), 0o644, flags)
      return { ino: entry.attributes.ino, handle: opened.handle }
    })
  }

  unlink(parent: Ino, name: string): Promise<void> {
    return this.call(`unlink ${parent}/${name}`, (fs, context) => fs.unlink(context, parent, Buffer.from(name)), {
      needsLease: true,
    })
  }

  rename(source: { parent: Ino; name: string }, target: { parent: Ino; name: string }, flags: number): Promise<void> {
    const place = ({ parent, name }: { parent: Ino; name: string }): { parent: Ino; name: Buffer } => ({
      parent,
      name: Buffer.from(name),
    })
    return this.call(`rename ${source.parent}/${source.name} to ${target.parent}/${target.name}`, (fs, context) =>
      fs.rename(context, place(source), place(target), flags),
    )
  }

  /** Interrupted when there is no answer for so long. */
  read(handle: Handle, offset: number, length: number, patience: { patienceMs?: number } = {}): Promise<Buffer> {
    return this.call(
      `read ${handle} ${offset}+${length}`,
      (fs, context) => fs.read(context, handle, BigInt(offset), length),
      { ...patience, needsLease: true },
    )
  }

  write(handle: Handle, offset: number, data: Buffer): Promise<void> {
    return this.call(
      `write ${handle} ${offset}+${data.length}`,
      (fs, context) => fs.write(context, handle, BigInt(offset), data, { killPrivileges: false }),
      { needsLease: true },
    )
  }

  append(handle: Handle, data: Buffer): Promise<void> {
    return this.call(
      `append ${handle} ${data.length}`,
      (fs, context) => fs.write(context, handle, 0n, data, { killPrivileges: false, append: true }),
      { needsLease: true },
    )
  }

  fsync(handle: Handle): Promise<void> {
    return this.call(`fsync ${handle}`, (fs, context) => fs.fsync(context, handle, false))
  }

  /** close(2). */
  async close(handle: Handle): Promise<void> {
    try {
      await this.call(`flush ${handle}`, (fs, context) => fs.flush(context, handle, 0n), {
        interruptible: false,
      })
    } finally {
      if (this.life.alive) await this.call(`release ${handle}`, (fs) => fs.release(handle), { interruptible: false })
    }
  }

  /** The same at the end of everything: an error that was kept for the file has been judged already. */
  async closeAtLast(handle: Handle): Promise<void> {
    await this.close(handle).catch((caught: unknown) => {
      if (!(caught instanceof PosixError)) throw caught
    })
  }

  /** Names in a directory without "." and "..". */
  async list(ino: Ino): Promise<string[]> {
    const names: string[] = []
    let cookie = 0n
    for (;;) {
      const before = cookie
      await this.call(`readdir ${ino} ${cookie}`, (fs, context) =>
        fs.readdir(context, ino, cookie, { plus: false }, (entry) => {
          const name = entry.name.toString()
          if (name !== '.' && name !== '..') names.push(name)
          ;({ cookie } = entry)
          return true
        }),
      )
      if (cookie === before) break
    }
    return names
  }
}

export interface Workload {
  readonly name: string
  /** Once, before anything fails. */
  setUp(mount: Mount): Promise<void>
  /** One step of a program on one client; what it throws ends nothing. */
  step(mount: Mount): Promise<void>
  /** What the client had buffered may be gone. */
  lost(client: SimulatedClient): void
  /** At the end, when everything is well again: what is there now. Returns what is wrong. */
  check(mounts: readonly Mount[]): Promise<string[]>
}
