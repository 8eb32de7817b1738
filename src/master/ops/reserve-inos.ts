/** reserveInos: numbers for inodes that the client makes on its own. EINVAL (count not 1 .. 65536). Replies inoRange. */
import { PosixError } from '../../domain/errors.ts'
import type { ReserveInosRequest } from '../../protocol/gen/shoal/v1/session.pb.ts'
import { reserveNumbers } from './entries.ts'
import type { Operation } from './operation.ts'

export const inosPerRequestMax = 65_536

export const reserveInos: Operation<ReserveInosRequest> = (tx, { count }) => {
  if (count < 1 || count > inosPerRequestMax) throw new PosixError('EINVAL')
  return { $case: 'inoRange', value: { first: reserveNumbers(tx, count), count } }
}
