/** Who wants to know what operations were carried out and how long each took; called once for each, so it has to be quick. */
export interface OperationObserver {
  /** `failed`: it was answered with an error, which may be the right answer. `bytes`: what it moved, of payload. */
  observe(operation: string, ms: number, outcome?: { failed?: boolean; bytes?: number }): void
}
