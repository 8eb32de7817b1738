/**
 * What the commands that look after a cluster share: which master they speak to, how they print, and how they follow something
 * that takes a while.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { Option } from 'commander'
import type { AdminCall } from '../main/admin-client.ts'
import { adminClient } from '../main/admin-client.ts'
import { UnavailableError, UsageError } from '../domain/errors.ts'
import { durationOption } from './duration-option.ts'
import { argument } from './failure.ts'
import { defaultMasterAddress, parseAddress, parseMountSource } from './address.ts'
import { isShoal, mountTable } from '../../mount/mount-table.ts'
import { mountPointPath } from './mount-point.ts'
import { TerminalLine } from './terminal-line.ts'
import { readUpState } from './up-state.ts'

export interface AdminOptions {
  master?: string
  json?: boolean
  timeout: number
}

/** Adds the options that each of these commands takes. */
export const withAdminOptions = (command: Command, { json = true }: { json?: boolean } = {}): Command => {
  command.addOption(
    new Option(
      '--master <host:port>',
      'the master (default: $SHOAL_MASTER, or the cluster in ./.shoal, or 127.0.0.1:9320)',
    ).argParser(argument(parseAddress)),
  )
  if (json) command.option('--json', 'print JSON')
  return command.addOption(durationOption('--timeout <duration>', 'how long to wait for an answer', '10s'))
}

/** SHOAL_MASTER, or the cluster that was started here by `shoal up`, or the default port on this machine. */
export const defaultMaster = async (): Promise<string> => {
  const fromEnvironment = process.env['SHOAL_MASTER']
  if (fromEnvironment !== undefined && fromEnvironment !== '') {
    try {
      return parseAddress(fromEnvironment)
    } catch (caught) {
      throw caught instanceof UsageError
        ? new UsageError(`SHOAL_MASTER = ${fromEnvironment}: ${caught.message}`)
        : caught
    }
  }
  const local = await readUpState('.shoal')
  return local === undefined ? defaultMasterAddress : `127.0.0.1:${local.masterPort}`
}

/** Runs with a connection to the master, and closes it. */
export const withMaster = async <T>(
  options: { master?: string; timeout: number },
  work: (call: AdminCall, master: string) => Promise<T>,
): Promise<T> => {
  const master = options.master ?? (await defaultMaster())
  const { grpcTransport } = await import('../platform/grpc-transport.ts')
  const rpc = grpcTransport()
  try {
    return await work(adminClient(rpc, master, options.timeout), master)
  } finally {
    await rpc.close()
  }
}

/**
 * A path as it was typed: within a mount of Shoal on this machine it is that file, and the mount's master is asked; with --master, or
 * elsewhere, it is a path from the root of the cluster. Nothing that is mounted is touched, so a mount that hangs does no harm.
 */
export const resolveClusterPath = async (
  path: string,
  given: string | undefined,
): Promise<{ path: string; master: string | undefined }> => {
  if (given === undefined) {
    const absolute = await mountPointPath(path)
    const inside = mountTable()
      .map((entry) => ({ entry, directory: entry.mountPoint.toString() }))
      .filter(({ directory }) => absolute === directory || absolute.startsWith(`${directory}/`))
      .toSorted((a, b) => a.directory.length - b.directory.length)
      .at(-1)
    if (inside && isShoal(inside.entry)) {
      const source = parsedSource(inside.entry.source)
      if (source) {
        const below = absolute.slice(inside.directory.length)
        return { path: `${source.rootPath === '/' ? '' : source.rootPath}${below}` || '/', master: source.master }
      }
    }
  }
  if (!path.startsWith('/')) {
    throw new UsageError(
      `"${path}" is in no mount of Shoal; name a file in a mount, or a path of the cluster that begins with /`,
    )
  }
  return { path, master: given }
}

const parsedSource = (source: string): { master: string; rootPath: string } | undefined => {
  try {
    return parseMountSource(source.replace(/^shoal[:#]/, ''))
  } catch {
    return undefined
  }
}

/** JSON with numbers where messages have bigints, and text where they have bytes. */
export const json = (value: unknown): string =>
  `${JSON.stringify(
    value,
    (_key, item: unknown) => {
      if (typeof item === 'bigint') return Number(item)
      if (isBufferJson(item)) return Buffer.from(item.data).toString('utf8')
      return item
    },
    2,
  )}\n`

/** What a Buffer has become before a replacer sees it. */
const isBufferJson = (item: unknown): item is { data: number[] } =>
  typeof item === 'object' && item !== null && 'type' in item && item.type === 'Buffer' && 'data' in item

export const print = (lines: readonly string[]): void => {
  process.stdout.write(`${lines.join('\n')}\n`)
}

/** What is followed goes on in a master that was started again, or is out of reach for a moment. */
const awayMsMax = 60_000

/**
 * Looks twice a second until there is nothing left to wait for, with a line that is replaced in place on a terminal. Rejects when the
 * master has not answered for `awayMsMax`.
 */
export const follow = async <T>(
  look: () => Promise<T>,
  options: { line: (value: T) => string; isOver: (value: T) => boolean },
): Promise<T> => {
  const terminal = new TerminalLine(process.stderr)
  let answeredMs = performance.now()
  for (;;) {
    let value: T
    try {
      value = await look()
      answeredMs = performance.now()
    } catch (caught) {
      if (!(caught instanceof UnavailableError) || performance.now() - answeredMs > awayMsMax) throw caught
      terminal.show(`${caught.message}; waiting for it`)
      await sleep(500)
      continue
    }
    if (options.isOver(value)) {
      terminal.clear()
      return value
    }
    terminal.show(options.line(value))
    await sleep(500)
  }
}

/** A server's number. */
export const parseServerId = (text: string): number => {
  const id = /^\d+$/.test(text) ? Number(text) : 0
  if (id < 1 || id > 0xffff_ffff)
    throw new UsageError('It has to be the number of a chunk server, as shoal servers shows it.')
  return id
}
