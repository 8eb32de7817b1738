#!/usr/bin/env python3
"""Does to the data, locks and listings below a directory what POSIX and Linux say, and looks whether what comes of it is right. The rules are
those of a local file system: ext4 passes every check. Prints one JSON line for each check: {"name": NAME} or {"name": NAME, "wrong": TEXT}.

usage: posix-data.py DIRECTORY [NAME...]
"""
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
RWF_DSYNC, RWF_SYNC, RWF_APPEND = 2, 4, 16
checks = {}
directory = sys.argv[1]


def check(function):
    checks[function.__name__] = function
    return function


def same(found, wanted, what=""):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} where {wanted!r} is due")


def fails(name, function, *arguments):
    try:
        found = function(*arguments)
    except OSError as error:
        same(errno.errorcode.get(error.errno), errno.errorcode[getattr(errno, name)])
        return
    raise AssertionError(f"{found!r} where {name} is due")


def path(name):
    return os.path.join(directory, name)


def fresh(name, flags=0):
    return os.open(path(name), os.O_RDWR | os.O_CREAT | os.O_TRUNC | flags, 0o644)


def raising(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def fallocate(fd, mode, offset, length):
    raising(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def give_name(fd, name):
    raising(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(path(name)), AT_SYMLINK_FOLLOW))


def blocks(fd):
    os.fsync(fd)
    return os.fstat(fd).st_blocks


def child(work):
    """Runs work in a process of its own; gives its exit status, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work() or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Helper:
    """A process of its own that does what it is told, one thing after the other."""

    def __init__(self):
        ours, self.commands = os.pipe()
        self.results, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.commands)
            os.close(self.results)
            signal.signal(signal.SIGUSR1, lambda *_: None)
            files = {}
            source = os.fdopen(ours)
            for line in source:
                try:
                    is_ = eval(line, {**globals(), "files": files})
                    said = {"is": is_}
                except OSError as error:
                    said = {"fails": errno.errorcode.get(error.errno)}
                os.write(theirs, (json.dumps(said) + "\n").encode())
            os._exit(0)
        os.close(ours)
        os.close(theirs)

    def tell(self, expression):
        os.write(self.commands, (expression + "\n").encode())

    def answer(self, seconds=20):
        if not select.select([self.results], [], [], seconds)[0]:
            raise AssertionError("no answer of the other process")
        said = json.loads(os.read(self.results, 65536))
        return said["fails"] if "fails" in said else said["is"]

    def waits(self):
        return not select.select([self.results], [], [], 0.4)[0]

    def does(self, expression):
        self.tell(expression)
        return self.answer()

    def end(self, kill=False):
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.commands)
        os.waitpid(self.pid, 0)
        os.close(self.results)


def opened(files, key, name, flags=os.O_RDWR):
    files[key] = os.open(path(name), flags)


def closed(files, key):
    os.close(files.pop(key))


def lock(fd, command, kind, start, length):
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def lock_in_way(fd, start, length, command=fcntl.F_GETLK, kind=fcntl.F_WRLCK):
    """[type, start, length] of the first lock in the way, or None."""
    wish = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    found, _, at, size, _ = struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, wish))
    return None if found == fcntl.F_UNLCK else [found, at, size]


# --- data -----------------------------------------------------------------------------------------------------------


@check
def file_without_a_name():
    before = sorted(os.listdir(directory))
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"text" * 3000)
    same(os.fstat(fd).st_nlink, 0, "links")
    same(os.fstat(fd).st_mode, 0o100640, "mode")
    same(sorted(os.listdir(directory)), before, "names")
    give_name(fd, "named")
    same(os.fstat(fd).st_nlink, 1, "links with a name")
    give_name(fd, "named-twice")
    os.close(fd)
    same(open(path("named"), "rb").read(), b"text" * 3000)
    os.unlink(path("named"))
    same(os.stat(path("named-twice")).st_nlink, 1)
    os.unlink(path("named-twice"))


@check
def file_without_a_name_for_ever():
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    fails("ENOENT", give_name, fd, "never")
    os.close(fd)
    fd = fresh("gone")
    os.unlink(path("gone"))
    fails("ENOENT", give_name, fd, "never")
    os.close(fd)
    fails("EINVAL", os.open, directory, os.O_TMPFILE | os.O_RDONLY)
    same(os.path.exists(path("never")), False)


@check
def append_set_on_an_open_file():
    fd = fresh("log")
    os.write(fd, b"one\n")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"two\n")
    same(os.lseek(fd, 0, os.SEEK_CUR), 8, "position")
    os.pwrite(fd, b"three\n", 0)
    same(os.pread(fd, 100, 0), b"one\ntwo\nthree\n")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"ONE", 0)
    same(os.pread(fd, 100, 0), b"ONE\ntwo\nthree\n")
    os.close(fd)
    fd = os.open(path("log"), os.O_RDWR | os.O_APPEND)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"TWO", 4)
    same(os.pread(fd, 100, 0), b"ONE\nTWO\nthree\n", "an append that is not one any more")
    os.close(fd)
    os.unlink(path("log"))


@check
def mapping_of_a_file_opened_for_appending():
    fd = fresh("log", os.O_APPEND)
    os.write(fd, b"a" * 5000)
    with mmap.mmap(fd, 5000) as memory:
        memory[10:14] = b"MMAP"
        memory.flush()
        same(os.pread(fd, 6, 9), b"aMMAPa")
        os.write(fd, b"tail")
        memory[4096:4100] = b"PAGE"
        memory.flush()
        same(os.fstat(fd).st_size, 5004, "what a mapping writes is not appended")
        same(memory[10:14], b"MMAP")
    os.close(fd)
    content = open(path("log"), "rb").read()
    same((content[10:14], content[4096:4100], content[5000:]), (b"MMAP", b"PAGE", b"tail"))
    os.unlink(path("log"))


@check
def shared_mapping():
    fd = fresh("map")
    os.write(fd, b"x" * 20000)
    with mmap.mmap(fd, 20000) as memory:
        os.pwrite(fd, b"WRITE", 8190)
        same(memory[8189:8196], b"xWRITEx", "write(2) is seen in the mapping")
        memory[12000:12004] = b"SEEN"
        same(os.pread(fd, 6, 11999), b"xSEENx", "the mapping is seen by read(2)")
        other = os.open(path("map"), os.O_RDONLY)
        memory.flush()
        same(os.pread(other, 4, 12000), b"SEEN")
        os.close(other)
        os.ftruncate(fd, 10000)
        os.ftruncate(fd, 20000)
        same(memory[9999:10003], b"x\0\0\0", "what was cut off comes back as zeros")
        same(memory[12000:12004], b"\0" * 4)
    os.close(fd)
    os.unlink(path("map"))


@check
def mapping_beyond_the_end():
    fd = fresh("map")
    os.write(fd, b"x" * 100)

    def touch():
        memory = mmap.mmap(fd, 3 * 4096, mmap.MAP_SHARED) if os.fstat(fd).st_size >= 3 * 4096 else None
        if memory is None:
            os.ftruncate(fd, 3 * 4096)
            memory = mmap.mmap(fd, 3 * 4096, mmap.MAP_SHARED)
        os.ftruncate(fd, 100)
        same(memory[4095:4096], b"\0", "the rest of the last page")
        return memory[4096]

    same(child(touch), -signal.SIGBUS)
    os.close(fd)
    os.unlink(path("map"))


@check
def flags_of_one_write():
    fd = fresh("flags")
    for flags in (RWF_DSYNC, RWF_SYNC, RWF_DSYNC | RWF_SYNC):
        same(os.pwritev(fd, [b"abc", b"def"], 10, flags), 6)
    same(os.pwritev(fd, [b"end"], 0, RWF_APPEND), 3)
    same(os.pread(fd, 100, 0), b"\0" * 10 + b"abcdef" + b"end")
    parts = [bytearray(4), bytearray(20)]
    same(os.preadv(fd, parts, 8), 11)
    same(bytes(parts[0] + parts[1])[:11], b"\0\0abcdefend")
    fails("EOPNOTSUPP", os.pwritev, fd, [b"x"], 0, 1 << 30)
    os.close(fd)
    for flag in (os.O_SYNC, os.O_DSYNC):
        fd = os.open(path("flags"), os.O_RDWR | flag)
        same(os.write(fd, b"synced"), 6)
        os.close(fd)
    os.unlink(path("flags"))


@check
def blocks_are_counted():
    for size, wanted in ((0, 0), (4096 * 2, 16), (4096 * 2 + 1, 24), (100_000, 200)):
        fd = fresh("blocks")
        os.write(fd, b"b" * size)
        same(blocks(fd), wanted, f"blocks of {size} bytes")
        os.close(fd)
    fd = fresh("blocks")
    os.pwrite(fd, b"b", 1 << 40)
    same((blocks(fd), os.fstat(fd).st_size), (8, (1 << 40) + 1), "a byte after a hole")
    os.pwrite(fd, b"b" * 65536, 0)
    same(blocks(fd), 136)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
    same(blocks(fd), 120, "blocks after punching")
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 20481, 4096)
    same(blocks(fd), 120, "a range that covers no block frees none")
    fallocate(fd, KEEP_SIZE, 0, 65536)
    same(blocks(fd), 136, "blocks after allocating")
    os.ftruncate(fd, 5000)
    same(blocks(fd), 16, "blocks after truncation")
    os.close(fd)
    os.unlink(path("blocks"))


@check
def allocation():
    fd = fresh("allocated")
    os.write(fd, b"x" * 10000)
    fallocate(fd, KEEP_SIZE, 0, 100_000)
    same(os.fstat(fd).st_size, 10000)
    fallocate(fd, 0, 0, 50_000)
    same(os.fstat(fd).st_size, 50_000)
    same(os.pread(fd, 50_000, 0), b"x" * 10000 + b"\0" * 40_000)
    fallocate(fd, ZERO_RANGE, 9990, 20)
    same(os.pread(fd, 20, 9985), b"x" * 5 + b"\0" * 15)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 100, 8092)
    same(os.pread(fd, 8202, 95), b"x" * 5 + b"\0" * 8092 + b"x" * 105)
    fallocate(fd, ZERO_RANGE, 49_000, 4_000)
    same(os.fstat(fd).st_size, 53_000, "zeroing beyond the end makes the file longer")
    for offset, length, wanted in ((-1, 1, "EINVAL"), (0, 0, "EINVAL"), ((1 << 63) - 1, 1, "EFBIG")):
        fails(wanted, fallocate, fd, 0, offset, length)
    fails("EOPNOTSUPP", fallocate, fd, PUNCH_HOLE, 0, 4096)
    os.close(fd)
    read_only = os.open(path("allocated"), os.O_RDONLY)
    fails("EBADF", fallocate, read_only, 0, 0, 1)
    os.close(read_only)
    os.unlink(path("allocated"))


@check
def holes_and_data():
    fd = fresh("sparse")
    os.ftruncate(fd, 1 << 20)
    same(os.lseek(fd, 5, os.SEEK_HOLE), 5)
    fails("ENXIO", os.lseek, fd, 0, os.SEEK_DATA)
    os.pwrite(fd, b"d" * 8192, 65536)
    os.pwrite(fd, b"d", 262144)
    found = []
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            same(error.errno, errno.ENXIO)
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, -(-at // 4096) * 4096))
    same(found, [(65536, 73728), (262144, 266240)])
    same(os.lseek(fd, 66000, os.SEEK_DATA), 66000, "within data")
    same(os.lseek(fd, (1 << 20) - 1, os.SEEK_HOLE), (1 << 20) - 1)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        fails("ENXIO", os.lseek, fd, 1 << 20, whence)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 65536, 4096)
    same(os.lseek(fd, 0, os.SEEK_DATA), 69632)
    os.close(fd)
    os.unlink(path("sparse"))


@check
def copying_ranges():
    source, target = fresh("source"), fresh("target")
    content = os.urandom(150_000)
    os.write(source, content)
    same(os.copy_file_range(source, target, 1000, 500, 20), 1000)
    same(os.pread(target, 2000, 0), b"\0" * 20 + content[500:1500])
    same(os.copy_file_range(source, target, 1 << 30, 140_000, 4096), 10_000, "up to the end of the source")
    same(os.pread(target, 20_000, 4096), content[140_000:])
    same(os.copy_file_range(source, target, 10, 150_000, 0), 0)
    fails("EINVAL", os.copy_file_range, source, source, 1000, 0, 500)
    same(os.copy_file_range(source, source, 1000, 0, 200_000), 1000)
    same(os.pread(source, 1000, 200_000), content[:1000])
    os.ftruncate(target, 0)
    sent = 0
    while sent < 150_000:
        sent += os.sendfile(target, source, sent, 150_000 - sent)
    same(os.pread(target, 200_000, 0)[-1000:], content[-1000:], "sendfile")
    reader, writer = os.pipe()
    same(os.splice(source, writer, 5000, 10), 5000)
    same(os.splice(reader, target, 5000, None, 3), 5000)
    same(os.pread(target, 5000, 3), content[10:5010], "splice")
    for fd in (source, target, reader, writer):
        os.close(fd)
    os.unlink(path("source"))
    os.unlink(path("target"))


@check
def limit_of_the_file_size():
    fd = fresh("limited")

    def beyond():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        same(os.pwrite(fd, b"x" * 8000, 4000), 6000, "as much as fits")
        fails("EFBIG", os.pwrite, fd, b"x", 10_000)
        fails("EFBIG", os.ftruncate, fd, 10_001)
        fails("EFBIG", fallocate, fd, 0, 0, 10_001)

    same(child(beyond), 0)
    same(os.fstat(fd).st_size, 10_000)
    os.close(fd)
    os.unlink(path("limited"))


@check
def direct_reads_and_writes():
    fd = fresh("direct", os.O_DIRECT)
    with mmap.mmap(-1, 65536) as memory:
        memory[:] = os.urandom(65536)
        same(os.pwritev(fd, [memory], 4096), 65536)
        cached = os.open(path("direct"), os.O_RDWR)
        same(os.pread(cached, 65536, 4096), bytes(memory[:]), "what was written past the cache")
        os.pwrite(cached, b"cached", 8192)
        same(os.preadv(fd, [memory], 4096), 65536)
        same(memory[4096:4102], b"cached", "what was written through the cache")
        os.close(cached)
    os.close(fd)
    os.unlink(path("direct"))


@check
def signals_end_no_call():
    signals = 0

    def handler(*_):
        nonlocal signals
        signals += 1

    # Python would call again after EINTR; libc does not.
    signal.signal(signal.SIGALRM, handler)
    name = os.fsencode(path("signalled"))
    data = b"s" * 50_000
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end or signals < 50:
            fd = raising(libc.open(name, os.O_RDWR | os.O_CREAT, 0o644))
            same(raising(libc.write(fd, data, len(data))), len(data))
            raising(libc.fdatasync(fd))
            raising(libc.ftruncate(fd, ctypes.c_long(70_000)))
            raising(libc.fsync(fd))
            raising(libc.close(fd))
            raising(libc.unlink(name))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


# --- locks ----------------------------------------------------------------------------------------------------------


@check
def locks_split_merge_and_change():
    fd = fresh("locked")
    helper = Helper()
    helper.does("opened(files, 'f', 'locked')")
    in_way = lambda start, length: helper.does(f"lock_in_way(files['f'], {start}, {length})")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 100, 100)
    lock(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 140, 20)
    same(in_way(0, 0), [fcntl.F_WRLCK, 100, 40], "split")
    same(in_way(140, 20), None)
    same(in_way(150, 0), [fcntl.F_WRLCK, 160, 40])
    lock(fd, fcntl.F_SETLK, fcntl.F_RDLCK, 110, 10)
    same(in_way(105, 1), [fcntl.F_WRLCK, 100, 10], "downgraded in the middle")
    same(in_way(110, 1), [fcntl.F_RDLCK, 110, 10])
    same(helper.does("lock(files['f'], fcntl.F_SETLK, fcntl.F_RDLCK, 112, 2)"), None, "two readers")
    fails("EAGAIN", lock, fd, fcntl.F_SETLK, fcntl.F_WRLCK, 110, 10)
    helper.does("lock(files['f'], fcntl.F_SETLK, fcntl.F_UNLCK, 0, 0)")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 110, 50)
    same(in_way(0, 0), [fcntl.F_WRLCK, 100, 100], "merged")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 200, 0)
    same(in_way(0, 0), [fcntl.F_WRLCK, 100, 0], "to the end, however far")
    helper.end()
    os.close(fd)
    os.unlink(path("locked"))


@check
def any_close_drops_the_locks_of_a_process():
    fd = fresh("locked")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
    helper = Helper()
    helper.does("opened(files, 'f', 'locked')")
    same(helper.does("lock(files['f'], fcntl.F_SETLK, fcntl.F_RDLCK, 5, 1)"), "EAGAIN", "a child does not inherit")
    os.close(os.open(path("locked"), os.O_RDONLY))
    same(helper.does("lock(files['f'], fcntl.F_SETLK, fcntl.F_WRLCK, 5, 1)"), None)
    helper.end(kill=True)
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
    os.close(fd)
    os.unlink(path("locked"))


@check
def exec_keeps_locks():
    fd = fresh("locked")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.set_inheritable(fd, True)
        lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 10)
        os.dup2(writer, 1)
        os.execvp("sh", ["sh", "-c", "echo; exec sleep 100"])
    os.read(reader, 1)
    same((lock_in_way(fd, 0, 0) or [])[:1], [fcntl.F_WRLCK])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    same(lock_in_way(fd, 0, 0), None, "the process is gone")
    os.close(fd)
    os.unlink(path("locked"))


@check
def waiting_for_locks():
    fd = fresh("locked")
    helper = Helper()
    helper.does("opened(files, 'f', 'locked')")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 10)
    helper.tell("lock(files['f'], fcntl.F_SETLKW, fcntl.F_WRLCK, 5, 1)")
    same(helper.waits(), True)
    lock(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 0, 10)
    same(helper.answer(), None, "it got the lock")
    fails("EAGAIN", lock, fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 10)
    helper.does("closed(files, 'f')")
    helper.does("opened(files, 'f', 'locked')")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 10)
    helper.tell("interrupted(lambda: lock(files['f'], fcntl.F_SETLKW, fcntl.F_WRLCK, 0, 10))")
    same(helper.waits(), True)
    os.kill(helper.pid, signal.SIGUSR1)
    same(helper.answer(), "interrupted", "a signal ends the wait")
    lock(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 0, 10)
    time.sleep(0.1)
    same(lock_in_way(fd, 0, 0), None, "and it got nothing after that")
    helper.tell("fcntl.flock(files['f'], fcntl.LOCK_EX)")
    same(helper.answer(), None)
    for waits, lets_go in (
        ("fcntl.flock(files['f'], fcntl.LOCK_EX)", lambda: fcntl.flock(fd, fcntl.LOCK_UN)),
        ("lock(files['f'], F_OFD_SETLKW, fcntl.F_WRLCK, 0, 10)", lambda: lock(fd, F_OFD_SETLK, fcntl.F_UNLCK, 0, 10)),
    ):
        helper.does("fcntl.flock(files['f'], fcntl.LOCK_UN)")
        fcntl.flock(fd, fcntl.LOCK_EX)
        lock(fd, F_OFD_SETLK, fcntl.F_WRLCK, 0, 10)
        helper.tell(f"interrupted(lambda: {waits})")
        same(helper.waits(), True)
        os.kill(helper.pid, signal.SIGUSR1)
        same(helper.answer(), "interrupted", waits)
        helper.tell(waits)
        same(helper.waits(), True)
        lets_go()
        same(helper.answer(), None, waits)
    helper.end()
    os.close(fd)
    os.unlink(path("locked"))


class Interrupted(Exception):
    pass


def interrupted(wait):
    """Python would wait again after a signal whose handler does not raise."""

    def handler(*_):
        raise Interrupted

    signal.signal(signal.SIGUSR1, handler)
    try:
        wait()
    except Interrupted:
        return "interrupted"


@check
def deadlock_is_refused():
    fd = fresh("locked")
    helper = Helper()
    helper.does("opened(files, 'f', 'locked')")
    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 1)
    helper.does("lock(files['f'], fcntl.F_SETLK, fcntl.F_WRLCK, 1, 1)")
    helper.tell("lock(files['f'], fcntl.F_SETLKW, fcntl.F_WRLCK, 0, 1)")
    same(helper.waits(), True)
    fails("EDEADLK", lock, fd, fcntl.F_SETLKW, fcntl.F_WRLCK, 1, 1)
    lock(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 0, 1)
    same(helper.answer(), None)
    helper.end()
    os.close(fd)
    os.unlink(path("locked"))


@check
def locks_of_open_files():
    fd = fresh("locked")
    other = os.open(path("locked"), os.O_RDWR)
    lock(fd, F_OFD_SETLK, fcntl.F_WRLCK, 0, 10)
    fails("EAGAIN", lock, other, F_OFD_SETLK, fcntl.F_WRLCK, 5, 1)
    fails("EAGAIN", lock, fd, fcntl.F_SETLK, fcntl.F_WRLCK, 5, 1)
    same(lock_in_way(other, 0, 0, F_OFD_GETLK), [fcntl.F_WRLCK, 0, 10])
    twin = os.dup(fd)
    os.close(fd)
    fails("EAGAIN", lock, other, F_OFD_SETLK, fcntl.F_WRLCK, 5, 1)
    os.close(twin)
    deadline = time.monotonic() + 5
    while lock_in_way(other, 0, 0, F_OFD_GETLK) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    lock(other, F_OFD_SETLK, fcntl.F_WRLCK, 0, 0)
    os.close(other)
    os.unlink(path("locked"))


@check
def flock_locks():
    fd = fresh("locked")
    other = os.open(path("locked"), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(other, fcntl.LOCK_SH)
    fails("EAGAIN", fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_UN)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fails("EAGAIN", fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    lock(other, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
    same(child(lambda: fcntl.flock(fd, fcntl.LOCK_UN)), 0, "a child has the same open file")
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)
    os.unlink(path("locked"))


# --- listings -------------------------------------------------------------------------------------------------------


class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16), ("type", ctypes.c_uint8), ("name", ctypes.c_char * 256)]


libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long


def next_name(stream):
    entry = libc.readdir(ctypes.c_void_p(stream))
    return entry.contents.name.decode() if entry else None


@check
def listing_goes_on_where_it_was():
    os.mkdir(path("listed"))
    names = [f"entry-{i:04}" for i in range(2000)]
    for name in names:
        os.close(os.open(path(f"listed/{name}"), os.O_CREAT | os.O_WRONLY))
    stream = libc.opendir(os.fsencode(path("listed")))
    places = []
    order = []
    while True:
        place = libc.telldir(ctypes.c_void_p(stream))
        name = next_name(stream)
        if name is None:
            break
        places.append(place)
        order.append(name)
    same(sorted(order), sorted([".", ".."] + names))
    for index in (1500, 3, 0, 2001, 700, 701):
        libc.seekdir(ctypes.c_void_p(stream), ctypes.c_long(places[index]))
        same([next_name(stream) for _ in range(min(5, 2002 - index))], order[index : index + 5], f"from entry {index}")
    libc.rewinddir(ctypes.c_void_p(stream))
    same(next_name(stream), order[0])
    libc.closedir(ctypes.c_void_p(stream))


@check
def listing_while_names_come_and_go():
    """After the check before: every entry that is there all the time is seen once."""
    stay = {f"entry-{i:04}" for i in range(0, 2000, 2)}
    stream = libc.opendir(os.fsencode(path("listed")))
    seen = []
    step = 0
    while True:
        name = next_name(stream)
        if name is None:
            break
        seen.append(name)
        step += 1
        if step % 3 == 0:
            if 2 * step + 1 < 2000:
                os.unlink(path(f"listed/entry-{2 * step + 1:04}"))
            os.close(os.open(path(f"listed/new-{step}"), os.O_CREAT | os.O_WRONLY))
            if step < 200:
                os.rename(path(f"listed/new-{step}"), path(f"listed/renamed-{step}"))
        if step > 10_000:
            break
    libc.closedir(ctypes.c_void_p(stream))
    same(sorted(name for name in seen if name in stay), sorted(stay))
    for name in os.listdir(path("listed")):
        os.unlink(path(f"listed/{name}"))
    os.rmdir(path("listed"))


for wanted in sys.argv[2:] or list(checks):
    said = {"name": wanted.replace("_", " ")}
    try:
        checks[wanted]()
    except Exception:
        said["wrong"] = traceback.format_exc(limit=-3)
    print(json.dumps(said), flush=True)
