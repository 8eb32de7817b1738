/**
 * /dev/fuse: requests in, replies and notifications out. Two ways to do it:
 *
 * - `addon`: the native addon polls the non-blocking descriptor in the event loop and reads as long as there are requests.
 * - `fs`: Node's own fs.read with one read outstanding, which occupies a thread of libuv's pool. More of them are slower.
 *
 * Replies are written synchronously in both: writing to the device copies and wakes the caller up, and never waits. Notifications
 * do wait, for locks that a request in flight may hold, so they go to the thread pool, and only a few at a time.
 *
 * Request buffers are lent: `onRequest` returns true when it keeps the buffer, and gives it back when it is done with it.
 */
import { closeSync, constants, openSync, read, write, writeSync, writevSync } from 'node:fs'
import { UsageError } from '../src/domain/errors.ts'
import type { Clock, Timer } from '../src/platform/clock.ts'
import type { Log } from '../src/platform/log.ts'
import { errnoNumber } from './errno.ts'
import { nativeDevice } from './native-device.ts'
import type { NativeDevice } from './native-device.ts'
import { messageOf, requestBytesMax } from './protocol.ts'
import type { Message } from './protocol.ts'

const devicePath = '/dev/fuse'

export type DeviceKind = 'addon' | 'fs'

/** What became of a reply. */
export type Sent =
  | 'sent'
  /** The request is gone: the kernel gave it up. */
  | 'gone'
  /** The mount is gone. */
  | 'ended'
  /** The kernel does not take this as a reply; the caller still waits. */
  | 'refused'

export interface DeviceHandlers {
  /** A request; true: the buffer is kept until `giveBack`. Must not throw. */
  request(message: Message): boolean
  /** Called once: the file system was unmounted or the connection aborted. Nothing can be sent any more. */
  ended(): void
}

export interface Device {
  readonly kind: DeviceKind
  /** For the child process that mounts. */
  readonly fd: number
  /** Starts to read; waits until the descriptor is mounted. */
  start(handlers: DeviceHandlers): void
  giveBack(message: Message): void
  /** The first headBytes of head, and then data. */
  send(head: Buffer, headBytes: number, data?: Buffer): Sent
  /**
   * Sends a notification when those before it are through; `done` is called when the kernel is through with it, or the mount is gone.
   * Failures are of no interest: what is not cached need not be dropped.
   */
  notify(message: Buffer, done?: () => void, lane?: Lane): void
  /** Stops reading and closes the descriptor; as the last one that has it open it ends the connection. */
  close(): void
}

/** Requests handled before other events get their turn. */
const requestsPerTurnMax = 64
/** Request buffers of 1 MiB that are kept for reuse; under a heavier load they are made anew. */
const spareMax = 8
/**
 * Notifications under way, by what they wait for: `locks` of directories and pages of files, which requests under way may hold for long, or pages of
 * `listings`, for which such a request may be waiting. Leaves a thread of libuv's pool (4) to others.
 */
const laneMax = { locks: 2, listings: 1 } as const
export type Lane = keyof typeof laneMax

interface Notification {
  readonly message: Buffer
  readonly done: (() => void) | undefined
}
const mountPollMs = 2
/** What reading gives after an abort, with ABORT_ERROR; it never reaches an application. */
const econnaborted = 103

const isErrno = (caught: unknown, code: string): boolean => (caught as NodeJS.ErrnoException).code === code

const openDescriptor = (kind: DeviceKind): number => {
  try {
    return openSync(devicePath, constants.O_RDWR | (kind === 'addon' ? constants.O_NONBLOCK : 0))
  } catch (caught) {
    if (isErrno(caught, 'ENOENT') || isErrno(caught, 'ENODEV') || isErrno(caught, 'ENXIO')) {
      throw new UsageError(
        `there is no ${devicePath}: load the kernel module (modprobe fuse), or give the container the device (--device ${devicePath})`,
      )
    }
    if (isErrno(caught, 'EACCES') || isErrno(caught, 'EPERM')) {
      throw new UsageError(
        `no permission to open ${devicePath}: mount as root, or give the container the device and CAP_SYS_ADMIN`,
      )
    }
    throw caught
  }
}

/** SHOAL_FUSE_DEVICE=fs|addon decides; else the addon where it was built. */
const chooseKind = (asked: string | undefined): DeviceKind => {
  if (asked === 'fs') return 'fs'
  const built = nativeDevice() !== undefined
  if (asked === undefined || asked === '') return built ? 'addon' : 'fs'
  if (asked !== 'addon') throw new UsageError(`SHOAL_FUSE_DEVICE is "${asked}"; it can be fs or addon`)
  if (!built) throw new UsageError('the native FUSE device was not built; run node mount/native/build.mjs to see why')
  return 'addon'
}

/** UsageError when there is no device or no permission to open it. */
export const openDevice = (options: {
  clock: Clock
  log: Log
  kind?: string | undefined
  /** Opened and mounted by somebody else, non-blocking; the device's own from now on. */
  descriptor?: number | undefined
}): Device => {
  const { clock, log } = options
  const kind = chooseKind(options.descriptor === undefined ? options.kind : 'addon')
  const native = kind === 'addon' ? nativeDevice() : undefined
  const fd = options.descriptor ?? openDescriptor(kind)

  const spare: Message[] = []
  const lanes = {
    locks: { waiting: [] as Notification[], running: 0 },
    listings: { waiting: [] as Notification[], running: 0 },
  }
  let handlers: DeviceHandlers | undefined
  let watcher: object | undefined
  let retry: Timer | undefined
  /** A read of libuv's pool has the descriptor; it is closed when that is back. */
  let reading = false
  let state: 'open' | 'ended' | 'closed' = 'open'
  const isOpen = (): boolean => state === 'open'
  let descriptorClosed = false

  const takeBuffer = (): Message => spare.pop() ?? messageOf(Buffer.allocUnsafeSlow(requestBytesMax))
  const giveBack = (message: Message): void => {
    if (spare.length < spareMax) spare.push(message)
  }

  const unwatch = (): void => {
    if (watcher !== undefined) native?.unwatch(watcher)
    watcher = undefined
  }

  const closeDescriptor = (): void => {
    if (state !== 'closed' || reading || lanes.locks.running + lanes.listings.running > 0 || descriptorClosed) return
    descriptorClosed = true
    closeSync(fd)
  }

  const end = (): void => {
    if (state !== 'open') return
    state = 'ended'
    unwatch()
    for (const { waiting } of Object.values(lanes)) for (const { done } of waiting.splice(0)) done?.()
    handlers?.ended()
  }

  /** What to do after a read that gave an error. */
  const afterError = (errno: number): 'wait' | 'again' | 'unmounted' | 'end' => {
    if (errno === errnoNumber.EAGAIN) return 'wait'
    // A request was given up while it was copied, or a signal came.
    if (errno === errnoNumber.ENOENT || errno === errnoNumber.EINTR) return 'again'
    // Not mounted yet.
    if (errno === errnoNumber.EPERM) return 'unmounted'
    const expected = errno === errnoNumber.ENODEV || errno === econnaborted
    if (!expected) log.error('reading the FUSE device failed', { errno })
    return 'end'
  }

  const deliver = (message: Message, count: number): Message => {
    message.length = count
    return handlers?.request(message) === true ? takeBuffer() : message
  }

  /** Reads as long as there are requests. Returns false when the device has ended or is not mounted. */
  const readAddon = (device: NativeDevice): void => {
    let message = takeBuffer()
    for (let requests = 0; requests < requestsPerTurnMax && isOpen(); requests++) {
      const count = device.read(fd, message.bytes)
      if (count >= 0) {
        message = deliver(message, count)
        continue
      }
      const next = afterError(-count)
      if (next === 'again') continue
      if (next === 'end') end()
      if (next === 'unmounted') {
        unwatch()
        retry = clock.after(mountPollMs, () => startAddon(device))
      }
      break
    }
    giveBack(message)
  }

  const startAddon = (device: NativeDevice): void => {
    if (state !== 'open') return
    // The first read tells whether the descriptor is mounted; polling an unmounted one would call back without pause.
    const message = takeBuffer()
    const count = device.read(fd, message.bytes)
    if (count < 0 && afterError(-count) === 'unmounted') {
      giveBack(message)
      retry = clock.after(mountPollMs, () => startAddon(device))
      return
    }
    if (count < 0 && afterError(-count) === 'end') {
      giveBack(message)
      end()
      return
    }
    watcher = device.watch(fd, () => readAddon(device))
    giveBack(count >= 0 ? deliver(message, count) : message)
  }

  const readFs = (message: Message): void => {
    if (state !== 'open') return giveBack(message)
    reading = true
    read(fd, message.bytes, 0, message.bytes.length, null, (error, count) => {
      reading = false
      closeDescriptor()
      if (error === null) return readFs(deliver(message, count))
      const next = afterError(Math.abs(error.errno ?? errnoNumber.EIO))
      if (next === 'end') {
        giveBack(message)
        return end()
      }
      if (next === 'again') return readFs(message)
      retry = clock.after(mountPollMs, () => readFs(message))
    })
  }

  const sentOf = (errno: number): Sent => {
    if (errno === 0) return 'sent'
    if (errno === errnoNumber.ENOENT) return 'gone'
    if (errno === errnoNumber.ENODEV || errno === errnoNumber.EPERM || errno === econnaborted) return 'ended'
    log.error('the kernel refused a reply', { errno })
    return 'refused'
  }

  const sendFs = (head: Buffer, headBytes: number, data: Buffer | undefined): number => {
    try {
      if (data === undefined || data.length === 0) writeSync(fd, head, 0, headBytes)
      else writevSync(fd, [head.subarray(0, headBytes), data])
      return 0
    } catch (caught) {
      return Math.abs((caught as NodeJS.ErrnoException).errno ?? errnoNumber.EIO)
    }
  }

  const notifyNext = (name: Lane): void => {
    const lane = lanes[name]
    while (lane.running < laneMax[name] && isOpen()) {
      const notification = lane.waiting.shift()
      if (notification === undefined) return
      lane.running++
      write(fd, notification.message, (error) => {
        lane.running--
        notification.done?.()
        // ENOENT: the kernel does not have it cached.
        if (error !== null && error.code !== 'ENOENT' && state === 'open') {
          log.warn('the kernel refused an invalidation', { cause: error })
        }
        closeDescriptor()
        notifyNext(name)
      })
    }
  }

  return {
    kind,
    fd,
    start: (given) => {
      handlers = given
      if (native !== undefined) startAddon(native)
      else readFs(takeBuffer())
    },
    giveBack,
    send: (head, headBytes, data) => {
      if (state !== 'open') return 'ended'
      return sentOf(native === undefined ? sendFs(head, headBytes, data) : -native.write(fd, head, headBytes, data))
    },
    notify: (message, done, lane = 'locks') => {
      if (state !== 'open') return done?.()
      lanes[lane].waiting.push({ message, done })
      notifyNext(lane)
    },
    close: () => {
      if (state === 'closed') return
      retry?.cancel()
      end()
      state = 'closed'
      closeDescriptor()
    },
  }
}
