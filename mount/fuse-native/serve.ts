/**
 * Mounts a FileSystem through libfuse 2, and serves it: the driver for comparison with our own, and where ours cannot run.
 *
 * - Nobody but the owner of the mount may use it: libfuse's handlers do not learn who calls here, and a file that another user makes would
 *   belong to the owner, with the setuid bit that the user has asked for. So every caller has the owner's uid and gid.
 * - The kernel keeps neither names nor attributes nor pages (timeouts of 0, direct_io), since nothing here can tell it to forget them.
 * - libfuse ends in a thread of its own, and calls handlers until then, also when the mount is gone: it removes files that were unlinked
 *   while they were open. So the mount is over when its threads are.
 *
 * Source: fuse.h, lib/fuse.c and lib/mount.c of libfuse 2.9.9.
 */
import { existsSync, readdirSync } from 'node:fs'
import type { FileSystem } from '../../src/client/file-system.ts'
import { isErrnoName, PosixError, UsageError } from '../../src/domain/errors.ts'
import type { Clock, Timer } from '../../src/platform/clock.ts'
import type { Log } from '../../src/platform/log.ts'
import { callerOf } from '../caller.ts'
import type { Caller } from '../caller.ts'
import { errnoNumber } from '../errno.ts'
import { escapeOption } from '../mount-fusermount.ts'
import type { MountOptions } from '../mount-options.ts'
import { fuseNative } from './binding.ts'
import type { Handler, Locals } from './binding.ts'
import { operationsOf } from './operations.ts'

/** The addon's list of which operations there are. */
const operationsMax = 35
/** What the addon has room for, with the 0 at the end. */
const textBytesMax = 1024
/** The largest READ and WRITE of libfuse 2. */
const transferBytesMax = 128 * 1024
const threads = '/proc/self/task'
const endedPollMs = 100
/** Options of mount(8) that libfuse 2 takes; the others are for who notes when files were read, and that is not the kernel. */
const takenByLibfuse = new Set(['ro', 'rw', 'suid', 'nosuid', 'dev', 'nodev', 'exec', 'noexec', 'atime', 'noatime'])

/** Memory that libfuse's threads and the event loop refer to: it is never freed. */
const states: Buffer[] = []

const optionsFor = ({ forKernel, nonEmpty }: MountOptions, fsName: string): string =>
  `-o${[
    'default_permissions',
    'use_ino',
    'direct_io',
    'entry_timeout=0',
    'attr_timeout=0',
    'negative_timeout=0',
    'big_writes',
    `max_read=${transferBytesMax}`,
    `max_write=${transferBytesMax}`,
    'subtype=shoal',
    `fsname=${escapeOption(fsName)}`,
    // As mount(8) has it for root; libfuse starts from the opposite.
    ...(process.getuid?.() === 0 ? ['suid', 'dev'] : []),
    ...forKernel.filter((option) => takenByLibfuse.has(option)),
    ...(nonEmpty ? ['nonempty'] : []),
  ].join(',')}`

export interface FuseNativeServing {
  /** The mount is gone, and nothing is called any more. */
  done: Promise<void>
  /** Agreed with the kernel. */
  initialized: Promise<void>
  /** Whoever waits gets EINTR, whoever comes later EIO; resolves `done`. */
  close(): void
}

/** UsageError for what the person who mounts can mend. */
export const serveFuseNative = (options: {
  fileSystem: FileSystem
  /** Absolute; a directory. */
  mountPoint: string
  options: MountOptions
  fsName: string
  log: Log
  clock: Clock
}): FuseNativeServing => {
  const { fileSystem, mountPoint, log, clock } = options
  if (options.options.allowOther) {
    throw new UsageError(
      'the driver fuse-native cannot mount with -o allow_other: it does not learn who calls, so only the owner of the mount may use it',
    )
  }
  const mountOptions = optionsFor(options.options, options.fsName)
  if ([mountOptions, mountPoint].some((text) => Buffer.byteLength(text) >= textBytesMax))
    throw new UsageError('the driver fuse-native has no room for such long names of the source and the mount point')
  const binding = fuseNative()
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, pid: process.pid }
  const waiting = new Set<Caller>()
  let closed = false

  const codeOf = (operation: string, caught: unknown): number => {
    if (caught instanceof PosixError && isErrnoName(caught.code)) return -errnoNumber[caught.code]
    log.error('a FUSE request failed', { operation, cause: caught })
    return -errnoNumber.EIO
  }

  const handlers: Handler[] = Array.from({ length: operationsMax }, () => () => undefined)
  const implemented = new Uint32Array(operationsMax)
  for (const [name, { run, out }] of operationsOf(fileSystem)) {
    const signal = binding.signal(name)
    const serve = async (locals: Locals, args: readonly unknown[]): Promise<void> => {
      const caller = callerOf(owner)
      waiting.add(caller)
      let result = 0
      let answered = out(args)
      try {
        if (closed) throw new PosixError('EIO')
        const answer = await run({ caller, locals }, args)
        if (typeof answer === 'number') result = answer
        else if (answer !== undefined) answered = answer.out
      } catch (caught) {
        result = codeOf(name, caught)
      }
      waiting.delete(caller)
      signal(locals, result, ...answered)
    }
    handlers[binding.operation(name)] = (locals, _operation, ...args) => void serve(locals, args)
    implemented[binding.operation(name)] = 1
  }

  const initialized = new Promise<void>((resolve) => {
    const signal = binding.signal('init')
    handlers[binding.operation('init')] = (locals) => {
      signal(locals, 0)
      resolve()
    }
    implemented[binding.operation('init')] = 1
  })

  const state = Buffer.alloc(binding.sizeof_fuse_thread_t)
  states.push(state)
  const before = new Set(readdirSync(threads))
  try {
    binding.fuse_native_mount(
      mountPoint,
      mountOptions,
      state,
      {},
      (bytes) => Buffer.alloc(bytes),
      handlers,
      implemented,
    )
  } catch {
    throw new UsageError(
      `cannot mount on ${mountPoint}: libfuse has said why on standard error (an ordinary user needs the package fuse3)`,
    )
  }
  const ours = readdirSync(threads).filter((thread) => !before.has(thread))

  let end: () => void
  let timer: Timer | undefined
  const done = new Promise<void>((resolve) => (end = resolve))
  const look = (): void => {
    if (ours.some((thread) => existsSync(`${threads}/${thread}`))) timer = clock.after(endedPollMs, look)
    else end()
  }
  look()
  void done.then(() => binding.fuse_native_unmount(mountPoint, state))

  return {
    done,
    initialized,
    close: () => {
      closed = true
      for (const caller of waiting) caller.interrupt()
      timer?.cancel()
      end()
    },
  }
}
