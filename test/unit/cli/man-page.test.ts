/** The manual pages say what --help says, for every command, and man(1) takes them. */
import { join } from 'node:path'
import t from 'tap'
import { allCommands, outlineOf } from '../../../src/cli/command-outline.ts'
import { manPages, pageName } from '../../../src/cli/man-page.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { shoal } from '../../lib/cluster.ts'
import { missing } from '../../lib/needs.ts'
import { run } from '../../lib/sh.ts'

const program = outlineOf(buildProgram())
const plain = (text: string): string => text.replaceAll(/\s+/g, '').toLowerCase()

t.test('each command has a page with all of its --help', async (t) => {
  const pages = manPages(program)
  t.equal(pages.size, allCommands(program).length)
  for (const outline of allCommands(program)) {
    const page = plain((pages.get(`${pageName(outline)}.1`) ?? '').replaceAll('\\-', '-').replaceAll('\\e', '\\'))
    const said = [
      outline.usage,
      outline.description,
      ...outline.arguments.flatMap(({ term, description }) => [term, description]),
      ...[...outline.options, ...outline.globalOptions].flatMap(({ term, description }) => [term, description]),
      ...outline.commands.map(({ description }) => description),
      ...outline.remarks.filter((remark) => remark !== 'Examples:'),
    ]
    t.same(
      said.filter((text) => !page.includes(plain(text))),
      [],
      outline.path.join(' '),
    )
  }
  t.notMatch([...pages.values()].join('\n'), 'exit-with-parent', 'what is hidden stays hidden')
})

t.test('the command prints them', async (t) => {
  const { stdout } = await shoal(['man', 'servers', 'drain'])
  t.equal(stdout, manPages(program).get('shoal-servers-drain.1'))
  t.match(await shoal(['man', 'frob']), { code: 2, stderr: "unknown command 'frob'" })
  t.match(await shoal(['man', '--directory', '/dev/null/man1']), {
    code: 1,
    stderr: 'cannot write the manual pages into /dev/null/man1',
  })
})

t.test('man(1) has nothing to complain about', async (t) => {
  const lacks = await missing({ programs: ['man', 'nroff'] })
  if (lacks.length > 0) return t.comment(`${lacks.join(', ')} is not here to read them`)
  const directory = t.testdir()
  t.match(await shoal(['man', '--directory', directory]), { code: 0, stdout: '', stderr: '' })
  const paths = [...manPages(program).keys()].map((name) => join(directory, name))
  const read = await run('man', ['--warnings', '--local-file', ...paths], {
    env: { ...process.env, MANWIDTH: '200', PAGER: 'cat', LC_ALL: 'C.UTF-8' },
  })
  t.match(read, { code: 0, stderr: '' })
  t.match(plain(read.stdout), plain('shoal-servers-drain - move everything off a server, so that it can be removed'))
})
