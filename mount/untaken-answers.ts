/**
 * Answers that the kernel believes beyond the moment, from when they are made until it has taken them over for certain. It does that under
 * the lock of a directory (i_rwsem), which it holds alone for every change of the directory.
 *
 * | answers to            | key           | taken over when                                                                     |
 * |-----------------------|---------------|-------------------------------------------------------------------------------------|
 * | READDIR, READDIRPLUS  | thread        | the next request of the same thread comes, or one that changes the directory        |
 * | CREATE, MKDIR, …      | node id made  | a request about what was made comes, or one that changes the directory              |
 *
 * Source: fs/namei.c, fs/readdir.c, fs/fuse/dir.c of Linux 6.18: what was made can be found by others only after the lock was given back.
 */
import type { Device } from './device.ts'
import { nameInvalidation } from './protocol.ts'

/** No name that anybody looks up. */
const anyName = Buffer.from('.')
/** Beyond that the oldest count as taken over: a thread may be gone before it has asked for anything else. */
const answersMax = 16_384

export class UntakenAnswers {
  readonly #answers = new Map<bigint, Answer>()
  /** By the node id of the directory, by key. */
  readonly #ofDirectory = new Map<bigint, Map<bigint, Answer>>()
  /** Directories whose lock the kernel is asked to take, and the newest answer of which somebody wants to know. */
  readonly #asked = new Map<bigint, number>()
  #last = 0
  #waiting: (() => void)[] = []

  /** Number of the newest answer. What shows that the kernel is through with its answers shows it of those up to the one of then. */
  get last(): number {
    return this.#last
  }

  told(key: bigint, directory: bigint): void {
    this.taken(key)
    const answer = { directory, number: ++this.#last }
    this.#answers.set(key, answer)
    const answers = this.#ofDirectory.get(directory)
    if (answers === undefined) this.#ofDirectory.set(directory, new Map([[key, answer]]))
    else answers.set(key, answer)
    if (this.#answers.size > answersMax) for (const oldest of this.#answers.keys()) return this.taken(oldest)
  }

  /** The kernel has taken over what was told under this key, or never will. */
  taken(key: bigint): void {
    if (this.#answers.size === 0) return
    const answer = this.#answers.get(key)
    if (answer === undefined) return
    this.#drop(key, answer)
    this.#progress()
  }

  /** The same for all that was told about this directory, up to this number. */
  allTaken(directory: bigint, through = Infinity): void {
    const answers = this.#ofDirectory.get(directory)
    if (answers === undefined) return
    for (const [key, answer] of answers) if (answer.number <= through) this.#drop(key, answer)
    this.#progress()
  }

  /** Undefined: what was told under this key has been taken over. */
  directoryOf(key: bigint): bigint | undefined {
    return this.#answers.get(key)?.directory
  }

  isUntaken(directory: bigint, through = Infinity): boolean {
    for (const { number } of this.#ofDirectory.get(directory)?.values() ?? []) if (number <= through) return true
    return false
  }

  /**
   * Has the kernel take the lock of a directory, by an INVAL_ENTRY of any name: then it is through with all that it was told about it before, and
   * that counts as taken over. Who is to answer a request that holds that lock must not wait for it.
   */
  askForLock(device: Pick<Device, 'notify'>, directory: bigint): void {
    const isAsked = this.#asked.has(directory)
    this.#asked.set(directory, this.#last)
    if (isAsked) return
    const ask = (): void => {
      // What is told from now on may not have been taken over yet when the kernel is through with this.
      const last = this.#last
      device.notify(nameInvalidation(directory, anyName), () => {
        this.allTaken(directory, last)
        const wanted = this.#asked.get(directory)!
        if (wanted > last && this.isUntaken(directory, wanted)) ask()
        else this.#asked.delete(directory)
      })
    }
    ask()
  }

  async untilTaken(directory: bigint, through: number): Promise<void> {
    while (this.isUntaken(directory, through)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  #drop(key: bigint, { directory }: Answer): void {
    this.#answers.delete(key)
    const answers = this.#ofDirectory.get(directory)
    answers?.delete(key)
    if (answers?.size === 0) this.#ofDirectory.delete(directory)
  }

  #progress(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

interface Answer {
  readonly directory: bigint
  readonly number: number
}
