/**
 * Answers that the kernel believes beyond the moment, from when they are made until it has taken them over for certain. It does that under
 * the lock of a directory (i_rwsem), which it holds alone for every change of the directory.
 *
 * | answers to            | key           | taken over when                                                                     |
 * |-----------------------|---------------|-------------------------------------------------------------------------------------|
 * | READDIR, READDIRPLUS  | open directory| the next request of the same open directory comes, or one that changes the directory |
 * | CREATE, MKDIR, …      | node id made  | a request about what was made comes, or one that changes the directory              |
 *
 * Source: fs/namei.c, fs/readdir.c, fs/fuse/dir.c of Linux 6.18: what was made can be found by others only after the lock was given back.
 */
export class UntakenAnswers {
  /** Node ids of the directories. */
  readonly #directoryOf = new Map<bigint, bigint>()
  readonly #keysOf = new Map<bigint, Set<bigint>>()
  #waiting: (() => void)[] = []

  told(key: bigint, directory: bigint): void {
    this.#directoryOf.set(key, directory)
    const keys = this.#keysOf.get(directory)
    if (keys === undefined) this.#keysOf.set(directory, new Set([key]))
    else keys.add(key)
  }

  /** The kernel has taken over what was told under this key, or never will. */
  taken(key: bigint): void {
    if (this.#directoryOf.size === 0) return
    const directory = this.#directoryOf.get(key)
    if (directory === undefined) return
    this.#directoryOf.delete(key)
    const keys = this.#keysOf.get(directory)
    keys?.delete(key)
    if (keys?.size === 0) this.#keysOf.delete(directory)
    this.#progress()
  }

  /** The same for all that was told about this directory. */
  allTaken(directory: bigint): void {
    const keys = this.#keysOf.get(directory)
    if (keys === undefined) return
    this.#keysOf.delete(directory)
    for (const key of keys) this.#directoryOf.delete(key)
    this.#progress()
  }

  /** Undefined: what was told under this key has been taken over. */
  directoryOf(key: bigint): bigint | undefined {
    return this.#directoryOf.get(key)
  }

  isUntaken(directory: bigint): boolean {
    return this.#keysOf.has(directory)
  }

  async untilTaken(directory: bigint): Promise<void> {
    while (this.isUntaken(directory)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  #progress(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}
