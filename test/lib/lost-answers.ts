/** Faults of a master whose answers are lost: while `isOn`, requests are carried out and not answered. */
import type { FaultPoint, Faults } from '../../src/platform/faults.ts'

export class LostAnswers implements Faults {
  isOn = false
  count = 0

  point(name: FaultPoint): Promise<void> | undefined {
    if (!this.isOn || name !== 'master.request.answer') return undefined
    this.count++
    return new Promise(() => undefined)
  }
}
