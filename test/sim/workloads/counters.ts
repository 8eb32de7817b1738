/**
 * A counter that several clients increment under a lock: lock, read, write one more, fsync, unlock. No two increments that succeeded may
 * give the same number, and the counter never falls below the greatest of them: a lock has one holder, and what fsync promised stays.
 */
import { openFlags } from '../mount.ts'
import type { Mount, Workload } from '../mount.ts'

const file = 'counter'
const valueBytes = 12
const end = (1n << 63n) - 1n

export class Counters implements Workload {
  readonly name = 'counters'
  readonly #numbers = new Map<number, string>()
  readonly #complaints: string[] = []

  async setUp(mount: Mount): Promise<void> {
    const { handle } = await mount.create(mount.root, file, openFlags.readWrite)
    await mount.write(handle, 0, Buffer.from('0'.padEnd(valueBytes)))
    await mount.fsync(handle)
    await mount.close(handle)
  }

  async step(mount: Mount): Promise<void> {
    await mount.think(500)
    const losses = mount.client.sessionsLost
    const ino = await mount.walk(file)
    const handle = await mount.open(ino, openFlags.readWrite)
    const owner = BigInt(mount.random.below(2 ** 32) + 1)
    const setlk = (type: 'write' | 'unlock'): Promise<void> =>
      mount.call(`${type} lock of ${ino} by ${owner}`, (fs, context) =>
        fs.setlk(context, ino, { owner, kind: 'posix', lock: { type, start: 0n, end, pid: 1 } }, { wait: true }),
      )
    try {
      await setlk('write')
      const number = await this.#number(mount, handle)
      // Long enough, now and then, to die with it.
      if (mount.random.below(3) === 0) await mount.think(500)
      await mount.write(handle, 0, Buffer.from(String(number + 1).padEnd(valueBytes)))
      await mount.fsync(handle)
      // A program whose lock was taken from it is told in no way that it could heed.
      if (losses === mount.client.sessionsLost) this.#succeeded(mount, number + 1)
      await setlk('unlock')
    } finally {
      if (mount.life.alive) {
        await mount
          .call(`flush ${handle}`, (fs, context) => fs.flush(context, handle, owner), { interruptible: false })
          .catch(() => undefined)
        await mount
          .call(`release ${handle}`, (fs) => fs.release(handle), { interruptible: false })
          .catch(() => undefined)
      }
    }
  }

  lost(): void {
    // Only what fsync has promised counts here.
  }

  async check(mounts: readonly Mount[]): Promise<string[]> {
    const found = [...this.#complaints]
    const greatest = Math.max(0, ...this.#numbers.keys())
    for (const mount of mounts) {
      const handle = await mount.open(await mount.walk(file), openFlags.readWrite)
      const number = await this.#number(mount, handle)
      await mount.closeAtLast(handle)
      if (number < greatest) found.push(`${mount.name} reads ${number}, but ${greatest} was reached`)
    }
    return found
  }

  async #number(mount: Mount, handle: bigint): Promise<number> {
    const text = (await mount.read(handle, 0, valueBytes)).toString('latin1')
    const number = Number(text)
    if (!Number.isInteger(number) || text.length !== valueBytes) {
      this.#complaints.push(`${mount.name} reads ${JSON.stringify(text)}, which is no number`)
    }
    return number
  }

  #succeeded(mount: Mount, number: number): void {
    const other = this.#numbers.get(number)
    if (other !== undefined) this.#complaints.push(`${mount.life.name} and ${other} both counted to ${number}`)
    this.#numbers.set(number, mount.life.name)
  }
}
