/** Asks a master something for an administrator, and says in one sentence why there is no answer, or what the master refused. */
import { PosixError, UnavailableError, UsageError } from '../domain/errors.ts'
import type { Transport } from '../platform/transport.ts'
import { AdminDefinition } from '../protocol/gen/shoal/v1/admin.pb.ts'
import { callUnary } from '../protocol/rpc.ts'
import { reasonOf } from './master-status.ts'

type Methods = (typeof AdminDefinition)['methods']
type RequestOf<Name extends keyof Methods> = ReturnType<Methods[Name]['requestType']['decode']>
type ReplyOf<Name extends keyof Methods> = ReturnType<Methods[Name]['responseType']['decode']>

/** UnavailableError, with a sentence for people, when there is no answer; UsageError when the answer is a refusal. */
export type AdminCall = <Name extends keyof Methods>(name: Name, request: RequestOf<Name>) => Promise<ReplyOf<Name>>

interface AnyMethod {
  name: string
  requestType: { encode(message: unknown): { finish(): Uint8Array }; decode(bytes: Uint8Array): unknown }
  responseType: { encode(message: unknown): { finish(): Uint8Array }; decode(bytes: Uint8Array): unknown }
}

export const adminClient =
  (rpc: Transport, master: string, deadlineMs: number): AdminCall =>
  async (name, request) => {
    const method = AdminDefinition.methods[name] as AnyMethod
    try {
      return (await callUnary(rpc, master, AdminDefinition, method, request, { deadlineMs })) as never
    } catch (caught) {
      if (caught instanceof UnavailableError) {
        const { maybeCommitted } = caught
        throw new UnavailableError(`no Shoal master answers at ${master}: ${reasonOf(caught.message)}`, {
          maybeCommitted,
        })
      }
      // The master's refusals are sentences for people.
      if (caught instanceof PosixError) throw new UsageError(caught.message)
      throw caught
    }
  }
