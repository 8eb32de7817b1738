#!/usr/bin/env python3
"""
One writer of the soak, in one mount: makes, grows, replaces, moves and removes files and writes blocks, and keeps a manifest on a local disk
of what it is about to do and of what was synced. Whatever happens to the cluster, each file must be in a state that the manifest allows.

usage: writer.py ROOT WHO WRITERS MANIFESTS      ROOT: the mount; MANIFESTS: absolute, a local directory, with one file for each writer
       writer.py ROOT WHO WRITERS MANIFESTS check    only looks whether everything of writer WHO is there

It prints JSON lines: {"ops": {NAME: COUNT}, "stallMs": N, "stall": TEXT} now and then, {"error": TEXT} and exit code 3 when a system
call failed, {"lost": TEXT} and exit code 4 when something is not as it must be. It ends with its parent.

A state of a file is None (no such file) or [DIRECTORY, VERSION, LENGTH MIN, LENGTH MAX]: its content is the beginning of the stream of this
version. A line of a manifest is {"k": FILE, "to": STATE, "done": BOOLEAN}: what is allowed from then on beside what was before, or alone.
"""
import functools
import json
import os
import random
import sys
import time

# As the working directory it stays that of this mount: after an unmount the path is that of an empty directory.
os.chdir(sys.argv[1])
root, who, writers, manifests = ".", int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
parent = os.getppid()
files, blocks, block_bytes, stream_max = 40, 64, 4096, 512 * 1024
directories = ("a", "b")
draw = random.Random(os.urandom(8))


class Lost(Exception):
    pass


@functools.lru_cache(maxsize=64)
def stream(owner, k, version):
    return random.Random(f"{owner}/{k}/{version}").randbytes(stream_max)


def block_content(owner, index, version):
    return (b"%04d%04d%08d" % (owner, index, version)) * (block_bytes // 16) if version else bytes(block_bytes)


def say(**what):
    print(json.dumps(what), flush=True)


class Manifest:
    """What a writer's manifest allows; read as far as it is written."""

    def __init__(self, owner):
        self.owner = owner
        self.path = f"{manifests}/{owner}"
        self.offset = 0
        self.allowed = {}

    def news(self):
        """The entries since the last look. A line that is not yet whole counts the next time, and nothing after it is looked at."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                entry = json.loads(line)
                self.take(entry)
                yield entry

    def read(self):
        for _ in self.news():
            pass
        return self

    def take(self, entry):
        k, to = entry["k"], entry["to"]
        self.allowed[k] = [to] if entry["done"] else [*self.states(k), to]

    def states(self, k):
        return self.allowed.get(k, [0 if str(k).startswith("block") else None])


class Own(Manifest):
    def __init__(self):
        super().__init__(who)
        if os.path.exists(self.path):
            self.read()
        self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, k, to, done):
        entry = {"k": k, "to": to, "done": done}
        os.write(self.file, json.dumps(entry).encode() + b"\n")
        self.take(entry)


def path_of(owner, directory, k):
    return f"{root}/w{owner}/{directory}/f{k}"


def find(owner, k):
    """Where the file is, and what is in it: None or (directory, content)."""
    found = None
    for directory in directories:
        try:
            with open(path_of(owner, directory, k), "rb", buffering=0) as file:
                content = file.readall()
        except FileNotFoundError:
            continue
        if found is not None:
            raise Lost(f"w{owner} f{k} is in two directories")
        found = (directory, content)
    return found


def fits(owner, k, found, state):
    if found is None or state is None:
        return found is None and state is None
    directory, content = found
    return (
        directory == state[0]
        and state[2] <= len(content) <= state[3]
        and content == stream(owner, k, state[1])[: len(content)]
    )


def judge(owner, k, found, allowed, moving):
    """Gives the state that fits. A file that somebody else moves may be missed in both places or seen in both."""
    for state in allowed:
        if fits(owner, k, found, state):
            return state
    if moving and found is None and len({state[0] for state in allowed if state}) > 1:
        return None
    seen = "missing" if found is None else f"in {found[0]} with {len(found[1])} bytes of {found[1][:16].hex()}"
    raise Lost(f"w{owner} f{k} is {seen}; allowed: {allowed}")


def block_version(owner, index, content):
    """The version that all of a block has."""
    for version in (0, int(content[8:16] or 0) if content[8:16].isdigit() else 0):
        if content == block_content(owner, index, version):
            return version
    raise Lost(f"block {index} of w{owner} is torn: {len(content)} bytes, {len({content[i:i + 16] for i in range(0, len(content), 16)})} units")


def judge_block(owner, index, content, allowed):
    version = block_version(owner, index, content)
    if not min(allowed) <= version <= max(allowed):
        raise Lost(f"block {index} of w{owner} has version {version}; allowed: {allowed}")
    return version


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Writer:
    def __init__(self):
        self.own = Own()
        self.peers = {owner: Manifest(owner) for owner in range(writers) if owner != who}
        self.live = {}
        self.ops = {}
        self.stall = (0.0, "")
        self.version = int(time.time() * 10) % 10**8

    def everything(self):
        """Everything of its own against the manifest. What is there now is synced, so that it stays."""
        for directory in directories:
            os.makedirs(f"{root}/w{who}/{directory}", exist_ok=True)
            sync(f"{root}/w{who}/{directory}")
        for k in range(files):
            found = find(who, k)
            state = judge(who, k, found, self.own.states(k), moving=False)
            if len(self.own.states(k)) > 1 or (state and state[2] != state[3]):
                if found is not None:
                    sync(path_of(who, found[0], k))
                    state = [found[0], state[1], len(found[1]), len(found[1])]
                for directory in directories:
                    sync(f"{root}/w{who}/{directory}")
                self.own.note(k, state, True)
            self.live[k] = state
        path = f"{root}/w{who}/blocks"
        if not os.path.exists(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(fd, blocks * block_bytes)
            os.fsync(fd)
            os.close(fd)
        self.blocks = os.open(path, os.O_RDWR)
        for index in range(blocks):
            content = os.pread(self.blocks, block_bytes, index * block_bytes)
            version = judge_block(who, index, content, self.own.states(f"block{index}"))
            self.own.note(f"block{index}", version, True)
        os.fsync(self.blocks)

    def put(self, k):
        self.version += 1
        length = draw.randrange(1, 65536) if draw.randrange(3) else draw.randrange(1, 3000)
        before = self.live[k]
        directory = before[0] if before else draw.choice(directories)
        to = [directory, self.version, length, length]
        self.own.note(k, to, False)
        place = f"{root}/w{who}/{directory}"
        fd = os.open(f"{place}/new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        assert os.write(fd, stream(who, k, self.version)[:length]) == length
        os.fsync(fd)
        os.close(fd)
        os.rename(f"{place}/new", path_of(who, directory, k))
        sync(place)
        self.done(k, to)

    def grow(self, k):
        state = self.live[k]
        if state is None:
            return self.put(k)
        directory, version, _, before = state
        length = min(stream_max, before + draw.randrange(1, 20000))
        to = [directory, version, self.own.states(k)[0][2], length]
        self.own.note(k, to, False)
        fd = os.open(path_of(who, directory, k), os.O_WRONLY | os.O_APPEND)
        if length > before:
            assert os.write(fd, stream(who, k, version)[before:length]) == length - before
        self.live[k] = [directory, version, length, length]
        if draw.randrange(3):
            os.fsync(fd)
            self.done(k, [directory, version, length, length])
        os.close(fd)

    def move(self, k):
        state = self.live[k]
        if state is None:
            return self.put(k)
        directory, version, _, length = state
        target = directories[1 - directories.index(directory)]
        # What was not synced may go with the mount, wherever the file is then.
        least = min(allowed[2] for allowed in self.own.states(k) if allowed)
        self.own.note(k, [target, version, least, length], False)
        os.rename(path_of(who, directory, k), path_of(who, target, k))
        sync(path_of(who, target, k))
        for each in directories:
            sync(f"{root}/w{who}/{each}")
        self.done(k, [target, version, length, length])

    def remove(self, k):
        state = self.live[k]
        if state is None:
            return self.put(k)
        self.own.note(k, None, False)
        os.unlink(path_of(who, state[0], k))
        sync(f"{root}/w{who}/{state[0]}")
        self.done(k, None)

    def block(self, _):
        index = draw.randrange(blocks)
        version = self.own.states(f"block{index}")[-1] + 1
        self.own.note(f"block{index}", version, False)
        assert os.pwrite(self.blocks, block_content(who, index, version), index * block_bytes) == block_bytes
        if draw.randrange(2):
            os.fdatasync(self.blocks)
            self.own.note(f"block{index}", version, True)

    def done(self, k, state):
        self.live[k] = state
        self.own.note(k, state, True)

    def look(self, k):
        """At a file of its own, which must be exactly as it was left."""
        judge(who, k, find(who, k), [self.live[k]], moving=False)

    def look_at_another(self, k):
        """At a file or block of another writer, perhaps in another mount, which works on it at the same time."""
        peer = self.peers[draw.choice(list(self.peers))]
        index = draw.randrange(blocks)
        if not os.path.exists(peer.path):
            return
        before = {key: list(peer.read().states(key)) for key in (k, f"block{index}")}
        try:
            found, twice = find(peer.owner, k), False
        except Lost:
            found, twice = None, True
        content = b""
        try:
            with open(f"{root}/w{peer.owner}/blocks", "rb", buffering=0) as file:
                content = os.pread(file.fileno(), block_bytes, index * block_bytes)
        except FileNotFoundError:
            pass
        for entry in peer.news():
            if entry["k"] in before:
                before[entry["k"]].append(entry["to"])
        allowed = before[k]
        if not twice:
            judge(peer.owner, k, found, allowed, moving=True)
        elif len({state[0] for state in allowed if state}) < 2:
            raise Lost(f"w{peer.owner} f{k} is in two directories; allowed: {allowed}")
        if content:
            judge_block(peer.owner, index, content, before[f"block{index}"])

    def run(self):
        kinds = [self.put] * 3 + [self.grow] * 4 + [self.move] * 2 + [self.remove] + [self.block] * 4
        kinds += [self.look] * 3 + [self.look_at_another] * 3
        told = time.monotonic()
        while os.getppid() == parent:
            act, k = draw.choice(kinds), draw.randrange(files)
            started = time.monotonic()
            act(k)
            now = time.monotonic()
            name = act.__name__
            self.ops[name] = self.ops.get(name, 0) + 1
            if now - started > self.stall[0]:
                self.stall = (now - started, f"{name} by writer {who}")
            if now - told > 2:
                self.tell()
                told = now
            time.sleep(draw.random() * 0.05)

    def tell(self):
        say(ops=self.ops, stallMs=round(self.stall[0] * 1000), stall=self.stall[1])
        self.ops, self.stall = {}, (0.0, "")


def check():
    """From any mount, while nobody writes."""
    manifest = Manifest(who).read()
    for k in range(files):
        judge(who, k, find(who, k), manifest.states(k), moving=False)
    with open(f"{root}/w{who}/blocks", "rb", buffering=0) as file:
        for index in range(blocks):
            content = os.pread(file.fileno(), block_bytes, index * block_bytes)
            judge_block(who, index, content, manifest.states(f"block{index}"))
    say(checked=files + blocks)


try:
    if sys.argv[5:] == ["check"]:
        check()
    else:
        writer = Writer()
        writer.everything()
        writer.run()
except Lost as lost:
    say(lost=str(lost))
    sys.exit(4)
except OSError as error:
    say(error=f"{error} at line {error.__traceback__.tb_lineno if error.__traceback__ else 0}")
    sys.exit(3)
