/**
 * Names: lookup, and everything that makes, moves and removes them.
 *
 * What is known under leases is answered from here. A change is the master's; its outcome (see CallOptions.outcome) updates what is known
 * before any later answer of the master is looked at, also when the caller did not wait for it.
 */
import { PosixError } from '../domain/errors.ts'
import type { Ino } from '../domain/ids.ts'
import { asIno } from '../domain/ids.ts'
import { isDirectory } from '../domain/mode.ts'
import { LeaseMode } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { AttributesAndLease, Lease } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { ClientCore } from './client-core.ts'
import type { KnownAttributes } from './cached.ts'
import { noSuchName } from './directory-names.ts'
import { NoSuchName } from './file-system.ts'
import type { Context, Entry } from './file-system.ts'
import { isDots } from './names.ts'
import type { Place, Watch } from './names.ts'
import { callerOf } from './requests.ts'
import type { Operation, Result } from './requests.ts'
import { orAborted } from './waiting.ts'
import type { New } from './write-behind.ts'

/** What the outcome of a request made of a name. */
export interface Made {
  attributes: KnownAttributes
  entryMs: number
}

type RemoveOperation = Extract<Operation, { $case: 'unlink' | 'rmdir' }>

export class Namespace {
  readonly #core: ClientCore

  constructor(core: ClientCore) {
    this.#core = core
  }

  lookup(context: Context, parent: Ino, name: Buffer): Promise<Entry> {
    const known = this.#known(parent, name)
    if (known !== undefined) return known instanceof Error ? Promise.reject(known) : Promise.resolve(known)
    return this.#core.run(context, async (signal) => {
      if (await this.#core.removals.bring({ parent, name }, signal)) {
        const brought = this.#known(parent, name)
        if (brought instanceof Error) throw brought
        if (brought !== undefined) return brought
      }
      const found = await this.find(parent, name, signal)
      return this.#core.entry(found.attributes, found.entryMs)
    })
  }

  /** Asks the master. NoSuchName. */
  async find(parent: Ino, name: Buffer, signal: AbortSignal): Promise<Made> {
    const { names } = this.#core
    const watch = names.watch(parent)
    try {
      const reply = await this.#core.call({ $case: 'lookup', value: { parent, name } }, 'entry', signal)
      if (reply.attributes === undefined) {
        throw new NoSuchName(this.#learnName(watch, name, noSuchName, reply.parentLease))
      }
      const attributes = this.#core.learn(reply.attributes, reply.lease)
      return { attributes, entryMs: this.#learnName(watch, name, attributes.ino, reply.parentLease) }
    } finally {
      names.unwatch(watch)
    }
  }

  /** Takes note of a name that came with a lease on its directory; gives for how long the front end may believe it. */
  #learnName(watch: Watch, name: Buffer, ino: Ino, lease: Lease | undefined): number {
    const { names, leases, frontEnd } = this.#core
    const { directory } = watch
    if (watch.spoiled || !leases.current(directory, lease) || isDots(name)) return 0
    names.set(directory, leases.cached(directory)!, name, ino)
    return frontEnd.namesMs(directory)
  }

  mknod(context: Context, parent: Ino, name: Buffer, mode: number, rdev: number): Promise<Entry> {
    const value = { parent, name, mode, rdev, caller: callerOf(context), open: false }
    const here = this.#makeHere(context, { parent, name }, { kind: 'mknod', mode, open: false })
    if (here !== undefined) return here
    return this.#make(context, { parent, name }, { $case: 'mknod', value })
  }

  mkdir(context: Context, parent: Ino, name: Buffer, mode: number): Promise<Entry> {
    const here = this.#makeHere(context, { parent, name }, { kind: 'mkdir', mode })
    if (here !== undefined) return here
    const value = { parent, name, mode, caller: callerOf(context) }
    return this.#make(context, { parent, name }, { $case: 'mkdir', value })
  }

  symlink(context: Context, parent: Ino, name: Buffer, target: Buffer): Promise<Entry> {
    const here = this.#makeHere(context, { parent, name }, { kind: 'symlink', target })
    if (here !== undefined) return here
    const value = { parent, name, target, caller: callerOf(context) }
    return this.#make(context, { parent, name }, { $case: 'symlink', value })
  }

  link(context: Context, ino: Ino, parent: Ino, name: Buffer): Promise<Entry> {
    if (this.#isUnsettled(ino)) {
      return this.#core.run(context, async (signal) => {
        await this.#flushBuffered(ino, signal)
        return this.#link(context, ino, { parent, name })
      })
    }
    return this.#link(context, ino, { parent, name })
  }

  unlink(context: Context, parent: Ino, name: Buffer): Promise<void> {
    if (this.#removeHere(context, { parent, name }, 'unlink')) return Promise.resolve()
    return this.#remove(context, { parent, name }, { $case: 'unlink', value: { parent, name, keepsOpen: true } })
  }

  rmdir(context: Context, parent: Ino, name: Buffer): Promise<void> {
    if (this.#removeHere(context, { parent, name }, 'rmdir')) return Promise.resolve()
    return this.#remove(context, { parent, name }, { $case: 'rmdir', value: { parent, name } })
  }

  rename(context: Context, source: Place, target: Place, flags: number): Promise<void> {
    const { parent, name } = source
    const value = { parent, name, newParent: target.parent, newName: target.name, flags, keepsOpen: true }
    const { frontEnd } = this.#core
    return this.#core.run(context, async (signal) => {
      await this.#flushMoved(source, signal)
      if (flags === exchange) await this.#flushMoved(target, signal)
      if (this.#core.writeBehind.rename(context, source, target, flags)) return
      const inos = [this.#leadsTo(source), this.#leadsTo(target)]
      await this.#change([source, target], inos, { $case: 'rename', value }, 'changed', signal, (result, nameIs) => {
        if (result.$case !== 'changed') return
        const directories = source.parent === target.parent ? 1 : 2
        const moved = result.value.inodes[directories]?.attributes?.ino
        // Both names of one inode: nothing has happened.
        if (moved === undefined) return
        frontEnd.moved(source.parent, target.parent)
        this.#movedAway(asIno(moved))
        if (flags === exchange) {
          frontEnd.moved(target.parent, source.parent)
          const other = result.value.inodes[directories + 1]?.attributes?.ino
          if (other !== undefined) {
            this.#movedAway(asIno(other))
            nameIs(source, asIno(other))
          }
        } else nameIs(source, noSuchName)
        nameIs(target, asIno(moved))
      })
    })
  }

  /**
   * Makes a name. When the outcome is known `made` is called with it, before anything that the master answered later is looked at. `late`:
   * it was made after the caller had been told that it was not.
   */
  async make(
    place: Place,
    inos: readonly Ino[],
    operation: Operation,
    signal: AbortSignal,
    late?: (result: Result) => void,
  ): Promise<Made> {
    let made: Made | undefined
    const { frontEnd } = this.#core
    const learn = (result: Result, nameIs: (place: Place, ino: Ino) => boolean): void => {
      if (result.$case !== 'entry') return
      const attributes = this.#core.learn(result.value.attributes, result.value.lease)
      const cached = this.#core.leases.cached(attributes.ino)
      void frontEnd.forgetAttributes(attributes.ino, cached)
      const isNew = operation.$case === 'mkdir' && cached?.changeSeen === 1n && cached.names === undefined
      if (isNew && this.#core.leases.current(attributes.ino, result.value.lease))
        this.#core.names.beginEmpty(cached, place.parent)
      made = { attributes, entryMs: nameIs(place, attributes.ino) ? frontEnd.namesMs(place.parent) : 0 }
    }
    await this.#change([place], inos, operation, 'entry', signal, learn, late)
    if (made === undefined) throw new PosixError('EPROTO', 'the master made a name and does not say what it leads to')
    return made
  }

  #link(context: Context, ino: Ino, place: Place): Promise<Entry> {
    const made = this.#core.writeBehind.link(context, ino, place)
    if (made !== undefined) return Promise.resolve(this.#core.unbelievedEntry(made.attributes, made.entryMs))
    return this.#make(context, place, { $case: 'link', value: { ino, ...place } }, [ino])
  }

  #makeHere(context: Context, place: Place, what: New): Promise<Entry> | undefined {
    const here = this.#core.writeBehind.make(context, place, what)
    if (here === undefined) return undefined
    const { attributes, entryMs } = here.made
    return Promise.resolve(this.#core.entry(attributes, entryMs))
  }

  async #make(context: Context, place: Place, operation: Operation, inos: readonly Ino[] = []): Promise<Entry> {
    return this.#core.run(context, async (signal) => {
      const { attributes, entryMs } = await this.make(place, inos, operation, signal)
      return operation.$case === 'link'
        ? this.#core.unbelievedEntry(attributes, entryMs)
        : this.#core.entry(attributes, entryMs)
    })
  }

  #removeHere(context: Context, place: Place, kind: 'unlink' | 'rmdir'): boolean {
    const isDone = this.#core.writeBehind.remove(context, place, kind)
    if (isDone) this.#core.removals.removed(place.parent)
    return isDone
  }

  #remove(context: Context, place: Place, operation: RemoveOperation): Promise<void> {
    return this.#core.run(context, async (signal) => {
      const isBrought = await this.#core.removals.bring(place, signal)
      if (isBrought && this.#removeHere(context, place, operation.$case)) return
      const inos = [this.#leadsTo(place)]
      await this.#change(
        [place],
        inos,
        operation,
        'changed',
        signal,
        (_result, nameIs) => void nameIs(place, noSuchName),
      )
      this.#core.removals.removed(place.parent)
    })
  }

  /** A directory has perhaps another parent now. */
  #movedAway(ino: Ino): void {
    const names = this.#core.leases.cached(ino)?.names
    if (names !== undefined) names.parent = undefined
  }

  /** What a name leads to, as far as it is known here. */
  #leadsTo({ parent, name }: Place): Ino | undefined {
    const cached = this.#core.leases.usableCached(parent)
    return cached === undefined ? undefined : this.#core.names.get(cached, name)
  }

  /** What the name leads to is asked where it is not known and may matter. */
  async #flushMoved({ parent, name }: Place, signal: AbortSignal): Promise<void> {
    let ino = this.#leadsTo({ parent, name })
    if (ino === undefined && this.#core.inodes.anyUnsettled) {
      try {
        ino = (await this.find(parent, name, signal)).attributes.ino
      } catch (caught) {
        if (!(caught instanceof NoSuchName)) throw caught
      }
    }
    await this.#flushBuffered(ino, signal)
  }

  /**
   * A file that gets another name takes its content along: who puts a file in place that it has just written, by rename(2) or link(2), never
   * finds an empty one there, whatever dies meanwhile. ENOSPC, EIO: its content is lost and nobody knows it yet; then it gets no name.
   */
  async #flushBuffered(ino: Ino | undefined, signal: AbortSignal): Promise<void> {
    if (ino === undefined || !this.#isUnsettled(ino)) return
    await this.#core.withInode(ino, async (inode) => {
      await orAborted(this.#core.flush(inode), signal)
      inode.errors.tell()
    })
  }

  #isUnsettled(ino: Ino): boolean {
    return this.#core.inodes.get(ino)?.unsettled === true
  }

  /**
   * A request that changes these names, and what they lead to: `inos`, undefined for what is not known. `learn` tells what has become of
   * the names by `nameIs`, which is true when the name is known from now on; it is called with an answer that is no failure.
   */
  async #change(
    places: readonly Place[],
    inos: readonly (Ino | undefined)[],
    operation: Operation,
    kind: 'entry' | 'changed',
    signal: AbortSignal,
    learn: (result: Result, nameIs: (place: Place, ino: Ino) => boolean) => void,
    late?: (result: Result) => void,
  ): Promise<void> {
    const { names, leases, log } = this.#core
    const complete = new Set(
      places
        .map(({ parent }) => leases.cached(parent))
        .map((known) => (known?.names?.isComplete === true ? known.names : undefined)),
    )
    const forget = (): void => {
      for (const { parent, name } of places) names.remove(leases.cached(parent), name)
    }
    forget()
    const change = names.begin(places.map(({ parent }) => parent))
    const end = this.#core.changesInFlight.begin([...places.map(({ parent }) => parent), ...inos])
    const outcome = (result: Result | undefined): void => {
      end()
      const isAlone = change.end()
      forget()
      if (result === undefined || result.$case === 'failure') return
      const changed = changedOf(result)
      let left = places.length
      try {
        this.#core.learnChanged(changed)
        this.#keptOpen(changed)
        learn(result, ({ parent, name }, ino) => {
          const lease = changed.find(({ attributes }) => attributes?.ino === parent)?.lease
          if (!isAlone(parent) || !leases.current(parent, lease)) return false
          names.set(parent, leases.cached(parent)!, name, ino)
          left--
          return true
        })
        // Everything that was known of the directories is known again.
        if (left === 0) for (const { parent } of places) names.completeAgain(leases.cached(parent), complete)
      } catch (cause) {
        log.error('an answer of the master makes no sense', { operation: operation.$case, cause })
      }
    }
    await this.#core.call(operation, kind, signal, { outcome, ...(late === undefined ? {} : { late }) })
  }

  /** The master keeps what lost its last name open for this session when it holds a lease of it. */
  #keptOpen(changed: readonly AttributesAndLease[]): void {
    for (const { attributes, lease } of changed) {
      if (attributes === undefined || attributes.nlink > 0 || isDirectory(attributes.mode)) continue
      this.#core.vanished(asIno(attributes.ino))
      if (lease !== undefined && lease.mode !== LeaseMode.LEASE_MODE_NONE) this.#core.keptOpen(asIno(attributes.ino))
    }
  }

  #known(parent: Ino, name: Buffer): Entry | PosixError | undefined {
    const { leases, names, frontEnd } = this.#core
    const cached = leases.usableCached(parent)
    if (cached === undefined) return undefined
    const ino = names.get(cached, name)
    if (ino === undefined) return undefined
    if (ino === noSuchName) {
      leases.touch(parent)
      return new NoSuchName(frontEnd.namesMs(parent))
    }
    const attributes = this.#core.known(ino)
    if (attributes === undefined) return undefined
    leases.touch(parent)
    leases.touch(ino)
    return this.#core.entry(attributes, frontEnd.namesMs(parent))
  }
}

const exchange = 2

const changedOf = (result: Result) =>
  result.$case === 'entry' ? result.value.changed : result.$case === 'changed' ? result.value.inodes : []
