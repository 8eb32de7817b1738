/**
 * Which lock owners have locked through which open file, so that locks of an open file description (F_OFD_SETLK) can be dropped
 * with it: the kernel says nothing about them at its end. The locks of a process (F_SETLK) are gone by then: each close(2) of a
 * process sends a FLUSH with its owner, which drops them. So the owners that are left at a RELEASE are the description's own.
 *
 * Invariant: an owner is listed under a handle from its first lock through it until a FLUSH of that owner on the same inode, or the
 * handle's RELEASE.
 */
import type { Ino } from '../src/domain/ids.ts'
import type { Handle } from '../src/client/file-system.ts'

interface Locked {
  ino: Ino
  owners: Set<bigint>
}

export class LockOwners {
  readonly #byHandle = new Map<Handle, Locked>()
  readonly #handlesOf = new Map<Ino, Set<Handle>>()

  add(handle: Handle, { ino, owner }: { ino: Ino; owner: bigint }): void {
    const locked = this.#byHandle.get(handle)
    if (locked !== undefined) {
      locked.owners.add(owner)
      return
    }
    this.#byHandle.set(handle, { ino, owners: new Set([owner]) })
    const handles = this.#handlesOf.get(ino)
    if (handles === undefined) this.#handlesOf.set(ino, new Set([handle]))
    else handles.add(handle)
  }

  /** The owner has closed a descriptor of the file and so lost all its locks on it. */
  flush(ino: Ino, owner: bigint): void {
    for (const handle of this.#handlesOf.get(ino) ?? []) this.#byHandle.get(handle)?.owners.delete(owner)
  }

  /** The owners whose locks end with the handle. */
  release(handle: Handle): { owners: ReadonlySet<bigint> } | undefined {
    const locked = this.#byHandle.get(handle)
    if (locked === undefined) return undefined
    this.#byHandle.delete(handle)
    const handles = this.#handlesOf.get(locked.ino)
    handles?.delete(handle)
    if (handles?.size === 0) this.#handlesOf.delete(locked.ino)
    return { owners: locked.owners }
  }
}
