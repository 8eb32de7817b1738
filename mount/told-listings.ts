/**
 * Answers to READDIR and READDIRPLUS, of which the kernel may keep names and the listing, from the moment when they are made until it has
 * taken them over for certain. That is so when the next request of the same open directory comes, or one that changes the directory: the kernel holds the
 * directory's lock while it reads an answer (i_rwsem, shared), and alone for every change.
 */
import type { Handle } from '../src/client/file-system.ts'

export class ToldListings {
  /** Node ids of the directories. */
  readonly #unread = new Map<Handle, bigint>()
  #waiting: (() => void)[] = []

  told(handle: Handle, directory: bigint): void {
    this.#unread.set(handle, directory)
  }

  /** The kernel has taken over what this open directory gave, or never will. */
  read(handle: Handle): void {
    if (this.#unread.delete(handle)) this.#progress()
  }

  /** The same for all that read this directory. */
  allRead(directory: bigint): void {
    if (this.#unread.size === 0) return
    for (const [handle, nodeId] of this.#unread) if (nodeId === directory) this.#unread.delete(handle)
    this.#progress()
  }

  isUnread(directory: bigint): boolean {
    for (const nodeId of this.#unread.values()) if (nodeId === directory) return true
    return false
  }

  async untilRead(directory: bigint): Promise<void> {
    while (this.isUnread(directory)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  #progress(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}
