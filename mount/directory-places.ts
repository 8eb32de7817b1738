/**
 * Where the kernel has seen each directory last, so that it lets go of one that another mount has moved.
 *
 * A directory has one dentry. When a LOOKUP finds it in another directory than before, the kernel moves its dentry, for which it needs
 * the lock of the mount's renames and that of the old parent (d_splice_alias). A rename(2) between two directories holds the first itself
 * while it looks up its names, and fails with ESTALE. So the old name is invalidated before such a LOOKUP is answered. That takes the lock
 * of the old parent, which the same rename may hold: then the wait ends after `waitMsMax`, the rename fails, which releases the lock, and
 * the kernel tries it once more.
 *
 * Invariant: a place has at most one directory, and a directory at most one place.
 * Source: fs/dcache.c, fs/namei.c and fs/fuse/dir.c of Linux 6.18.
 */
import type { Clock } from '../src/platform/clock.ts'
import { nameInvalidation } from './protocol.ts'

const waitMsMax = 20

interface Place {
  parent: bigint
  name: Buffer
}

export interface DirectoryPlacesOptions {
  clock: Clock
  /** False: the kernel keeps no name that nobody uses; what it uses stays. */
  cacheNames: boolean
  notify(message: Buffer, done: () => void): void
}

export class DirectoryPlaces {
  readonly #options: DirectoryPlacesOptions
  /** By node id of the directory. */
  readonly #places = new Map<bigint, Place>()
  /** Node ids, by place. */
  readonly #directories = new Map<string, bigint>()
  /** Old names that are being invalidated, by node id of the directory. */
  readonly #leaving = new Map<bigint, Promise<void>>()

  constructor(options: DirectoryPlacesOptions) {
    this.#options = options
  }

  /** A name leads to this directory; undefined: to something else. Gives what is to be waited for before the kernel is told. */
  told(place: Place, directory: bigint | undefined): Promise<void> | undefined {
    const key = keyOf(place)
    const before = this.#directories.get(key)
    if (before !== directory) {
      if (before !== undefined) this.#forgetPlace(before)
      if (directory !== undefined) this.#move(directory, { parent: place.parent, name: Buffer.from(place.name) })
    }
    return directory === undefined ? undefined : this.#leaving.get(directory)
  }

  /** The kernel has moved what is there itself. */
  renamed(source: Place, target: Place, isExchange: boolean): void {
    const moved = this.#directories.get(keyOf(source))
    const replaced = this.#directories.get(keyOf(target))
    for (const directory of [moved, replaced]) if (directory !== undefined) this.#forgetPlace(directory)
    if (moved !== undefined) this.#setPlace(moved, target)
    if (isExchange && replaced !== undefined) this.#setPlace(replaced, source)
  }

  /** The kernel has no dentry of it any more. */
  forgotten(directory: bigint): void {
    this.#forgetPlace(directory)
  }

  #move(directory: bigint, place: Place): void {
    const old = this.#places.get(directory)
    this.#forgetPlace(directory)
    this.#setPlace(directory, place)
    if (old === undefined || old.parent === place.parent || !this.#options.cacheNames) return
    const left = this.#invalidate(old).then(() => {
      if (this.#leaving.get(directory) === left) this.#leaving.delete(directory)
    })
    this.#leaving.set(directory, left)
  }

  #invalidate({ parent, name }: Place): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(waitMsMax, resolve)
      this.#options.notify(nameInvalidation(parent, name), () => {
        timer.cancel()
        resolve()
      })
    })
  }

  #setPlace(directory: bigint, place: Place): void {
    this.#places.set(directory, place)
    this.#directories.set(keyOf(place), directory)
  }

  #forgetPlace(directory: bigint): void {
    const place = this.#places.get(directory)
    if (place === undefined) return
    this.#places.delete(directory)
    this.#directories.delete(keyOf(place))
  }
}

const keyOf = ({ parent, name }: Place): string => `${parent}/${name.toString('latin1')}`
