/**
 * The metrics of a real cluster: promtool takes them, and a real Prometheus with the alerts and the dashboard's queries of deploy/monitoring
 * finds data for each.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import t from 'tap'
import { eventually, startCluster } from '../lib/cluster.ts'
import { metricsUrl, valueOf } from '../lib/metrics.ts'
import { needs } from '../lib/needs.ts'
import { check, run, sh } from '../lib/sh.ts'

interface Dashboard {
  panels: { title: string; targets: { expr: string }[] }[]
}

t.test('metrics', { timeout: 120_000 }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['promtool', 'prometheus'] }))) return
  const metrics = ['--metrics=0']
  const cluster = await startCluster(t, { masterArgs: metrics, serverArgs: metrics, mountArgs: metrics })
  const { directory } = cluster.mount
  const work = (): Promise<string> =>
    sh(
      `head -c 5000000 /dev/urandom > ${directory}/file; sync ${directory}/file; cat ${directory}/file | wc -c; ls ${directory}`,
    )
  await work()
  const urls = await Promise.all(cluster.roles.map(async (role) => metricsUrl(role)))
  const texts = await Promise.all(urls.map(async (url) => (await fetch(url)).text()))

  await t.test('promtool has nothing to say', async (t) => {
    for (const input of texts) {
      const said = await run('promtool', ['check', 'metrics'], { input })
      t.match(said, { code: 0, stdout: '', stderr: '' })
    }
    await check('promtool', ['check', 'config', 'deploy/monitoring/prometheus.yml'])
    t.match(await run('promtool', ['test', 'rules', 'deploy/monitoring/alerts.test.yml']), { code: 0 })
  })

  await t.test('they say what happened', async (t) => {
    const value = (text: string | undefined, series: string): number => valueOf(text ?? '', series)
    const [mount] = texts
    t.equal(value(mount, 'shoal_fs_bytes_total{operation="write"}'), 5_000_000)
    t.ok(value(mount, 'shoal_fs_bytes_total{operation="read"}') >= 5_000_000)
    t.equal(value(mount, 'shoal_fs_duration_seconds_count{operation="create"}'), 1)
    t.equal(value(mount, 'shoal_mount_master_up'), 1)
    const master = texts.at(-1)
    t.equal(value(master, 'shoal_chunks_by_valid_replicas{replicas="3"}'), 1)
    t.ok(value(master, 'shoal_live_bytes') >= 5_000_000)
    t.ok(value(master, 'shoal_rocksdb_write_buffers_bytes') > 0)
    t.ok(value(master, 'shoal_master_disk_free_bytes') > 0)
    t.ok(value(texts[1], 'shoal_disk_bytes_total{operation="write"}') >= 5_000_000)
  })

  await t.test('every query of the dashboard finds data, and nothing alerts', async (t) => {
    const home = t.testdir()
    const targets = (wanted: readonly string[]): string => JSON.stringify(wanted.map((url) => new URL(url).host))
    await writeFile(
      join(home, 'prometheus.yml'),
      `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ['${resolve('deploy/monitoring/alerts.yml')}']
scrape_configs:
  - { job_name: shoal-mount, static_configs: [{ targets: ${targets(urls.slice(0, 1))} }] }
  - { job_name: shoal-chunkserver, static_configs: [{ targets: ${targets(urls.slice(1, -1))} }] }
  - { job_name: shoal-master, static_configs: [{ targets: ${targets(urls.slice(-1))} }] }
`,
    )
    const prometheus = spawn(
      'prometheus',
      [`--config.file=${home}/prometheus.yml`, `--storage.tsdb.path=${home}/data`, '--web.listen-address=127.0.0.1:0'],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    const ended = new Promise((end) => prometheus.once('exit', end))
    t.teardown(async () => {
      prometheus.kill('SIGKILL')
      await ended
    })
    let said = ''
    prometheus.stderr.on('data', (bytes: Buffer) => (said += bytes.toString('utf8')))
    const base = await eventually('Prometheus listens', async () => {
      const address = /component=web[^\n]*address=(127\.0\.0\.1:\d*[1-9]\d*)/.exec(said)?.[1]
      return address === undefined ? undefined : `http://${address}`
    })
    const query = async (expr: string): Promise<unknown[]> => {
      const response = await fetch(`${base}/api/v1/query?query=${encodeURIComponent(expr)}`)
      const body = (await response.json()) as { status: string; error?: string; data?: { result: unknown[] } }
      if (body.status !== 'success') throw new Error(`${expr}: ${body.error}`)
      return body.data?.result ?? []
    }
    const dashboard = JSON.parse(await readFile('deploy/monitoring/grafana-dashboard.json', 'utf8')) as Dashboard
    const exprs = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))
    t.ok(exprs.length > 25)
    await work()
    for (const expr of exprs) {
      const found = await eventually(`data for ${expr}`, async () => (await query(expr)).length > 0)
      t.ok(found, expr)
    }
    t.same(await query('ALERTS'), [])
  })
})
