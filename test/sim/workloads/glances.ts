/**
 * Looks at registers again and again, and gives up at once what is not answered at once: so something is asked of a client also when the master is
 * out of its reach and all other programs wait. What it has seen is judged with the registers.
 */
import { isErrno } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'
import type { Registers } from './registers.ts'

export class Glances implements Workload {
  readonly name = 'glances'
  readonly #registers: Registers

  constructor(registers: Registers) {
    this.#registers = registers
  }

  async setUp(): Promise<void> {
    // The registers make their files.
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(300)
    try {
      await this.#registers.glance(mount)
    } catch (caught) {
      if (!isErrno(caught, 'EINTR')) throw caught
    }
  }

  lost(): void {
    // The registers know.
  }

  async check(): Promise<string[]> {
    return []
  }
}
