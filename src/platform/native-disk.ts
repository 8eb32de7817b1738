/** The addon for disks (native/disk.c says what each function does); undefined where it was not built. */
import { loadAddon } from './native-addon.ts'

export interface NativeDisk {
  /** 0 or -errno. */
  punch(fd: number, offset: number, length: number): Promise<number>
  /** 0, -errno of a write, or errno of the sync. The array and its buffers must not change before it is done. */
  writeAndSync(fd: number, buffers: readonly Buffer[], positions: readonly number[]): Promise<number>
  addressWithin(buffer: Buffer, unit: number): number
  /** Not on every processor. */
  blockChecksums?(data: Buffer, unit: number, out: Buffer): void
}

export const nativeDisk = loadAddon('src/platform/native', 'shoal_disk') as NativeDisk | undefined
