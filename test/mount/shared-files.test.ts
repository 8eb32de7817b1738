/**
 * Several mounts that write the same files: appended records, a counter under a lock, and a database that relies on locks, fsync and
 * coherent reads. SHARED_FILES_SCALE=n: n times as much.
 */
import t from 'tap'
import { startCluster } from '../lib/cluster.ts'
import { needs } from '../lib/needs.ts'
import { check, sh } from '../lib/sh.ts'

const scale = Number(process.env['SHARED_FILES_SCALE'] ?? 1)
const recordsEach = 60 * scale
const incrementsEach = 25 * scale
const rowsEach = 20 * scale
const timeoutMs = 60_000 + 20_000 * scale

/** Each record in one write(2): who, which, how long, and as many bytes as that. */
const append = `
import os, random, sys
path, who, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = random.Random(who)
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for i in range(count):
    length = r.choice([0, r.randrange(100), r.randrange(5000)])
    record = b"%d %06d %d %s\\n" % (who, i, length, (b"%d" % (i % 10)) * length)
    assert os.write(fd, record) == len(record)`

const checkAppended = `
import sys
path, writers, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
following = [0] * writers
for line in open(path, "rb"):
    who, i, length, rest = line[:-1].split(b" ")
    who, i = int(who), int(i)
    assert i == following[who], (who, i, following[who])
    assert rest == (b"%d" % (i % 10)) * int(length), (who, i, length)
    following[who] += 1
assert following == [count] * writers, following
print(sum(following))`

const count = `
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
for i in range(int(sys.argv[2])):
    fcntl.lockf(fd, fcntl.LOCK_EX)
    n = int(os.pread(fd, 20, 0) or b"0")
    os.pwrite(fd, b"%d" % (n + 1), 0)
    fcntl.lockf(fd, fcntl.LOCK_UN)`

/** Rows that one writer adds; each transaction also moves a sum that both share. */
const insert = `
import sqlite3, sys
path, who, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
for i in range(count):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO rows VALUES (?, ?, ?)", (who, i, "x" * (i * 37 % 3000)))
    db.execute("UPDATE total SET n = n + 1")
    db.execute("COMMIT")`

const checkRows = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=120)
print(db.execute("PRAGMA integrity_check").fetchone()[0],
      db.execute("SELECT n FROM total").fetchone()[0],
      *db.execute("SELECT count(*), max(i) FROM rows GROUP BY who ORDER BY who").fetchall())`

t.test('four mounts', { timeout: 4 * timeoutMs }, async (t) => {
  if (!(await needs(t, { root: true, fuse: true, programs: ['python3', 'sqlite3'] }))) return
  const cluster = await startCluster(t, { mounts: 4 })
  const roots = cluster.mounts.map(({ directory }) => directory)
  const last = roots.at(-1)!
  const python = (program: string, ...args: string[]): Promise<string> =>
    check('python3', ['-c', program, ...args], { timeoutMs })

  await t.test('records that eight processes append', async (t) => {
    const writers = [...roots, ...roots]
    await Promise.all(writers.map((root, who) => python(append, `${root}/log`, `${who}`, `${recordsEach}`)))
    for (const root of roots) {
      const said = await python(checkAppended, `${root}/log`, `${writers.length}`, `${recordsEach}`)
      t.equal(said.trim(), `${writers.length * recordsEach}`)
    }
    t.comment(`${writers.length * recordsEach} records are there, whole and in order`)
  })

  await t.test('a counter under a lock', async (t) => {
    await Promise.all(roots.map((root) => python(count, `${root}/counter`, `${incrementsEach}`)))
    for (const root of roots) t.equal(await sh(`cat '${root}/counter'`), `${roots.length * incrementsEach}`)
  })

  await t.test('SQLite in rollback mode from two mounts', async (t) => {
    await sh(`sqlite3 '${roots[0]}/rows.db' 'CREATE TABLE rows (who, i, text); CREATE TABLE total (n);
      INSERT INTO total VALUES (0)'`)
    const [a, b] = roots as [string, string]
    await Promise.all([a, b].map((root, who) => python(insert, `${root}/rows.db`, `${who}`, `${rowsEach}`)))
    const each = `(${rowsEach}, ${rowsEach - 1})`
    for (const root of [a, b, last]) {
      t.equal((await python(checkRows, `${root}/rows.db`)).trim(), `ok ${2 * rowsEach} ${each} ${each}`)
    }
    t.comment(`${2 * rowsEach} rows are there`)
  })
})
