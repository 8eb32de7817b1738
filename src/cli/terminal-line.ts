/** Lines for people, and below them on a terminal one line that is replaced in place. Without a terminal that line is not shown. */
export class TerminalLine {
  readonly #output: NodeJS.WriteStream
  #shown = ''

  constructor(output: NodeJS.WriteStream) {
    this.#output = output
  }

  get live(): boolean {
    return this.#output.isTTY
  }

  /** A line that stays. */
  say(text: string): void {
    this.#output.write(`${this.live ? '\r\u001b[K' : ''}${text}\n${this.#shown}`)
  }

  /** The line that is replaced, cut to the width of the terminal so that it never wraps. */
  show(text: string): void {
    if (!this.live) return
    // A terminal that does not know its width says 0.
    this.#shown = text.slice(0, (this.#output.columns || 80) - 1)
    this.#output.write(`\r\u001b[K${this.#shown}`)
  }

  clear(): void {
    if (this.#shown !== '') this.#output.write('\r\u001b[K')
    this.#shown = ''
  }
}
