/** The test runner's own counting: a runner that miscounts would hide failures. */
import t from 'tap'
// @ts-expect-error: a plain script without types.
import { countTap as untyped } from '../run.mjs'

const countTap = untyped as (text: string) => { passed: number; failed: number; skipped: number }

t.test('assertions are counted once, at the leaves', async (t) => {
  const text = `TAP version 14
# Subtest: test/a.test.ts
    # Subtest: one
        ok 1 - x
        ok 2 - y # SKIP no root
        1..2
    ok 1 - one # time=1ms
    ok 2 - z
    1..2
ok 1 - test/a.test.ts # time=5ms
# Subtest: test/b.test.ts
    not ok 1 - q
      ---
      found: ok 1 is not an assertion
      ...
    ok 2 - r
    1..2
not ok 2 - test/b.test.ts # time=5ms
1..2
`
  t.same(countTap(text), { passed: 3, failed: 1, skipped: 1 })
})

t.test('a file that failed although all its assertions passed is a failure', async (t) => {
  const text = `# Subtest: test/a.test.ts
    ok 1 - x
    1..1
not ok 1 - test/a.test.ts # time=30000ms
  ---
  signal: SIGTERM
  ...
1..1
`
  t.same(countTap(text), { passed: 1, failed: 1, skipped: 0 })
  t.same(countTap('not ok 1 - test/a.test.ts\n'), { passed: 0, failed: 1, skipped: 0 })
})

t.test('a skipped file', async (t) => {
  t.same(countTap('ok 1 - test/a.test.ts # SKIP no tests found\n'), { passed: 0, failed: 0, skipped: 1 })
  t.same(countTap(''), { passed: 0, failed: 0, skipped: 0 })
})
