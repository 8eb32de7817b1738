/**
 * The page of a cluster: asks the master every two seconds and draws what it says. What comes from the cluster (names, labels) is only
 * ever set as text, never as markup.
 */
const pollMs = 2000

const byId = (id) => document.getElementById(id)

/** An element with a class, text or children. */
const make = (tag, options = {}, ...children) => {
  const element = document.createElement(tag)
  if (options.class) element.className = options.class
  if (options.text !== undefined) element.textContent = options.text
  if (options.title) element.title = options.title
  element.append(...children)
  return element
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
const bytes = (value) => {
  let unit = 0
  let rest = value
  while (rest >= 999.5 && unit < units.length - 1) {
    rest /= 1024
    unit++
  }
  return `${rest.toFixed(unit === 0 || rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2)} ${units[unit]}`
}
const count = (value) => value.toLocaleString('en-US')
const duration = (ms) => {
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`
}
const left = (etaMs) => (etaMs === undefined ? '' : `, about ${duration(etaMs)} left`)
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`

const fetchJson = async (url) => {
  const response = await fetch(url)
  const reply = await response.json()
  if (!response.ok) throw new Error(reply.error ?? `the master answered ${response.status}`)
  return reply
}

const fillTable = (id, heads, rows, empty) => {
  const head = make('tr', {}, ...heads.map(([text, kind]) => make('th', { text, class: kind })))
  const body = rows.map((cells) =>
    make(
      'tr',
      {},
      ...cells.map((cell, i) => {
        const td = make('td', { class: heads[i]?.[1] })
        td.append(cell)
        return td
      }),
    ),
  )
  const none = make('tr', {}, make('td', { class: 'dim', text: empty }))
  byId(id).replaceChildren(...(rows.length > 0 ? [head, ...body] : [none]))
}

// --- health -----------------------------------------------------------------------------------------------------------

const troubles = (status) => {
  const found = []
  const { chunks, servers } = status
  const away = servers.filter(({ state }) => state !== 'up')
  if (chunks.lost > 0) found.push(['bad', `${plural(chunks.lost, 'chunk')} without a valid copy`])
  if (chunks.underReplicated > 0) found.push(['warn', `${plural(chunks.underReplicated, 'chunk')} with too few copies`])
  if (away.length > 0) found.push(['warn', `${away.map(nameOf).join(', ')} down`])
  if (servers.length - away.length < status.copies) found.push(['warn', `${status.copies} copies need as many servers`])
  const corrupt = servers.reduce((sum, { corruptReplicas }) => sum + corruptReplicas, 0)
  if (corrupt > 0) found.push(['warn', plural(corrupt, 'corrupt copy', 'corrupt copies')])
  return found
}

const nameOf = ({ serverId, label }) => (label === '' ? `server ${serverId}` : `server ${serverId} (${label})`)

const drawHealth = (status) => {
  const found = troubles(status)
  const health = byId('health')
  health.className = found.some(([kind]) => kind === 'bad') ? 'bad' : found.length > 0 ? 'warn' : 'good'
  health.textContent = found.length === 0 ? 'All is well' : found.map(([, text]) => text).join(' · ')
  byId('cluster').textContent =
    `cluster ${status.clusterId}, version ${status.version}, up ${duration(status.uptimeMs)}`
  document.title = found.length === 0 ? 'Shoal' : `(!) Shoal`
}

const drawFigures = (status) => {
  const up = status.servers.filter(({ state }) => state === 'up')
  const used = up.reduce((sum, server) => sum + server.usedBytes, 0)
  const free = up.reduce((sum, server) => sum + server.freeBytes, 0)
  const tiles = [
    [count(status.inodes), 'files and directories'],
    [bytes(status.liveBytes), 'in one copy'],
    [bytes(used), `used, ${bytes(free)} free`],
    [`${up.length} / ${status.servers.length}`, 'servers up'],
    [count(status.chunks.total), `chunks, ${count(status.chunks.open)} open`],
    [count(status.leases), `leases, ${status.recallsPerSecond.toFixed(1)} recalls/s`],
  ]
  byId('figures').replaceChildren(
    ...tiles.map(([value, text]) => make('div', { class: 'tile' }, make('b', { text: value }), make('span', { text }))),
  )
}

// --- servers, copies, background --------------------------------------------------------------------------------------

const bar = (value, max) => {
  const element = make('progress')
  element.max = Math.max(1, max)
  element.value = value
  return element
}

const drainSentence = ({ drain }) => {
  if (drain.done) return 'drained, can be removed'
  return `draining: ${plural(drain.replicasLeft, 'copy', 'copies')}, ${bytes(drain.bytesLeft)}${left(drain.etaMs)}`
}

const serverBox = (server) => {
  const isUp = server.state === 'up'
  const state = make('b', {
    class: isUp ? 'good' : 'bad',
    text: isUp ? 'up' : `down for ${duration(server.lastSeenMsAgo)}`,
  })
  const box = make('div', { class: 'server' }, make('p', {}, `${nameOf(server)} · `, state))
  box.append(make('p', { class: 'dim', text: server.address || 'not heard of yet' }))
  box.append(bar(server.fillPermille, 1000))
  const fill = `${(server.fillPermille / 10).toFixed(1)} % · ${bytes(server.usedBytes)} used · ${bytes(server.freeBytes)} free`
  box.append(make('p', { class: 'dim', text: `${fill} · ${plural(server.replicas, 'copy', 'copies')}` }))
  if (server.corruptReplicas > 0)
    box.append(make('p', { class: 'bad', text: `${count(server.corruptReplicas)} corrupt` }))
  if (server.drain) {
    box.append(make('p', { class: 'warn', text: drainSentence(server) }))
    box.append(bar(server.drain.bytesTotal - server.drain.bytesLeft, server.drain.bytesTotal))
  }
  return box
}

const drawRacks = ({ servers }) => {
  const racks = new Map()
  for (const server of servers) racks.set(server.rack, [...(racks.get(server.rack) ?? []), server])
  const boxes = [...racks]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([rack, members]) => {
      const title = make('h3', { text: rack === '' ? 'no rack' : `rack ${rack}` })
      return make('div', { class: 'rack' }, title, ...members.map(serverBox))
    })
  byId('racks').replaceChildren(
    ...(boxes.length > 0 ? boxes : [make('p', { class: 'dim', text: 'No chunk server yet.' })]),
  )
}

const drawCopies = ({ chunks, copies }) => {
  const stack = make('div', { class: 'stack' })
  const list = make('p', { class: 'dim' })
  const texts = []
  for (const [valid, number] of chunks.byValidReplicas.entries()) {
    if (number === 0) continue
    // Directories may have their own number of copies: fewer than usual is wrong only where some chunk has too few.
    const tooFew = valid < copies && chunks.underReplicated > 0
    const kind = valid === 0 ? 'bad' : tooFew ? 'warn' : valid > copies ? 'other' : 'good'
    const part = make('span', { class: `fill-${kind}`, title: `${plural(number, 'chunk')} with ${valid}` })
    part.style.flexGrow = String(number)
    stack.append(part)
    texts.push(`${count(number)} with ${valid}`)
  }
  if (chunks.underReplicated > 0) texts.push(`${count(chunks.underReplicated)} with fewer than they should have`)
  if (chunks.overReplicated > 0) texts.push(`${count(chunks.overReplicated)} with more`)
  list.textContent = texts.length === 0 ? 'No chunks yet.' : `${texts.join(' · ')} (new files: ${copies})`
  byId('copies').replaceChildren(stack, list)
}

const drawWork = ({ repair, rebalance, scrub, copiesJobs }) => {
  const lines = []
  const add = (text, value, max) => {
    lines.push(make('p', { text }))
    if (max > 0) lines.push(bar(value, max))
  }
  const missing = repair.queued + repair.running
  const done = `${plural(repair.done, 'copy', 'copies')} made, ${count(repair.failed)} failed, ${count(repair.corruptReplaced)} corrupt replaced`
  if (missing === 0) add(`Repair: idle; ${done}`)
  else
    add(
      `Repair: ${count(repair.running)} running, ${count(repair.queued)} queued, ${bytes(repair.bytesLeft)}${left(repair.etaMs)}; ${done}`,
    )
  const distance = `${(rebalance.distancePermille / 10).toFixed(1)} % from even`
  if (rebalance.state === 'even') add(`Balance: ${distance}`)
  else {
    add(
      `Balance: ${rebalance.state}, ${distance}, ${plural(rebalance.movesDone, 'move')}${left(rebalance.etaMs)}`,
      rebalance.bytesMoved,
      rebalance.bytesMoved + rebalance.bytesLeft,
    )
  }
  if (scrub.run === 0) add('Scrub: by the servers themselves, slowly')
  else {
    const found = `${count(scrub.replicasDone)} of ${plural(scrub.replicasTotal, 'copy', 'copies')}, ${count(scrub.corrupt)} corrupt`
    add(
      `Scrub: ${scrub.running ? 'running, ' : 'done, '}${found}${left(scrub.etaMs)}`,
      scrub.bytesDone,
      scrub.running ? scrub.bytesTotal : 0,
    )
  }
  for (const job of copiesJobs)
    add(`Copies: inode ${job.ino} to ${job.copies}, ${plural(job.inodesDone, 'inode')} done`)
  byId('work').replaceChildren(...lines)
}

const drawSessions = ({ sessions }) =>
  fillTable(
    'sessions',
    [
      ['mount'],
      ['pid', 'number'],
      ['state'],
      ['open files', 'number'],
      ['leases', 'number'],
      ['read', 'number'],
      ['written', 'number'],
      ['requests', 'number'],
    ],
    sessions.map((session) => [
      `${session.host}:${session.mountPoint}`,
      String(session.pid),
      make('span', { class: session.state === 'connected' ? 'good' : 'warn', text: session.state }),
      count(session.openFiles),
      count(session.leases),
      bytes(session.activity.readBytes),
      bytes(session.activity.writeBytes),
      count(session.activity.others),
    ]),
    'Nothing is mounted.',
  )

const drawEvents = ({ repair }) =>
  fillTable(
    'events',
    [['time'], ['chunk'], ['server', 'number'], ['what']],
    repair.recent
      .slice(-12)
      .toReversed()
      .map((event) => [
        new Date(event.atMs).toLocaleTimeString(),
        `chunk ${event.chunkId}`,
        String(event.serverId),
        event.what,
      ]),
    'Nothing was repaired lately.',
  )

// --- plots ------------------------------------------------------------------------------------------------------------

const width = 600
const height = 160
const spanMs = 600_000

/** One line per series over the last ten minutes; the scale begins at 0. Returns the largest value. */
const plot = (id, points, series) => {
  const svg = byId(id)
  const now = points.at(-1)?.atMs ?? 0
  const max = Math.max(1e-9, ...points.flatMap((point) => series.map(([, value]) => value(point) ?? 0)))
  const parts = [0.25, 0.5, 0.75].map((share) => {
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'path')
    line.setAttribute('class', 'grid')
    line.setAttribute('d', `M0 ${height * share}H${width}`)
    return line
  })
  for (const [kind, value] of series) {
    let d = ''
    let isGap = true
    for (const point of points) {
      const y = value(point)
      if (y === undefined) {
        isGap = true
        continue
      }
      const x = width - ((now - point.atMs) / spanMs) * width
      d += `${isGap ? 'M' : 'L'}${x.toFixed(1)} ${(height - 3 - (y / max) * (height - 8)).toFixed(1)}`
      isGap = false
    }
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'path')
    line.setAttribute('class', kind)
    line.setAttribute('d', d)
    parts.push(line)
  }
  svg.replaceChildren(...parts)
  return max
}

/** Mounts tell their figures every few seconds, not in step with the page: between two looks there may be none, or two. */
const averagedSamples = 5

/** Differences over the last looks; a process that began anew counts from zero. */
const ratesOf = (samples) =>
  samples.slice(1).map((after, i) => {
    const before = samples[Math.max(0, i + 1 - averagedSamples)]
    const seconds = Math.max(0.001, (after.atMs - before.atMs) / 1000)
    const since = (name) => Math.max(0, after.mounts[name] - before.mounts[name])
    const mean = (micros, number) => (since(number) === 0 ? undefined : since(micros) / since(number) / 1000)
    return {
      atMs: after.atMs,
      read: since('readBytes') / seconds,
      write: since('writeBytes') / seconds,
      readMs: mean('readMicros', 'reads'),
      writeMs: mean('writeMicros', 'writes'),
      otherMs: mean('otherMicros', 'others'),
    }
  })

const drawPlots = (samples) => {
  const points = ratesOf(samples)
  const last = points.at(-1)
  const top = plot('plot-bytes', points, [
    ['read', ({ read }) => read],
    ['write', ({ write }) => write],
  ])
  byId('scale-bytes').textContent =
    last === undefined
      ? 'Wait for it …'
      : `now ${bytes(last.read)}/s read, ${bytes(last.write)}/s written; top of the scale ${bytes(top)}/s; the last 10 minutes`
  const slowest = plot('plot-latency', points, [
    ['read', ({ readMs }) => readMs],
    ['write', ({ writeMs }) => writeMs],
    ['other', ({ otherMs }) => otherMs],
  ])
  byId('scale-latency').textContent = `top of the scale ${slowest < 1e-6 ? '–' : `${slowest.toFixed(2)} ms`}`
}

// --- files ------------------------------------------------------------------------------------------------------------

const typeOf = (mode) => mode & 0o170000
const isDirectory = (mode) => typeOf(mode) === 0o040000
const isRegular = (mode) => typeOf(mode) === 0o100000
const joined = (directory, name) => (directory === '/' ? `/${name}` : `${directory}/${name}`)

const action = (text, run) => {
  const button = make('button', { text })
  button.addEventListener('click', () => void run())
  return button
}

const showError = (error) => byId('file').replaceChildren(make('p', { class: 'bad', text: error.message }))

const showDirectory = async (path) => {
  const crumbs = [action('/', () => showDirectory('/'))]
  let at = ''
  for (const name of path.split('/').filter(Boolean)) {
    at += `/${name}`
    const here = at
    crumbs.push(
      ' ',
      action(name, () => showDirectory(here)),
    )
  }
  byId('path').replaceChildren(...crumbs)
  byId('file').replaceChildren()
  const rows = []
  const draw = (end, after) => {
    if (!end) rows.push([action('more …', () => load(after))])
    fillTable('files', [['name'], ['bytes', 'number'], ['copies', 'number'], ['changed']], rows, 'Nothing is in it.')
    if (!end) rows.pop()
  }
  const load = async (after) => {
    try {
      const { entries, end } = await fetchJson(`/api/list?path=${encodeURIComponent(path)}&after=${after}`)
      for (const entry of entries) {
        const full = joined(path, entry.name)
        const name = isDirectory(entry.mode)
          ? action(`${entry.name}/`, () => showDirectory(full))
          : isRegular(entry.mode)
            ? action(entry.name, () => showFile(full))
            : entry.name
        rows.push([
          name,
          isDirectory(entry.mode) ? '' : bytes(entry.size),
          String(entry.copies),
          new Date(entry.mtimeMs).toLocaleString(),
        ])
      }
      draw(end, entries.at(-1)?.cookie ?? after)
    } catch (error) {
      showError(error)
    }
  }
  await load('0')
}

const showFile = async (path) => {
  try {
    const file = await fetchJson(`/api/locate?path=${encodeURIComponent(path)}`)
    const head = make(
      'p',
      {},
      make('b', { text: path }),
      ` · ${bytes(file.size)} · ${plural(file.copies, 'copy', 'copies')}`,
    )
    if (file.inline)
      return byId('file').replaceChildren(head, make('p', { text: 'Small: the master keeps it in its own data.' }))
    const table = make('table')
    table.append(make('tr', {}, ...['from', 'bytes', 'chunk', 'on servers'].map((text) => make('th', { text }))))
    for (const piece of file.pieces) {
      const places = piece.replicas.map(({ serverId, state }) =>
        make('span', {
          class: state === 'valid' ? 'good' : 'bad',
          text: `${serverId}${state === 'valid' ? '' : ` (${state})`} `,
        }),
      )
      const where =
        piece.chunkId === '0'
          ? ['never written']
          : places.length > 0
            ? places
            : [make('b', { class: 'bad', text: 'none' })]
      const cells = [bytes(piece.offset), bytes(piece.length), piece.chunkId].map((text) => make('td', { text }))
      table.append(make('tr', {}, ...cells, make('td', {}, ...where)))
    }
    const more =
      file.nextOffset === '0'
        ? ''
        : make('p', { class: 'dim', text: 'The beginning of the file; shoal locate shows all of it.' })
    byId('file').replaceChildren(
      head,
      ...(file.pieces.length === 0 ? ['No data.'] : [make('div', { class: 'wide' }, table)]),
      more,
    )
  } catch (error) {
    showError(error)
  }
}

// --- the loop ---------------------------------------------------------------------------------------------------------

const draw = async () => {
  try {
    const [status, samples] = await Promise.all([fetchJson('/api/status'), fetchJson('/api/history')])
    for (const part of [drawHealth, drawFigures, drawRacks, drawCopies, drawWork, drawSessions, drawEvents])
      part(status)
    drawPlots(samples)
  } catch (error) {
    const health = byId('health')
    health.className = 'bad'
    health.textContent = `The master does not answer (${error.message}); what is below is old.`
  }
  setTimeout(() => void draw(), pollMs)
}

const fromAddress = () => {
  const path = decodeURIComponent(location.hash.slice(1)) || '/'
  return path.endsWith('/') || path === '/'
    ? showDirectory(path)
    : showDirectory(path.replace(/\/[^/]*$/, '') || '/').then(() => showFile(path))
}

void fromAddress()
await draw()
