/**
 * The native addon of the npm package fuse-native (2.2.6), which runs the loop of libfuse 2 in threads of its own: each operation is a
 * call of a handler in the event loop, and its thread waits until the handler has signalled the answer.
 *
 * Its own JavaScript is left out, because it answers what is wrong or worse: it gives up an operation after 15 seconds, has sizes and offsets
 * as floating-point numbers, does not tell how much room an extended attribute has (libfuse then sends what is behind the buffer),
 * touches the mount point, and cannot set timeouts of 0 or most options of libfuse.
 */
import { createRequire } from 'node:module'
import { join, dirname } from 'node:path'
import { UsageError } from '../../src/domain/errors.ts'

/** A thread's place for its arguments and its answer (fuse_thread_locals_t); names the operation that it waits for. */
export type Locals = Buffer

/** What is called for an operation: the thread's place, the number of the operation, its arguments. */
export type Handler = (locals: Locals, operation: number, ...args: unknown[]) => void

/**
 * Gives the answer (0 or a count, or -errno) and lets the thread go on. What comes after it must have the type that the operation has
 * also when it failed: the thread would wait for ever otherwise. The memory behind a buffer among the arguments ends here.
 */
export type Signal = (locals: Locals, result: number, ...out: unknown[]) => void

export interface Binding {
  /** Bytes of a mount's state, which must stay where it is until the mount is gone. */
  readonly sizeof_fuse_thread_t: number
  /** Throws when libfuse cannot mount; libfuse says why on standard error. */
  fuse_native_mount(
    mountPoint: string,
    options: string,
    state: Buffer,
    self: object,
    allocate: (bytes: number) => Buffer,
    handlers: readonly Handler[],
    implemented: Uint32Array,
  ): void
  /** Lets the event loop end without it. Unmounts nothing. */
  fuse_native_unmount(mountPoint: string, state: Buffer): void
  operation(name: string): number
  signal(name: string): Signal
}

/** Where fuse_thread_locals_t has the times of utimens, on machines with 64-bit pointers, sizes and dev_t. */
const accessTimeOffset = 104
const modificationTimeOffset = 112

/**
 * The second time of utimens, in milliseconds: the addon hands out the first one twice. Undefined where memory does not look as it should:
 * the first time is not where it was.
 */
export const modificationTimeOf = (locals: Locals, accessMs: bigint): bigint | undefined =>
  locals.readBigInt64LE(accessTimeOffset) === accessMs ? locals.readBigInt64LE(modificationTimeOffset) : undefined

const install = 'it needs Linux on x86-64 and libfuse 2 (Debian: apt-get install libfuse2)'

const load = (): Record<string, unknown> => {
  const require = createRequire(import.meta.url)
  let directory: string
  try {
    directory = dirname(require.resolve('fuse-native/package.json'))
  } catch {
    throw new UsageError(
      `the driver fuse-native is the npm package fuse-native, which is not installed here: ${install}; then run npm ci again`,
    )
  }
  try {
    const find = createRequire(join(directory, 'index.js'))('node-gyp-build') as (directory: string) => unknown
    return find(directory) as Record<string, unknown>
  } catch (caught) {
    const [why] = (caught as Error).message.split('\n')
    throw new UsageError(`the driver fuse-native cannot be loaded (${why}): ${install}`)
  }
}

/** UsageError where the package or libfuse 2 is missing. */
export const fuseNative = (): Binding => {
  const addon = load()
  return {
    ...(addon as unknown as Pick<Binding, 'sizeof_fuse_thread_t' | 'fuse_native_mount' | 'fuse_native_unmount'>),
    operation: (name) => addon[`op_${name}`] as number,
    signal: (name) => addon[`fuse_native_signal_${name}`] as Signal,
  }
}
