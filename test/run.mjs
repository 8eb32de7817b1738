/**
 * What `npm test` runs: installs what the tests need of Debian (as root) or names it in one sentence, runs the groups of tests, and
 * ends with a line "N passed, N failed". Exit code 1 when a test failed or none ran.
 *
 * usage: node test/run.mjs [GROUP…]          groups: unit conformance sim mount fault; default: all of them
 * SHOAL_REQUIRE_ALL=1: a test that is skipped because the machine lacks something counts as failed.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)

/** Files of one group run beside each other as far as they do not share mounts, servers and the processor. */
const groups = [
  { name: 'unit', jobs: 2, timeoutSeconds: 180 },
  { name: 'conformance', jobs: 2, timeoutSeconds: 180 },
  { name: 'sim', jobs: 1, timeoutSeconds: 900 },
  { name: 'mount', jobs: 1, timeoutSeconds: 600 },
  { name: 'fault', jobs: 1, timeoutSeconds: 900 },
]

/** A program that shows that the package is there, and the package. */
const packages = [
  ['sqlite3', 'sqlite3'],
  ['rsync', 'rsync'],
  ['fusermount3', 'fuse3'],
  ['fio', 'fio'],
  ['getfattr', 'attr'],
  ['getfacl', 'acl'],
  ['git', 'git'],
  ['gcc', 'gcc'],
  ['mkfs.ext4', 'e2fsprogs'],
  ['mount', 'mount'],
  ['flock', 'util-linux'],
  ['ps', 'procps'],
  ['python3', 'python3'],
  ['ip', 'iproute2'],
  ['nft', 'nftables'],
  ['systemd-analyze', 'systemd'],
  ['promtool', 'prometheus'],
  ['tar', 'tar'],
  ['diff', 'diffutils'],
]

const run = (program, args, options = {}) =>
  new Promise((resolve) => {
    const child = spawn(program, args, { stdio: 'inherit', ...options })
    // Ctrl-C reaches the child as well; what it still has to say comes before our own last line.
    child.once('error', (error) => {
      console.error(`${program}: ${error.message}`)
      resolve(127)
    })
    child.once('exit', (code) => resolve(code ?? 1))
  })

const isInstalled = (program) =>
  [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'].some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })

/** Packages without a program, and whether a file of theirs is there. */
const libraries = [
  ['libc6-dev', () => existsSync('/usr/include/stdio.h')],
  // In a folder that is named for the machine's architecture.
  ['libfuse2', () => readdirSync('/usr/lib').some((folder) => existsSync(join('/usr/lib', folder, 'libfuse.so.2')))],
]

const missingPackages = () => {
  const programs = packages.filter(([program]) => !isInstalled(program)).map(([, name]) => name)
  return [...programs, ...libraries.filter(([, isThere]) => !isThere()).map(([name]) => name)]
}

const prepareMachine = async () => {
  const missing = missingPackages()
  if (missing.length === 0) return
  const command = `apt-get install -y --no-install-recommends ${missing.join(' ')}`
  if (process.getuid() !== 0 || !isInstalled('apt-get')) {
    console.error(`Tests that need them are skipped: this machine lacks ${missing.join(', ')} (as root: ${command}).`)
    return
  }
  console.error(`Installing what the tests need: ${missing.join(', ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  // Standard output stays the tests' own.
  const stdio = ['ignore', 2, 2]
  await run('apt-get', ['-q', 'update'], { env, stdio })
  await run('apt-get', command.split(' ').slice(1).concat('-q'), { env, stdio })
  const still = missingPackages()
  if (still.length > 0)
    console.error(`Tests that need them are skipped: apt-get could not install ${still.join(', ')}.`)
}

const testFiles = (group) => {
  const found = []
  const walk = (directory) => {
    let entries = []
    try {
      entries = readdirSync(directory, { withFileTypes: true })
    } catch {
      return
    }
    for (const entry of entries) {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) walk(path)
      else if (entry.name.endsWith('.test.ts')) found.push(path)
    }
  }
  walk(join('test', group))
  return found.toSorted((a, b) => (a < b ? -1 : 1))
}

/**
 * Counts assertions in TAP. The line that closes a subtest repeats what its own assertions said, so it counts only when it is the
 * only one that failed (a test that ended too early, or timed out).
 */
export const countTap = (text) => {
  const total = { passed: 0, failed: 0, skipped: 0 }
  /** By depth: what was counted below the assertion that is to come at this depth. */
  const below = []
  for (const line of text.split('\n')) {
    const match = /^( *)(not )?ok \d+(.*)$/.exec(line)
    if (match === null) continue
    const depth = match[1].length / 4
    const inner = below[depth + 1]
    below.length = depth + 1
    const failed = match[2] !== undefined
    const directive = /# (skip|todo)\b/i.exec(match[3])
    const counted = { passed: 0, failed: 0, skipped: 0 }
    if (inner !== undefined && (inner.failed > 0 || !failed)) Object.assign(counted, inner)
    else if (directive !== null) counted.skipped = 1
    else {
      if (inner !== undefined) Object.assign(counted, inner)
      counted[failed ? 'failed' : 'passed'] += 1
    }
    below[depth] ??= { passed: 0, failed: 0, skipped: 0 }
    for (const key of Object.keys(total)) below[depth][key] += counted[key]
  }
  return below[0] ?? total
}

/** The failed assertions in the TAP of one file, each with its diagnostics. */
const failuresIn = (lines) => {
  const kept = []
  let keeps = false
  for (const line of lines) {
    if (/^ *(not )?ok \d+/.test(line)) keeps = /^ *not ok/.test(line) && !/# (skip|todo)/i.test(line)
    else if (/^ *(# Subtest|1\.\.|TAP version)/.test(line)) keeps = false
    if (keeps || /^ *# (?!Subtest|time=|\{ total)/.test(line)) kept.push(line)
  }
  return kept
}

/** Prints one line per test file as it ends, and what failed in it. */
const runGroup = async (group) => {
  const files = testFiles(group.name)
  const total = { passed: 0, failed: 0, skipped: 0 }
  if (files.length === 0) return total
  console.log(`\n${group.name}: ${files.length} files`)
  const args = [`--jobs=${group.jobs}`, `--timeout=${group.timeoutSeconds}`, '--reporter=tap', '--no-color']
  const child = spawn(process.execPath, ['node_modules/tap/dist/esm/run.mjs', ...args, ...files], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise((resolve) => {
    child.once('error', () => resolve(127))
    child.once('close', (code) => resolve(code ?? 1))
  })
  let ran = 0
  let lines = []
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line)
    if (!/^(not )?ok \d+/.test(line)) continue
    const count = countTap(lines.join('\n'))
    for (const key of Object.keys(total)) total[key] += count[key]
    const { file = line, time = '' } =
      /^(?:not )?ok \d+ - (?<file>.*?)(?: # .*?time=(?<time>.*?)(?: \{)?)?$/.exec(line)?.groups ?? {}
    const skipped = count.skipped > 0 ? `, ${count.skipped} skipped` : ''
    const failed = count.failed > 0 ? `, ${count.failed} FAILED` : ''
    console.log(`${count.failed > 0 ? 'not ok' : 'ok'}  ${file}  ${count.passed} passed${skipped}${failed}  ${time}`)
    if (count.failed > 0) console.log(failuresIn(lines).join('\n'))
    ran += 1
    lines = []
  }
  const code = await ended
  if ((code !== 0 && total.failed === 0) || ran < files.length) {
    console.log(`not ok  the test runner ended with exit code ${code} after ${ran} of ${files.length} files`)
    console.log(lines.slice(-50).join('\n'))
    total.failed += 1
  }
  return total
}

const main = async () => {
  const names = process.argv.slice(2)
  const unknown = names.find((name) => !groups.some((group) => group.name === name))
  if (unknown !== undefined) {
    console.error(`There is no group "${unknown}"; there are: ${groups.map((group) => group.name).join(', ')}.`)
    return 2
  }
  process.on('SIGINT', () => undefined)
  await prepareMachine()
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const group of groups) {
    if (names.length > 0 && !names.includes(group.name)) continue
    const count = await runGroup(group)
    for (const key of Object.keys(total)) total[key] += count[key]
  }
  if (total.skipped > 0) console.log(`\n${total.skipped} skipped`)
  console.log(`\n${total.passed} passed, ${total.failed} failed`)
  if (total.passed === 0) console.error('No test ran.')
  return total.failed > 0 || total.passed === 0 ? 1 : 0
}

// Imported by its own test, run by npm.
if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main()
