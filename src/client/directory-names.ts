/**
 * The names that are known of one directory, under its lease: where each leads, and where it stands in a listing.
 *
 * A name's place in a listing is its cookie. The master numbers the names of a directory in the order in which they are made, and never gives a
 * number twice. So whoever alone changes a directory knows the number of each name that he makes, and can list the directory without
 * the master, with the same cookies.
 *
 * Invariant: `#listing` has every name with a cookie, in the order of the cookies, and some that are gone.
 * Invariant: where the names are complete, each name that exists is known.
 */
import { asIno } from '../domain/ids.ts'
import type { Ino } from '../domain/ids.ts'
import { cookieFirst } from '../domain/limits.ts'

/** In place of an inode: there is no such name. */
export const noSuchName = asIno(0n)

export interface NamedInode {
  /** The bytes of the name in latin1. */
  readonly key: string
  /** `noSuchName`: there is none, or none any more. */
  ino: Ino
  /** S_IFMT bits; 0 without a cookie. */
  type: number
  /** 0: not known. */
  readonly cookie: bigint
}

/** What one answer of the master told of a listing. */
export interface ListedPage {
  /** The cookie that it was asked to begin after; undefined: it may leave out names. */
  after: bigint | undefined
  entries: readonly NamedInode[]
  end: boolean
  parent: Ino
  /** The cookie of the next new name, used with `end`; 0 when it was not told. */
  nextCookie: bigint
}

/** Entries that are gone stay in the listing until there are this many, and more than half of it. */
const goneMin = 64

export class DirectoryNames {
  readonly #known = new Map<string, NamedInode>()
  #complete = false
  #listing: NamedInode[] = []
  /** Entries of the listing that lead nowhere any more. */
  #gone = 0
  /** Names that exist and have no cookie. */
  #unplaced = 0
  /** The cookie of the next new name; 0: not known. */
  #nextCookie = 0n
  /** All names up to this cookie are known. */
  #listedTo = 0n
  /** For ".."; undefined: not known. */
  parent: Ino | undefined

  /** The names of a directory that nobody has put anything into yet. */
  static ofEmpty(parent: Ino): DirectoryNames {
    const names = new DirectoryNames()
    names.#complete = true
    names.#nextCookie = cookieFirst
    names.parent = parent
    return names
  }

  get size(): number {
    return this.#known.size
  }

  /** The cookie of the next new name; undefined: not known. */
  get nextCookie(): bigint | undefined {
    return this.#nextCookie > 0n ? this.#nextCookie : undefined
  }

  get isComplete(): boolean {
    return this.#complete
  }

  /** No name exists, for certain. */
  get isEmpty(): boolean {
    if (!this.#complete) return false
    for (const { ino } of this.#known.values()) if (ino !== noSuchName) return false
    return true
  }

  /** undefined: not known. */
  get(key: string): Ino | undefined {
    return this.#known.get(key)?.ino ?? (this.#complete ? noSuchName : undefined)
  }

  /** What an answer said of a name, or of none. */
  learn(key: string, ino: Ino): void {
    const known = this.#known.get(key)
    if (known !== undefined && known.ino !== noSuchName && ino !== noSuchName) known.ino = ino
    else {
      this.#forget(known)
      this.#known.set(key, { key, ino, type: 0, cookie: 0n })
      if (ino !== noSuchName) this.#unplaced++
    }
  }

  /** This client has made the name, or has put something else in its place, which keeps its cookie. It alone changes the directory. */
  put(key: string, ino: Ino, type: number): void {
    const known = this.#known.get(key)
    if (known !== undefined && known.ino !== noSuchName) {
      known.ino = ino
      known.type = type
      return
    }
    const cookie = this.#nextCookie
    if (cookie > 0n) this.#nextCookie = cookie + 1n
    const named = { key, ino, type, cookie }
    this.#known.set(key, named)
    if (cookie > 0n) this.#listing.push(named)
    else this.#unplaced++
  }

  /** There is no such name any more. */
  vanished(key: string): void {
    this.#forget(this.#known.get(key))
    if (this.#complete) this.#known.delete(key)
    else this.#known.set(key, { key, ino: noSuchName, type: 0, cookie: 0n })
  }

  /** Somebody changes the name, and it is not known to what: nothing of the rest is complete any more, and places may change. */
  unknown(key: string): void {
    this.#forget(this.#known.get(key))
    this.#known.delete(key)
    this.#complete = false
    this.#nextCookie = 0n
    this.#listedTo = 0n
  }

  /** After a change whose outcome is known for all its names: what was complete before it, is. */
  completeAgain(): void {
    this.#complete = true
  }

  /** A part of a listing, as it is at this moment. */
  listed({ after, entries, end, parent, nextCookie }: ListedPage): void {
    for (const entry of entries) {
      const known = this.#known.get(entry.key)
      if (known !== undefined && known.cookie === entry.cookie) {
        known.ino = entry.ino
        known.type = entry.type
        continue
      }
      this.#forget(known)
      this.#known.set(entry.key, entry)
      this.#insert(entry)
    }
    this.parent = parent
    if (after === undefined || after > this.#listedTo) return
    const last = entries.at(-1)?.cookie ?? after
    if (last > this.#listedTo) this.#listedTo = last
    if (!end) return
    this.#complete = true
    this.#nextCookie = nextCookie
  }

  /** The listing after a cookie, without names that are gone; undefined: the master has to be asked. */
  after(cookie: bigint): IterableIterator<NamedInode> | undefined {
    if (!this.#complete || this.#unplaced > 0) return undefined
    return this.#from(this.#firstAfter(cookie))
  }

  *#from(start: number): Generator<NamedInode> {
    const listing = this.#listing
    for (let at = start; at < listing.length; at++) {
      const named = listing[at]!
      if (named.ino !== noSuchName) yield named
    }
  }

  #insert(named: NamedInode): void {
    const last = this.#listing.at(-1)
    if (last === undefined || last.cookie < named.cookie) this.#listing.push(named)
    else this.#listing.splice(this.#firstAfter(named.cookie), 0, named)
  }

  /** Index of the first entry with a greater cookie. */
  #firstAfter(cookie: bigint): number {
    let low = 0
    let high = this.#listing.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#listing[middle]!.cookie > cookie) high = middle
      else low = middle + 1
    }
    return low
  }

  /** It leads nowhere any more, wherever it stands. */
  #forget(named: NamedInode | undefined): void {
    if (named === undefined || named.ino === noSuchName) return
    named.ino = noSuchName
    if (named.cookie === 0n) {
      this.#unplaced--
      return
    }
    this.#gone++
    if (this.#gone < goneMin || this.#gone * 2 < this.#listing.length) return
    this.#listing = this.#listing.filter(({ ino }) => ino !== noSuchName)
    this.#gone = 0
  }
}
