/**
 * Rules that hold over the text of the project: who may import whom, who may touch the outside world, and what a file looks like.
 * A rule that has an exception names it here, with the reason.
 */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, normalize, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { version } from '../../src/domain/version.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

interface SourceFile {
  /** Relative to the root, with slashes. */
  path: string
  text: string
  /** The text with comments and strings blanked, so that rules about code do not see prose. Lines stay where they are. */
  code: string
}

const skipped = new Set(['node_modules', 'dist', 'build', '.git', '.tap', '.shoal', 'mnt', 'gen'])

const walk = async (directory: string): Promise<string[]> => {
  const found: string[] = []
  for (const entry of await readdir(join(root, directory), { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) {
      if (!skipped.has(entry.name) && !entry.name.startsWith('tap-testdir')) found.push(...(await walk(path)))
    } else if (entry.isFile()) {
      found.push(path.split(sep).join('/'))
    }
  }
  return found
}

const spaces = (text: string): string => text.replaceAll(/[^\n]/g, ' ')

/** Blanks comments and string literals. Regular expressions with quotes or slashes in them are not understood; none breaks a rule. */
const blank = (text: string): string =>
  text.replaceAll(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, (match, offset: number) =>
    match.startsWith('//') && text[offset - 1] === ':' ? match : spaces(match),
  )

const load = async (...directories: string[]): Promise<SourceFile[]> => {
  const paths = (await Promise.all(directories.map((directory) => walk(directory)))).flat()
  return Promise.all(
    paths.map(async (path) => {
      const text = await readFile(join(root, path), 'utf8')
      return { path, text, code: blank(text) }
    }),
  )
}

const isCode = ({ path }: SourceFile): boolean => /\.(ts|mjs)$/.test(path)

/** "src/master/store.ts": src/master; "mount/mount.ts": mount. */
const areaOf = (path: string): string => /^src\/[^/]+/.exec(path)?.[0] ?? path.split('/')[0] ?? ''

const importStatement = /^\s*(?:import|export)\b[^'"]*?\bfrom\s*['"]([^'"]+)['"]|\bimport\s*\(?\s*['"]([^'"]+)['"]/gm

const importsOf = ({ path, text }: SourceFile): { specifier: string; target: string | undefined }[] =>
  [...text.matchAll(importStatement)].map((match) => {
    const specifier = match[1] ?? match[2] ?? ''
    const target = specifier.startsWith('.')
      ? normalize(join(dirname(path), specifier))
          .split(sep)
          .join('/')
      : undefined
    return { specifier, target }
  })

/** Which areas an area may import of ours, besides itself. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  'src/domain': [],
  'src/platform': ['src/domain'],
  'src/protocol': ['src/domain', 'src/platform'],
  'src/master': ['src/domain', 'src/platform', 'src/protocol'],
  'src/chunkserver': ['src/domain', 'src/platform', 'src/protocol'],
  'src/client': ['src/domain', 'src/platform', 'src/protocol'],
  mount: ['src/domain', 'src/platform', 'src/client'],
}
/** These build processes of all parts. */
const buildsProcesses = new Set(['src/main', 'src/cli'])

/** The outside world: only src/platform touches it. */
const outsidePackages = ['@grpc/grpc-js', 'level-rocksdb', 'pino', 'prom-client']
const outsideNodeModules =
  /^(node:)?(fs|net|tls|http2?|dgram|dns|child_process|timers|worker_threads|cluster|os|perf_hooks)(\/promises)?$/
const outsideModules = {
  test: (specifier: string): boolean => outsidePackages.includes(specifier) || outsideNodeModules.test(specifier),
}
const outsideNames =
  /\b(setTimeout|setInterval|setImmediate|Date\.now|new Date\b|Math\.random|process\.hrtime|performance\.(now|timeOrigin)|queueMicrotask\.bind)\b/

/** Who else may, and what for. */
const outsideAllowed: readonly { area: RegExp; modules?: RegExp; names?: RegExp }[] = [
  { area: /^src\/platform\// },
  // A command is the outside: it starts processes, reads /proc, waits, and prints times.
  { area: /^src\/cli\// },
  { area: /^src\/main\//, modules: /^node:(os|fs|fs\/promises|child_process)$/ },
  // The FUSE device, mount(8) and umount(8), and /sys/fs/fuse.
  {
    area: /^mount\/(device|native-device|fs-device|mount|mount-table|unmount)[^/]*\.ts$/,
    modules: /^node:(fs|fs\/promises|child_process)$/,
  },
  { area: /^mount\/native\// },
  // Which threads are libfuse's.
  { area: /^mount\/fuse-native\/serve\.ts$/, modules: /^node:fs$/ },
]

// Written apart, so that this file does not break its own rule.
const undone = new RegExp(
  `\\b(${['TO', 'FIX', 'X'].map((start, index) => start + ['DO', 'ME', 'XX'][index]).join('|')})\\b`,
)
const machinePath = new RegExp(`(^|[^\\w.])/(${['work', 'root', 'home/[a-z]'].join('|')})/`)

/** Fails with a list of what breaks the rule, so that one run shows everything. */
const holds = (name: string, breaches: readonly string[]): void => {
  t.same(breaches, [], name)
}

const lineOf = (text: string, offset: number): number => text.slice(0, offset).split('\n').length

const sources = await load('src', 'mount')
const tests = await load('test')
const everything = [...sources, ...tests]

t.test('there is something to check', async (t) => {
  t.ok(sources.length > 20)
  t.ok(tests.length > 5)
})

t.test('imports', async () => {
  const breaches: string[] = []
  for (const file of sources.filter(isCode)) {
    const area = areaOf(file.path)
    const allowed = mayImport[area]
    if (allowed === undefined && !buildsProcesses.has(area)) breaches.push(`${area} has no import rule`)
    for (const { target } of importsOf(file)) {
      if (target === undefined) continue
      const targetArea = areaOf(target)
      if (target.startsWith('..') || targetArea === 'test') breaches.push(`${file.path} imports ${target}`)
      else if (allowed !== undefined && targetArea !== area && !allowed.includes(targetArea)) {
        breaches.push(`${file.path} imports ${target}`)
      }
    }
  }
  holds('parts import only what they may', breaches)
  const cycles = sources
    .filter(isCode)
    .flatMap((file) => importsOf(file).map(({ target }) => ({ file, target })))
    .filter(
      ({ file, target }) => target !== undefined && areaOf(file.path) === 'src/main' && areaOf(target) === 'src/cli',
    )
  holds(
    'src/main does not know the command line',
    cycles.map(({ file, target }) => `${file.path} imports ${target ?? ''}`),
  )
  holds(
    'imports name their file with .ts',
    everything
      .filter((file) => file.path.endsWith('.ts'))
      .flatMap((file) =>
        importsOf(file)
          .filter(({ specifier }) => specifier.startsWith('.') && !/\.(ts|mjs|cjs|json|node)$/.test(specifier))
          .map(({ specifier }) => `${file.path} imports ${specifier}`),
      ),
  )
})

t.test('the outside world', async () => {
  const breaches: string[] = []
  for (const file of sources.filter(isCode)) {
    const exceptions = outsideAllowed.filter(({ area }) => area.test(file.path))
    for (const { specifier } of importsOf(file)) {
      if (!outsideModules.test(specifier)) continue
      // A type is no access.
      const typeOnly = new RegExp(`import type [^;\\n]*from ['"]${specifier}['"]`).test(file.text)
      const excused = exceptions.some(
        ({ modules, names }) => (modules === undefined && names === undefined) || modules?.test(specifier),
      )
      if (!typeOnly && !excused) breaches.push(`${file.path} imports ${specifier}`)
    }
    for (const match of file.code.matchAll(new RegExp(outsideNames, 'g'))) {
      const excused = exceptions.some(
        ({ modules, names }) => (modules === undefined && names === undefined) || names?.test(match[0]),
      )
      if (!excused) breaches.push(`${file.path}:${lineOf(file.code, match.index)} uses ${match[0]}`)
    }
  }
  holds('only src/platform, and what is excused above, touches it', breaches)
})

t.test('names', async () => {
  const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|d|config|pb))*\.[a-z0-9]+$/
  holds(
    'files are in kebab-case',
    everything.filter(({ path }) => !kebab.test(path.split('/').at(-1) ?? '')).map(({ path }) => path),
  )
  const breaches: string[] = []
  for (const file of everything.filter(isCode)) {
    for (const match of file.code.matchAll(
      /^\s*(?:export )?(?:declare )?(?:const )?enum \w+|\binterface I[A-Z]\w*|^\s*(?:export )?namespace \w+/gm,
    )) {
      breaches.push(`${file.path}:${lineOf(file.code, match.index)} ${match[0].trim()}`)
    }
    for (const match of file.code.matchAll(/\bclass (?:Base|Abstract)\w*|\bclass \w*(?:Manager|Utils?|Helpers?)\b/g)) {
      breaches.push(`${file.path}:${lineOf(file.code, match.index)} ${match[0]}`)
    }
  }
  holds('no enum, no namespace, no I prefix, no Base, Manager, Utils', breaches)
  holds(
    'no file is named for nothing in particular',
    everything
      .filter(({ path }) => /\/(utils?|helpers?|misc|common|manager)\.[a-z]+$/.test(path))
      .map(({ path }) => path),
  )
})

t.test('text', async () => {
  const breaches: string[] = []
  for (const file of everything) {
    const lines = file.text.split('\n')
    for (const [index, line] of lines.entries()) {
      const where = `${file.path}:${index + 1}`
      if (line.length > 160) breaches.push(`${where} has ${line.length} characters`)
      if (undone.test(line)) breaches.push(`${where} leaves something undone: ${line.trim()}`)
      if (machinePath.test(line) && file.path !== 'test/unit/source-rules.test.ts')
        breaches.push(`${where} has a machine's path: ${line.trim()}`)
      if (/[ \t]$/.test(line)) breaches.push(`${where} ends with a space`)
    }
    if (/\bdebugger\b/.test(file.code) || /@ts-(ignore|nocheck)|(eslint|oxlint)-disable(?!-next-line)/.test(file.text))
      breaches.push(`${file.path} switches a check off`)
  }
  holds('lines', breaches)
  holds(
    'each source file opens with what it is',
    sources.filter((file) => isCode(file) && !/^(#![^\n]*\n)?\/\*\*/.test(file.text)).map(({ path }) => path),
  )
  holds(
    'shared test code opens with what it is',
    tests
      .filter((file) => isCode(file) && file.path.startsWith('test/lib/') && !file.text.startsWith('/**'))
      .map(({ path }) => path),
  )
})

t.test('tests are where the runner looks', async () => {
  holds(
    'every *.test.ts is in a group',
    tests
      .filter(({ path }) => path.endsWith('.test.ts') && !/^test\/(unit|conformance|sim|mount|fault)\//.test(path))
      .map(({ path }) => path),
  )
})

t.test('one version', async (t) => {
  const text = await readFile(join(root, 'package.json'), 'utf8')
  t.equal((JSON.parse(text) as { version: string }).version, version)
})
