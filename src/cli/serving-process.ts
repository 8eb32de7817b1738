/**
 * Which process serves a mount: /run/shoal/DIR.pid, or in an ordinary user's own $XDG_RUNTIME_DIR/shoal, written by that process.
 * `shoal umount` needs it, because umount(8) returns before the process has written out what it had buffered. A file that is left over
 * is recognised, since its process is gone or is no mount; without the file (no right to write there) umount does not wait.
 */
import { mkdir, readFile, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const directory =
  process.getuid?.() === 0
    ? '/run/shoal'
    : join(process.env['XDG_RUNTIME_DIR'] ?? `/run/user/${process.getuid?.()}`, 'shoal')
const fileOf = (mountPoint: string): string => join(directory, `${encodeURIComponent(mountPoint).slice(0, 240)}.pid`)

export const rememberServingProcess = async (mountPoint: string, pid: number): Promise<void> => {
  try {
    await mkdir(directory, { recursive: true })
    await writeFile(fileOf(mountPoint), `${pid}\n`)
  } catch {
    // Unmounting works without it.
  }
}

const recorded = async (mountPoint: string): Promise<number | undefined> => {
  try {
    const pid = Number(await readFile(fileOf(mountPoint), 'utf8'))
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined
  } catch {
    return undefined
  }
}

export const forgetServingProcess = async (mountPoint: string, pid: number): Promise<void> => {
  if ((await recorded(mountPoint)) !== pid) return
  await unlink(fileOf(mountPoint)).catch(() => undefined)
}

/**
 * The process runs and is this role of Shoal, with these options on its command line; a process id may have been given to another
 * program since.
 */
export const isRoleAlive = async (pid: number, role: string, ...options: string[]): Promise<boolean> => {
  try {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
    // A process that has ended and was not waited for has no command line any more.
    return (
      [role, ...options].every((word) => words.includes(word)) && words.some((word) => /shoal(\.[jt]s)?$/.test(word))
    )
  } catch {
    return false
  }
}

/** The live process that serves the mount, if it is known. */
export const servingProcess = async (mountPoint: string): Promise<number | undefined> => {
  const pid = await recorded(mountPoint)
  return pid !== undefined && (await isRoleAlive(pid, 'mount')) ? pid : undefined
}
