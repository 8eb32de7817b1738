/**
 * Errors of writing back a file's data, each told once to each open handle, as Linux's errseq_t does it. A handle that is opened
 * later sees an error that nobody was told yet.
 */
import { PosixError } from '../domain/errors.ts'
import type { ErrnoName } from '../domain/errors.ts'

/** What a handle was told of. */
export interface ErrorCursor {
  seen: number
}

export class WriteErrors {
  #sequence = 0
  #code: ErrnoName = 'EIO'
  #told = true

  record(code: ErrnoName): void {
    this.#sequence++
    this.#code = code
    this.#told = false
  }

  get untold(): boolean {
    return !this.#told
  }

  cursor(): ErrorCursor {
    return { seen: this.#told ? this.#sequence : this.#sequence - 1 }
  }

  /** There is an error that this handle was not told of. */
  isNews(cursor: ErrorCursor): boolean {
    return cursor.seen !== this.#sequence
  }

  /** Throws an error that nobody was told yet, and was told now. */
  tell(): void {
    if (this.#told) return
    this.#told = true
    throw new PosixError(this.#code, 'data that was written earlier could not be stored')
  }

  /** Throws when there is an error that this handle was not told of. */
  check(cursor: ErrorCursor): void {
    if (!this.isNews(cursor)) return
    cursor.seen = this.#sequence
    this.#told = true
    throw new PosixError(this.#code, 'data that was written earlier could not be stored')
  }
}
