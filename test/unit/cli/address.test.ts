import t from 'tap'
import { UsageError } from '../../../src/domain/errors.ts'
import { isLoopback, parseAddress, parseListenAddress, parseMountSource } from '../../../src/cli/address.ts'

t.test('an address to connect to', async (t) => {
  for (const text of ['127.0.0.1:9320', 'master:1', 'a.example.org:65535', '[::1]:9320', '[fe80::1%eth0]:9']) {
    t.equal(parseAddress(text), text)
  }
  const wrong = ['', 'master', ':9320', 'master:', 'master:x', 'master:65536', '::1:9320', '[::1]', '[]:1', '[host]:1']
  for (const text of [...wrong, 'a b:1', '-x:1', 'http://master:1', 'master:1/x', 'master:-1', 'master:123456']) {
    t.throws(() => parseAddress(text), new UsageError('It has to be HOST:PORT, such as 127.0.0.1:9320.'), text)
  }
  t.throws(() => parseAddress('master:0'), new UsageError('Port 0 cannot be connected to.'))
})

t.test('an address to listen on', async (t) => {
  t.equal(parseListenAddress('127.0.0.1:0'), '127.0.0.1:0')
  t.throws(() => parseListenAddress('9320'), UsageError)
})

t.test('what is mounted', async (t) => {
  t.same(parseMountSource('m:1'), { master: 'm:1', rootPath: '/' })
  t.same(parseMountSource('m:1/'), { master: 'm:1', rootPath: '/' })
  t.same(parseMountSource('[::1]:1/a//b c/'), { master: '[::1]:1', rootPath: '/a/b c' })
  for (const text of ['m:1/a/../b', 'm:1/.', 'm/a', '/a', 'm:/a'])
    t.throws(() => parseMountSource(text), UsageError, text)
})

t.test('loopback', async (t) => {
  for (const host of ['127.0.0.1', '127.1.2.3', 'localhost', '::1']) t.ok(isLoopback(host), host)
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.example.org', 'localhost.example.org'])
    t.notOk(isLoopback(host), host)
})
