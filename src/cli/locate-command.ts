/** `shoal locate`: which servers hold which bytes of a file. */
import { Command } from 'commander'
import type { LocatePathReply, Piece } from '../protocol/gen/shoal/v1/admin.pb.ts'
import type { AdminOptions } from './administration.ts'
import { json, print, resolveClusterPath, withAdminOptions, withMaster } from './administration.ts'
import { formatBytes } from './quantity.ts'
import { table } from './status-text.ts'

const piecesPerPage = 4096

const places = ({ chunkId, replicas }: Piece): string => {
  if (chunkId === 0n) return 'allocated, never written'
  if (replicas.length === 0) return 'no copy is known'
  return replicas
    .map(({ serverId, state }) => (state === 'valid' ? `${serverId}` : `${serverId} (${state})`))
    .join(', ')
}

export const chunkName = (id: bigint): string => (id === 0n ? '-' : id.toString(16))

const text = (path: string, { size, copies, inline, ino }: LocatePathReply, pieces: readonly Piece[]): string[] => {
  const head = `${path}: inode ${ino}, ${formatBytes(size)} (${size} bytes), ${copies} copies`
  if (inline) return [`${head}, kept in the master`]
  if (pieces.length === 0) return [`${head}, no data`]
  return [
    head,
    ...table(
      ['from', 'bytes', 'chunk', 'at', 'on servers'],
      pieces.map((piece) => [
        `${piece.offset}`,
        `${piece.length}`,
        chunkName(piece.chunkId),
        `${piece.chunkOffset}`,
        places(piece),
      ]),
    ),
  ]
}

export const locateCommand = (): Command =>
  withAdminOptions(
    new Command('locate')
      .description('show which servers hold which bytes of a file')
      .argument('<path>', 'a file in a mount, or a path of the cluster that begins with /'),
  )
    .addHelpText(
      'after',
      `
Examples:
  shoal locate /mnt/shoal/films/a.mkv
  shoal locate --master 10.0.0.1:9320 /films/a.mkv --json | jq '.pieces[].replicas'

Exit code 1 when of some bytes no valid copy is known.`,
    )
    .action(async (given: string, options: AdminOptions) => {
      const target = await resolveClusterPath(given, options.master)
      const { path } = target
      await withMaster(
        { ...options, ...(target.master === undefined ? {} : { master: target.master }) },
        async (call) => {
          const pieces: Piece[] = []
          let reply = await call('locatePath', { path, offset: 0n, piecesMax: piecesPerPage })
          pieces.push(...reply.pieces)
          while (reply.nextOffset !== 0n) {
            reply = await call('locatePath', { path, offset: reply.nextOffset, piecesMax: piecesPerPage })
            pieces.push(...reply.pieces)
          }
          if (options.json === true) process.stdout.write(json({ path, ...reply, pieces }))
          else print(text(path, reply, pieces))
          const isLost = ({ chunkId, replicas }: Piece): boolean =>
            chunkId !== 0n && !replicas.some(({ state }) => state === 'valid')
          if (pieces.some(isLost)) process.exitCode = 1
        },
      )
    })
