import t from 'tap'
import { UsageError } from '../../../src/domain/errors.ts'
import {
  formatBytes,
  formatCount,
  formatDuration,
  parseBytes,
  parseCount,
  parseDurationMs,
} from '../../../src/cli/quantity.ts'

t.test('sizes', async (t) => {
  const cases: [string, number][] = [
    ['0', 0],
    ['4096', 4096],
    ['4096B', 4096],
    ['1k', 1024],
    ['1KiB', 1024],
    ['1kB', 1000],
    ['100GiB', 100 * 2 ** 30],
    ['1.5TiB', 1.5 * 2 ** 40],
    ['2 TB', 2e12],
    ['7P', 7 * 2 ** 50],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
  ]
  for (const [text, value] of cases) t.equal(parseBytes(text), value, text)
  for (const text of [
    '',
    'x',
    '-1',
    '1.',
    '.5',
    '1 000',
    '1e9',
    '10GX',
    'GiB',
    '8PiB1',
    '9007199254740992',
    '0x10',
    '1,5G',
  ]) {
    t.throws(
      () => parseBytes(text),
      new UsageError('It has to be a size such as 500MiB, 100GiB, 2TB or a number of bytes.'),
      text,
    )
  }
})

t.test('durations', async (t) => {
  const cases: [string, number][] = [
    ['0', 0],
    ['500ms', 500],
    ['10s', 10_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
  ]
  for (const [text, value] of cases) t.equal(parseDurationMs(text), value, text)
  // Without a unit nobody knows whether 10 is seconds or milliseconds.
  for (const text of ['10', '', 's', '-1s', '1w']) t.throws(() => parseDurationMs(text), UsageError, text)
})

t.test('counts', async (t) => {
  const parse = parseCount({ min: 1, max: 16 })
  t.equal(parse('1'), 1)
  t.equal(parse('16'), 16)
  for (const text of ['0', '17', '1.5', '', 'three', '-1', '1e1']) {
    t.throws(() => parse(text), new UsageError('It has to be a whole number from 1 to 16.'), text)
  }
})

t.test('for people', async (t) => {
  t.equal(formatBytes(0), '0 B')
  t.equal(formatBytes(999), '999 B')
  t.equal(formatBytes(1000), '0.98 KiB')
  t.equal(formatBytes(1024n), '1.00 KiB')
  t.equal(formatBytes(100 * 2 ** 30), '100 GiB')
  t.equal(formatBytes(99.96 * 2 ** 20), '100 MiB')
  t.equal(formatBytes(9.996 * 2 ** 20), '10.0 MiB')
  t.equal(formatBytes(2n ** 63n), '8.00 EiB')
  t.equal(formatDuration(0), '0 s')
  t.equal(formatDuration(59_400), '59 s')
  t.equal(formatDuration(60_000n), '1 min')
  t.equal(formatDuration(93_784_000), '1 d 2 h')
  t.equal(formatCount(1_234_567n), '1,234,567')
})
