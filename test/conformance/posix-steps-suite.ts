/**
 * The rules of POSIX as steps: single calls, each with what must come of it. They run on whatever can carry out steps: a process in a directory
 * (test/lib/agent.py), local or in a mount, and a FileSystem without a kernel (test/lib/library-agent.ts).
 * And random steps, carried out in two file systems at once, of which the same must come: every errno, every attribute, every byte.
 */
import type { Test } from 'tap'
import { S_IFREG } from '../../src/domain/mode.ts'
import type { Random } from '../../src/platform/random.ts'
import type { Came, Step } from '../lib/agent.ts'
import { seededRandom } from '../lib/seeded-random.ts'

export interface Doer {
  all(steps: readonly Step[]): Promise<Came[]>
}

const O_RDWR = 2
const O_APPEND = 0o2000
const NOREPLACE = 1
const EXCHANGE = 2
const fallocateModes = { allocate: 0, keepSize: 1, punch: 3, zero: 16, zeroKeepSize: 17 } as const
const past = 1e18
/** Times from here on are "now". */
const nowFrom = 1.5e9

const file = (mode: number, nlink: number, size: number): unknown => [
  `0o${(S_IFREG | mode).toString(8)}`,
  nlink,
  0,
  0,
  size,
]
const directory = (nlink: number): unknown => ['0o40755', nlink, 0, 0, -1]
const is = (value: unknown = null): Came => ({ is: value })
const fails = (code: string): Came => ({ fails: code })

type Rule = readonly [sentence: string, ...(readonly [step: Step, came: Came])[]]

/** Each starts in an empty directory. */
const rules: readonly Rule[] = [
  [
    'a file has what was written to it, and zeros in between',
    [['create', 'f', 'text'], is()],
    [['create', 'f', ''], fails('EEXIST')],
    [['hold', 'h', 'f', O_RDWR], is()],
    [['pwrite', 'h', 'far', 10_000], is(3)],
    [['pread', 'h', 8, 2], is('xt\0\0\0\0\0\0')],
    [['pread', 'h', 100, 9_998], is('\0\0far')],
    [['pread', 'h', 100, 10_003], is('')],
    [['append', 'f', 'end'], is()],
    [['ftruncate', 'h', 2], is()],
    [['ftruncate', 'h', 5], is()],
    [['read', 'f'], is('te\0\0\0')],
    [['kind', 'f'], is(file(0o644, 1, 5))],
    [['let_go', 'h'], is()],
  ],
  [
    'what is open lives on without a name, and a file without one can be given one',
    [['create', 'f', 'text'], is()],
    [['hold', 'h', 'f', O_RDWR], is()],
    [['link', 'f', 'g'], is()],
    [['unlink', 'f'], is()],
    [['fstat_links', 'h'], is(1)],
    [['unlink', 'g'], is()],
    [['fstat_links', 'h'], is(0)],
    [['pwrite', 'h', 'more', 4], is(4)],
    [['pread', 'h', 100, 0], is('textmore')],
    [['let_go', 'h'], is()],
    [['hold_tmpfile', 't', '.'], is()],
    [['pwrite', 't', 'unnamed', 0], is(7)],
    [['list', '.'], is([])],
    [['give_name', 't', 'named'], is()],
    [['give_name', 't', 'named'], fails('EEXIST')],
    [['fstat_links', 't'], is(1)],
    [['let_go', 't'], is()],
    [['read', 'named'], is('unnamed')],
  ],
  [
    'link counts of files and directories',
    [['mkdir', 'd'], is()],
    [['mkdir', 'd/a'], is()],
    [['mkdir', 'd/b'], is()],
    [['create', 'd/f', ''], is()],
    [['kind', 'd'], is(directory(4))],
    [['link', 'd/f', 'f'], is()],
    [['kind', 'f'], is(file(0o644, 2, 0))],
    [['link', 'd', 'e'], fails('EPERM')],
    [['mkdir', 'e'], is()],
    [['rename_flags', 'd/a', 'e/a', 0], is(0)],
    [['kind', 'd'], is(directory(3))],
    [['kind', 'e'], is(directory(3))],
    [['rename_flags', 'd/f', 'e/a', EXCHANGE], is(0)],
    [['kind', 'd'], is(directory(4))],
    [['kind', 'e'], is(directory(2))],
    [['rmdir', 'd/f'], is()],
    [['kind', 'd'], is(directory(3))],
  ],
  [
    'what cannot be removed, renamed and made',
    [['mkdir', 'full'], is()],
    [['create', 'full/f', 'text'], is()],
    [['mkdir', 'empty'], is()],
    [['create', 'f', ''], is()],
    [['rmdir', 'full'], fails('ENOTEMPTY')],
    [['unlink', 'full'], fails('EISDIR')],
    [['rmdir', 'f'], fails('ENOTDIR')],
    [['rename_flags', 'empty', 'full', 0], fails('ENOTEMPTY')],
    [['rename_flags', 'empty', 'f', 0], fails('ENOTDIR')],
    [['rename_flags', 'f', 'empty', 0], fails('EISDIR')],
    [['rename_flags', 'full', 'full/sub', 0], fails('EINVAL')],
    [['rename_flags', 'none', 'f', 0], fails('ENOENT')],
    [['rename_flags', 'f', 'empty', NOREPLACE], fails('EEXIST')],
    [['rename_flags', 'f', 'none', EXCHANGE], fails('ENOENT')],
    [['rename_flags', 'f', 'empty', EXCHANGE | NOREPLACE], fails('EINVAL')],
    [['create', 'f/g', ''], fails('ENOTDIR')],
    [['mkdir', 'none/d'], fails('ENOENT')],
    [['mkdir', 'f'], fails('EEXIST')],
    [['mkdir', 'n'.repeat(256)], fails('ENAMETOOLONG')],
    [['mkdir', 'n'.repeat(255)], is()],
    [['symlink', 'loop', 'loop'], is()],
    [['read', 'loop'], fails('ELOOP')],
    [['readlink', 'f'], fails('EINVAL')],
    [['list', '.'], is(['empty', 'f', 'full', 'loop', 'n'.repeat(255)])],
  ],
  [
    'chown clears setuid and setgid, of directories not, and not setgid without execution',
    [['create', 'f', ''], is()],
    [['chmod', 'f', 0o6755], is()],
    [['chown', 'f', 0, 0], is()],
    [['kind', 'f'], is(file(0o755, 1, 0))],
    [['chmod', 'f', 0o2745], is()],
    [['chown', 'f', 0, 0], is()],
    [['kind', 'f'], is(file(0o2745, 1, 0))],
    [['mkdir', 'd'], is()],
    [['chmod', 'd', 0o2755], is()],
    [['chown', 'd', 0, 5], is()],
    [['mkdir', 'd/sub'], is()],
    [['create', 'd/f', ''], is()],
    [['kind', 'd/sub'], is(['0o42755', 2, 0, 5, -1])],
    [['kind', 'd/f'], is(['0o100644', 1, 0, 5, 0])],
  ],
  [
    'extended attributes: created, replaced, listed, removed',
    [['create', 'f', ''], is()],
    [['setxattr_flags', 'f', 'user.a', '1', 2], fails('ENODATA')],
    [['setxattr_flags', 'f', 'user.a', '1', 1], is()],
    [['setxattr_flags', 'f', 'user.a', '2', 1], fails('EEXIST')],
    [['setxattr_flags', 'f', 'user.b', '', 0], is()],
    [['getxattr', 'f', 'user.a'], is('1')],
    [['getxattr', 'f', 'user.b'], is('')],
    [['listxattr', 'f'], is(['user.a', 'user.b'])],
    [['removexattr', 'f', 'user.a'], is()],
    [['removexattr', 'f', 'user.a'], fails('ENODATA')],
    [['listxattr', 'f'], is(['user.b'])],
  ],
  [
    'holes: made by writing beyond the end and by punching, found again, and not counted',
    [['create', 'f', ''], is()],
    [['hold', 'h', 'f', O_RDWR], is()],
    [['ftruncate', 'h', 1 << 20], is()],
    [['holes', 'h'], is([])],
    [['pwrite', 'h', 'd'.repeat(12_288), 65_536], is(12_288)],
    [['pwrite', 'h', 'd', 262_144], is(1)],
    [['fsync', 'h'], is()],
    [
      ['holes', 'h'],
      is([
        [16, 19],
        [64, 65],
      ]),
    ],
    [['blocks', 'h'], is(32)],
    [['fallocate', 'h', fallocateModes.punch, 65_536 + 4096, 4096], is()],
    [
      ['holes', 'h'],
      is([
        [16, 17],
        [18, 19],
        [64, 65],
      ]),
    ],
    [['fsync', 'h'], is()],
    [['blocks', 'h'], is(24)],
    [['fallocate', 'h', 2, 0, 4096], fails('EOPNOTSUPP')],
    [['fallocate', 'h', 0, 0, 0], fails('EINVAL')],
    [['fallocate', 'h', fallocateModes.keepSize, 2 << 20, 4096], is()],
    [['fstat_size', 'h'], is(1 << 20)],
    [['fallocate', 'h', fallocateModes.zero, 65_000, 2000], is()],
    [['pread', 'h', 3, 66_999], is('\0dd')],
    [['let_go', 'h'], is()],
  ],
  [
    'ranges are copied up to the end of the source, within a file and between files',
    [['create', 'f', `${'a'.repeat(5000)}${'b'.repeat(5000)}`], is()],
    [['create', 'g', ''], is()],
    [['hold', 'f', 'f', O_RDWR], is()],
    [['hold', 'g', 'g', O_RDWR], is()],
    [['copy_range', 'f', 'g', 100_000, 4999, 10], is(5001)],
    [['fstat_size', 'g'], is(5011)],
    [['pread', 'g', 12, 0], is(`${'\0'.repeat(10)}ab`)],
    [['copy_range', 'f', 'f', 4096, 0, 20_000], is(4096)],
    [['pread', 'f', 2, 19_999], is('\0a')],
    [['copy_range', 'f', 'f', 100, 0, 50], fails('EINVAL')],
    [['copy_range', 'f', 'g', 100, 1 << 20, 0], is(0)],
    [['let_go', 'f'], is()],
    [['let_go', 'g'], is()],
  ],
  [
    'mtime changes with content and names, not with modes, links and reading',
    [['mkdir', 'd'], is()],
    [['create', 'd/f', 'text'], is()],
    [['utime', 'd/f', past], is()],
    [['utime', 'd', past], is()],
    [['chmod', 'd/f', 0o600], is()],
    [['link', 'd/f', 'g'], is()],
    [['read', 'd/f'], is('text')],
    [['mtime', 'd/f', nowFrom], is(past / 1e9)],
    [['mtime', 'd', nowFrom], is(past / 1e9)],
    [['append', 'g', ''], is()],
    [['mtime', 'd/f', nowFrom], is(past / 1e9)],
    [['write', 'g', 'T'], is()],
    [['mtime', 'd/f', nowFrom], is('now')],
    [['mtime', 'd', nowFrom], is(past / 1e9)],
    [['rename_flags', 'd/f', 'd/h', 0], is(0)],
    [['mtime', 'd', nowFrom], is('now')],
  ],
]

export const posixRules = async (t: Test, open: (name: string) => Promise<Doer>): Promise<void> => {
  for (const [index, [sentence, ...cases]] of rules.entries()) {
    const doer = await open(`rule-${index}`)
    const came = await doer.all(cases.map(([step]) => step))
    const wrong = cases.flatMap(([step, wanted], i) =>
      JSON.stringify(came[i]) === JSON.stringify(wanted) ? [] : [{ step, wanted, came: came[i] }],
    )
    t.strictSame(wrong, [], sentence)
  }
}

/** A step that makes sense at any moment; `open` are the keys of open files. */
const randomStep = (random: Random, open: readonly string[]): Step => {
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!
  const name = (): string => pick(['a', 'b', 'c', 'd'])
  const path = (): string => Array.from({ length: pick([1, 1, 1, 2, 2, 3]) }, name).join('/')
  const text = (): string => pick(['a', 'b', 'c', 'd']).repeat(pick([0, 1, 100, 4000, 5000, 20_000]))
  const offset = (): number => pick([0, 1, 4095, 4096, 8192, 10_000, 30_000])
  const length = (): number => pick([1, 100, 4096, 5000, 12_288])
  const xattr = (): string => pick(['user.a', 'user.b'])
  const key = pick(['f', 'g', 'h'])
  const isOpen = open.includes(key)
  switch (random.below(28)) {
    case 0:
    case 1:
    case 2:
      return ['create', path(), text()]
    case 3:
    case 4:
    case 5:
      return ['mkdir', path()]
    case 6:
      return ['write', path(), text()]
    case 7:
      return ['rewrite', path(), text()]
    case 8:
      return ['append', path(), text()]
    case 9:
      return ['unlink', path()]
    case 10:
      return ['rmdir', path()]
    case 11:
    case 12:
      return ['rename_flags', path(), path(), pick([0, 0, NOREPLACE, EXCHANGE])]
    case 13:
      return ['link', path(), path()]
    case 14:
      return ['symlink', pick([name(), `${name()}/${name()}`]), path()]
    case 15:
      return ['chmod', path(), pick([0o600, 0o755, 0o6755, 0o2745, 0o1777])]
    case 16:
      return ['chown', path(), random.below(3), random.below(3)]
    case 17:
      return ['truncate', path(), offset()]
    case 18:
      return ['utime', path(), past]
    case 19:
      return ['setxattr_flags', path(), xattr(), text().slice(0, 100), random.below(3)]
    case 20:
      return pick<Step>([
        ['removexattr', path(), xattr()],
        ['getxattr', path(), xattr()],
      ])
    case 21:
      if (isOpen) return ['let_go', key]
      return pick<Step>([
        ['hold', key, path(), pick([O_RDWR, O_RDWR, O_RDWR | O_APPEND])],
        ['hold_tmpfile', key, pick(['.', name()])],
      ])
    default:
      break
  }
  const held = open.length === 0 ? undefined : pick(open)
  if (held === undefined) return ['hold', key, path(), O_RDWR]
  return pick<Step>([
    ['pwrite', held, text(), offset()],
    ['pread', held, 50_000, offset()],
    ['ftruncate', held, offset()],
    ['fallocate', held, pick(Object.values(fallocateModes)), offset(), length()],
    ['copy_range', held, pick(open), length(), offset(), offset()],
    ['give_name', held, path()],
    ['fsync', held],
    ['fstat_links', held],
  ])
}

const looksAt = (path: string): Step[] => [
  ['kind', path],
  ['mtime', path, nowFrom],
  ['listxattr', path],
  ['readlink', path],
  ['read', path],
]

/** Both start in an empty directory. */
export const posixComparison = async (
  t: Test,
  { oracle, subject, seed, steps }: { oracle: Doer; subject: Doer; seed: number; steps: number },
): Promise<void> => {
  const random = seededRandom(seed)
  const open = new Set<string>()
  const did: string[] = []
  const compare = async (step: Step): Promise<Came | undefined> => {
    const [[wanted], [came]] = await Promise.all([oracle.all([step]), subject.all([step])])
    did.push(`${JSON.stringify(step).slice(0, 100)} ${JSON.stringify(wanted).slice(0, 100)}`)
    if (JSON.stringify(wanted) === JSON.stringify(came)) return wanted
    t.fail(`seed ${seed}: ${JSON.stringify(step).slice(0, 200)}`, { wanted, came, before: did.slice(-30) })
    return undefined
  }
  const compareTree = async (directory: string): Promise<boolean> => {
    const listed = await compare(['list', directory])
    if (listed === undefined) return false
    for (const name of listed.is as string[]) {
      const path = directory === '.' ? name : `${directory}/${name}`
      for (const look of looksAt(path)) if ((await compare(look)) === undefined) return false
      const kind = (await compare(['kind', path]))?.is as unknown[] | undefined
      if (String(kind?.[0]).startsWith('0o4') && !(await compareTree(path))) return false
    }
    return true
  }
  for (let i = 0; i < steps; i++) {
    const step = randomStep(random, [...open])
    const came = await compare(step)
    if (came === undefined) return
    if (came.fails !== undefined) continue
    if (step[0].startsWith('hold')) open.add(String(step[1]))
    if (step[0] === 'let_go') open.delete(String(step[1]))
  }
  for (const key of open) if ((await compare(['let_go', key])) === undefined) return
  if (await compareTree('.')) t.pass(`seed ${seed}: the same came of ${steps} steps`)
}
