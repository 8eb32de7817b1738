/**
 * Deliberate bugs, each a change of one place of the source text: what the simulation must find. A mutation whose text is not there exactly
 * once does not fit the source any more and is to be brought up to date.
 */
export interface Mutation {
  name: string
  file: string
  find: string
  replace: string
}

export const mutations: readonly Mutation[] = [
  {
    name: 'leases are granted without asking their holders',
    file: 'src/domain/lease.ts',
    find: 'for (const [holder, { mode }] of holders) if (holder !== session && exceeds(mode, allowed)) return true',
    replace: '',
  },
  {
    name: 'a recall is never sent',
    file: 'src/master/leases.ts',
    find: '    this.#options.recall(session, { ino, mode: wireMode(to), grant })\n  }\n\n  #repeatAll',
    replace: '  }\n\n  #repeatAll',
  },
  {
    name: 'a lease is returned before what is buffered is committed',
    file: 'src/client/client-file-system.ts',
    find: '    await this.#flusher.flush(inode, { sync: false })\n    inode.tail = undefined',
    replace: '    inode.tail = undefined',
  },
  {
    name: 'a client trusts its leases after they ran out',
    file: 'src/client/session.ts',
    find: 'return this.#clock.nowMs() < this.#confirmedUntilMs\n',
    replace: 'return true\n',
  },
  {
    name: 'what was cached stays after a recall',
    file: 'src/client/client-core.ts',
    find: '    inode.dropLayout()\n    this.inodes.forgetIdle(inode)',
    replace: '    this.inodes.forgetIdle(inode)',
  },
  {
    name: 'the kernel is not told that names are old',
    file: 'src/client/front-end.ts',
    find: 'return this.#believes(cached.namesToldMs) ? this.#receiver?.forgetNames(ino) : undefined',
    replace: 'return undefined',
  },
  {
    name: 'a fenced session may still commit',
    file: 'src/master/store.ts',
    find: "if (options.signal?.aborted === true) throw new PosixError('EINTR')",
    replace: '',
  },
  {
    name: 'a restarted master does not wait for its sessions',
    file: 'src/master/session-service.ts',
    find: 'if (!(await isRepeat(store, session.id, request.id))) await recovered(sessions.recovered, signal)',
    replace: '',
  },
  {
    name: 'a retry is carried out again',
    file: 'src/master/ops/index.ts',
    find: 'if (known.ids.has(id)) {',
    replace: 'if (known.ids.has(-id)) {',
  },
  {
    name: 'the master answers before its log is on disk',
    file: 'src/master/store.ts',
    find: 'await this.#kv.write(changes, { sync: true })',
    replace: 'void this.#kv.write(changes, { sync: true })',
  },
  {
    name: "the master's log is not synced",
    file: 'src/master/store.ts',
    find: 'this.#kv.write(changes, { sync: true })',
    replace: 'this.#kv.write(changes, { sync: false })',
  },
  {
    name: 'requests are not sent again on a new stream',
    file: 'src/client/session.ts',
    find: '    this.#resend()\n    this.#flushSoon()',
    replace: '    this.#flushSoon()',
  },
  {
    name: 'fsync does not reach the chunk servers',
    file: 'src/client/flusher.ts',
    find: 'await this.#options.syncChunks(chunkIds)\n',
    replace: '',
  },
  {
    name: 'an append that is to be synced is not',
    file: 'src/client/flusher.ts',
    find: 'const appended = await appends.append(parts, { copies, sync: batch.sync })',
    replace: 'const appended = await appends.append(parts, { copies, sync: false })',
  },
  {
    name: 'a chunk server acknowledges a sync without one',
    file: 'src/chunkserver/chunk-file.ts',
    find: 'await this.#file.sync()',
    replace: 'await Promise.resolve()',
  },
  {
    name: 'synced data moves without a sync when its block grows',
    file: 'src/client/file-io.ts',
    find: 'if (tail.synced) inode.replacesSynced = true',
    replace: '',
  },
  {
    name: 'one replica is enough',
    file: 'src/client/chunks/open-chunk.ts',
    find: 'const enough = held >= this.copiesMin',
    replace: 'const enough = held >= 1',
  },
  {
    name: 'a chunk whose end was lost everywhere is given up',
    file: 'src/master/repair.ts',
    find: 'if (good.length === 0) return this.#cut(entry)',
    replace: 'if (good.length === 0) return',
  },
  {
    name: 'lost replicas are not made again',
    file: 'src/master/repair.ts',
    find: 'if (sources.length === 0) return false',
    replace: 'if (sources.length >= 0) return false',
  },
  {
    name: 'an extent that is split keeps the wrong place in its chunk',
    file: 'src/domain/extents.ts',
    find: 'extent.chunkOffset + (start - extent.offset),',
    replace: 'extent.chunkOffset,',
  },
  {
    name: 'neighbours are joined although their chunks differ',
    file: 'src/domain/extents.ts',
    find: '      last.chunkId === extent.chunkId &&\n',
    replace: '',
  },
  {
    name: 'blocks that are freed are not counted',
    file: 'src/master/space.ts',
    find: '        liveBlocks -= end - first\n',
    replace: '',
  },
  {
    name: 'blocks that are shared are freed with their first file',
    file: 'src/master/space.ts',
    find: 'emit({ first, end, count: count + change })',
    replace: 'emit({ first, end, count: change < 0 ? 0 : count + change })',
  },
  {
    name: 'a removed file is never freed',
    file: 'src/master/reaper.ts',
    find: '    this.#queue.add(ino)\n',
    replace: '',
  },
  {
    name: 'a locked range is granted again',
    file: 'src/master/locks.ts',
    find: 'const conflict = conflictOf(locks?.held ?? [], wish)\n    if (!conflict) {',
    replace: 'const conflict = conflictOf([], wish)\n    if (!conflict) {',
  },
  {
    name: 'locks outlive their session',
    file: 'src/master/locks.ts',
    find: 'locks.held = locks.held.filter((lock) => lock.session !== session)',
    replace: '',
  },
  {
    name: 'leases outlive their session',
    file: 'src/master/master.ts',
    find: '      leases.dropSession(session)\n',
    replace: '',
  },
  {
    name: 'a rename leaves the old name',
    file: 'src/master/ops/rename.ts',
    find: '    removeEntry(tx, source, moved)\n    addEntry(tx, target, moved)',
    replace: '    addEntry(tx, target, moved)',
  },
  {
    name: 'damage goes unnoticed by the reader',
    file: 'src/client/chunks/reader.ts',
    find: "return firstCorruptBlock(outcome.data, outcome.checksums) === -1 ? undefined : 'corrupt'",
    replace: 'return undefined',
  },
  {
    name: 'O_APPEND writes where its caller says',
    file: 'src/client/file-io.ts',
    find: 'this.#put(inode, append === true ? inode.size : offset, data)',
    replace: 'this.#put(inode, offset, data)',
  },
]
