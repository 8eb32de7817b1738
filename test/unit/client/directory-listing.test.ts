import t from 'tap'
import { DirectoryListing } from '../../../src/client/directory-listing.ts'
import { asIno } from '../../../src/domain/ids.ts'
import type { DirectoryEntry } from '../../../src/protocol/gen/shoal/v1/session.pb.ts'

const directory = asIno(7n)

/** A directory of the master whose names are f3, f4, …, of which a page has four. */
const setUp = (entries: number) => {
  const state = { nowMs: 0, entries, fetches: 0 }
  const at = (cookie: bigint): DirectoryEntry => ({
    name: Buffer.from(`f${cookie}`),
    ino: cookie + 100n,
    type: 0o100000,
    cookie,
    attributes: undefined,
    lease: undefined,
  })
  const listing = new DirectoryListing(directory, asIno(2n), {
    cached: () => undefined,
    known: () => undefined,
    nowMs: () => state.nowMs,
    fetch: async ({ cookie }) => {
      state.fetches++
      const last = BigInt(state.entries) + 2n
      const found: DirectoryEntry[] = []
      for (let next = cookie < 2n ? 3n : cookie + 1n; next <= last && found.length < 4; next++) found.push(at(next))
      const end = found.length === 0 || found.at(-1)?.cookie === last
      const reply = { entries: found, end, parent: 2n, lease: undefined, nextCookie: last + 1n }
      return { reply, attributes: found.map(() => undefined), under: undefined }
    },
  })
  const read = async (cookie: bigint, atOnce: number): Promise<string[]> => {
    const names: string[] = []
    await listing.list(cookie, { plus: false }, ({ name }) => {
      if (names.length === atOnce) return false
      names.push(name.toString())
      return true
    })
    return names
  }
  return { state, read }
}

t.test('the rest of a page is told for a second', async (t) => {
  const { state, read } = setUp(4)
  t.strictSame(await read(0n, 3), ['.', '..', 'f3'])
  state.nowMs += 999
  t.strictSame(await read(3n, 1), ['f4'])
  t.equal(state.fetches, 1)
  state.nowMs += 1
  t.strictSame(await read(4n, 1), ['f5'])
  t.equal(state.fetches, 2)
})

t.test('what is made meanwhile is left out, unless the listing was begun long ago', async (t) => {
  const { state, read } = setUp(2)
  t.strictSame(await read(0n, 3), ['.', '..', 'f3'])
  state.entries = 4
  state.nowMs += 59_999
  t.strictSame(await read(3n, 9), ['f4'])
  t.strictSame(await read(4n, 9), [])
  state.nowMs += 60_000
  t.strictSame(await read(4n, 9), ['f5', 'f6'])
  t.strictSame(await read(0n, 9), ['.', '..', 'f3', 'f4', 'f5', 'f6'])
})
