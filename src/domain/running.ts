/**
 * A started process role (master, chunk server, mount), as whoever started it sees it.
 *
 * Invariant: `closed` settles exactly once, whether the role ended by itself or through `close`. It rejects with a UsageError when
 * the role ended by itself for a reason that a person can mend, and with anything else when it ended because of a bug.
 */
export interface Running {
  /** Where the role can be reached: host:port of its listener, or the directory of a mount. */
  readonly address: string
  readonly closed: Promise<void>
  /** Ends the role in good order; resolves when nothing of it runs any more. Harmless when called again. */
  close(): Promise<void>
}
