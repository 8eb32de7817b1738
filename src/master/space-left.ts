/**
 * How much servers can still take together: what the disks can take counts, not what somebody promised, and a file system that several
 * servers share counts once.
 */
import type { Server } from './servers.ts'

export const roomOf = (servers: readonly Server[]): number => {
  const shared = new Map<string, { promised: number; room: number }>()
  for (const { id, freeBytes, fileSystem, fileSystemFreeBytes } of servers) {
    // A server that has sent no heartbeat yet stands for itself.
    const name = fileSystem === '' ? `server ${id}` : fileSystem
    const known = shared.get(name)
    const room = fileSystem === '' ? freeBytes : fileSystemFreeBytes
    shared.set(name, { promised: (known?.promised ?? 0) + freeBytes, room: Math.max(known?.room ?? 0, room) })
  }
  let free = 0
  for (const { promised, room } of shared.values()) free += Math.min(promised, room)
  return free
}
