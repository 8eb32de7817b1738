/** Asks a master how its cluster is, and says in one sentence why there is no answer. */
import { PosixError, UnavailableError, UsageError } from '../domain/errors.ts'
import type { Transport } from '../platform/transport.ts'
import { AdminDefinition, type StatusReply } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { callUnary } from '../protocol/rpc.ts'

/** For people only: nothing is decided by these. */
const reasons: readonly [RegExp, string][] = [
  [/ECONNREFUSED/, 'nothing listens there'],
  [/ENOTFOUND|EAI_AGAIN|[Nn]ame resolution|[Rr]esolution note: \S/, 'there is no such host'],
  [/EHOSTUNREACH|ENETUNREACH/, 'the host cannot be reached'],
  [/ECONNRESET|EPROTO|[Pp]rotocol error|UNIMPLEMENTED/, 'what listens there does not speak to us'],
  [/Connection dropped/, 'the connection broke'],
  [/[Dd]eadline|DEADLINE_EXCEEDED|ETIMEDOUT/, 'no answer in time'],
]

/** Why there was no answer, in few words. */
export const reasonOf = (message: string): string => reasons.find(([pattern]) => pattern.test(message))?.[1] ?? message

/** UsageError when there is no answer, or the answer is a refusal. */
export const fetchStatus = async (rpc: Transport, master: string, deadlineMs: number): Promise<StatusReply> => {
  try {
    return await callUnary(rpc, master, AdminDefinition, AdminDefinition.methods.status, {}, { deadlineMs })
  } catch (caught) {
    if (caught instanceof UnavailableError) {
      throw new UsageError(`no Shoal master answers at ${master}: ${reasonOf(caught.message)}`)
    }
    if (caught instanceof PosixError)
      throw new UsageError(`what answers at ${master} is no Shoal master: ${caught.message}`)
    throw caught
  }
}
