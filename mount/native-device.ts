/** The native part of reading /dev/fuse, where it was built. */
import { loadAddon } from '../src/platform/native-addon.ts'

/** See native/addon.c. Numbers below 0 are -errno. */
export interface NativeDevice {
  watch(fd: number, callback: () => void): object
  unwatch(watcher: object): void
  read(fd: number, buffer: Buffer): number
  socketPair(): [ours: number, theirs: number]
  /** A descriptor, non-blocking. */
  receive(fd: number): number
  write(fd: number, head: Buffer, headBytes: number, data: Buffer | undefined): number
}

let loaded: { device: NativeDevice | undefined } | undefined

/** Undefined where the addon was not built. */
export const nativeDevice = (): NativeDevice | undefined => {
  loaded ??= { device: loadAddon('mount/native', 'shoal_fuse') as NativeDevice | undefined }
  return loaded.device
}
