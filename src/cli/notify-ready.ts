/**
 * Tells systemd that the role can be used, for units with Type=notify and NotifyAccess=all. Node has no datagram sockets of the Unix
 * kind, so systemd-notify(1) does it; it waits until systemd has taken the message, so systemd still knows whose child it was.
 * Source: sd_notify(3).
 */
import { execFile } from 'node:child_process'
import type { Log } from '../platform/log.ts'

export const notifyReady = (log: Log): void => {
  const socket = process.env['NOTIFY_SOCKET']
  if (socket === undefined || socket === '') return
  // What this process starts later is not to speak for it.
  delete process.env['NOTIFY_SOCKET']
  execFile('systemd-notify', ['--ready'], { env: { ...process.env, NOTIFY_SOCKET: socket } }, (error) => {
    if (error !== null) log.error('systemd could not be told that this is ready', { cause: error })
  })
}
