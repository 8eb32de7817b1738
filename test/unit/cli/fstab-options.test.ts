/** Options of fstab(5) lines: who they are for. */
import t from 'tap'
import { parseMountSource } from '../../../src/cli/address.ts'
import { splitFstabOptions } from '../../../src/cli/fstab-options.ts'
import { UsageError } from '../../../src/domain/errors.ts'

t.test('options', async (t) => {
  const line =
    'defaults,rw,noatime,_netdev,nofail,noauto,user,user=me,x-systemd.automount,comment=a,subdir=a/b,connect-timeout=2s,log-file=/l,other=1'
  t.same(splitFstabOptions(line.split(',')), {
    rest: ['rw', 'noatime', 'other=1'],
    subdir: 'a/b',
    connectTimeoutMs: 2000,
    logFile: '/l',
  })
  for (const [option, message] of [
    ['subdir=', '-o subdir needs a value'],
    ['subdir', '-o subdir needs a value'],
    ['connect-timeout=5', '-o connect-timeout=5: It has to be a duration such as 500ms, 10s, 5m or 2h.'],
  ] as const) {
    t.throws(() => splitFstabOptions([option]), { constructor: UsageError, message })
  }
})

t.test('sources', async (t) => {
  t.same(parseMountSource('m:1:/'), { master: 'm:1', rootPath: '/' })
  t.same(parseMountSource('m:1:/a/b'), { master: 'm:1', rootPath: '/a/b' })
  t.same(parseMountSource('[::1]:1:/a'), { master: '[::1]:1', rootPath: '/a' })
  t.same(parseMountSource('[::1]:1/a'), { master: '[::1]:1', rootPath: '/a' })
  t.same(parseMountSource('m:1/x:2:/y'), { master: 'm:1', rootPath: '/x:2:/y' })
  t.throws(() => parseMountSource('m:/a'), UsageError)
  t.throws(() => parseMountSource('m:1:a'), UsageError)
})
