/**
 * One reading of a directory. What is known of its names under its lease is told from here, as far as it goes (see directory-names.ts); the
 * rest comes in pages from the master. Both have the same cookies, so a listing can change over at any entry.
 *
 * The kernel asks for less at a time than a page has, so the rest of a page is kept for its next request, for a second: whoever comes back to
 * a place in a directory later is told what is there then. What a page brings under leases is noted when it arrives; of an entry of a kept
 * page those attributes are told that are known at that moment, because the page's own may be old by then.
 *
 * What is made after a listing was begun is left out: a program that makes or renames an entry for each that it reads comes to an end.
 *
 * Invariant: between the moment when an entry with attributes is handed over and the return of `list` nothing is waited for, so that what
 * was said of its validity still holds when the answer goes out. So with `plus` a listing ends with each page.
 */
import type { Ino } from '../domain/ids.ts'
import { asIno } from '../domain/ids.ts'
import { S_IFDIR } from '../domain/mode.ts'
import type { DirectoryEntry as WireEntry, ReaddirReply } from '../protocol/gen/shoal/v1/session.pb.ts'
import type { Cached, KnownAttributes } from './cached.ts'

export const pageEntries = 512
/** As long as programs take for a part of a listing, or a little longer. */
const pageMs = 1000
/** Who goes on after this time has perhaps begun elsewhere meanwhile: threads of an NFS server read for many. */
const boundMs = 60_000
const dot = Buffer.from('.')
const dotDot = Buffer.from('..')

export interface Listed {
  name: Buffer
  ino: Ino
  type: number
  cookie: bigint
  attributes?: KnownAttributes
}

export interface Fetched {
  reply: ReaddirReply
  /** The newest that are known, of each entry. */
  attributes: readonly (KnownAttributes | undefined)[]
  /** The lease under which the entries are right. */
  under: Cached | undefined
}

export interface ListingSource {
  /** Asks the master, and takes note of what came with leases. */
  fetch(request: { ino: Ino; cookie: bigint; entriesMax: number; plus: boolean }): Promise<Fetched>
  /** What is known of the directory under a lease that can be used at this moment. */
  cached(directory: Ino): Cached | undefined
  /** Attributes that can be told without asking. */
  known(ino: Ino): KnownAttributes | undefined
  nowMs(): number
}

interface Page {
  after: bigint
  entries: readonly WireEntry[]
  end: boolean
  under: Cached | undefined
  atMs: number
}

interface PageOfEntries {
  page: Page
  attributesOf(index: number): KnownAttributes | undefined
}

export class DirectoryListing {
  readonly ino: Ino
  readonly #root: Ino
  readonly #source: ListingSource
  #page: Page | undefined
  #parent: Ino
  /** Entries from this cookie on were made after the listing was begun; undefined: not known yet. */
  #bound: bigint | undefined
  #usedMs = 0

  constructor(ino: Ino, root: Ino, source: ListingSource) {
    this.ino = ino
    this.#root = root
    this.#source = source
    this.#parent = root
  }

  /**
   * Entries after the cookie until `accept` says false, or with `plus` a page ends; none only at the end of the directory. Gives the lease
   * under which all of them were right when they were handed over, if there is one.
   */
  async list(
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: Listed) => boolean,
  ): Promise<Cached | undefined> {
    const nowMs = this.#source.nowMs()
    if (cookie === 0n || nowMs >= this.#usedMs + boundMs) this.#bound = undefined
    this.#usedMs = nowMs
    const cached = this.#source.cached(this.ino)
    if (cached !== undefined && this.#listKnown(cached, cookie, options, accept)) return cached
    let after = cookie > 2n ? cookie : 0n
    let fetched = await this.#pageAfter(after, options.plus, cookie === 0n)
    let { under } = fetched.page
    if (cookie < 1n && !accept({ name: dot, ino: this.ino, type: S_IFDIR, cookie: 1n })) return under
    if (cookie < 2n && !accept({ name: dotDot, ino: this.#parent, type: S_IFDIR, cookie: 2n })) return under
    for (;;) {
      for (const [index, entry] of fetched.page.entries.entries()) {
        if (entry.cookie <= after) continue
        if (this.#isNew(entry.cookie)) return under
        const listed: Listed = { name: entry.name, ino: asIno(entry.ino), type: entry.type, cookie: entry.cookie }
        const attributes = options.plus ? fetched.attributesOf(index) : undefined
        if (attributes !== undefined) listed.attributes = attributes
        if (!accept(listed)) return under
        after = entry.cookie
      }
      if (options.plus || fetched.page.end) return under
      fetched = await this.#pageAfter(after, false, true)
      if (fetched.page.under !== under) under = undefined
    }
  }

  /** False: nothing was told, and the master has to be asked. */
  #listKnown(
    { names }: Cached,
    cookie: bigint,
    options: { plus: boolean },
    accept: (entry: Listed) => boolean,
  ): boolean {
    const parent = this.ino === this.#root ? this.#root : names?.parent
    const entries = names?.after(cookie)
    if (entries === undefined) return false
    this.#bound ??= names?.nextCookie
    let told = 0
    if (cookie < 2n) {
      if (parent === undefined) return false
      if (cookie < 1n && !accept({ name: dot, ino: this.ino, type: S_IFDIR, cookie: 1n })) return true
      if (!accept({ name: dotDot, ino: parent, type: S_IFDIR, cookie: 2n })) return true
      told++
    }
    for (const { key, ino, type, cookie } of entries) {
      if (this.#isNew(cookie)) return true
      const listed: Listed = { name: Buffer.from(key, 'latin1'), ino, type, cookie }
      if (options.plus) {
        const attributes = this.#source.known(ino)
        // A page of the master brings it, and that of many others.
        if (attributes === undefined) return told > 0
        listed.attributes = attributes
      }
      if (!accept(listed)) return true
      told++
    }
    return true
  }

  #isNew(cookie: bigint): boolean {
    return this.#bound !== undefined && cookie >= this.#bound
  }

  /** With at least one entry after the cookie, unless that is the end. */
  async #pageAfter(cookie: bigint, plus: boolean, again: boolean): Promise<PageOfEntries> {
    const kept = this.#page
    if (kept !== undefined && !again && this.#source.nowMs() < kept.atMs + pageMs) {
      const last = kept.entries.at(-1)
      const within =
        cookie >= kept.after && last !== undefined && (cookie < last.cookie || (cookie === last.cookie && kept.end))
      if (within) return { page: kept, attributesOf: (index) => this.#source.known(asIno(kept.entries[index]!.ino)) }
    }
    const { reply, attributes, under } = await this.#source.fetch({
      ino: this.ino,
      cookie,
      entriesMax: pageEntries,
      plus,
    })
    this.#parent = this.ino === this.#root ? this.#root : asIno(reply.parent)
    if (reply.nextCookie > 0n) this.#bound ??= reply.nextCookie
    const page = { after: cookie, entries: reply.entries, end: reply.end, under, atMs: this.#source.nowMs() }
    this.#page = page
    return { page, attributesOf: (index) => attributes[index] }
  }
}
