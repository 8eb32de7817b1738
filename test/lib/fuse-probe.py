#!/usr/bin/env python3
"""What programs do with a mount: each check is a function, run in a fresh directory below the one that is given.

usage: fuse-probe.py DIR [CHECK...|-CHECK...]        some checks, or all but some

Prints one line "ok NAME" or "not ok NAME: WHY" per check. Only system calls that any Linux file system answers the same way; the
checks run on a plain directory as well, which shows that they ask for nothing special.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import struct
import sys
import time
import traceback

PIECE = 64 * 1024
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
AT_FDCWD = -100
checks = {}


def check(function):
    checks[function.__name__] = function
    return function


def same(a, b):
    if a != b:
        raise AssertionError(f"{a!r} is not {b!r}")


def fails(code, function, *args):
    try:
        function(*args)
    except OSError as error:
        same(errno.errorcode.get(error.errno), errno.errorcode[code])
        return
    raise AssertionError(f"it worked, but {errno.errorcode[code]} was due")


def call(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(source, target, flags):
    call(libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags))


def put(path, data=b""):
    with open(path, "wb") as file:
        file.write(data)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def in_child(function):
    """The exit code of a child process that runs the function; an exception is 99."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = function() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@check
def create_read_write(d):
    put(f"{d}/f", b"hello")
    same(get(f"{d}/f"), b"hello")
    same(os.stat(f"{d}/f").st_size, 5)
    fails(errno.EEXIST, os.open, f"{d}/f", os.O_CREAT | os.O_EXCL)
    fails(errno.ENOENT, os.open, f"{d}/none", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, f"{d}/f/below", os.O_RDONLY)
    fails(errno.EISDIR, os.open, d, os.O_WRONLY)
    fd = os.open(f"{d}/f", os.O_RDWR | os.O_TRUNC)
    same(os.fstat(fd).st_size, 0)
    same(os.pwrite(fd, b"xy", 10), 2)
    same(os.pread(fd, 100, 0), b"\0" * 10 + b"xy")
    os.close(fd)


@check
def large_writes(d):
    data = os.urandom(3 * 1024 * 1024 + 17)
    put(f"{d}/f", data)
    same(get(f"{d}/f") == data, True)
    fd = os.open(f"{d}/f", os.O_RDWR)
    patch = os.urandom(200_001)
    os.pwrite(fd, patch, 999_999)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    same(get(f"{d}/f") == data[:999_999] + patch + data[999_999 + len(patch) :], True)


@check
def concurrent_large_writes(d):
    """Requests that keep their buffers while others come in."""
    size, rounds = 512 * 1024, 12

    def write(who):
        fd = os.open(f"{d}/{who}", os.O_CREAT | os.O_WRONLY)
        for i in range(rounds):
            os.write(fd, bytes([who * 16 + i]) * size)
        os.close(fd)

    children = []
    for who in range(6):
        pid = os.fork()
        if pid == 0:
            write(who)
            os._exit(0)
        children.append(pid)
    for pid in children:
        same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    for who in range(6):
        want = b"".join(bytes([who * 16 + i]) * size for i in range(rounds))
        same(get(f"{d}/{who}") == want, True)


@check
def append(d):
    a = os.open(f"{d}/f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    b = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND)
    for i in range(5):
        os.write(a, b"a%d" % i)
        os.write(b, b"b%d" % i)
    same(get(f"{d}/f"), b"a0b0a1b1a2b2a3b3a4b4")
    os.close(a)
    os.close(b)


@check
def rename(d):
    put(f"{d}/a", b"a")
    put(f"{d}/b", b"b")
    os.rename(f"{d}/a", f"{d}/b")
    same(get(f"{d}/b"), b"a")
    same(sorted(os.listdir(d)), ["b"])
    os.makedirs(f"{d}/x/y")
    fails(errno.EINVAL, os.rename, f"{d}/x", f"{d}/x/y/z")
    os.mkdir(f"{d}/full")
    put(f"{d}/full/f")
    fails(errno.ENOTEMPTY, os.rename, f"{d}/x", f"{d}/full")
    fails(errno.ENOENT, os.rename, f"{d}/none", f"{d}/else")
    nlink = os.stat(d).st_nlink
    os.rename(f"{d}/x/y", f"{d}/y")
    same(os.stat(d).st_nlink, nlink + 1)
    same(os.path.samefile(f"{d}/y/..", d), True)


@check
def rename_flags(d):
    put(f"{d}/a", b"a")
    put(f"{d}/b", b"b")
    fails(errno.EEXIST, renameat2, f"{d}/a", f"{d}/b", 1)
    renameat2(f"{d}/a", f"{d}/b", 2)
    same((get(f"{d}/a"), get(f"{d}/b")), (b"b", b"a"))
    renameat2(f"{d}/a", f"{d}/c", 1)
    same(sorted(os.listdir(d)), ["b", "c"])


@check
def links(d):
    put(f"{d}/f", b"data")
    os.link(f"{d}/f", f"{d}/g")
    same((os.stat(f"{d}/f").st_nlink, os.path.samefile(f"{d}/f", f"{d}/g")), (2, True))
    os.unlink(f"{d}/f")
    same((get(f"{d}/g"), os.stat(f"{d}/g").st_nlink), (b"data", 1))
    os.symlink("g", f"{d}/s")
    same((os.readlink(f"{d}/s"), get(f"{d}/s")), ("g", b"data"))
    same(stat.S_ISLNK(os.lstat(f"{d}/s").st_mode), True)
    target = "t/" * 2000
    os.symlink(target, f"{d}/long")
    same(os.readlink(f"{d}/long"), target)
    os.symlink("loop", f"{d}/loop")
    fails(errno.ELOOP, os.stat, f"{d}/loop")
    fails(errno.EPERM, os.link, d, f"{d}/dir")


@check
def names(d):
    for name in [b"x" * 255, "gr\u00fc\u00df \U0001f41f".encode(), b" ", b"a\nb", b"a,b\\c"]:
        put(os.fsencode(d) + b"/" + name, name)
        same(get(os.fsencode(d) + b"/" + name), name)
        same(name in os.listdir(os.fsencode(d)), True)
    fails(errno.ENAMETOOLONG, put, f"{d}/" + "x" * 256)
    fails(errno.ENAMETOOLONG, os.stat, f"{d}/" + "x" * 256)


@check
def names_of_any_bytes(d):
    name = os.fsencode(d) + b"/\xff\xfe not utf-8"
    put(name, name)
    same((get(name), os.listdir(os.fsencode(d))), (name, [os.path.basename(name)]))
    os.symlink(name, f"{d}/s")
    same(os.readlink(os.fsencode(d) + b"/s"), name)


@check
def special_files(d):
    os.mkfifo(f"{d}/fifo", 0o640)
    same(stat.S_ISFIFO(os.stat(f"{d}/fifo").st_mode), True)
    os.mknod(f"{d}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    same(os.stat(f"{d}/null").st_rdev, os.makedev(1, 3))
    put(f"{d}/null", b"gone")
    same(get(f"{d}/null"), b"")
    os.mknod(f"{d}/big", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    same(os.stat(f"{d}/big").st_rdev, os.makedev(259, 70_000))
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(d)
    server.bind("socket")
    os.chdir(here)
    same(stat.S_ISSOCK(os.stat(f"{d}/socket").st_mode), True)
    server.close()


@check
def modes_and_owners(d):
    old = os.umask(0o027)
    os.close(os.open(f"{d}/f", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(f"{d}/dir")
    os.umask(old)
    same(stat.S_IMODE(os.stat(f"{d}/f").st_mode), 0o640)
    same(stat.S_IMODE(os.stat(f"{d}/dir").st_mode), 0o750)
    os.chmod(f"{d}/f", 0o4755)
    os.chown(f"{d}/f", 1234, 5678)
    now = os.stat(f"{d}/f")
    same((now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)), (1234, 5678, 0o755))
    os.chown(f"{d}/f", -1, 91)
    os.chown(f"{d}/f", 92, -1)
    same((os.stat(f"{d}/f").st_uid, os.stat(f"{d}/f").st_gid), (92, 91))


@check
def other_users(d):
    put(f"{d}/f")
    os.mkdir(f"{d}/dir")
    os.chmod(d, 0o755)
    os.chown(f"{d}/dir", 4242, 4343)
    os.chmod(f"{d}/f", 0o600)

    def other_user():
        os.setgroups([])
        os.setgid(4343)
        os.setuid(4242)
        fails(errno.EACCES, os.open, f"{d}/f", os.O_RDONLY)
        fails(errno.EACCES, put, f"{d}/mine")
        fails(errno.EPERM, os.chmod, f"{d}/f", 0o777)
        put(f"{d}/dir/mine", b"x")
        mine = os.stat(f"{d}/dir/mine")
        same((mine.st_uid, mine.st_gid), (4242, 4343))

    # The directories above may be closed to others.
    above = d
    modes = []
    while above != "/":
        modes.append((above, stat.S_IMODE(os.stat(above).st_mode)))
        os.chmod(above, modes[-1][1] | 0o111)
        above = os.path.dirname(above)
    try:
        same(in_child(other_user), 0)
    finally:
        for path, mode in modes:
            os.chmod(path, mode)


@check
def set_user_id_is_cleared(d):
    put(f"{d}/f", b"program")
    os.chown(f"{d}/f", 4242, 4242)

    def writes(change):
        os.chmod(f"{d}/f", 0o6777)

        def as_owner():
            os.setgroups([])
            os.setgid(4343)
            os.setuid(4343)
            change()

        fd = os.open(f"{d}/f", os.O_RDWR)
        try:
            same(in_child(as_owner) if change is not None else 0, 0)
        finally:
            os.close(fd)
        same(oct(stat.S_IMODE(os.stat(f"{d}/f").st_mode)), oct(0o777))

    os.chmod(d, 0o777)
    fd = os.open(f"{d}/f", os.O_RDWR)
    writes(lambda: os.write(fd, b"x") and None)
    writes(lambda: os.ftruncate(fd, 3))
    os.close(fd)
    # As root they stay on a write.
    os.chmod(f"{d}/f", 0o4755)
    put_fd = os.open(f"{d}/f", os.O_WRONLY)
    os.write(put_fd, b"y")
    os.close(put_fd)
    same(oct(stat.S_IMODE(os.stat(f"{d}/f").st_mode)), oct(0o4755))


@check
def times(d):
    put(f"{d}/f")
    os.utime(f"{d}/f", ns=(1_500_000_000, 4_102_444_800_123_000_000))
    now = os.stat(f"{d}/f")
    same((now.st_atime_ns, now.st_mtime_ns), (1_500_000_000, 4_102_444_800_123_000_000))
    os.utime(f"{d}/f")
    same(abs(os.stat(f"{d}/f").st_mtime - time.time()) < 60, True)
    before = os.stat(f"{d}/f").st_mtime_ns
    time.sleep(0.01)
    with open(f"{d}/f", "ab") as file:
        file.write(b"x")
    same(os.stat(f"{d}/f").st_mtime_ns > before, True)


@check
def any_times(d):
    put(f"{d}/f")
    os.utime(f"{d}/f", ns=(-1_500_000_000, 4_102_444_800_123_456_789))
    now = os.stat(f"{d}/f")
    same((now.st_atime_ns, now.st_mtime_ns), (-1_500_000_000, 4_102_444_800_123_456_789))
    # One of the two alone.
    libc.utimensat(AT_FDCWD, os.fsencode(f"{d}/f"), struct.pack("qqqq", 7, 8, 0, (1 << 30) - 2), 0)
    now = os.stat(f"{d}/f")
    same((now.st_atime_ns, now.st_mtime_ns), (7_000_000_008, 4_102_444_800_123_456_789))


@check
def extended_attributes(d):
    put(f"{d}/f")
    f = f"{d}/f"
    fails(errno.ENODATA, os.getxattr, f, "user.none")
    os.setxattr(f, "user.a", b"1")
    fails(errno.EEXIST, os.setxattr, f, "user.a", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, f, "user.b", b"2", os.XATTR_REPLACE)
    os.setxattr(f, "user.a", b"22", os.XATTR_REPLACE)
    same(os.getxattr(f, "user.a"), b"22")
    small = ctypes.create_string_buffer(1)
    try:
        call(libc.getxattr(os.fsencode(f), b"user.a", small, 1))
        raise AssertionError("it fits into one byte")
    except OSError as error:
        same(error.errno, errno.ERANGE)
    same(call(libc.getxattr(os.fsencode(f), b"user.a", None, 0)), 2)
    os.setxattr(f, "user.empty", b"")
    same(os.getxattr(f, "user.empty"), b"")
    os.setxattr(f, "trusted.t", b"t")
    same(sorted(os.listxattr(f)), ["trusted.t", "user.a", "user.empty"])
    same(call(libc.listxattr(os.fsencode(f), None, 0)), len(b"trusted.t\0user.a\0user.empty\0"))
    os.removexattr(f, "user.a")
    fails(errno.ENODATA, os.removexattr, f, "user.a")
    big = os.urandom(3000)
    os.setxattr(f, "user.big", big)
    same(os.getxattr(f, "user.big"), big)


@check
def unlinked_but_open(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still here")
    os.unlink(f"{d}/f")
    same((os.pread(fd, 100, 0), os.fstat(fd).st_nlink), (b"still here", 0))
    os.ftruncate(fd, 5)
    os.pwrite(fd, b"!", 5)
    same(os.pread(fd, 100, 0), b"still!")
    os.close(fd)
    fails(errno.ENOENT, os.stat, f"{d}/f")


@check
def unlinked_but_open_is_not_listed(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.unlink(f"{d}/f")
    same(os.listdir(d), [])
    os.close(fd)


@check
def directories(d):
    os.mkdir(f"{d}/a")
    fails(errno.EEXIST, os.mkdir, f"{d}/a")
    put(f"{d}/a/f")
    fails(errno.ENOTEMPTY, os.rmdir, f"{d}/a")
    fails(errno.ENOTDIR, os.rmdir, f"{d}/a/f")
    fails(errno.EISDIR, os.unlink, f"{d}/a")
    os.unlink(f"{d}/a/f")
    os.rmdir(f"{d}/a")
    fails(errno.ENOENT, os.rmdir, f"{d}/a")
    fd = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


@check
def listing_of_5000(d):
    want = {f"file-with-a-name-{i}" for i in range(5000)}
    for name in sorted(want):
        os.close(os.open(f"{d}/{name}", os.O_CREAT | os.O_WRONLY))
    found = os.listdir(d)
    same((len(found), set(found) == want), (5000, True))
    # With the attributes of each one, which makes the kernel ask for them together with the names.
    sizes = 0
    inos = set()
    for entry in os.scandir(d):
        same(entry.is_file(follow_symlinks=False), True)
        inos.add(entry.stat().st_ino)
        sizes += 1
    same((sizes, len(inos)), (5000, 5000))
    # Removing while reading loses no name.
    removed = 0
    for entry in os.scandir(d):
        os.unlink(entry.path)
        removed += 1
    same((removed, os.listdir(d)), (5000, []))


@check
def references_are_given_back(d):
    """The inodes that the file system has, counted by statfs, come back when files are gone."""

    def used():
        now = os.statvfs(d)
        return now.f_files - now.f_ffree

    before = used()
    for i in range(300):
        put(f"{d}/{i}", b"x")
    os.link(f"{d}/1", f"{d}/l")
    for entry in os.scandir(d):
        entry.stat()
    for i in range(300):
        os.stat(f"{d}/{i}")
    same(used(), before + 300)
    for name in os.listdir(d):
        os.unlink(f"{d}/{name}")
    until = time.time() + 5
    while used() != before and time.time() < until:
        time.sleep(0.02)
    same(used(), before)


@check
def seek_in_holes(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * PIECE, 0)
    os.pwrite(fd, b"y" * PIECE, 4 * PIECE)
    same(os.lseek(fd, 0, os.SEEK_HOLE), PIECE)
    same(os.lseek(fd, PIECE, os.SEEK_DATA), 4 * PIECE)
    same(os.lseek(fd, 4 * PIECE, os.SEEK_HOLE), 5 * PIECE)
    fails(errno.ENXIO, os.lseek, fd, 5 * PIECE, os.SEEK_DATA)
    os.close(fd)


@check
def truncate_and_holes(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * PIECE, 0)
    os.pwrite(fd, b"y" * PIECE, 4 * PIECE)
    same(os.fstat(fd).st_blocks * 512, 2 * PIECE)
    same(os.pread(fd, 10, 2 * PIECE), b"\0" * 10)
    os.ftruncate(fd, 10)
    os.ftruncate(fd, 20)
    same(os.pread(fd, 100, 0), b"x" * 10 + b"\0" * 10)
    os.ftruncate(fd, 1 << 40)
    same((os.fstat(fd).st_size, os.pread(fd, 5, (1 << 40) - 5)), (1 << 40, b"\0" * 5))
    same(os.pwrite(fd, b"far", (1 << 40) + 7), 3)
    same((os.fstat(fd).st_size, os.pread(fd, 9, (1 << 40) + 7)), ((1 << 40) + 10, b"far"))
    os.close(fd)
    os.truncate(f"{d}/f", 3)
    same(get(f"{d}/f"), b"xxx")


@check
def fallocate(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)

    def allocate(mode, offset, length):
        call(libc.fallocate(fd, mode, offset, length))

    allocate(0, 0, 3 * PIECE)
    same((os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512), (3 * PIECE, 3 * PIECE))
    os.pwrite(fd, b"x" * 3 * PIECE, 0)
    allocate(3, PIECE, PIECE)
    same(os.pread(fd, 3 * PIECE, 0) == b"x" * PIECE + b"\0" * PIECE + b"x" * PIECE, True)
    same(os.fstat(fd).st_blocks * 512, 2 * PIECE)
    allocate(16, 100, 200)
    same(os.pread(fd, 400, 0), b"x" * 100 + b"\0" * 200 + b"x" * 100)
    allocate(1, 3 * PIECE, PIECE)
    same(os.fstat(fd).st_size, 3 * PIECE)
    os.close(fd)


@check
def copy_file_range(d):
    data = os.urandom(2_500_000)
    put(f"{d}/a", data)
    a = os.open(f"{d}/a", os.O_RDONLY)
    b = os.open(f"{d}/b", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(data):
        count = os.copy_file_range(a, b, len(data) - done)
        same(count > 0, True)
        done += count
    same(get(f"{d}/b") == data, True)
    same(os.copy_file_range(a, b, 100, 10, 50), 100)
    same(os.pread(b, 100, 50), data[10:110])
    os.close(a)
    os.close(b)


@check
def memory_maps(d):
    put(f"{d}/f", b"a" * 10_000)
    fd = os.open(f"{d}/f", os.O_RDWR)
    with mmap.mmap(fd, 0) as shared:
        same(shared[:3], b"aaa")
        shared[5000:5003] = b"bcd"
        shared.flush()
        same(os.pread(fd, 3, 5000), b"bcd")
        os.pwrite(fd, b"zzz", 100)
        same(shared[100:103], b"zzz")
    os.close(fd)
    same(get(f"{d}/f")[5000:5003], b"bcd")


@check
def private_memory_maps(d):
    put(f"{d}/f", b"a" * 10_000)
    fd = os.open(f"{d}/f", os.O_RDWR)
    with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as private:
        private[0:1] = b"!"
        same(os.pread(fd, 1, 0), b"a")
    os.close(fd)
    shutil.copy("/bin/true", f"{d}/program")
    same(in_child(lambda: os.execv(f"{d}/program", ["program"])), 0)


def lock_of(fd, kind, start, length, command=fcntl.F_SETLK):
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    return struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, request))


@check
def record_locks(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    lock_of(fd, fcntl.F_WRLCK, 100, 100)
    parent = os.getpid()

    def other():
        fd = os.open(f"{d}/f", os.O_RDWR)
        fails(errno.EAGAIN, lock_of, fd, fcntl.F_WRLCK, 150, 10)
        lock_of(fd, fcntl.F_WRLCK, 200, 10)
        kind, _, start, length, pid = lock_of(fd, fcntl.F_RDLCK, 0, 0, fcntl.F_GETLK)
        same((kind, start, length, pid), (fcntl.F_WRLCK, 100, 100, parent))
        same(lock_of(fd, fcntl.F_RDLCK, 0, 100, fcntl.F_GETLK)[0], fcntl.F_UNLCK)

    same(in_child(other), 0)
    # A piece out of the middle.
    lock_of(fd, fcntl.F_UNLCK, 140, 20)
    same(in_child(lambda: lock_of(os.open(f"{d}/f", os.O_RDWR), fcntl.F_WRLCK, 140, 20) and None), 0)
    # Closing any descriptor of the file gives up all.
    os.close(os.open(f"{d}/f", os.O_RDONLY))
    same(in_child(lambda: lock_of(os.open(f"{d}/f", os.O_RDWR), fcntl.F_WRLCK, 0, 0) and None), 0)
    os.close(fd)


@check
def waiting_for_a_lock(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    lock_of(fd, fcntl.F_WRLCK, 0, 0)
    ready, tell = os.pipe()

    def other():
        fd = os.open(f"{d}/f", os.O_RDWR)
        os.write(tell, b"1")
        lock_of(fd, fcntl.F_WRLCK, 0, 0, fcntl.F_SETLKW)
        os.write(tell, b"2")

    pid = os.fork()
    if pid == 0:
        other()
        os._exit(0)
    same(os.read(ready, 1), b"1")
    time.sleep(0.1)
    lock_of(fd, fcntl.F_UNLCK, 0, 0)
    same(os.read(ready, 1), b"2")
    same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    os.close(fd)


@check
def interrupted_while_waiting(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    lock_of(fd, fcntl.F_WRLCK, 0, 0)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def other(wait):
        class Alarm(Exception):
            pass

        def on_alarm(*_):
            raise Alarm

        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        fd = os.open(f"{d}/f", os.O_RDWR)
        try:
            wait(fd)
        except Alarm:
            return 0
        return 1

    same(in_child(lambda: other(lambda fd: lock_of(fd, fcntl.F_WRLCK, 0, 0, fcntl.F_SETLKW))), 0)
    same(in_child(lambda: other(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX))), 0)
    # The lock was not granted behind the back of the one that gave up.
    lock_of(fd, fcntl.F_UNLCK, 0, 0)
    lock_of(fd, fcntl.F_WRLCK, 0, 0)
    # Killed while it waits.
    pid = os.fork()
    if pid == 0:
        lock_of(os.open(f"{d}/f", os.O_RDWR), fcntl.F_WRLCK, 0, 0, fcntl.F_SETLKW)
        os._exit(0)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), -signal.SIGKILL)
    os.close(fd)


@check
def deadlock(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    lock_of(fd, fcntl.F_WRLCK, 0, 1)
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(f"{d}/f", os.O_RDWR)
        lock_of(fd, fcntl.F_WRLCK, 1, 1)
        os.write(tell, b"1")
        lock_of(fd, fcntl.F_WRLCK, 0, 1, fcntl.F_SETLKW)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(0.2)
    fails(errno.EDEADLK, lock_of, fd, fcntl.F_WRLCK, 1, 1, fcntl.F_SETLKW)
    lock_of(fd, fcntl.F_UNLCK, 0, 0)
    same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    os.close(fd)


@check
def flock(d):
    a = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    b = os.open(f"{d}/f", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_SH)
    fcntl.flock(b, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fails(errno.EAGAIN, fcntl.flock, a, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(b)
    until = time.time() + 5
    while True:
        try:
            # The kernel tells of the close in its own time.
            fcntl.flock(a, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.time() > until:
                raise
            time.sleep(0.01)
    os.close(a)


@check
def locks_of_descriptions(d):
    """F_OFD_SETLK: the lock belongs to the open file description and ends with it, not with a process or a descriptor."""
    F_OFD_SETLK = 37
    a = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    b = os.open(f"{d}/f", os.O_RDWR)
    lock_of(a, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
    fails(errno.EAGAIN, lock_of, b, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
    copy = os.dup(a)
    os.close(copy)
    os.close(os.open(f"{d}/f", os.O_RDWR))
    time.sleep(0.1)
    fails(errno.EAGAIN, lock_of, b, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
    os.close(a)
    until = time.time() + 5
    while True:
        try:
            lock_of(b, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
            break
        except BlockingIOError:
            if time.time() > until:
                raise
            time.sleep(0.01)
    os.close(b)


@check
def direct_io(d):
    page = mmap.mmap(-1, 8192)
    page.write(b"d" * 8192)
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    same(os.writev(fd, [page]), 8192)
    back = mmap.mmap(-1, 8192)
    same(os.preadv(fd, [back], 0), 8192)
    same(back[:], page[:])
    os.close(fd)


@check
def birth_time(d):
    put(f"{d}/f")
    out = os.popen(f"stat -c %W {d}/f").read()
    same(abs(int(out) - time.time()) < 600, True)


def main():
    root = os.path.realpath(sys.argv[1])
    failed = False
    chosen = [name for name in sys.argv[2:] if name[0] != "-"]
    for name in chosen or [name for name in checks if f"-{name}" not in sys.argv]:
        directory = f"{root}/{name}"
        os.mkdir(directory)
        signal.alarm(60)
        try:
            checks[name](directory)
            print(f"ok {name}", flush=True)
        except BaseException as error:
            failed = True
            where = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(where) if f.filename == __file__ and f.name == name), 0)
            print(f"not ok {name}: line {line}: {type(error).__name__}: {error}", flush=True)
        finally:
            signal.alarm(0)
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


main()
