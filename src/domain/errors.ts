/**
 * The kinds of failure. A caller can react to each in its own way; anything that is none of them is a bug.
 *
 * - PosixError: an answer. The operation was carried out or refused, and this is what it says.
 * - UnavailableError: no answer. Whether the operation took effect may be unknown; it is retried with the same request id.
 * - UsageError: what the person who runs the program can mend; printed as it is, without a stack.
 */

/** errno names travel; numbers are looked up in mount/ only. */
export type ErrnoName =
  | 'E2BIG'
  | 'EACCES'
  | 'EAGAIN'
  | 'EBADF'
  | 'EBADMSG'
  | 'EBUSY'
  | 'EDEADLK'
  | 'EDQUOT'
  | 'EEXIST'
  | 'EFBIG'
  | 'EINTR'
  | 'EINVAL'
  | 'EIO'
  | 'EISDIR'
  | 'ELOOP'
  | 'EMFILE'
  | 'EMLINK'
  | 'ENAMETOOLONG'
  | 'ENODATA'
  | 'ENODEV'
  | 'ENOENT'
  | 'ENOLCK'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'ENOSYS'
  | 'ENOTCONN'
  | 'ENOTDIR'
  | 'ENOTEMPTY'
  | 'ENOTTY'
  | 'ENXIO'
  | 'EOPNOTSUPP'
  | 'EOVERFLOW'
  | 'EPERM'
  | 'EPROTO'
  | 'ERANGE'
  | 'EROFS'
  | 'ESTALE'
  | 'ETIMEDOUT'
  | 'ETXTBSY'
  | 'EXDEV'

const errnoNames: ReadonlySet<string> = new Set<ErrnoName>([
  'E2BIG',
  'EACCES',
  'EAGAIN',
  'EBADF',
  'EBADMSG',
  'EBUSY',
  'EDEADLK',
  'EDQUOT',
  'EEXIST',
  'EFBIG',
  'EINTR',
  'EINVAL',
  'EIO',
  'EISDIR',
  'ELOOP',
  'EMFILE',
  'EMLINK',
  'ENAMETOOLONG',
  'ENODATA',
  'ENODEV',
  'ENOENT',
  'ENOLCK',
  'ENOMEM',
  'ENOSPC',
  'ENOSYS',
  'ENOTCONN',
  'ENOTDIR',
  'ENOTEMPTY',
  'ENOTTY',
  'ENXIO',
  'EOPNOTSUPP',
  'EOVERFLOW',
  'EPERM',
  'EPROTO',
  'ERANGE',
  'EROFS',
  'ESTALE',
  'ETIMEDOUT',
  'ETXTBSY',
  'EXDEV',
])

export const isErrnoName = (value: string): value is ErrnoName => errnoNames.has(value)

/** For what is thrown in the ordinary course of things: collecting a stack takes longer than all the rest of it. */
export class StacklessError extends Error {
  constructor(message: string) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(message)
    Error.stackTraceLimit = stackTraceLimit
  }
}

/**
 * An answer that is a failure. The message is for people; decisions are made on the code alone. It has no stack: every file that is made
 * costs two of these (no such name, no such attribute).
 */
export class PosixError extends StacklessError {
  readonly code: ErrnoName

  constructor(code: ErrnoName, message: string = code) {
    super(message)
    this.name = 'PosixError'
    this.code = code
  }
}

/** No answer: the peer was away, cut off or too slow. */
export class UnavailableError extends Error {
  /** False only when it is certain that the peer did not act on the request. */
  readonly maybeCommitted: boolean

  constructor(message: string, options: { maybeCommitted: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'UnavailableError'
    this.maybeCommitted = options.maybeCommitted
  }
}

/** A mistake in arguments, configuration or a data directory: one sentence that says what is wrong and what to do. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

/** The code that stands for any caught value: an answer's own, ETIMEDOUT for no answer, EIO for a bug. */
export const errnoOf = (caught: unknown): ErrnoName => {
  if (caught instanceof PosixError) return caught.code
  if (caught instanceof UnavailableError) return 'ETIMEDOUT'
  return 'EIO'
}

/** Stops the operation (and, where nothing catches it, the process) that found a broken invariant. */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`broken invariant: ${message}`)
}
